//! From written to acknowledged.
//!
//! Commits of one name take turns. Each fills the layer in from its base, seals it, hands it to the store and then compares what
//! was committed with what was changed meanwhile. Whoever waited for its turn and finds nothing left to do shares the commit of
//! the one before. A write that the store has taken and cannot finish in time is told once, to whoever asked, and is the store's
//! from then on. Any other failure leaves everything as it was: dirty, readable, to be tried again by the next `close` or `fsync`, or
//! by a retry in the background when nobody has the file open.

use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use std::os::unix::fs::FileExt;
use tokio::time::Instant;

use super::error::{Error, Result};
use super::handle::Purpose;
use super::inode::{Inode, State};
use super::staging::{Base, Content, Frozen, Layer};
use super::tree::Item;
use super::turns::Claim;
use super::{COMMIT_BYTES_PER_SECOND_MIN, Ctx, ORPHAN_RETRY, Vfs, data};
use crate::journal::Stage;
use crate::object::Object;
use crate::store::{self, Ack, Staging, Store};

/// Bytes filled in from the base at a time.
const FILL: u64 = 1 << 20;
/// Such pieces on their way at the same time.
const FILLS: usize = 4;
/// A change of more pieces than this has its smallest gaps filled in: the journal's record names each piece.
const PATCH_RANGES_MAX: usize = 2000;
/// Files committed at the same time when everything is to be committed.
const DRAINS: usize = 8;

impl<S: Store> Vfs<S> {
    /// `close` of one descriptor: everything written before is acknowledged, or the error is told here.
    pub async fn flush(self: &Arc<Self>, ctx: &Ctx, fh: u64) -> Result<()> {
        let handle = self.handles.get(fh)?;
        match handle.purpose {
            Purpose::File { write: true, .. } => self.commit(&handle.held, Ack::Close, ctx.until).await,
            _ => Ok(()),
        }
    }

    /// The answer to a flush that has nothing to do.
    pub fn flush_now(&self, fh: u64) -> Option<Result<()>> {
        let handle = match self.handles.get(fh) {
            Ok(handle) => handle,
            Err(e) => return Some(Err(e)),
        };
        match handle.purpose {
            Purpose::File { write: true, .. } => (!handle.held.state.lock().is_dirty()).then_some(Ok(())),
            _ => Some(Ok(())),
        }
    }

    pub async fn fsync(self: &Arc<Self>, ctx: &Ctx, fh: u64) -> Result<()> {
        let handle = self.handles.get(fh)?;
        self.commit(&handle.held, Ack::Fsync, ctx.until).await
    }

    /// Commits every uncommitted file. Returns what could not be, with the reason.
    pub async fn flush_all(self: &Arc<Self>, until: Instant) -> Vec<(String, Error)> {
        let dirty: Vec<_> = self.dirty.lock().values().cloned().collect();
        let tries = dirty.into_iter().map(|inode| async move {
            let result = self.commit(&inode, Ack::Close, until).await;
            result.err().map(|e| (self.path_of(inode.ino).unwrap_or_default(), e))
        });
        let mut left: Vec<_> =
            futures::stream::iter(tries).buffer_unordered(DRAINS).filter_map(futures::future::ready).collect().await;
        if let Err(e) = self.store.sync(until).await {
            left.push((String::new(), e.into()));
        }
        left
    }

