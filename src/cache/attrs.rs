//! What this mount has last seen, or written, of each key.
//!
//! Two uses. A listing tells names, sizes and times but no modes; what was learnt by HEAD about exactly this content is found
//! here, also after a restart. And an answer older than what is in here is an answer from a bucket that lags: this index is the memory
//! that lets the mount never go back. So it forgets nothing below its cap of [`KEYS_MAX`] keys; above, the keys seen
//! longest ago go first, which is said in the log, and going back is then possible for those keys until they are seen again.
//!
//! ```text
//! see -> unflushed (memory) -> one transaction a second -> database        get: unflushed, recent, database
//! ```
//!
//! The database survives a kill and a power cut as of the last flush; the last second may be lost. For what was only seen that costs a
//! HEAD; what was written stays in the journal until it is flushed here ([`AttrIndex::is_flushed`]). A database that
//! is damaged is begun anew: everything in it can be asked again. One that the disk only refuses to write is opened again at once, because
//! redb answers nothing after an error, and a memory that cannot be read is one that lets the mount go back.
//!
//! Owns the newest state per key. Owns not whether a state may be shown (`store/freshness`).

use std::cmp::Ordering as Order;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::object::{ETag, Key, Object, Stamp, Token, VersionId};

/// About 400 bytes each on disk: 1.6 GB for a full index.
pub const KEYS_MAX: u64 = 4_000_000;
/// Keys answered without the database.
const RECENT: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
const FLUSH: Duration = Duration::from_secs(1);
/// So many unflushed keys do not wait for the second to pass.
const UNFLUSHED_MAX: usize = 50_000;
/// Above this, whoever sees more keys waits a second for the flush; what was only seen is not noted if that does not help. So memory stays
/// bounded on a slow disk; of what this mount wrote, the journal's size is the bound.
const UNFLUSHED_HARD: usize = 4 * UNFLUSHED_MAX;
/// A disk that has not taken a flush by then is not waited for.
const FLUSH_WAIT: Duration = Duration::from_secs(10);

/// The last known state of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    Present(Object),
    /// Deleted, or proven absent.
    Absent {
        marker: Option<VersionId>,
        /// When, in microseconds since 1970.
        micros: u64,
        stamp: Option<Stamp>,
    },
}

impl Known {
    /// Is this certainly older than the other?
    fn is_older(&self, than: &Known) -> bool {
        self.token().order(&than.token()) == Some(Order::Less)
    }

    /// Who made it, if it was a mount.
    pub fn stamp(&self) -> Option<Stamp> {
        match self {
            Known::Present(object) => object.token.stamp,
            Known::Absent { stamp, .. } => *stamp,
        }
    }

    /// Somebody else's removal, dated by this host's clock, which may be ahead of the buckets'.
    fn is_guess(&self) -> bool {
        matches!(self, Known::Absent { marker: None, stamp: None, .. })
    }

    /// An absence as a token that is like no content.
    fn token(&self) -> Token {
        match self {
            Known::Present(object) => object.token.clone(),
            Known::Absent { marker, micros, stamp } => Token {
                version: marker.clone(),
                etag: ETag("absent".into()),
                size: u64::MAX,
                crc64: None,
                modified_micros: *micros,
                stamp: *stamp,
            },
        }
    }
}

/// What [`AttrIndex::see`] made of a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It was noted already, or is older than what is.
    Nothing,
    /// Of this key nothing was known.
    First,
    Changed,
}

/// A row on disk: four bytes of CRC-32C, then this as JSON.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    /// Seconds since 1970 when it was last seen.
    seen: u64,
    known: std::borrow::Cow<'a, Known>,
}

fn encode(known: &Known, seen: u64) -> Vec<u8> {
    let mut out = vec![0; 4];
    // Writing into memory what derives its form from plain fields does not fail; an empty row would be read as none.
    if serde_json::to_writer(&mut out, &Row { seen, known: std::borrow::Cow::Borrowed(known) }).is_err() {
        return Vec::new();
    }
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &out[4..]) as u32;
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<(u64, Known)> {
    let (sum, json) = bytes.split_first_chunk::<4>()?;
    if crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, json) as u32 != u32::from_le_bytes(*sum) {
        return None;
    }
    let row: Row<'_> = serde_json::from_slice(json).ok()?;
    Some((row.seen, row.known.into_owned()))
}

