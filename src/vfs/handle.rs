//! Open files and directories. A handle says what may be done through it; the content belongs to the inode, so that every
//! handle sees every write at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Held;
use super::error::{Error, Result};
use super::tree::Names;
use crate::store::Store;

pub struct Handle<S: Store> {
    pub held: Held<S>,
    pub purpose: Purpose,
}

pub enum Purpose {
    File {
        read: bool,
        write: bool,
        append: bool,
    },
    /// The listing as it was when this handle began to read: offsets are positions in it.
    Dir(Mutex<Option<Names>>),
}

pub struct Handles<S: Store> {
    open: Mutex<HashMap<u64, Arc<Handle<S>>>>,
    last: AtomicU64,
}

impl<S: Store> Default for Handles<S> {
    fn default() -> Self {
        Handles { open: Mutex::default(), last: AtomicU64::new(0) }
    }
}

impl<S: Store> Handles<S> {
    pub fn insert(&self, held: Held<S>, purpose: Purpose) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Arc::new(Handle { held, purpose }));
        number
    }

    pub fn get(&self, number: u64) -> Result<Arc<Handle<S>>> {
        self.open.lock().get(&number).cloned().ok_or(Error::BadHandle)
    }

    pub fn remove(&self, number: u64) -> Result<Arc<Handle<S>>> {
        self.open.lock().remove(&number).ok_or(Error::BadHandle)
    }
}
