//! The files that hold the content of writes, and the count of the bytes they occupy.
//!
//! A file is born in `staging/` under a name that means nothing, written at any offset, and *sealed*: linked into `spool/` under
//! the id a record will carry. Nothing is copied. The staging name goes when the handle is dropped, so the same content can be
//! sealed again after a failed attempt, and what was never sealed is gone after a crash. One file may carry several ids (hard links);
//! its bytes count once, until the last of its names and handles is gone.
//!
//! Bytes are counted as the file system counts them (holes are free). Room is reserved *before* writing; what is reserved and
//! never used returns when the reservation is dropped, and sealing corrects the count to what is really occupied. So the count is
//! exact for sealed files and never too low for the others.
//!
//! Owns files, names, count. Owns not: which record needs which file, and so when a file may go.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::disk::Disk;
use super::error::{Error, Result};
use super::records::SpoolId;

/// How full the journal may be before writers wait for both buckets.
const PRESSED_PERCENT: u64 = 80;

/// More unsynced files than this are synced by one call for the whole disk.
const SYNCED_ONE_BY_ONE_MAX: usize = 64;

/// The reservation does not fit below the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{wanted} bytes do not fit: {used} of {limit} bytes in use")]
pub struct Full {
    pub wanted: u64,
    pub used: u64,
    pub limit: u64,
}

impl From<Full> for Error {
    fn from(full: Full) -> Error {
        Error::Full(full.to_string())
    }
}

#[derive(Debug)]
struct Meter {
    limit: u64,
    used: AtomicU64,
    freed: Notify,
}

/// Bytes taken out of the meter, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    meter: Arc<Meter>,
    bytes: AtomicU64,
}

impl Reservation {
    fn empty(meter: &Arc<Meter>) -> Reservation {
        Reservation { meter: Arc::clone(meter), bytes: AtomicU64::new(0) }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes `more` bytes if they fit.
    pub fn grow(&self, more: u64) -> std::result::Result<(), Full> {
        let limit = self.meter.limit;
        self.meter
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|sum| *sum <= limit)
            })
            .map_err(|used| Full { wanted: more, used, limit })?;
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Corrects the count to what is really occupied, which no limit can refuse.
    fn settle(&self, actual: u64) {
        let before = self.bytes.swap(actual, Ordering::Relaxed);
        if actual >= before {
            self.meter.used.fetch_add(actual - before, Ordering::Relaxed);
        } else {
            self.meter.used.fetch_sub(before - actual, Ordering::Relaxed);
            self.meter.freed.notify_waiters();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle(0);
    }
}

/// A scratch file: sparse, readable and writable at any offset by whoever holds it. Deleted when dropped, unless sealed before.
///
/// Once sealed its content must not change any more: a record speaks for it.
#[derive(Debug)]
pub struct StagingFile {
    file: File,
    path: PathBuf,
    charge: Arc<Reservation>,
    disk: Arc<dyn Disk>,
}

impl StagingFile {
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes room for `bytes` more, before they are written.
    pub fn reserve(&self, bytes: u64) -> std::result::Result<(), Full> {
        self.charge.grow(bytes)
    }

    /// Bytes counted for this file.
    pub fn reserved(&self) -> u64 {
        self.charge.bytes()
    }
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        if let Err(e) = self.disk.remove(&self.path) {
            log::warn!("journal: scratch file {} not removed ({e}); the next start removes it", self.path.display());
        }
    }
}

/// The journal's data files.
#[derive(Debug)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    staging: PathBuf,
    sealed: PathBuf,
    meter: Arc<Meter>,
    /// Next number for either folder; never used twice while the process lives.
    next: AtomicU64,
    files: Mutex<HashMap<SpoolId, Arc<Reservation>>>,
    /// Files that a power cut may still cost.
    unsynced: Mutex<BTreeSet<SpoolId>>,
    /// A second name was given that the disk may not have yet.
    linked: AtomicBool,
    /// Files that recovery put aside; they occupy the disk like the others.
    aside: Reservation,
}

