//! Which files stay: the bound on bytes and on open handles.
//!
//! The index of what is on disk lives in memory, in order of last use, and is rebuilt in the background after a start; the bound is
//! kept from the first write on, over what is known so far. When a write would exceed it, the longest unused files go until a
//! sixty-fourth of the limit is free, so that not every block pays for an eviction. A file somebody holds is passed over: throwing away
//! what is being read means fetching it again at once. Only where the files in use alone exceed the limit by a tenth do
//! they go too; their readers keep their handles and see a cache that misses.
//!
//! Owns order and sums. Owns not the files' content (`data`).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use super::CachedFile;
use super::data::Body;

/// Name of an object version on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Id(pub u128);

/// At most this many bodies keep their two file handles open.
pub(super) const OPEN_MAX: usize = 256;

struct Slot {
    bytes: u64,
    /// Its files as this process uses them, if it does.
    body: Weak<Body>,
}

/// What has to go: already out of the sums, still on disk.
pub(super) struct Victim {
    pub id: Id,
    pub body: Weak<Body>,
}

struct Index {
    /// What is on disk.
    slots: LruCache<Id, Slot>,
    bytes: u64,
    /// What somebody holds.
    live: HashMap<Id, Weak<CachedFile>>,
    /// Bodies kept ready after their last holder went, with what they have verified.
    warm: LruCache<Id, Arc<Body>>,
}

pub(super) struct Shelf {
    index: Mutex<Index>,
    limit: u64,
}

impl Shelf {
    pub fn new(limit: u64) -> Shelf {
        let index = Index { slots: LruCache::unbounded(), bytes: 0, live: HashMap::new(), warm: LruCache::unbounded() };
        Shelf { index: Mutex::new(index), limit }
    }

    pub fn bytes(&self) -> u64 {
        self.index.lock().bytes
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The one handle of an id, made by `make` if there is none.
    pub fn live(&self, id: Id, make: impl FnOnce() -> CachedFile) -> Arc<CachedFile> {
        let mut index = self.index.lock();
        index.slots.promote(&id);
        if let Some(file) = index.live.get(&id).and_then(Weak::upgrade) {
            return file;
        }
        let file = Arc::new(make());
        index.live.insert(id, Arc::downgrade(&file));
        file
    }

    /// The last holder of a handle is gone.
    pub fn unlive(&self, id: Id) {
        let mut index = self.index.lock();
        if index.live.get(&id).is_some_and(|weak| weak.strong_count() == 0) {
            index.live.remove(&id);
        }
    }

    pub fn has(&self, id: Id) -> bool {
        self.index.lock().slots.contains(&id)
    }

    /// A body whose files are open was used; the longest unused of too many gives its handles back.
    pub fn warm(&self, id: Id, body: &Arc<Body>) {
        let mut index = self.index.lock();
        if index.warm.get(&id).is_some_and(|known| Arc::ptr_eq(known, body)) {
            return;
        }
        let mut old = index.warm.put(id, Arc::clone(body));
        if index.warm.len() > OPEN_MAX {
            old = index.warm.pop_lru().map(|(_, body)| body);
        }
        drop(index);
        if let Some(body) = old {
            body.close();
        }
    }

    pub fn warm_body(&self, id: Id) -> Option<Arc<Body>> {
        self.index.lock().warm.get(&id).cloned()
    }

    /// Takes a body's files into the sum, in place of what was known of the same name.
    pub fn put(&self, id: Id, bytes: u64, body: &Arc<Body>) {
        let mut index = self.index.lock();
        let old = index.slots.put(id, Slot { bytes, body: Arc::downgrade(body) });
        index.bytes = index.bytes - old.map_or(0, |slot| slot.bytes) + bytes;
    }

    /// What a scan found, newest first: goes behind everything known. Picks what has to go for it in the same moment, so that the sum
    /// never shows more than the bound.
    pub fn put_found(&self, found: impl Iterator<Item = (Id, u64)>) -> Vec<Victim> {
        let mut index = self.index.lock();
        for (id, bytes) in found {
            if !index.slots.contains(&id) {
                index.slots.put(id, Slot { bytes, body: Weak::new() });
                index.slots.demote(&id);
                index.bytes += bytes;
            }
        }
        self.pick_for(&mut index, 0).0
    }

    pub fn add(&self, id: Id, bytes: u64, body: &Arc<Body>) {
        let mut index = self.index.lock();
        // A body that was evicted meanwhile no longer counts.
        if let Some(slot) = index.slots.get_mut(&id)
            && slot.body.as_ptr() == Arc::as_ptr(body)
        {
            slot.bytes += bytes;
            index.bytes += bytes;
        }
    }

    /// Out of the sums.
    pub fn remove(&self, id: Id) -> Option<Arc<Body>> {
        let mut index = self.index.lock();
        let warm = index.warm.pop(&id);
        let slot = index.slots.pop(&id)?;
        index.bytes -= slot.bytes;
        slot.body.upgrade().or(warm)
    }

    /// Picks what has to go before `extra` bytes come. The second tells whether they may come at all.
    pub fn victims(&self, extra: u64) -> (Vec<Victim>, bool) {
        self.pick_for(&mut self.index.lock(), extra)
    }

    fn pick_for(&self, index: &mut Index, extra: u64) -> (Vec<Victim>, bool) {
        if index.bytes + extra <= self.limit {
            return (Vec::new(), true);
        }
        let target = (self.limit - self.limit / 64).saturating_sub(extra);
        let mut out = index.pick(target, false);
        let hard = self.limit + self.limit / 10;
        if index.bytes + extra > hard {
            out.extend(index.pick(target, true));
        }
        let fits = index.bytes + extra <= hard;
        (out, fits)
    }

    /// Picks the longest unused until a sixteenth of everything is gone: room on a disk that others have filled.
    pub fn victims_of_full_disk(&self) -> Vec<Victim> {
        let mut index = self.index.lock();
        let target = index.bytes - index.bytes / 16;
        index.pick(target, false)
    }
}

impl Index {
    /// Takes the longest unused out of the sum until it is at most `target`.
    fn pick(&mut self, target: u64, used_too: bool) -> Vec<Victim> {
        let mut left = self.bytes;
        let mut out = Vec::new();
        for (id, slot) in self.slots.iter().rev() {
            if left <= target {
                break;
            }
            if used_too || self.live.get(id).is_none_or(|weak| weak.strong_count() == 0) {
                left -= slot.bytes;
                out.push(*id);
            }
        }
        self.bytes = left;
        let gone = out.into_iter().filter_map(|id| Some((id, self.slots.pop(&id)?)));
        gone.map(|(id, slot)| Victim { id, body: slot.body }).collect()
    }
}
