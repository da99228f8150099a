//! What may be served from the local disk: content of object versions (`data`), and what was last seen of each key (`attrs`).
//!
//! A cache must never be the reason for a wrong answer, nor for none. So everything in it is proven before it is used (checksums),
//! everything in it may vanish at any time (a miss), and no operation fails: a broken or full disk makes a cache that misses, says
//! so once, and tries again later. Nothing is wiped at start; the content of a version is right for ever.
//!
//! ```text
//! dir/lock                     one daemon at a time
//! dir/attrs.redb               the attribute index
//! dir/data/<2 hex>/<32 hex>    sparse file with the content of one object version, named by a hash of key and version
//! dir/data/<2 hex>/<32 hex>.map   its header and block checksums
//! ```
//!
//! Calls block for the time of a local file operation. The bound covers data and maps (the attribute index is bounded by its own
//! number of keys) and is exceeded by a tenth at most, while files in use alone exceed it.
//! Measured on 2 busy cores (test build; `measure` in the tests): 2.5 GB/s in reads of 128 KiB, 3.3 GB/s of 1 MiB, 1.5 GB/s while
//! comparing checksums; 85 000 keys a second out of the attribute index, 40 000 into it.
//! Checked by the tests here: a model with random damage and restarts ("a read never returns wrong bytes"), bounds, a full disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::object::{Key, Token};
use data::{Body, Label};
use evict::{Id, Shelf, Victim};

pub use attrs::{AttrIndex, Known, Seen};

mod attrs;
mod data;
mod evict;

/// Grows when the meaning of the files changes; files of another format are fetched anew.
const FORMAT: u32 = 1;
/// Adopted files whose checksums are still to be computed. One more is served all the same, but only until a restart.
const ADOPTED_MAX: usize = 256;
/// After a failed write nothing is written for this long. Arbitrary: short against an outage, long against a block.
const PAUSE: Duration = Duration::from_secs(5);
/// At most one line about failed writes in this time.
const COMPLAIN: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cache directory {} is in use by another cosfs-ha (process {pid})", dir.display())]
    Locked { dir: PathBuf, pid: String },
    #[error("cache directory {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    pub bytes: u64,
    pub limit: u64,
    /// Keys in the attribute index.
    pub keys: u64,
}

/// The cache in one directory. Cheap to share behind an `Arc`.
pub struct Cache {
    inner: Arc<Inner>,
    attrs: AttrIndex,
    /// `None` in virtual time, where a second thread would be as far as the real one lets it, and while being dropped.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    root: PathBuf,
    shelf: Shelf,
    /// Names of one id are created and removed by one thread at a time. Lock order: stripe, then shelf.
    stripes: [Mutex<()>; 64],
    trouble: Mutex<Trouble>,
    /// The thread should end.
    stop: AtomicBool,
    /// Held as long as anybody may write.
    _lock: File,
}

#[derive(Default)]
struct Trouble {
    until: Option<Instant>,
    said: Option<Instant>,
}

enum Job {
    /// Compute the checksums of an adopted file.
    Sum { id: Id, body: Arc<Body> },
    /// Copy a file that could not be linked.
    Copy { file: Arc<CachedFile>, from: File },
}

pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Cache {
    /// Opens or creates the cache in `dir` and locks the directory. Answers at once; what is on disk is taken stock of in the background.
    pub fn open(dir: &Path, limit_bytes: u64) -> Result<Cache, Error> {
        let failed = |source| Error::Io { dir: dir.into(), source };
        let root = dir.join("data");
        create_dir(&root).map_err(failed)?;
        let lock = lock(dir)?;
        let attrs = AttrIndex::open(&dir.join("attrs.redb"));
        let inner = Arc::new(Inner {
            root,
            shelf: Shelf::new(limit_bytes),
            stripes: std::array::from_fn(|_| Mutex::default()),
            trouble: Mutex::default(),
            stop: AtomicBool::new(false),
            _lock: lock,
        });
        if crate::clock::is_simulated() {
            inner.scan();
            return Ok(Cache { inner, attrs, jobs: None, thread: None });
        }
        let (jobs, queue) = sync_channel(ADOPTED_MAX);
        let shared = Arc::clone(&inner);
        let thread = std::thread::Builder::new().name("cache".into()).spawn(move || shared.background(&queue));
        Ok(Cache { inner, attrs, jobs: Some(jobs), thread: Some(thread.map_err(failed)?) })
    }

    /// The local copy of one object version, whatever there is of it. Costs no disk access.
    pub fn file(&self, key: &Key, token: &Token) -> Arc<CachedFile> {
        let header = header(key, token);
        let digest = Sha256::digest(&header);
        let id = Id(u128::from_be_bytes(std::array::from_fn(|i| digest[i])));
        self.inner.shelf.live(id, || CachedFile::new(&self.inner, id, key, token, header))
    }

    /// Takes in a complete local file, which must never change again, as the content of an object version.
    ///
    /// Hard-linked where both directories are on one file system, else copied in the background. The caller vouches for
    /// the content, so it is served at once; its checksums, without which a restart would not believe it, follow in
    /// the background (a file of 2 GiB costs the caller a few microseconds).
    pub fn adopt(&self, key: &Key, token: &Token, complete: &Path) {
        let file = self.file(key, token);
        let fits = file.label.cacheable() && token.size <= self.inner.shelf.limit();
        if file.is_complete() || !fits || !self.inner.is_writing() {
            return;
        }
        match file.adopt(complete) {
            Ok(Some(body)) => {
                // With the queue full the file is served until the next restart, and not believed then.
                self.give(Job::Sum { id: file.id, body });
            }
            Ok(None) => match File::open(complete) {
                // With the queue full the object is simply not cached.
                Ok(from) => self.give(Job::Copy { file, from }),
                Err(e) => self.inner.complain(&format!("adopt the content of '{key}'"), &e),
            },
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => log::debug!("cache: no room for '{key}'"),
            Err(e) => self.inner.complain(&format!("adopt the content of '{key}'"), &e),
        }
    }

    fn give(&self, job: Job) {
        match &self.jobs {
            Some(jobs) => drop(jobs.try_send(job)),
            None => self.inner.work(job),
        }
    }

    pub fn stats(&self) -> Stats {
        Stats { bytes: self.inner.shelf.bytes(), limit: self.inner.shelf.limit(), keys: self.attrs.len() }
    }

    pub fn attrs(&self) -> &AttrIndex {
        &self.attrs
    }
}

/// Names what the files are about; the same text is the map's header, so that a file is only believed about the object it was made for.
fn header(key: &Key, token: &Token) -> Vec<u8> {
    let version = match &token.version {
        Some(version) => format!("version {version}"),
        None => format!("etag {}", token.etag),
    };
    // Keys may hold line breaks; written as JSON text they do not.
    let key = serde_json::Value::from(key.as_str());
    let mut text =
        format!("cosfs-ha cache {FORMAT}\nblock {}\nsize {}\n{version}\nkey {key}\n", data::BLOCK, token.size);
    let padded = text.len().next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text.into_bytes()
}

fn lock(dir: &Path) -> Result<File, Error> {
    use std::os::unix::fs::FileExt;
    let failed = |source| Error::Io { dir: dir.into(), source };
    let path = dir.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().into() };
            return Err(Error::Locked { dir: dir.into(), pid });
        }
        Err(e) => return Err(failed(e.into())),
    }
    // Only for the other daemon's message: a full disk does not matter.
    let _ = file.set_len(0).and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
    Ok(file)
}

impl Inner {
    fn stripe(&self, id: Id) -> &Mutex<()> {
        &self.stripes[(id.0 % 64) as usize]
    }

    fn path(&self, id: Id) -> PathBuf {
        let name = format!("{:032x}", id.0);
        self.root.join(&name[..2]).join(name)
    }

