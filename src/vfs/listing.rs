//! Reading directories.
//!
//! A handle takes the complete listing when it begins to read and keeps it until it is rewound: offsets are positions in it, so
//! seeking back works, and a name that nobody touches is shown exactly once whatever happens beside it. The listing is shared
//! with the directory, not copied.
//!
//! Attributes go along only where they are known: listing n names costs ceil(n / 1000) requests, never one for each name.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use tokio::time::Instant;

use super::attr::Kind;
use super::error::{Error, Result};
use super::handle::{Handle, Purpose};
use super::inode::{Inode, listed_number};
use super::moving::Places;
use super::tree::{self, Item, Names, items_of};
use super::{Ctx, Entry, Held, STALE_GRACE, Vfs};
use crate::store::{Depth, Store};

/// One line of a listing.
#[derive(Clone, Debug)]
pub struct DirEntry {
    pub ino: u64,
    pub name: Arc<str>,
    /// `None`: unknown without a request.
    pub kind: Option<Kind>,
    /// Where to go on reading after this one.
    pub next: u64,
    /// With attributes, where they were asked for and are known. The reader then owns one reference (see [`Vfs::forget`]).
    pub entry: Option<Entry>,
}

/// Names whose numbers are looked up under one hold of the table's lock.
const BATCH: usize = 64;

/// How often a listing may be overtaken before a reader takes what there is.
const ATTEMPTS: u32 = 4;