const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys-1");

type Pending = BTreeMap<Key, Arc<Known>>;

struct Front {
    unflushed: Pending,
    /// Being written to the database just now.
    flushing: Arc<Pending>,
    recent: LruCache<Key, Arc<Known>>,
    /// A flush has begun and is not finished.
    busy: bool,
    /// The last flush failed.
    refused: bool,
    /// Grows with each finished flush.
    flushes: u64,
    stop: bool,
    /// Waiters for [`AttrIndex::flush`].
    hurry: bool,
}

impl Front {
    fn get(&mut self, key: &Key) -> Option<Arc<Known>> {
        self.unflushed.get(key).or_else(|| self.flushing.get(key)).or_else(|| self.recent.get(key)).cloned()
    }
}

struct Shared {
    front: Mutex<Front>,
    wake: Condvar,
    flushed: Condvar,
    keys: AtomicU64,
    cap: u64,
    path: PathBuf,
    /// Pause between two flushes that nobody asked for. `None` in virtual time, where this thread's second has no meaning.
    every: Option<Duration>,
    /// `None`: the disk refuses. Opened again by the next flush; until then only memory answers.
    db: Mutex<Option<Arc<Database>>>,
}

pub struct AttrIndex {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl AttrIndex {
    /// Opens, creates, or replaces what is damaged. Never fails: without a disk it is an index in memory.
    pub(super) fn open(path: &Path) -> AttrIndex {
        AttrIndex::open_with(path, KEYS_MAX)
    }