    /// May something be written now?
    fn is_writing(&self) -> bool {
        self.trouble.lock().until.is_none_or(|until| until <= Instant::now())
    }

    /// A write failed: one line, and a pause. A full disk also gets some room back.
    fn complain(&self, what: &str, error: &io::Error) {
        let now = Instant::now();
        let mut trouble = self.trouble.lock();
        trouble.until = Some(now + PAUSE);
        let say = trouble.said.is_none_or(|said| now.duration_since(said) >= COMPLAIN);
        if say {
            trouble.said = Some(now);
        }
        drop(trouble);
        if say {
            log::warn!("cache: {what}: {error}; nothing is cached for {} s at a time until it works", PAUSE.as_secs());
        }
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let victims = self.shelf.victims_of_full_disk();
            self.evict(victims);
        }
    }

    /// Makes room for `extra` bytes; says whether they may come.
    fn make_room(&self, extra: u64) -> bool {
        let (victims, fits) = self.shelf.victims(extra);
        self.evict(victims);
        fits
    }

    fn evict(&self, victims: Vec<Victim>) {
        for Victim { id, body } in victims {
            let _alone = self.stripe(id).lock();
            if let Some(body) = body.upgrade() {
                body.kill();
            }
            // Unless somebody began it anew meanwhile.
            if !self.shelf.has(id) {
                self.delete(id);
            }
        }
    }

    /// Removes the files of an id, whose stripe the caller holds.
    fn delete(&self, id: Id) {
        if let Some(body) = self.shelf.remove(id) {
            body.kill();
        }
        let path = self.path(id);
        for path in [&path, &path.with_extension("map")] {
            if let Err(e) = remove_if_there(path) {
                log::warn!("cache: remove {}: {e}", path.display());
            }
        }
    }
}

pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What a [`CachedFile`] knows of its files.
enum OnDisk {
    Unasked,
    Nothing,
    Some(Arc<Body>),
}

/// The local copy of one object version.
pub struct CachedFile {
    inner: Arc<Inner>,
    id: Id,
    label: Arc<Label>,
    body: Mutex<OnDisk>,
}

impl CachedFile {
    /// What is missing is missing in units of this many bytes.
    pub const BLOCK: u64 = data::BLOCK;

    fn new(inner: &Arc<Inner>, id: Id, key: &Key, token: &Token, header: Vec<u8>) -> CachedFile {
        let data = inner.path(id);
        let map = data.with_extension("map");
        let (name, size, crc64) = (key.to_string(), token.size, token.crc64);
        let label = Arc::new(Label { data, map, name, header, size, crc64 });
        CachedFile { inner: Arc::clone(inner), id, label, body: Mutex::new(OnDisk::Unasked) }
    }

    /// The files, if there are any.
    fn body(&self) -> Option<Arc<Body>> {
        let mut known = self.body.lock();
        if let OnDisk::Some(body) = &*known
            && body.is_dead()
        {
            *known = OnDisk::Nothing;
        }
        match &*known {
            OnDisk::Some(body) => return Some(Arc::clone(body)),
            OnDisk::Nothing => return None,
            OnDisk::Unasked => {}
        }
        let found = self.find();
        *known = found.as_ref().map_or(OnDisk::Nothing, |body| OnDisk::Some(Arc::clone(body)));
        found
    }

    fn find(&self) -> Option<Arc<Body>> {
        let _alone = self.inner.stripe(self.id).lock();
        if let Some(body) = self.inner.shelf.warm_body(self.id).filter(|body| !body.is_dead()) {
            return Some(body);
        }
        match Body::open(&self.label) {
            Ok(Some(found)) => Some(self.install(found)),
            Ok(None) => None,
            Err(e) => {
                log::warn!("cache: copy of '{}' is useless ({e}) and is removed", self.label.name);
                self.inner.delete(self.id);
                None
            }
        }
    }

