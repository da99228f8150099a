//! What the store has done so far, for metrics and alarms. Counting never waits.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Where bytes of a file came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Journal,
    Cache,
    A,
    B,
    Cdn,
    Origin,
}

impl From {
    pub const ALL: [From; 6] = [From::Journal, From::Cache, From::A, From::B, From::Cdn, From::Origin];

    pub fn name(self) -> &'static str {
        match self {
            From::Journal => "journal",
            From::Cache => "cache",
            From::A => "a",
            From::B => "b",
            From::Cdn => "cdn",
            From::Origin => "origin",
        }
    }
}

impl std::convert::From<crate::object::Site> for From {
    fn from(site: crate::object::Site) -> From {
        match site {
            crate::object::Site::A => From::A,
            crate::object::Site::B => From::B,
        }
    }
}

/// Counters; they only grow.
#[derive(Default, Debug)]
pub struct Tally {
    bytes: [AtomicU64; From::ALL.len()],
    reads: [AtomicU64; From::ALL.len()],
    conflicts: AtomicU64,
    last_conflict: Mutex<String>,
}

impl Tally {
    /// One read, or one fetch of a run of blocks, was answered from there.
    pub fn read(&self, from: From, bytes: u64) {
        self.bytes[from as usize].fetch_add(bytes, Ordering::Relaxed);
        self.reads[from as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Reads and bytes so far.
    pub fn of(&self, from: From) -> (u64, u64) {
        (self.reads[from as usize].load(Ordering::Relaxed), self.bytes[from as usize].load(Ordering::Relaxed))
    }

    pub fn conflict(&self, what: String) {
        *self.last_conflict.lock() = what;
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of conflicts, and the newest.
    pub fn conflicts(&self) -> (u64, String) {
        (self.conflicts.load(Ordering::Relaxed), self.last_conflict.lock().clone())
    }
}
