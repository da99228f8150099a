//! One sparse file per object version, and a map of what is in it.
//!
//! The content of one version never changes, so a block once fetched is right for ever, if it is still what was fetched. A disk
//! loses writes in a power cut and flips bits in between, so beside the data lies a *map*: a header that says whose data this is, and
//! a CRC-64 for each block of 1 MiB, zero where there is none. A block counts only if its checksum says so. It is compared when this
//! process first reads the block, and trusted from then on. Nothing is ever synced: what did not survive is simply not there.
//!
//! Data is written before its checksum, and each block by one writer only; who comes second drops what it has, since a
//! version has one content. One contiguous file, because the kernel can be given it whole (FUSE passthrough). CRC-64/XZ, because the
//! block sums combine to the checksum COS states for the whole object: a complete file is compared with that too.
//!
//! Owns one file's blocks. Owns not which files stay (`evict`).

use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;

/// Bytes a checksum covers. Also the unit of fetching.
pub const BLOCK: u64 = 1 << 20;
/// Larger objects (1 TiB) are not cached: their map would cost 16 MiB of memory and more.
const BLOCKS_MAX: u64 = 1 << 20;
/// The time of last use that a restart sees is this exact.
const TOUCH: Duration = Duration::from_secs(600);

const ALGORITHM: crc_fast::CrcAlgorithm = crc_fast::CrcAlgorithm::Crc64Xz;

pub(super) fn crc64(data: &[u8]) -> u64 {
    crc_fast::checksum(ALGORITHM, data)
}

/// Nothing to be read.
const ABSENT: u8 = 0;
/// Somebody is writing it.
const CLAIMED: u8 = 1;
/// The map has a checksum, nobody compared it yet.
const STATED: u8 = 2;
/// Written or compared by this process.
const TRUSTED: u8 = 3;

#[derive(Default)]
struct Block {
    sum: AtomicU64,
    state: AtomicU8,
}

#[derive(Default)]
struct Handles {
    open: Option<(Arc<File>, Arc<File>)>,
    /// Removed from the disk.
    dead: bool,
}

/// The two names and the header of one object version.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub data: PathBuf,
    pub map: PathBuf,
    /// Key, for messages.
    pub name: String,
    pub header: Vec<u8>,
    pub size: u64,
    pub crc64: Option<u64>,
}

impl Label {
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    pub fn cacheable(&self) -> bool {
        self.blocks() <= BLOCKS_MAX
    }

    fn map_len(&self) -> u64 {
        self.header.len() as u64 + 8 * self.blocks()
    }

    /// Bytes of block `n`.
    fn span(&self, n: u64) -> Range<u64> {
        n * BLOCK..((n + 1) * BLOCK).min(self.size)
    }
}

/// Files and block table of one object version, as long as they are on disk.
pub(super) struct Body {
    pub label: Arc<Label>,
    blocks: Box<[Block]>,
    present: AtomicU64,
    handles: Mutex<Handles>,
    opened: AtomicBool,
    touched: Mutex<SystemTime>,
    /// Said once: a file rotten in many places is one line.
    complained: AtomicBool,
}