impl<S: Store> Vfs<S> {
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let held = self.hold_dir(ino)?;
        Ok(self.handles.insert(held, Purpose::Dir(Default::default())))
    }

    pub fn releasedir(&self, fh: u64) -> Result<()> {
        self.handles.remove(fh).map(drop)
    }

    pub async fn fsyncdir(&self, ctx: &Ctx, fh: u64) -> Result<()> {
        self.handles.get(fh)?;
        Ok(self.store.sync(ctx.until).await?)
    }

    /// Makes the listing of a handle ready for [`Vfs::readdir`]. At offset 0 it is taken anew, as `rewinddir` promises.
    pub async fn readdir_ready(self: &Arc<Self>, ctx: &Ctx, fh: u64, offset: u64) -> Result<()> {
        if self.readdir_is_ready(fh, offset)? {
            return Ok(());
        }
        let handle = self.handles.get(fh)?;
        let Purpose::Dir(kept) = &handle.purpose else { return Err(Error::NotDir) };
        let names = self.names(&handle.held, ctx.until).await?;
        *kept.lock() = Some(names);
        Ok(())
    }

    /// Takes the listing if it is in memory; false if the store must be asked.
    pub fn readdir_is_ready(&self, fh: u64, offset: u64) -> Result<bool> {
        let handle = self.handles.get(fh)?;
        let Purpose::Dir(kept) = &handle.purpose else { return Err(Error::NotDir) };
        if offset != 0 && kept.lock().is_some() {
            return Ok(true);
        }
        let names = handle.held.dir.lock().names(Instant::now());
        let ready = names.is_some();
        if ready {
            self.used_listing(handle.held.ino);
            *kept.lock() = names;
        }
        Ok(ready)
    }

    /// Gives the entries from `offset` on to `take` until it answers false. An entry that was refused is given again next time.
    pub fn readdir(&self, fh: u64, offset: u64, plus: bool, mut take: impl FnMut(&DirEntry) -> bool) -> Result<()> {
        let handle = self.handles.get(fh)?;
        let Purpose::Dir(kept) = &handle.purpose else { return Err(Error::NotDir) };
        let names = kept.lock().clone().unwrap_or_default();
        let parent = self.table.lock().parent(handle.held.ino).unwrap_or(handle.held.ino);
        for (at, ino, name) in [(0, handle.held.ino, "."), (1, parent, "..")] {
            let dots = DirEntry { ino, name: name.into(), kind: Some(Kind::Dir), next: at + 1, entry: None };
            if offset <= at && !take(&dots) {
                return Ok(());
            }
        }
        let mut at = offset.saturating_sub(2) as usize;
        while at < names.len() {
            let batch = self.resolve(&handle, &names, at, plus);
            let mut batch = batch.into_iter();
            for line in batch.by_ref() {
                let taken = take(&line);
                if !taken {
                    let refused = std::iter::once(line).chain(batch);
                    for entry in refused.filter_map(|line| line.entry) {
                        self.forget(entry.ino, 1);
                    }
                    return Ok(());
                }
                at += 1;
            }
        }
        Ok(())
    }

    /// Numbers, kinds and, with `plus`, attributes of the next names.
    fn resolve(&self, handle: &Handle<S>, names: &Names, at: usize, plus: bool) -> Vec<DirEntry> {
        let dir = &handle.held.inode;
        // A window of attributes is large (152 bytes and the name), so fewer fit into one answer.
        let items = &names[at..names.len().min(at + if plus { BATCH / 4 } else { BATCH })];
        let now = Instant::now();
        let dir_state = dir.dir.lock();
        let known: Vec<_> = items
            .iter()
            .map(|item| match dir_state.verdict(&item.name, now) {
                tree::Verdict::Present(item, expires) => item.known.map(|object| (object, expires)),
                _ => None,
            })
            .collect();
        let mut lines = Vec::with_capacity(items.len());
        let mut given = Vec::new();
        for ((index, item), known) in items.iter().enumerate().zip(known) {
            let next = (at + index) as u64 + 3;
            // Held: the kernel may be forgetting it just now.
            let live = self.child(dir, &item.name);
            let mut line =
                DirEntry { ino: 0, name: item.name.clone(), kind: item.dir.then_some(Kind::Dir), next, entry: None };
            match (live, known) {
                (Some(inode), _) if inode.state.lock().is_fresh(now) => {
                    line.ino = inode.ino;
                    line.kind = Some(inode.kind);
                    if plus {
                        line.entry = Some(self.give(&inode));
                    }
                }
                (_, Some((object, expires))) => {
                    let found = self.found_object(object, item.dir, expires);
                    line.kind = Some(found.attr.kind);
                    if plus && let Some(held) = self.instantiate(dir, &item.name, found) {
                        line.ino = held.ino;
                        line.entry = Some(self.give(&held));
                        given.push(held);
                    }
                }
                (Some(inode), None) => {
                    line.ino = inode.ino;
                    line.kind = Some(inode.kind);
                }
                (None, None) => {}
            }
            lines.push(line);
        }
        drop(dir_state);
        drop(given);
        let table = self.table.lock();
        let path = table.path(dir.ino).unwrap_or_default();
        for line in lines.iter_mut().filter(|line| line.ino == 0) {
            line.ino = listed_number(&table, dir.ino, &path, &line.name);
        }
        lines
    }

    /// The complete listing of a directory, from memory or by one shared question.
    pub(super) async fn names(self: &Arc<Self>, dir: &Arc<Inode<S>>, until: Instant) -> Result<Names> {
        for _ in 0..ATTEMPTS {
            let (flight, knows_old) = {
                let mut state = dir.dir.lock();
                if let Some(names) = state.names(Instant::now()) {
                    drop(state);
                    self.used_listing(dir.ino);
                    return Ok(names);
                }
                let knows_old = state.was_listed();
                let flight = match &state.flight {
                    Some(flight) => flight.clone(),
                    None => {
                        let held = self.hold(dir.ino).ok();
                        let (vfs, dir, start) = (self.clone(), dir.clone(), state.begin());
                        let task = self.rt.spawn(async move {
                            let result = vfs.fetch_names(&dir, start, until).await;
                            drop(held);
                            result
                        });
                        let flight = async move {
                            task.await.unwrap_or_else(|e| Err(Error::Io(format!("the listing ended early: {e}"))))
                        }
                        .boxed()
                        .shared();
                        state.flight = Some(flight.clone());
                        flight
                    }
                };
                (flight, knows_old)
            };
            if let Err(error) = self.unless_dark(knows_old, until, flight).await {
                let mut state = dir.dir.lock();
                let grace = Instant::now() + STALE_GRACE;
                let old = if error.is_outage() && state.extend(grace) { state.names_even_if_old() } else { None };
                let Some(old) = old else { return Err(error) };
                log::debug!("showing the directory as it was known before, because {error}");
                return Ok(old);
            }
        }
        // With a TTL of (almost) zero the answer is old as soon as it is there.
        dir.dir.lock().names_even_if_old().ok_or(Error::Busy)
    }

    async fn fetch_names(&self, dir: &Arc<Inode<S>>, start: u64, until: Instant) -> Result<()> {
        let path = self.table.lock().path(dir.ino);
        let answer = match &path {
            None => Err(Error::NotFound),
            Some(path) => {
                let expires = self.ttl_from_now();
                self.items_in(path, until).await.map(|items| (items, expires))
            }
        };
        let mut state = dir.dir.lock();
        if self.table.lock().path(dir.ino) != path {
            // The directory was moved meanwhile: this may be what is left at its old place.
            state.doubt();
        }
        let result = answer.map(|(items, expires)| {
            // A listing of many pages may take longer than the TTL; it counts for a moment in any case.
            let expires = expires.max(Instant::now() + (self.options.metadata_ttl / 2).min(Duration::from_secs(1)));
            state.set_names(items, start, expires)
        });
        state.end(start);
        state.flight = None;
        drop(state);
        let count = result?;
        self.count_listed(dir, count);
        Ok(())
    }

    /// The names in a directory at `path`.
    async fn items_in(&self, path: &str, until: Instant) -> Result<Vec<Item>> {
        let list = async |path: &str| {
            let prefix = self.keys.below(path);
            let listing = self.store.list(&prefix, Depth::Children, until).await?;
            Ok::<_, Error>(items_of(listing, &prefix))
        };
        match self.trees.places_in(path) {
            Places::Own => list(path).await,
            Places::Nowhere => Ok(Vec::new()),
            // The old place first: what has left it then is found at the new one. What is known of an object there does not say where it lies.
            Places::Both(other) => {
                let (mut items, moved) = (list(path).await?, list(&other).await?);
                items.extend(moved.into_iter().map(|item| Item { known: None, ..item }));
                Ok(tree::sorted(items))
            }
        }
    }

    /// A listing for a directory that was just made: nothing is in it.
    pub(super) fn set_empty(&self, dir: &Held<S>) {
        let mut state = dir.dir.lock();
        let start = state.begin();
        state.set_names(Vec::new(), start, self.ttl_from_now());
        state.end(start);
    }
}
