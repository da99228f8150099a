//! What a bucket looked like a moment ago, as far as its versions tell.

use std::sync::Arc;

use super::{Shelf, Version};

impl Shelf {
    /// The version that was current then. A replica counts from the moment of its original.
    pub fn current_at(&self, key: &str, micros: u64) -> Option<&Arc<Version>> {
        self.keys.get(key)?.iter().rev().find(|version| version.micros <= micros)
    }

    /// A copy without what came later.
    pub fn as_of(&self, micros: u64) -> Shelf {
        let mut past =
            Shelf { versioning: self.versioning, order: self.order, arrivals: self.arrivals, ..Shelf::default() };
        for (key, versions) in &self.keys {
            let old: Vec<_> = versions.iter().filter(|v| v.micros <= micros).cloned().collect();
            if !old.is_empty() {
                past.keys.insert(key.clone(), old);
            }
        }
        past
    }
}