    pub(super) fn open_with(path: &Path, cap: u64) -> AttrIndex {
        let db = open_db(path).or_else(|e| {
            if !is_damage(&e) {
                return Err(e);
            }
            log::warn!("cache: attribute index {} is begun anew: {e}", path.display());
            super::remove_if_there(path).map_err(redb::Error::Io)?;
            open_db(path)
        });
        let db = db.map_err(|e| log::warn!("cache: attribute index {} stays in memory: {e}", path.display())).ok();
        let keys = db.as_ref().and_then(|db| count(db).ok()).unwrap_or(0);
        let front = Front {
            unflushed: BTreeMap::new(),
            flushing: Arc::default(),
            recent: LruCache::new(RECENT),
            busy: false,
            refused: false,
            flushes: 0,
            stop: false,
            hurry: false,
        };
        let shared = Arc::new(Shared {
            front: Mutex::new(front),
            wake: Condvar::new(),
            flushed: Condvar::new(),
            every: (!crate::clock::is_simulated()).then_some(FLUSH),
            keys: AtomicU64::new(keys),
            cap,
            path: path.into(),
            db: Mutex::new(db.map(Arc::new)),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("attrs".into()).spawn(move || worker.run());
        let thread = thread.map_err(|e| log::error!("cache: attribute index is not written: {e}")).ok();
        AttrIndex { shared, thread }
    }

    pub fn get(&self, key: &Key) -> Option<Known> {
        self.shared.get(key).map(|known| Known::clone(&known))
    }

    /// Notes a state, unless it is certainly older than the one noted.
    pub fn see(&self, key: &Key, known: Known) -> Seen {
        self.note(key, known, false, Known::is_older)
    }

    /// The same for a write of this mount that a bucket has taken. While it is in the journal nobody guesses, so a guess is from before it.
    pub fn see_own(&self, key: &Key, known: Known) {
        self.note(key, known, true, |known, noted| !noted.is_guess() && known.is_older(noted));
    }

    /// Notes a state even if it is older: the noted version was removed for good.
    pub fn replace(&self, key: &Key, known: Known) {
        self.note(key, known, true, |_, _| false);
    }

    /// `must`: also if memory gets long because the disk takes nothing.
    fn note(&self, key: &Key, known: Known, must: bool, refuse: impl Fn(&Known, &Known) -> bool) -> Seen {
        let known = Arc::new(known);
        let mut waited = false;
        loop {
            // The database is asked before the lock is taken; a flush in between could make its answer old.
            let flushes = self.shared.front.lock().flushes;
            let noted = self.shared.get(key);
            let mut front = self.shared.front.lock();
            if front.flushes != flushes {
                continue;
            }
            let noted = front.get(key).or(noted);
            if noted.as_deref().is_some_and(|noted| refuse(&known, noted) || *known == *noted) {
                return Seen::Nothing;
            }
            if front.unflushed.len() >= UNFLUSHED_HARD && !must && self.thread.is_some() {
                if waited {
                    return Seen::Nothing;
                }
                self.shared.wake.notify_one();
                self.shared.flushed.wait_for(&mut front, FLUSH);
                waited = true;
                continue;
            }
            front.recent.put(key.clone(), Arc::clone(&known));
            front.unflushed.insert(key.clone(), known);
            if front.unflushed.len() == UNFLUSHED_MAX {
                self.shared.wake.notify_one();
            }
            return if noted.is_some() { Seen::Changed } else { Seen::First };
        }
    }

    /// The first `limit` keys that begin with `prefix`, in order.
    pub fn under(&self, prefix: &str, limit: usize) -> Vec<(Key, Known)> {
        let mut found: BTreeMap<Key, Known> = BTreeMap::new();
        let pending = {
            let front = self.shared.front.lock();
            let part = |map: &Pending| {
                let below = map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
                let below = below.take_while(|(key, _)| key.as_str().starts_with(prefix)).take(limit);
                below.map(|(key, known)| (key.clone(), Arc::clone(known))).collect::<Vec<_>>()
            };
            [part(&front.flushing), part(&front.unflushed)]
        };
        if let Err(e) = self.shared.range(prefix, limit, &mut found) {
            log::warn!("cache: attribute index: {e}");
        }
        found.extend(pending.into_iter().flatten().map(|(key, known)| (key, Known::clone(&known))));
        found.into_iter().take(limit).collect()
    }

    /// Number of keys, the unflushed ones not counted.
    pub fn len(&self) -> u64 {
        self.shared.keys.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is what was last seen of this key in the database? A kill cannot take it back then.
    pub fn is_flushed(&self, key: &Key) -> bool {
        let front = self.shared.front.lock();
        self.thread.is_none() || !(front.unflushed.contains_key(key) || front.flushing.contains_key(key))
    }

    /// As `kill -9`: what is not in the database yet never will be. The end of all use.
    #[cfg(feature = "simulation")]
    pub fn kill(&self) {
        self.shared.front.lock().unflushed.clear();
    }

    /// Returns once everything seen so far is in the database, or the disk has refused it, or not taken it in time.
    pub fn flush(&self) {
        if self.thread.is_none() {
            return;
        }
        let deadline = Instant::now() + FLUSH_WAIT;
        let mut front = self.shared.front.lock();
        // The flush that is under way may have begun before the last keys came.
        let until = front.flushes + if front.busy { 2 } else { 1 };
        while front.flushes < until && !(front.unflushed.is_empty() && front.flushing.is_empty()) {
            front.hurry = true;
            self.shared.wake.notify_one();
            if self.shared.flushed.wait_until(&mut front, deadline).timed_out() {
                return;
            }
        }
    }
}

impl Drop for AttrIndex {
    fn drop(&mut self) {
        self.shared.front.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("cache: the attribute index's thread panicked");
        }
    }
}

fn open_db(path: &Path) -> Result<Database, redb::Error> {
    use std::os::unix::fs::OpenOptionsExt;
    // Damaged pages can break redb's own assertions.
    let opened = std::panic::catch_unwind(|| {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let db = redb::Builder::new().set_cache_size(32 << 20).create_file(file)?;
        // A disk that is full can still be read.
        if let Err(redb::TableError::TableDoesNotExist(_)) = db.begin_read()?.open_table(KEYS) {
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            txn.open_table(KEYS)?;
            txn.commit()?;
        }
        Ok(db)
    });
    opened.unwrap_or_else(|_| Err(broken_assertion()))
}

fn broken_assertion() -> redb::Error {
    redb::Error::Corrupted("broke an assertion of redb".into())
}

/// Is it the file, and not the disk or its being full? Only what is damaged may be thrown away: it is the memory of what was shown.
fn is_damage(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Io(e) => matches!(e.kind(), InvalidData | UnexpectedEof),
        redb::Error::DatabaseAlreadyOpen | redb::Error::PreviousIo | redb::Error::DatabaseClosed => false,
        _ => true,
    }
}

fn count(db: &Database) -> Result<u64, redb::Error> {
    Ok(db.begin_read()?.open_table(KEYS)?.len()?)
}

impl Shared {
    fn db(&self) -> Option<Arc<Database>> {
        self.db.lock().clone()
    }

