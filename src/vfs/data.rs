//! Open, read, write, truncate.
//!
//! Disk work happens on threads that may block, under the inode's `io` lock where it changes the scratch file; the network is
//! asked without any lock. A read plans its pieces under the state's lock and then fetches them: it sees each byte as of some
//! moment during the call, which is what a local file system gives as well.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::attr::Kind;
use super::error::{Error, Result};
use super::handle::Purpose;
use super::inode::{Inode, State};
use super::staging::{Base, Layer, Piece};
use super::{Ctx, Held, Vfs};
use crate::store::{self, Staging, Store};

/// The largest file: 50 TB, the limit of a COS object ("Specifications and Limits").
pub const FILE_BYTES_MAX: u64 = 50 * 1000 * 1000 * 1000 * 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    pub fh: u64,
    /// The kernel may go on using the pages it has.
    pub keep_cache: bool,
}

/// Whose bytes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    Program,
    /// The kernel writes back a page that a program has changed through a mapping. It has its place in the file, and may come by any handle of
    /// the file that is open for writing, one for appending as well.
    Mapping,
    /// The kernel has chosen the place: the file is not open for appending any more, or it is written past the page cache, in several requests at once.
    Placed,
}

/// A read of the same file this soon after one that ran out of time belongs to the same call of the program: the kernel asks once for what it
/// reads ahead and, when that fails, again for the page that is needed. Both together must not take twice `max_stall`.
const REPEATED: Duration = Duration::from_millis(250);
const REPEAT_STALL: Duration = Duration::from_millis(250);

impl<S: Store> Vfs<S> {
    /// `flags` as `open(2)` takes them.
    pub async fn open(self: &Arc<Self>, ctx: &Ctx, ino: u64, flags: i32) -> Result<Opened> {
        if let Some(opened) = self.open_now(ino, flags) {
            return opened;
        }
        let held = self.hold(ino)?;
        self.refresh(&held, ctx.until).await?;
        if flags & libc::O_TRUNC != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY {
            self.writable()?;
            self.truncate(&held, 0).await?;
            if ctx.uid != 0 {
                self.drop_privileges(ctx, ino).await?;
            }
        }
        self.open_held(held, flags)
    }

    /// The same where it needs neither network nor disk.
    pub fn open_now(&self, ino: u64, flags: i32) -> Option<Result<Opened>> {
        let held = match self.hold(ino) {
            Ok(held) => held,
            Err(e) => return Some(Err(e)),
        };
        let fresh = held.state.lock().is_fresh(tokio::time::Instant::now());
        (fresh && flags & libc::O_TRUNC == 0).then(|| self.open_held(held, flags))
    }

    pub(super) fn open_held(&self, held: Held<S>, flags: i32) -> Result<Opened> {
        // The kernel looks the name up again, and comes with the inode that it leads to now.
        if held.state.lock().replaced {
            return Err(Error::Stale);
        }
        let access = flags & libc::O_ACCMODE;
        let (read, write) = (access != libc::O_WRONLY, access != libc::O_RDONLY);
        match held.kind {
            Kind::Dir if write => return Err(Error::IsDir),
            Kind::File => {}
            _ => return Err(Error::Invalid("only regular files are opened here")),
        }
        if write {
            self.writable()?;
        }
        // While it has a name, so that it stays readable when it has none any more.
        self.reader_of(&held)?;
        let keep_cache = {
            let mut state = held.state.lock();
            state.handles += 1;
            state.writers += u32::from(write);
            std::mem::replace(&mut state.cache_ok, true)
        };
        let append = flags & libc::O_APPEND != 0;
        Ok(Opened { fh: self.handles.insert(held, Purpose::File { read, write, append }), keep_cache })
    }