    /// Where the newest content of a name is, in one word (docs/semantics.md, "Where a file is").
    pub fn state_of(&self, ino: u64) -> Result<&'static str> {
        let held = self.hold(ino)?;
        if held.state.lock().is_dirty() {
            return Ok("dirty");
        }
        let path = self.table.lock().path(ino).ok_or(Error::NotFound)?;
        let marker = self.keys.marker(&path)?.filter(|_| held.kind == super::Kind::Dir);
        let key = marker.map_or_else(|| self.keys.file(&path), Ok)?;
        Ok(self.store.stage(&key).unwrap_or(Stage::InBoth).as_str())
    }

    /// Paths of files with uncommitted changes, for status and drain.
    pub fn uncommitted(&self) -> Vec<String> {
        let dirty: Vec<u64> = self.dirty.lock().keys().copied().collect();
        dirty.into_iter().filter_map(|ino| self.path_of(ino)).collect()
    }

    pub(super) async fn retry_orphans(vfs: Weak<Vfs<S>>) {
        loop {
            tokio::time::sleep(ORPHAN_RETRY).await;
            let Some(vfs) = vfs.upgrade() else { return };
            let dirty: Vec<_> = vfs.dirty.lock().values().cloned().collect();
            for inode in dirty {
                // Who has it open for writing will close it.
                if inode.state.lock().writers > 0 {
                    continue;
                }
                let until = Instant::now() + vfs.options.max_stall;
                if let Err(e) = vfs.commit(&inode, Ack::Close, until).await {
                    let path = vfs.path_of(inode.ino).unwrap_or_default();
                    log::warn!("{path}: still not stored, kept here and tried again: {e}");
                }
            }
        }
    }

    /// Brings the store up to what the file is now.
    pub(super) async fn commit(self: &Arc<Self>, inode: &Arc<Inode<S>>, ack: Ack, until: Instant) -> Result<()> {
        let until = until + std::time::Duration::from_secs(inode.state.lock().size() / COMMIT_BYTES_PER_SECOND_MIN);
        loop {
            let Some(path) = self.table.lock().path(inode.ino) else {
                // Under a directory that is gone it can be stored nowhere.
                let lost = {
                    let mut state = inode.state.lock();
                    let lost = state.is_dirty();
                    if lost && state.handles == 0 {
                        // Whoever wrote it was told by `close`.
                        (state.unlinked, state.layer) = (true, None);
                    }
                    lost
                };
                self.mark_clean(inode);
                return if lost { Err(Error::Stale) } else { Ok(()) };
            };
            {
                let state = inode.state.lock();
                if !state.is_dirty() && ack == Ack::Close {
                    return Ok(());
                }
            }
            let _turn = self.turns.take(vec![Claim::Name(path.clone())], until).await?;
            if self.table.lock().path(inode.ino).as_ref() == Some(&path) {
                return self.commit_in_turn(inode, &path, ack, until).await;
            }
        }
    }

    /// The same for whoever has the turn on the name already.
    pub(super) async fn commit_in_turn(
        self: &Arc<Self>,
        inode: &Arc<Inode<S>>,
        path: &str,
        ack: Ack,
        until: Instant,
    ) -> Result<()> {
        let (dirty, content) = {
            let state = inode.state.lock();
            (state.is_dirty(), state.content.is_dirty())
        };
        if !dirty {
            // What was closed before counts as well, this file or another one.
            if ack == Ack::Fsync {
                self.store.sync(until).await?;
            }
            return Ok(());
        }
        let result = match content {
            true => self.commit_content(inode, path, ack, until).await,
            false => self.commit_headers(inode, path, until).await,
        };
        self.mark_clean(inode);
        result
    }

    async fn commit_content(
        self: &Arc<Self>,
        inode: &Arc<Inode<S>>,
        path: &str,
        ack: Ack,
        until: Instant,
    ) -> Result<()> {
        let key = self.keys.file(path)?;
        let Sealed { layer, content, changed, headers } = loop {
            self.prepare(inode, until).await?;
            let sealing = match self.seal_now(inode) {
                Some(sealing) => sealing?,
                None => {
                    let (vfs, shared) = (self.clone(), inode.clone());
                    self.blocking(move || vfs.seal(&shared)).await?
                }
            };
            match sealing {
                Sealing::Done(sealed) => break sealed,
                Sealing::Again if Instant::now() < until => {}
                Sealing::Again => return Err(Error::Busy),
                Sealing::Nothing => return Ok(()),
            }
        };
        let stored = {
            let state = inode.state.lock();
            state.attr.to_headers(state.object.as_ref().map(|object| &object.headers))
        };
        inode.state.lock().perhaps_stored = true;
        let answer = match content {
            Content::Empty => self.store.put(&key, None, stored, ack, until).await,
            Content::Whole(staging) => self.store.put(&key, Some(staging), stored, ack, until).await,
            Content::Patch(patch) => self.store.patch(&key, patch, stored, ack, until).await,
        };
        let (object, late) = taken(answer)?;
        // Pinned now, while the name surely leads to it.
        let reader = Arc::new(self.store.open(&key, &object));
        self.stored(inode, path, &object, |state| {
            let first = state.object.is_none();
            state.content.committed = changed;
            state.headers.committed = state.headers.committed.max(headers);
            state.perhaps_stored = false;
            // Also under a layer, which has a length of its own: should that be taken back, this is how long the file is.
            state.attr.size = object.token.size;
            if !state.content.is_dirty() {
                state.layer = None;
            }
            if let Some(above) = &mut state.layer {
                above.stored_below(&layer, reader.clone());
            }
            state.reader = Some(reader).filter(|_| state.handles > 0);
            state.object = Some(object.clone());
            state.lies_at = None;
            state.expires = self.ttl_from_now();
            first
        });
        late.map_or(Ok(()), |why| Err(why.into()))
    }

    /// Attributes alone changed: the content stays where it is.
    async fn commit_headers(&self, inode: &Arc<Inode<S>>, path: &str, until: Instant) -> Result<()> {
        let key = self.keys.file(path)?;
        let (object, headers, changed) = {
            let mut state = inode.state.lock();
            if state.lies_at.is_some() {
                // It was found on its way, and the move of its directory failed afterwards: it is not where this name leads to.
                state.headers.committed = state.headers.changed;
                state.expires = Instant::now();
                return Err(Error::Stale);
            }
            let Some(object) = state.object.clone() else { return Ok(()) };
            let headers = state.attr.to_headers(Some(&object.headers));
            (object, headers, state.headers.changed)
        };
        let (object, late) = taken(self.store.set_headers(&key, &object, headers, until).await)?;
        self.stored(inode, path, &object, |state| {
            state.headers.committed = changed;
            state.object = Some(object.clone());
            state.lies_at = None;
            if state.layer.is_none() {
                state.reader = None;
            }
            state.expires = self.ttl_from_now();
            false
        });
        self.keep_readable(inode)?;
        late.map_or(Ok(()), |why| Err(why.into()))
    }

    /// Takes in what the store made of an inode (`take`; true: there was no object before). The directory learns of it under the same lock, so
    /// that no answer from before the commit can come in between and bring the old content back.
    fn stored(
        &self,
        inode: &Arc<Inode<S>>,
        path: &str,
        object: &Arc<Object>,
        take: impl FnOnce(&mut State<S>) -> bool,
    ) {
        if let Ok(key) = self.keys.file(path) {
            self.heads.forget(&key);
        }
        let place = self.table.lock().place(inode.ino);
        let dir = place.as_ref().and_then(|(parent, _)| self.hold_dir(*parent).ok());
        let mut names = dir.as_ref().map(|dir| dir.dir.lock());
        let first = take(&mut inode.state.lock());
        let (Some(names), Some((parent, name))) = (&mut names, place) else { return };
        // Under the lock it is known whether the name still is this inode's.
        if self.table.lock().place(inode.ino) == Some((parent, name.clone())) {
            names.change(&name, Some(Item { name: name.clone(), dir: false, known: Some(object.clone()) }), true);
            if first {
                self.absent.lock().pop(&(parent, name));
            }
        }
    }

    /// Makes the layer such that it can be sealed: complete, or a patch that is worth being one.
    async fn prepare(self: &Arc<Self>, inode: &Arc<Inode<S>>, until: Instant) -> Result<()> {
        loop {
            let fills: Vec<(Source<S>, Range<u64>)> = {
                let mut state = inode.state.lock();
                let Some(layer) = state.layer.as_mut().filter(|layer| layer.sealed.is_none()) else { return Ok(()) };
                let below = layer.settle_below();
                match (&layer.base, below.is_empty()) {
                    (_, false) => below.into_iter().map(|(frozen, range)| (Source::Local(frozen), range)).collect(),
                    (Base::Object(reader), true) => worth_filling(layer, self.options.patch_min)
                        .into_iter()
                        .map(|range| (Source::Stored(reader.clone()), range))
                        .collect(),
                    (Base::Sealed(_), true) => continue,
                    (Base::Nothing, true) => Vec::new(),
                }
            };
            if fills.is_empty() {
                return Ok(());
            }
            let pieces = fills.into_iter().flat_map(|(source, range)| {
                let steps = (range.start..range.end).step_by(FILL as usize);
                steps.map(move |at| (source.clone(), at..(at + FILL).min(range.end)))
            });
            let copies = pieces.map(|(source, range)| {
                let (vfs, inode) = (self.clone(), inode.clone());
                async move {
                    let bytes = vfs.source_bytes(source, range.clone(), until).await?;
                    let filler = vfs.clone();
                    vfs.blocking(move || filler.fill_piece(&inode, range.start, &bytes)).await
                }
            });
            futures::stream::iter(copies).buffer_unordered(FILLS).try_collect::<()>().await?;
        }
    }

    async fn source_bytes(&self, source: Source<S>, range: Range<u64>, until: Instant) -> Result<Bytes> {
        match source {
            Source::Stored(reader) => {
                let bytes = self.store.read(&reader, range.start, (range.end - range.start) as u32, until).await?;
                match bytes.len() as u64 == range.end - range.start {
                    true => Ok(bytes),
                    false => Err(Error::Io(format!("short read at {} while filling in", range.start))),
                }
            }
            Source::Local(frozen) => match frozen.staging().cloned() {
                Some(staging) => Ok(self.blocking(move || data::read_scratch(staging.file(), range)).await?.into()),
                None => Ok(vec![0; (range.end - range.start) as usize].into()),
            },
        }
    }

    /// Writes the parts of a piece of the base that nobody has written over meanwhile.
    fn fill_piece(&self, inode: &Inode<S>, start: u64, bytes: &[u8]) -> Result<()> {
        let _io = inode.io.lock();
        let missing = match &inode.state.lock().layer {
            Some(layer) if layer.sealed.is_none() => layer.still_missing(start..start + bytes.len() as u64),
            _ => return Ok(()),
        };
        for range in missing {
            let staging = match inode.state.lock().layer.as_ref().and_then(|layer| layer.staging.clone()) {
                Some(staging) => staging,
                None => Arc::new(self.store.staging()?),
            };
            let part = &bytes[(range.start - start) as usize..(range.end - start) as usize];
            // Where nothing was written the scratch file is zero already, and costs nothing.
            if part.iter().any(|byte| *byte != 0) {
                self.store.reserve(&staging, range.end - range.start)?;
                staging.file().write_all_at(part, range.start).map_err(Error::disk)?;
            }
            if let Some(layer) = &mut inode.state.lock().layer {
                layer.staging = Some(staging);
                layer.filled(range);
            }
        }
        Ok(())
    }

    /// From here on the bytes do not change.
    fn seal(&self, inode: &Inode<S>) -> Result<Sealing<S>> {
        let _io = inode.io.lock();
        self.seal_alone(inode)
    }

    /// The same where the scratch file is as long as the file already and nobody writes into it: then the disk has nothing to do.
    fn seal_now(&self, inode: &Inode<S>) -> Option<Result<Sealing<S>>> {
        let _io = inode.io.try_lock()?;
        {
            let state = inode.state.lock();
            let layer = state.layer.as_ref().filter(|layer| layer.sealed.is_none())?;
            let staged = match &layer.staging {
                Some(staging) => staging.file().metadata().ok()?.len(),
                None => 0,
            };
            if staged != layer.size() {
                return None;
            }
        }
        Some(self.seal_alone(inode))
    }

    /// To be called with the `io` lock held.
    fn seal_alone(&self, inode: &Inode<S>) -> Result<Sealing<S>> {
        let mut state = inode.state.lock();
        if !state.content.is_dirty() {
            // A write that failed has been taken back.
            return Ok(Sealing::Nothing);
        }
        let (changed, headers) = (state.content.changed, state.headers.changed);
        let Some(layer) = &mut state.layer else {
            return Err(Error::Io("its changed content is not there any more".into()));
        };
        let size = layer.size();
        if layer.sealed.is_none() {
            if layer.staging.is_none() && size > 0 {
                layer.staging = Some(Arc::new(self.store.staging()?));
            }
            if let Some(staging) = layer.staging.as_ref().filter(|_| size > 0) {
                staging.file().set_len(size).map_err(Error::disk)?;
            }
            if matches!(layer.base, Base::Sealed(_)) && !layer.missing().is_empty() {
                return Ok(Sealing::Again);
            }
        }
        let frozen = layer.seal();
        let content = frozen.content().ok_or(Error::Busy)?;
        Ok(Sealing::Done(Sealed { layer: frozen, content, changed, headers }))
    }
}