    /// After an error redb refuses everything, reading too. What is damaged is begun anew.
    fn recover(&self, error: &redb::Error) {
        *self.db.lock() = None;
        if is_damage(error) {
            log::warn!("cache: attribute index {} is begun anew: {error}", self.path.display());
            if let Err(e) = super::remove_if_there(&self.path) {
                log::warn!("cache: attribute index: {e}");
            }
        }
        // Whoever reads at this moment still holds the file: then the next flush does it.
        let _ = self.reopen();
    }

    fn reopen(&self) -> Result<Arc<Database>, redb::Error> {
        let db = Arc::new(open_db(&self.path)?);
        *self.db.lock() = Some(Arc::clone(&db));
        Ok(db)
    }

    fn get(&self, key: &Key) -> Option<Arc<Known>> {
        let flushes = {
            let mut front = self.front.lock();
            if let Some(known) = front.get(key) {
                return Some(known);
            }
            front.flushes
        };
        let known = Arc::new(self.stored(key).unwrap_or_else(|e| {
            log::warn!("cache: attribute index: {e}");
            None
        })?);
        let mut front = self.front.lock();
        // What came meanwhile is newer than what was read.
        if let Some(newer) = front.get(key) {
            return Some(newer);
        }
        if front.flushes == flushes {
            front.recent.put(key.clone(), Arc::clone(&known));
        }
        Some(known)
    }

    fn stored(&self, key: &Key) -> Result<Option<Known>, redb::Error> {
        let Some(db) = self.db() else { return Ok(None) };
        let table = db.begin_read()?.open_table(KEYS)?;
        Ok(table.get(key.as_str())?.and_then(|row| decode(row.value())).map(|(_, known)| known))
    }

    fn range(&self, prefix: &str, limit: usize, found: &mut BTreeMap<Key, Known>) -> Result<(), redb::Error> {
        let Some(db) = self.db() else { return Ok(()) };
        let table = db.begin_read()?.open_table(KEYS)?;
        for row in table.range(prefix..)?.take(limit) {
            let (key, row) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if let (Ok(key), Some((_, known))) = (Key::new(key.value()), decode(row.value())) {
                found.insert(key, known);
            }
        }
        Ok(())
    }

    /// Writes what gathered, once a second, until told to stop.
    fn run(&self) {
        let mut sweep = Key::new("\u{1}").ok();
        let mut complained = false;
        loop {
            let stop = {
                let due = self.every.map(|pause| Instant::now() + pause);
                let mut front = self.front.lock();
                // A disk that has just refused is not asked again at once.
                while !front.stop && !front.hurry && (front.unflushed.len() < UNFLUSHED_MAX || front.refused) {
                    match due {
                        Some(due) if self.wake.wait_until(&mut front, due).timed_out() => break,
                        Some(_) => {}
                        None => self.wake.wait(&mut front),
                    }
                }
                front.hurry = false;
                front.busy = true;
                front.flushing = Arc::new(std::mem::take(&mut front.unflushed));
                front.stop
            };
            let flushing = Arc::clone(&self.front.lock().flushing);
            let written = std::panic::catch_unwind(AssertUnwindSafe(|| {
                if !flushing.is_empty() {
                    self.write(&flushing)?;
                }
                self.keep_cap(&mut sweep)
            }));
            let result = written.unwrap_or_else(|_| Err(broken_assertion()));
            if let Err(e) = &result {
                self.recover(e);
            }
            self.flushed(&flushing, result.is_ok());
            match result {
                Ok(()) => complained = false,
                Err(e) if !complained => {
                    complained = true;
                    log::warn!("cache: attribute index not written: {e}");
                }
                Err(_) => {}
            }
            if stop {
                return;
            }
        }
    }