    /// The reader of the stored version, pinned at first use.
    pub(super) fn reader_of(&self, inode: &Inode<S>) -> Result<Option<Arc<S::Reader>>> {
        // Both locks: path and object are of one moment.
        let table = self.table.lock();
        let mut state = inode.state.lock();
        if state.reader.is_none()
            && let Some(object) = &state.object
        {
            let key = match &state.lies_at {
                Some(key) => key.clone(),
                None => self.keys.file(&table.path(inode.ino).ok_or(Error::Stale)?)?,
            };
            drop(table);
            let reader = self.store.open(&key, object);
            state.reader = Some(Arc::new(reader));
        }
        Ok(state.reader.clone())
    }

    /// Whoever has the file open goes on reading it when its name is gone.
    pub(super) fn keep_readable(&self, inode: &Inode<S>) -> Result<()> {
        if inode.state.lock().handles > 0 {
            self.reader_of(inode)?;
        }
        Ok(())
    }

    pub async fn read(self: &Arc<Self>, ctx: &Ctx, fh: u64, offset: u64, len: u32) -> Result<Bytes> {
        let handle = self.handles.get(fh)?;
        if !matches!(handle.purpose, Purpose::File { read: true, .. }) {
            return Err(Error::BadHandle);
        }
        let gave_up = handle.held.state.lock().read_gave_up;
        let mut ctx = *ctx;
        if gave_up.is_some_and(|at| at.elapsed() < REPEATED) {
            ctx.until = ctx.until.min(Instant::now() + REPEAT_STALL);
        }
        let result = self.read_inode(&ctx, &handle.held, offset, len).await;
        let gives_up = result.as_ref().is_err_and(Error::is_outage);
        if gives_up || gave_up.is_some() {
            handle.held.state.lock().read_gave_up = gives_up.then(Instant::now);
        }
        result
    }

    pub(super) async fn read_inode(
        self: &Arc<Self>,
        ctx: &Ctx,
        inode: &Arc<Inode<S>>,
        offset: u64,
        len: u32,
    ) -> Result<Bytes> {
        // Version and length of one moment: a commit may end at any time.
        let pieces = loop {
            {
                let state = inode.state.lock();
                match (&state.layer, &state.reader, &state.object) {
                    (Some(layer), ..) => break layer.pieces(offset, len.into()),
                    (None, Some(reader), _) => {
                        let end = offset.saturating_add(len.into()).min(state.attr.size);
                        break match offset < end {
                            true => vec![Piece::Object(reader.clone(), offset..end)],
                            false => Vec::new(),
                        };
                    }
                    (None, None, None) => break Vec::new(),
                    (None, None, Some(_)) => {}
                }
            }
            self.reader_of(inode)?;
        };
        // Whole answers pass through without a copy.
        if let [Piece::Object(reader, range)] = &pieces[..] {
            return self.read_object(ctx, reader, range.clone()).await;
        }
        let mut whole = BytesMut::with_capacity(len as usize);
        for piece in pieces {
            match piece {
                Piece::Zeros(range) => whole.resize(whole.len() + (range.end - range.start) as usize, 0),
                Piece::Object(reader, range) => {
                    whole.extend_from_slice(&self.read_object(ctx, &reader, range).await?);
                }
                Piece::Scratch(staging, range) => {
                    let bytes = self.blocking(move || read_scratch(staging.file(), range)).await?;
                    if whole.is_empty() && bytes.len() == len as usize {
                        return Ok(bytes.into());
                    }
                    whole.extend_from_slice(&bytes);
                }
            }
        }
        Ok(whole.freeze())
    }

    async fn read_object(&self, ctx: &Ctx, reader: &S::Reader, range: Range<u64>) -> Result<Bytes> {
        let want = range.end - range.start;
        let bytes = self.store.read(reader, range.start, want as u32, ctx.until).await?;
        if bytes.len() as u64 == want {
            return Ok(bytes);
        }
        // A short answer would look like the end of the file.
        Err(Error::Io(format!("{} bytes at {} where {want} were due", bytes.len(), range.start)))
    }

    pub async fn write(self: &Arc<Self>, ctx: &Ctx, fh: u64, offset: u64, data: Bytes) -> Result<u32> {
        self.write_by(ctx, fh, offset, data, Writer::Program).await
    }