impl Spool {
    /// Empties `staging/`, takes stock of `spool/`. Answers with the files found there and their lengths.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        limit_bytes: u64,
        aside_bytes: u64,
    ) -> Result<(Spool, HashMap<SpoolId, u64>)> {
        let (staging, sealed) = (dir.join("staging"), dir.join("spool"));
        let doing = |what: &'static str| move |e: std::io::Error| Error::io(what, &e);
        for folder in [&staging, &sealed] {
            disk.create_dir(folder).map_err(doing("create a folder of the journal"))?;
        }
        for name in disk.list(&staging).map_err(doing("list staging/"))? {
            disk.remove(&staging.join(&name)).map_err(doing("clear staging/"))?;
        }
        let meter = Arc::new(Meter { limit: limit_bytes, used: AtomicU64::new(0), freed: Notify::new() });
        let (mut files, mut lengths, mut next) = (HashMap::new(), HashMap::new(), 1);
        let mut by_inode: HashMap<u64, Arc<Reservation>> = HashMap::new();
        for name in disk.list(&sealed).map_err(doing("list spool/"))? {
            let stat = disk.stat(&sealed.join(&name)).map_err(doing("look at a spool file"))?;
            let Some(id) = parse_id(&name).filter(|_| stat.is_file) else {
                log::warn!("journal: {} is none of the journal's files, left alone", sealed.join(&name).display());
                continue;
            };
            let charge = by_inode.entry(stat.inode).or_insert_with(|| Arc::new(Reservation::empty(&meter)));
            charge.settle(stat.allocated);
            files.insert(id, Arc::clone(charge));
            lengths.insert(id, stat.len);
            next = next.max(id.0 + 1);
        }
        let aside = Reservation::empty(&meter);
        aside.settle(aside_bytes);
        // Whoever wrote them may have died before the disk had them.
        let unsynced = Mutex::new(files.keys().copied().collect());
        let spool = Spool {
            disk,
            staging,
            sealed,
            meter,
            next: AtomicU64::new(next),
            files: Mutex::new(files),
            unsynced,
            linked: AtomicBool::new(false),
            aside,
        };
        Ok((spool, lengths))
    }

    /// Numbers up to this one are taken.
    pub(crate) fn skip_to(&self, next: u64) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }

    fn fresh_id(&self) -> SpoolId {
        SpoolId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub fn create(&self) -> Result<StagingFile> {
        let path = self.staging.join(self.fresh_id().to_string());
        let file = self.disk.create(&path).map_err(|e| Error::io("create a scratch file", &e))?;
        let charge = Arc::new(Reservation::empty(&self.meter));
        Ok(StagingFile { file, path, charge, disk: Arc::clone(&self.disk) })
    }

    /// Freezes a scratch file under an id that a record can carry. With `sync`, content and name survive a power cut.
    ///
    /// The caller owns the id until a record names it: without one, give it back with [`Spool::discard`].
    pub fn seal(&self, staging: &StagingFile, sync: bool) -> Result<SpoolId> {
        let id = self.fresh_id();
        let path = self.path(id);
        self.disk.link(&staging.path, &path).map_err(|e| Error::io("seal a scratch file", &e))?;
        self.files.lock().insert(id, Arc::clone(&staging.charge));
        let finish = || {
            if sync {
                // Linked first: the file's sync then usually carries the new name along, and the directory's finds nothing left to do.
                self.disk.sync_file(&staging.file)?;
                self.disk.sync_dir(&self.sealed)?;
            }
            self.disk.stat_open(&staging.file)
        };
        match finish() {
            Ok(stat) => {
                staging.charge.settle(stat.allocated);
                if !sync {
                    self.unsynced.lock().insert(id);
                }
                Ok(id)
            }
            Err(e) => {
                self.discard(id);
                Err(Error::io("seal a scratch file", &e))
            }
        }
    }

    pub fn open_file(&self, id: SpoolId) -> Result<File> {
        self.disk.open(&self.path(id)).map_err(|e| Error::io(&format!("open spool file {id}"), &e))
    }

    /// Makes a sealed file's content and name survive a power cut.
    pub fn sync(&self, id: SpoolId) -> Result<()> {
        let synced = || {
            self.disk.sync_file(&self.disk.open(&self.path(id))?)?;
            self.disk.sync_dir(&self.sealed)
        };
        synced().map_err(|e| Error::io(&format!("sync spool file {id}"), &e))
    }

    /// How many files a power cut may still cost.
    pub fn unsynced(&self) -> usize {
        self.unsynced.lock().len()
    }

    /// May a power cut still cost this file?
    pub fn is_unsynced(&self, id: SpoolId) -> bool {
        self.unsynced.lock().contains(&id)
    }

    /// The same for every file that was sealed without. One that fails is tried again by the next call.
    pub fn sync_all(&self) -> Result<()> {
        // They count as unsynced until they are synced: what they replace is kept that long.
        let due = self.unsynced.lock().clone();
        if due.is_empty() {
            return Ok(());
        }
        let synced = || {
            // Beyond some number one call for the whole disk is cheaper, even if others write there, too.
            if due.len() <= SYNCED_ONE_BY_ONE_MAX || !self.disk.sync_everything(&self.sealed)? {
                for id in &due {
                    match self.disk.open(&self.path(*id)).and_then(|file| self.disk.sync_file(&file)) {
                        // Discarded meanwhile.
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
            }
            self.disk.sync_dir(&self.sealed)
        };
        synced().map_err(|e| Error::io("sync spool files", &e))?;
        self.unsynced.lock().retain(|id| !due.contains(id));
        Ok(())
    }

    /// The same content under a second id, for a second record.
    pub fn link(&self, id: SpoolId) -> Result<SpoolId> {
        let charge = self.files.lock().get(&id).cloned();
        let Some(charge) = charge else { return Err(Error::Disk(format!("spool file {id} does not exist"))) };
        let second = self.fresh_id();
        self.disk
            .link(&self.path(id), &self.path(second))
            .map_err(|e| Error::io(&format!("link spool file {id}"), &e))?;
        self.files.lock().insert(second, charge);
        self.unsynced.lock().insert(second);
        self.linked.store(true, Ordering::Release);
        Ok(second)
    }

    /// Makes second names survive a power cut. The database may not say that a file has moved to a record whose name for it is gone.
    pub(super) fn sync_names(&self) -> std::io::Result<()> {
        if !self.linked.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.disk.sync_dir(&self.sealed).inspect_err(|_| self.linked.store(true, Ordering::Release))
    }

    pub fn path(&self, id: SpoolId) -> PathBuf {
        self.sealed.join(id.to_string())
    }

    /// Deletes a sealed file that no record names (any more).
    pub fn discard(&self, id: SpoolId) {
        match self.disk.remove(&self.path(id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("journal: spool file {id} not removed ({e}); the next start looks at it again");
            }
            _ => {}
        }
        self.unsynced.lock().remove(&id);
        self.files.lock().remove(&id);
    }

    pub fn reserve(&self, bytes: u64) -> std::result::Result<Reservation, Full> {
        let reservation = Reservation::empty(&self.meter);
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Waits until some room was given back since the call. Pair it with a deadline.
    pub async fn freed(&self) {
        self.meter.freed.notified().await;
    }

    /// Bytes in use and reserved.
    pub fn used(&self) -> u64 {
        self.meter.used.load(Ordering::Relaxed)
    }

    /// So full that writers wait for room.
    pub fn is_pressed(&self) -> bool {
        self.used() >= self.limit() / 100 * PRESSED_PERCENT
    }

    pub fn limit(&self) -> u64 {
        self.meter.limit
    }

    pub(crate) fn set_aside(&self, bytes: u64) {
        self.aside.settle(bytes);
    }

    /// Bytes of files that were put aside; part of [`Spool::used`].
    pub fn aside(&self) -> u64 {
        self.aside.bytes()
    }
}

fn parse_id(name: &str) -> Option<SpoolId> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten().map(SpoolId)
}