    fn flushed(&self, flushing: &Pending, written: bool) {
        let mut front = self.front.lock();
        front.flushes += 1;
        front.busy = false;
        front.refused = !written;
        front.flushing = Arc::default();
        if !written {
            for (key, known) in flushing {
                front.unflushed.entry(key.clone()).or_insert_with(|| Arc::clone(known));
            }
        }
        drop(front);
        self.flushed.notify_all();
    }

    fn write(&self, rows: &Pending) -> Result<(), redb::Error> {
        let db = self.db().map_or_else(|| self.reopen(), Ok)?;
        let seen = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut txn = db.begin_write()?;
        // The next start then need not read the whole file after a kill.
        txn.set_quick_repair(true);
        let keys = {
            let mut table = txn.open_table(KEYS)?;
            for (key, known) in rows {
                table.insert(key.as_str(), encode(known, seen).as_slice())?;
            }
            table.len()?
        };
        txn.commit()?;
        self.keys.store(keys, Ordering::Relaxed);
        Ok(())
    }

    /// Above the cap: of a stretch of keys, the half seen longest ago goes; the next stretch is another one.
    fn keep_cap(&self, sweep: &mut Option<Key>) -> Result<(), redb::Error> {
        let over = self.len().saturating_sub(self.cap);
        let Some(db) = self.db().filter(|_| over > 0) else { return Ok(()) };
        let txn = db.begin_write()?;
        let removed = {
            let mut table = txn.open_table(KEYS)?;
            let from = sweep.as_ref().map_or("", Key::as_str).to_string();
            let mut stretch: Vec<(u64, String)> = Vec::new();
            // At the end it goes on in front.
            let rows = table.range(from.as_str()..)?.chain(table.range(..from.as_str())?);
            for row in rows.take(usize::try_from(2 * over).unwrap_or(usize::MAX)) {
                let (key, row) = row?;
                stretch.push((decode(row.value()).map_or(0, |(seen, _)| seen), key.value().to_string()));
            }
            *sweep = stretch.last().and_then(|(_, key)| Key::new(key.clone()).ok());
            stretch.sort_unstable();
            stretch.truncate(usize::try_from(over).unwrap_or(usize::MAX));
            for (_, key) in &stretch {
                table.remove(key.as_str())?;
            }
            self.keys.store(table.len()?, Ordering::Relaxed);
            stretch
        };
        txn.commit()?;
        let mut front = self.front.lock();
        for (_, key) in &removed {
            front.recent.pop(key.as_str());
        }
        drop(front);
        log::warn!(
            "cache: attribute index is full ({} keys): {} keys seen longest ago forgotten",
            self.cap,
            removed.len()
        );
        Ok(())
    }

    fn len(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_reason_to_throw_the_index_away() {
        let io = |kind: std::io::ErrorKind| redb::Error::Io(kind.into());
        let rows = [
            (io(std::io::ErrorKind::StorageFull), false),
            (io(std::io::ErrorKind::PermissionDenied), false),
            (redb::Error::Io(std::io::Error::from_raw_os_error(libc::EIO)), false),
            (redb::Error::PreviousIo, false),
            (redb::Error::DatabaseAlreadyOpen, false),
            (io(std::io::ErrorKind::InvalidData), true),
            (io(std::io::ErrorKind::UnexpectedEof), true),
            (redb::Error::Corrupted("a page".into()), true),
            (redb::Error::UpgradeRequired(1), true),
            (broken_assertion(), true),
        ];
        for (error, damage) in rows {
            assert_eq!(is_damage(&error), damage, "{error}");
        }
    }

    /// Redb answers nothing any more after an error. What was flushed before must still be known.
    #[test]
    fn what_was_flushed_is_known_after_a_refused_flush() {
        let dir = tempfile::tempdir().unwrap();
        let index = AttrIndex::open(&dir.path().join("attrs.redb"));
        let key = Key::new("k").unwrap();
        let known = Known::Absent { marker: None, micros: 7, stamp: None };
        index.see(&key, known.clone());
        index.flush();
        index.shared.front.lock().recent.clear();
        index.shared.recover(&redb::Error::Io(std::io::ErrorKind::StorageFull.into()));
        assert_eq!(index.get(&key), Some(known));
        index.shared.front.lock().recent.clear();
        index.shared.recover(&broken_assertion());
        assert_eq!(index.get(&key), None, "what is damaged is begun anew");
    }
}