    pub async fn write_by(self: &Arc<Self>, ctx: &Ctx, fh: u64, offset: u64, data: Bytes, by: Writer) -> Result<u32> {
        let handle = self.handles.get(fh)?;
        let Purpose::File { write: true, append, .. } = handle.purpose else { return Err(Error::BadHandle) };
        let append = append && by == Writer::Program;
        let len = data.len() as u32;
        loop {
            self.reader_of(&handle.held)?;
            let (vfs, inode, data) = (self.clone(), handle.held.inode.clone(), data.clone());
            match self.blocking(move || vfs.write_scratch(&inode, append, offset, &data)).await {
                Ok(Pinned::Yes) => break,
                Ok(Pinned::NoMore) => {}
                // What other writes occupy may be sent in a moment.
                Err(Error::Store(store::Error::Full(_))) if self.store.room(ctx.until).await => {}
                Err(error) => return Err(error),
            }
        }
        self.mark_dirty(&handle.held);
        Ok(len)
    }

    fn write_scratch(&self, inode: &Inode<S>, append: bool, offset: u64, data: &[u8]) -> Result<Pinned> {
        if data.is_empty() {
            return Ok(Pinned::Yes);
        }
        let _io = inode.io.lock();
        let (staging, range, added) = {
            let mut state = inode.state.lock();
            if state.replaced {
                return Err(Error::Stale);
            }
            let offset = if append { state.size() } else { offset };
            let end =
                offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Error::TooBig)?;
            let Some(layer) = open_layer(&mut state) else { return Ok(Pinned::NoMore) };
            let range = offset..end;
            let found = (layer.staging.clone(), range.clone(), layer.added_by(range));
            // Before the bytes are there: a commit that ends meanwhile must find the file changed, or it takes the layer away.
            state.content.changed += 1;
            found
        };
        let wrote = self.write_layer(inode, staging, range.clone(), added, data);
        let mut state = inode.state.lock();
        if let Err(error) = wrote {
            take_back(&mut state);
            return Err(error);
        }
        if let Some(layer) = &mut state.layer {
            layer.wrote(range);
        }
        state.touch(SystemTime::now());
        Ok(Pinned::Yes)
    }

    fn write_layer(
        &self,
        inode: &Inode<S>,
        staging: Option<Arc<S::Staging>>,
        range: Range<u64>,
        added: u64,
        data: &[u8],
    ) -> Result<()> {
        let staging = match staging {
            Some(staging) => staging,
            None => {
                let made = Arc::new(self.store.staging()?);
                if let Some(layer) = &mut inode.state.lock().layer {
                    layer.staging = Some(made.clone());
                }
                made
            }
        };
        self.store.reserve(&staging, added)?;
        if let Err(error) = staging.file().write_all_at(data, range.start) {
            // What of it is on the disk counts for nothing, and must not show when the file grows over it.
            let parts = inode.state.lock().layer.as_ref().map(|layer| layer.added_parts(range)).unwrap_or_default();
            for part in parts {
                clear(staging.file(), part);
            }
            return Err(Error::disk(error));
        }
        Ok(())
    }

    /// Gives the file another length. The caller decides when that is committed.
    pub(super) async fn truncate(self: &Arc<Self>, inode: &Arc<Inode<S>>, size: u64) -> Result<()> {
        if size > FILE_BYTES_MAX {
            return Err(Error::TooBig);
        }
        loop {
            self.reader_of(inode)?;
            let (vfs, shared) = (self.clone(), inode.clone());
            if let Pinned::Yes = self.blocking(move || vfs.truncate_scratch(&shared, size)).await? {
                break;
            }
        }
        self.mark_dirty(inode);
        Ok(())
    }

    fn truncate_scratch(&self, inode: &Inode<S>, size: u64) -> Result<Pinned> {
        let _io = inode.io.lock();
        let staging = {
            let mut state = inode.state.lock();
            if state.replaced {
                return Err(Error::Stale);
            }
            let now = SystemTime::now();
            if size == 0 {
                state.layer = Some(Layer::empty());
                state.content.changed += 1;
                state.touch(now);
                return Ok(Pinned::Yes);
            }
            if size == state.size() {
                // POSIX: the times change even if the length does not.
                state.touch(now);
                state.headers.changed += 1;
                return Ok(Pinned::Yes);
            }
            let Some(layer) = open_layer(&mut state) else { return Ok(Pinned::NoMore) };
            let staging = layer.staging.clone();
            // As in `write_scratch`.
            state.content.changed += 1;
            staging
        };
        // What is cut off must read as zeros if the file grows again.
        let cut = staging.map_or(Ok(()), |staging| {
            let len = staging.file().metadata()?.len();
            staging.file().set_len(len.min(size))
        });
        let mut state = inode.state.lock();
        if let Err(error) = cut {
            take_back(&mut state);
            return Err(Error::disk(error));
        }
        if let Some(layer) = &mut state.layer {
            layer.truncate(size);
        }
        state.touch(SystemTime::now());
        Ok(Pinned::Yes)
    }

    /// The last use of a handle. What a mapping wrote after the last flush is committed in the background, if nobody is left who will close
    /// the file after writing: it may be somebody's half-written content by now.
    pub fn release(self: &Arc<Self>, fh: u64) -> Result<()> {
        let handle = self.handles.remove(fh)?;
        let inode = handle.held.inode.clone();
        let wrote = matches!(handle.purpose, Purpose::File { write: true, .. });
        let commit = {
            let mut state = inode.state.lock();
            state.handles -= 1;
            state.writers -= u32::from(wrote);
            if state.handles == 0 {
                // It may hold a file of the journal open, whose room is wanted back.
                state.reader = None;
                if state.unlinked {
                    state.layer = None;
                }
            }
            state.is_dirty() && wrote && state.writers == 0
        };
        if commit {
            let vfs = self.clone();
            self.rt.spawn(async move {
                let until = tokio::time::Instant::now() + vfs.options.max_stall;
                if let Err(e) = vfs.commit(&inode, crate::store::Ack::Close, until).await {
                    let path = vfs.path_of(inode.ino).unwrap_or_default();
                    log::error!("{path}: not stored yet, kept here and tried again: {e}");
                }
                drop(handle);
            });
        }
        Ok(())
    }
}