enum Sealing<S: Store> {
    Done(Sealed<S>),
    /// A new layer came between preparing and sealing.
    Again,
    /// There is no change any more.
    Nothing,
}

/// A layer that does not change any more, with the counts of the changes it holds.
struct Sealed<S: Store> {
    layer: Arc<Frozen<S>>,
    content: Content<S>,
    changed: u64,
    headers: u64,
}

/// Where a piece to be filled in comes from.
enum Source<S: Store> {
    Stored(Arc<S::Reader>),
    Local(Arc<Frozen<S>>),
}

impl<S: Store> Clone for Source<S> {
    fn clone(&self) -> Self {
        match self {
            Source::Stored(reader) => Source::Stored(reader.clone()),
            Source::Local(frozen) => Source::Local(frozen.clone()),
        }
    }
}

/// A late write is told to whoever asked, once, and is a write all the same: nobody has to bring it again.
fn taken(answer: store::Result<Object>) -> Result<(Arc<Object>, Option<store::Error>)> {
    match answer {
        Ok(object) => Ok((Arc::new(object), None)),
        Err(store::Error::Late { object: Some(object), why }) => Ok((Arc::new(*object), Some(*why))),
        Err(error) => Err(error.into()),
    }
}

/// What of a stored base is filled in before the commit: everything where that is little, else nothing, or just so much that the changes are
/// not too many pieces.
fn worth_filling<S: Store>(layer: &Layer<S>, patch_min: u64) -> Vec<Range<u64>> {
    let mut missing = layer.missing();
    if missing.iter().map(|range| range.end - range.start).sum::<u64>() < patch_min {
        return missing;
    }
    if layer.range_count() <= PATCH_RANGES_MAX {
        return Vec::new();
    }
    missing.sort_by_key(|range| range.end - range.start);
    missing.truncate(layer.range_count() - PATCH_RANGES_MAX / 2);
    missing
}