    fn install(&self, (body, bytes): (Body, u64)) -> Arc<Body> {
        let body = Arc::new(body);
        self.inner.shelf.put(self.id, bytes, &body);
        if body.opened() {
            self.inner.shelf.warm(self.id, &body);
        }
        body
    }

    /// The files, begun if there are none.
    fn body_to_write(&self) -> io::Result<Arc<Body>> {
        if let Some(body) = self.body() {
            return Ok(body);
        }
        let mut known = self.body.lock();
        if let OnDisk::Some(body) = &*known
            && !body.is_dead()
        {
            return Ok(Arc::clone(body));
        }
        let _alone = self.inner.stripe(self.id).lock();
        let body = self.install(Body::create(&self.label)?);
        *known = OnDisk::Some(Arc::clone(&body));
        Ok(body)
    }

    fn used(&self, body: &Arc<Body>) {
        if body.opened() {
            self.inner.shelf.warm(self.id, body);
        }
    }

    /// Parts of a range that must be fetched: whole blocks (the last one of the object may be short), neighbours joined.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        match self.body() {
            Some(body) => body.missing(&range),
            None => data::missing(&self.label, &range, |_| false),
        }
    }

    /// The bytes of a range, clipped to the size; `None` if any of them is missing or fails its checksum.
    pub fn read(&self, range: Range<u64>) -> Option<Bytes> {
        let range = range.start..range.end.min(self.label.size);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let body = self.body()?;
        let content = body.read(&range);
        self.used(&body);
        content
    }

    /// Keeps fetched content. `offset` is block-aligned; a piece that is neither a whole block nor the object's tail is not kept.
    pub fn write(&self, offset: u64, content: Bytes) {
        if !offset.is_multiple_of(Self::BLOCK)
            || content.is_empty()
            || !self.label.cacheable()
            || !self.inner.is_writing()
        {
            return;
        }
        if !self.inner.make_room(content.len() as u64) {
            return;
        }
        let kept = self.body_to_write().and_then(|body| {
            let new = body.write(offset, &content)?;
            self.inner.shelf.add(self.id, new, &body);
            self.used(&body);
            Ok((body, new))
        });
        match kept {
            Ok((body, new)) if new > 0 && body.matches_object() == Some(false) => {
                log::warn!("cache: the copy of '{}' has not the object's checksum; fetched again", self.label.name);
                self.discard();
            }
            Ok(_) => {}
            Err(e) => self.inner.complain(&format!("keep content of '{}'", self.label.name), &e),
        }
    }

    fn discard(&self) {
        let _alone = self.inner.stripe(self.id).lock();
        self.inner.delete(self.id);
    }

    /// `Ok(None)`: cannot be linked, only copied.
    fn adopt(&self, complete: &Path) -> io::Result<Option<Arc<Body>>> {
        let meta = std::fs::metadata(complete)?;
        if meta.len() != self.label.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its length is not the object's"));
        }
        if !self.inner.make_room(meta.blocks() * 512) {
            // Not the disk is full but the bound is reached by files in use: no reason to stop caching others.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let mut known = self.body.lock();
        let _alone = self.inner.stripe(self.id).lock();
        if let OnDisk::Some(body) = &*known {
            body.kill();
        }
        self.inner.delete(self.id);
        *known = OnDisk::Nothing;
        if let Some(dir) = self.label.data.parent() {
            create_dir(dir)?;
        }
        match std::fs::hard_link(complete, &self.label.data) {
            // Another file system, one without hard links, or a file with too many of them.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EXDEV | libc::EPERM | libc::EOPNOTSUPP | libc::EMLINK | libc::ENOSYS)
                ) =>
            {
                return Ok(None);
            }
            other => other?,
        }
        let body = Body::adopt(&self.label).inspect_err(|_| {
            // A name that belongs to nothing would keep the journal's file on the disk.
            self.inner.delete(self.id);
        });
        let body = self.install(body?);
        *known = OnDisk::Some(Arc::clone(&body));
        Ok(Some(body))
    }

    /// Every block is there.
    pub fn is_complete(&self) -> bool {
        self.label.size == 0 || self.body().is_some_and(|body| body.is_complete())
    }

    /// Every block is there and was compared with its checksum: only then may the file be read past [`CachedFile::read`].
    pub fn is_verified(&self) -> bool {
        self.body().is_some_and(|body| body.is_complete() && body.is_trusted())
    }

    /// The data file, sparse where blocks are missing. See [`CachedFile::is_verified`].
    pub fn file(&self) -> Option<Arc<File>> {
        let body = self.body()?;
        let file = body.data_file();
        self.used(&body);
        file
    }

    pub fn size(&self) -> u64 {
        self.label.size
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        self.inner.shelf.unlive(self.id);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("cache: the background thread panicked");
        }
    }
}