/// Is the stored version, over which a first change has to go, at hand?
enum Pinned {
    Yes,
    /// A commit or somebody else's write has put another one in its place since [`Vfs::reader_of`].
    NoMore,
}

/// The layer that may be written now; `None`: the stored version under it is not pinned.
fn open_layer<S: Store>(state: &mut State<S>) -> Option<&mut Layer<S>> {
    let next = match &state.layer {
        Some(layer) if layer.sealed.is_none() => None,
        Some(sealed) => Some(sealed.above()),
        None => Some(match (&state.reader, &state.object) {
            (Some(reader), _) => Layer::over(Base::Object(reader.clone()), state.attr.size),
            (None, None) => Layer::empty(),
            (None, Some(_)) => return None,
        }),
    };
    if let Some(next) = next {
        state.layer = Some(next);
    }
    state.layer.as_mut()
}

/// A change that was counted and could not be made. Under the inode's `io` lock, so that no commit has seen it.
fn take_back<S: Store>(state: &mut State<S>) {
    state.content.changed -= 1;
    if !state.content.is_dirty() {
        state.layer = None;
    }
}

/// Makes a range zero again, without needing room.
fn clear(file: &std::fs::File, range: Range<u64>) {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = rustix::fs::fallocate(file, flags, range.start, range.end - range.start) {
        log::warn!("a scratch file cannot be cleared after a failed write: {error}");
    }
}

/// A range of a scratch file; what lies beyond its end was never written and is zero.
pub(super) fn read_scratch(file: &std::fs::File, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], range.start + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::disk(e)),
        }
    }
    Ok(bytes)
}