/// Rounds up to what a file system allocates.
fn rounded(len: u64) -> u64 {
    len.next_multiple_of(4096)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

impl Body {
    fn new(label: &Arc<Label>, data: File, map: File) -> Body {
        Body {
            label: Arc::clone(label),
            blocks: (0..label.blocks()).map(|_| Block::default()).collect(),
            present: AtomicU64::new(0),
            handles: Mutex::new(Handles { open: Some((Arc::new(data), Arc::new(map))), dead: false }),
            opened: AtomicBool::new(true),
            touched: Mutex::new(SystemTime::now()),
            complained: AtomicBool::new(false),
        }
    }

    /// New empty files in place of whatever there was. Second: bytes on disk.
    pub fn create(label: &Arc<Label>) -> io::Result<(Body, u64)> {
        if let Some(dir) = label.data.parent() {
            super::create_dir(dir)?;
        }
        // Half a pair may be a second name of a file that the journal has.
        super::remove_if_there(&label.data)?;
        let data = options().create(true).truncate(true).open(&label.data)?;
        data.set_len(label.size)?;
        Ok((Body::new(label, data, Body::new_map(label)?), rounded(label.map_len())))
    }

    fn new_map(label: &Label) -> io::Result<File> {
        let map = options().create(true).truncate(true).open(&label.map)?;
        map.write_all_at(&label.header, 0)?;
        map.set_len(label.map_len())?;
        Ok(map)
    }

    /// Data that is already in place under the data name, complete, to be believed in this process. Its checksums are unknown.
    pub fn adopt(label: &Arc<Label>) -> io::Result<(Body, u64)> {
        let data = options().open(&label.data)?;
        let meta = data.metadata()?;
        if meta.len() != label.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its length is not the object's"));
        }
        let body = Body::new(label, data, Body::new_map(label)?);
        for block in &body.blocks {
            block.state.store(TRUSTED, Ordering::Relaxed);
        }
        body.present.store(label.blocks(), Ordering::Relaxed);
        Ok((body, meta.blocks() * 512 + rounded(label.map_len())))
    }

    /// The files as they are on disk; `None` if there are none. An error means they are useless.
    pub fn open(label: &Arc<Label>) -> io::Result<Option<(Body, u64)>> {
        let (data, map) = match (options().open(&label.data), options().open(&label.map)) {
            (Ok(data), Ok(map)) => (data, map),
            (Err(e), _) | (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            (Err(e), _) | (_, Err(e)) => return Err(e),
        };
        let (data_meta, map_meta) = (data.metadata()?, map.metadata()?);
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if data_meta.len() != label.size {
            return wrong("the data has another length");
        }
        if map_meta.len() != label.map_len() {
            return wrong("the map has another length");
        }
        let mut content = vec![0; label.map_len() as usize];
        map.read_exact_at(&mut content, 0)?;
        let (header, sums) = content.split_at(label.header.len());
        if header != label.header {
            return wrong("the map's header is another one");
        }
        let body = Body::new(label, data, map);
        let mut present = 0;
        for (block, sum) in body.blocks.iter().zip(sums.chunks_exact(8)) {
            let sum = sum.try_into().map_or(0, u64::from_le_bytes);
            if sum != 0 {
                block.sum.store(sum, Ordering::Relaxed);
                block.state.store(STATED, Ordering::Relaxed);
                present += 1;
            }
        }
        body.present.store(present, Ordering::Relaxed);
        *body.touched.lock() = map_meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some((body, (data_meta.blocks() + map_meta.blocks()) * 512)))
    }

    pub fn is_dead(&self) -> bool {
        self.handles.lock().dead
    }

    /// Gives the file handles back; they are opened again when needed.
    pub fn close(&self) {
        self.handles.lock().open = None;
    }

    /// The names are gone (or about to be). Whoever holds a handle goes on reading; nothing is opened any more.
    pub fn kill(&self) {
        let mut handles = self.handles.lock();
        handles.dead = true;
        handles.open = None;
    }

    /// Data and map, opened where they were given back.
    fn handles(&self) -> Option<(Arc<File>, Arc<File>)> {
        let mut handles = self.handles.lock();
        if handles.dead {
            return None;
        }
        if let Some(open) = &handles.open {
            return Some(open.clone());
        }
        let again = || Ok::<_, io::Error>((options().open(&self.label.data)?, options().open(&self.label.map)?));
        match again() {
            Ok((data, map)) => {
                let open = (Arc::new(data), Arc::new(map));
                handles.open = Some(open.clone());
                self.opened.store(true, Ordering::Release);
                Some(open)
            }
            Err(e) => {
                log::warn!("cache: {} of '{}' is gone: {e}", self.label.data.display(), self.label.name);
                handles.dead = true;
                None
            }
        }
    }

    /// Were handles opened since this was last asked? They count towards the bound on open files.
    pub fn opened(&self) -> bool {
        self.opened.load(Ordering::Acquire) && self.opened.swap(false, Ordering::AcqRel)
    }

    pub fn data_file(&self) -> Option<Arc<File>> {
        self.handles().map(|(data, _)| data)
    }

    fn state(&self, n: u64) -> u8 {
        self.blocks.get(n as usize).map_or(ABSENT, |block| block.state.load(Ordering::Acquire))
    }

    pub fn is_complete(&self) -> bool {
        self.present.load(Ordering::Acquire) == self.label.blocks()
    }

    pub fn is_trusted(&self) -> bool {
        self.blocks.iter().all(|block| block.state.load(Ordering::Acquire) == TRUSTED)
    }

    /// Ranges of whole blocks that are not there, clipped to the size.
    pub fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        missing(&self.label, range, |n| self.state(n) >= STATED)
    }

    /// Compares a block with its checksum; drops it if they differ.
    fn verify(&self, n: u64, data: &File) -> bool {
        let span = self.label.span(n);
        let block = &self.blocks[n as usize];
        let sum = block.sum.load(Ordering::Acquire);
        let content = read_exactly(data, &span);
        if content.is_ok_and(|content| crc64(&content) == sum) {
            // Only from STATED: a block dropped meanwhile stays dropped.
            let set = block.state.compare_exchange(STATED, TRUSTED, Ordering::AcqRel, Ordering::Acquire);
            return set.is_ok() || block.state.load(Ordering::Acquire) == TRUSTED;
        }
        if block.state.compare_exchange(STATED, CLAIMED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.forget(n);
            if !self.complained.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "cache: block {n} of '{}' does not match its checksum; it is fetched again",
                    self.label.name
                );
            }
        }
        false
    }

    /// Takes a claimed block out.
    fn forget(&self, n: u64) {
        let block = &self.blocks[n as usize];
        if let Some((_, map)) = self.handles() {
            let _ = map.write_all_at(&0_u64.to_le_bytes(), self.label.header.len() as u64 + 8 * n);
        }
        block.sum.store(0, Ordering::Release);
        self.present.fetch_sub(1, Ordering::AcqRel);
        block.state.store(ABSENT, Ordering::Release);
    }

    /// The bytes of a range inside the size, if all of them are there and right.
    pub fn read(&self, range: &Range<u64>) -> Option<Bytes> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        if blocks.clone().any(|n| self.state(n) < STATED) {
            return None;
        }
        let (data, map) = self.handles()?;
        for n in blocks {
            if self.state(n) != TRUSTED && !self.verify(n, &data) {
                return None;
            }
        }
        self.touch(&map);
        match read_exactly(&data, range) {
            Ok(content) => Some(content.into()),
            Err(e) => {
                log::warn!("cache: {} of '{}': {e}", self.label.data.display(), self.label.name);
                self.kill();
                None
            }
        }
    }

    /// Keeps whole blocks out of `content`, which begins at `offset`. Answers with the bytes that are new on disk.
    pub fn write(&self, offset: u64, content: &[u8]) -> io::Result<u64> {
        let Some((data, map)) = self.handles() else { return Ok(0) };
        let mut new = 0;
        let first = offset.div_ceil(BLOCK);
        for n in first..self.label.blocks() {
            let span = self.label.span(n);
            let from = (span.start - offset) as usize;
            let Some(chunk) = content.get(from..from + (span.end - span.start) as usize) else { break };
            let block = &self.blocks[n as usize];
            if block.state.compare_exchange(ABSENT, CLAIMED, Ordering::AcqRel, Ordering::Acquire).is_err() {
                continue;
            }
            let sum = crc64(chunk);
            // Zero means "none" in the map; content with that sum (one in 2^64) is left uncached.
            let wrote = if sum == 0 { Ok(()) } else { data.write_all_at(chunk, span.start) };
            let wrote = wrote.and_then(|()| self.state_sum(n, sum, &map));
            if let Err(e) = wrote {
                block.state.store(ABSENT, Ordering::Release);
                return Err(e);
            }
            if sum == 0 {
                block.state.store(ABSENT, Ordering::Release);
                continue;
            }
            block.state.store(TRUSTED, Ordering::Release);
            self.present.fetch_add(1, Ordering::AcqRel);
            new += rounded(chunk.len() as u64);
        }
        Ok(new)
    }

    fn state_sum(&self, n: u64, sum: u64, map: &File) -> io::Result<()> {
        map.write_all_at(&sum.to_le_bytes(), self.label.header.len() as u64 + 8 * n)?;
        self.blocks[n as usize].sum.store(sum, Ordering::Release);
        Ok(())
    }

    /// Computes what [`Body::adopt`] left out. `Ok(false)`: the content is not the object's.
    pub fn state_sums(&self, alive: impl Fn() -> bool) -> io::Result<bool> {
        for n in 0..self.label.blocks() {
            if !alive() {
                return Ok(true);
            }
            let Some((data, map)) = self.handles() else { return Ok(true) };
            let block = &self.blocks[n as usize];
            if block.sum.load(Ordering::Acquire) == 0 && block.state.load(Ordering::Acquire) == TRUSTED {
                let sum = crc64(&read_exactly(&data, &self.label.span(n))?);
                self.state_sum(n, sum, &map)?;
            }
        }
        Ok(self.matches_object() != Some(false))
    }

    /// Compares the sums of all blocks with the object's own; `None` where that cannot be told.
    pub fn matches_object(&self) -> Option<bool> {
        let expected = self.label.crc64?;
        if !self.is_complete() {
            return None;
        }
        let mut whole = crc64(&[]);
        for n in 0..self.label.blocks() {
            let sum = self.blocks[n as usize].sum.load(Ordering::Acquire);
            if sum == 0 {
                return None;
            }
            let span = self.label.span(n);
            whole = crc_fast::checksum_combine(ALGORITHM, whole, sum, span.end - span.start);
        }
        Some(whole == expected)
    }

    /// Keeps the time of last use on disk, coarsely.
    fn touch(&self, map: &File) {
        let now = SystemTime::now();
        let Some(mut touched) = self.touched.try_lock() else { return };
        // A clock set back counts as long ago.
        if now.duration_since(*touched).is_ok_and(|age| age < TOUCH) {
            return;
        }
        *touched = now;
        drop(touched);
        let _ = map.set_times(FileTimes::new().set_modified(now));
    }
}

/// Whole blocks of a range for which `have` says no, neighbours joined.
pub(super) fn missing(label: &Label, range: &Range<u64>, have: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let end = range.end.min(label.size);
    if range.start >= end {
        return found;
    }
    for n in range.start / BLOCK..end.div_ceil(BLOCK) {
        if have(n) {
            continue;
        }
        let span = label.span(n);
        match found.last_mut() {
            Some(last) if last.end == span.start => last.end = span.end,
            _ => found.push(span),
        }
    }
    found
}

/// One copy, from the page cache into the answer, without clearing the memory first.
pub(super) fn read_exactly(file: &File, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let len = (range.end - range.start) as usize;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        let at = range.start + out.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut out), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // The allocator may have given more room than asked for, and the file may go on.
    out.truncate(len);
    Ok(out)
}