/// The background thread.
impl Inner {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes stock, then works on what was adopted, until the cache is dropped.
    fn background(&self, queue: &Receiver<Job>) {
        self.scan();
        while let Ok(job) = queue.recv() {
            self.work(job);
        }
    }

    fn work(&self, job: Job) {
        match job {
            Job::Sum { id, body } => self.sum(id, &body),
            Job::Copy { file, from } => self.copy(&file, &from),
        }
    }

    fn sum(&self, id: Id, body: &Arc<Body>) {
        let why = match body.state_sums(|| !self.stopping()) {
            Ok(true) => return,
            Ok(false) => "it has not the object's checksum".into(),
            Err(e) => e.to_string(),
        };
        log::warn!("cache: adopted copy of '{}' is dropped: {why}", body.label.name);
        let _alone = self.stripe(id).lock();
        if !body.is_dead() {
            body.kill();
            self.delete(id);
        }
    }

    fn copy(&self, file: &CachedFile, from: &File) {
        for at in (0..file.size()).step_by(data::BLOCK as usize) {
            if self.stopping() {
                return;
            }
            match data::read_exactly(from, &(at..(at + data::BLOCK).min(file.size()))) {
                Ok(content) => file.write(at, content.into()),
                Err(e) => return log::warn!("cache: copy of '{}' not finished: {e}", file.label.name),
            }
        }
    }

    /// Finds what earlier processes left; removes halves.
    fn scan(&self) {
        let mut found: Vec<(SystemTime, Id, u64)> = Vec::new();
        let mut halves = 0_u64;
        for folder in names(&self.root) {
            for name in names(&self.root.join(&folder)) {
                if self.stopping() {
                    return;
                }
                let (stem, is_map) = match name.strip_suffix(".map") {
                    Some(stem) => (stem, true),
                    None => (name.as_str(), false),
                };
                // Other names are not the cache's and stay.
                let Some(id) = parse_id(stem).filter(|_| stem.starts_with(&folder)) else { continue };
                let path = self.path(id);
                let pair = || Ok::<_, io::Error>((path.metadata()?, path.with_extension("map").metadata()?));
                match pair() {
                    Ok((data, map)) if is_map => {
                        let used = map.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                        found.push((used, id, (data.blocks() + map.blocks()) * 512));
                    }
                    Ok(_) => {}
                    Err(_) => halves += u64::from(self.remove_half(id)),
                }
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        let (files, bytes) = (found.len(), found.iter().map(|(_, _, bytes)| bytes).sum::<u64>());
        let victims = self.shelf.put_found(found.into_iter().map(|(_, id, bytes)| (id, bytes)));
        self.evict(victims);
        log::info!("cache: {files} files with {bytes} bytes from earlier; {halves} incomplete pairs removed");
    }

    /// Unless it is a pair just being made.
    fn remove_half(&self, id: Id) -> bool {
        let _alone = self.stripe(id).lock();
        let half = !self.shelf.has(id);
        if half {
            self.delete(id);
        }
        half
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn parse_id(name: &str) -> Option<Id> {
    (name.len() == 32).then(|| u128::from_str_radix(name, 16).ok()).flatten().map(Id)
}

#[cfg(test)]
mod tests;
