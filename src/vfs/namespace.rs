//! Making and removing names.
//!
//! A new file is local until its first `close`: one PUT for each small file. Directories, links and special files are stored at
//! once. Removing asks the store first and takes the name away when the store has acknowledged; nobody sees it twice.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

use super::attr::{Attr, Kind};
use super::data::Opened;
use super::error::{Error, Result};
use super::inode::{Inode, ROOT};
use super::lookup::Found;
use super::staging::Layer;
use super::tree::Item;
use super::turns::{Claim, Turn};
use super::{Ctx, Entry, Held, Vfs, name};
use crate::object::Object;
use crate::store::{Ack, Staging, Store};

/// As `PATH_MAX`: what `readlink` of a program can take.
const TARGET_BYTES_MAX: usize = 4095;

/// A directory, and a name in it that is ours to change while the turn is held.
pub(super) struct Place<S: Store> {
    pub dir: Held<S>,
    pub name: Arc<str>,
    pub path: String,
    _turn: Turn,
}

impl<S: Store> Vfs<S> {
    /// Takes the turn on `parent/name`; with `tree`, on everything below it as well.
    async fn place(self: &Arc<Self>, parent: u64, name: &OsStr, tree: bool, until: Instant) -> Result<Place<S>> {
        self.writable()?;
        let name: Arc<str> = name::check(name)?.into();
        loop {
            let (dir, dir_path) = self.live_dir(parent)?;
            let path = name::join(&dir_path, &name);
            self.keys.file(&path)?;
            let claim = if tree { Claim::Tree(path.clone()) } else { Claim::Name(path.clone()) };
            let turn = self.turns.take(vec![claim], until).await?;
            // The directory may have been moved or removed while we waited.
            if self.table.lock().path(parent) == Some(dir_path) {
                return Ok(Place { dir, name, path, _turn: turn });
            }
        }
    }

    pub async fn create(
        self: &Arc<Self>,
        ctx: &Ctx,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let place = self.place(parent, name, false, ctx.until).await?;
        let held = match self.find(&place.dir, &place.name, ctx.until).await? {
            Some(_) if flags & libc::O_EXCL != 0 => return Err(Error::Exists),
            Some(held) if held.kind == Kind::Dir => return Err(Error::IsDir),
            Some(held) => {
                if flags & libc::O_TRUNC != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY {
                    self.truncate(&held, 0).await?;
                    if ctx.uid != 0 {
                        self.drop_privileges(ctx, held.ino).await?;
                    }
                }
                held
            }
            None => self.create_local(ctx, &place, mode)?,
        };
        let entry = self.give(&held);
        let ino = held.ino;
        match self.open_held(held, flags) {
            Ok(opened) => Ok((entry, opened)),
            Err(e) => {
                self.forget(ino, 1);
                Err(e)
            }
        }
    }

    fn create_local(&self, ctx: &Ctx, place: &Place<S>, mode: u32) -> Result<Held<S>> {
        let attr = self.new_attr(ctx, &place.dir, Kind::File, mode);
        let held = {
            let mut names = place.dir.dir.lock();
            let found = Found { attr, object: None, lies_at: None, expires: Instant::now() };
            let held = self.instantiate(&place.dir, &place.name, found).ok_or(Error::NotFound)?;
            {
                let mut state = held.state.lock();
                state.layer = Some(Layer::empty());
                state.content.changed += 1;
            }
            let item = Item { name: place.name.clone(), dir: false, known: None };
            names.change(&place.name, Some(item), false);
            self.absent.lock().pop(&(place.dir.ino, place.name.clone()));
            held
        };
        self.mark_dirty(&held);
        self.touch_dir(&place.dir);
        Ok(held)
    }

    pub async fn mknod(self: &Arc<Self>, ctx: &Ctx, parent: u64, name: &OsStr, mode: u32, rdev: u32) -> Result<Entry> {
        let kind = match mode & libc::S_IFMT {
            0 => Kind::File,
            _ => Kind::of_mode(mode).filter(|kind| *kind != Kind::Dir).ok_or(Error::Invalid("no such type of file"))?,
        };
        let place = self.place(parent, name, false, ctx.until).await?;
        let attr = Attr { rdev, ..self.new_attr(ctx, &place.dir, kind, mode) };
        let held = self.make(ctx, &place, attr, None).await?;
        Ok(self.give(&held))
    }

    pub async fn symlink(self: &Arc<Self>, ctx: &Ctx, parent: u64, name: &OsStr, target: &OsStr) -> Result<Entry> {
        if target.is_empty() || target.len() > TARGET_BYTES_MAX {
            return Err(if target.is_empty() { Error::NotFound } else { Error::NameTooLong });
        }
        let place = self.place(parent, name, false, ctx.until).await?;
        let mut attr = self.new_attr(ctx, &place.dir, Kind::Symlink, 0o777);
        attr.perm = 0o777;
        attr.size = target.len() as u64;
        let (vfs, body) = (self.clone(), target.as_bytes().to_vec());
        let staging = self
            .blocking(move || {
                let staging = vfs.store.staging()?;
                vfs.store.reserve(&staging, body.len() as u64)?;
                staging.file().write_all_at(&body, 0).map_err(Error::disk)?;
                Ok(Arc::new(staging))
            })
            .await?;
        let held = self.make(ctx, &place, attr, Some(staging)).await?;
        held.state.lock().target = Some(target.as_bytes().into());
        Ok(self.give(&held))
    }

    pub async fn readlink(self: &Arc<Self>, ctx: &Ctx, ino: u64) -> Result<Bytes> {
        let held = self.hold(ino)?;
        if held.kind != Kind::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        self.refresh(&held, ctx.until).await?;
        if let Some(target) = held.state.lock().target.clone() {
            return Ok(Bytes::from_owner(target));
        }
        let target = self.read_inode(ctx, &held, 0, TARGET_BYTES_MAX as u32).await?;
        held.state.lock().target = Some(target.as_ref().into());
        Ok(target)
    }

    pub async fn mkdir(self: &Arc<Self>, ctx: &Ctx, parent: u64, name: &OsStr, mode: u32) -> Result<Entry> {
        let place = self.place(parent, name, false, ctx.until).await?;
        self.keys.marker(&place.path)?;
        let attr = self.new_attr(ctx, &place.dir, Kind::Dir, mode);
        let held = self.make(ctx, &place, attr, None).await?;
        self.set_empty(&held);
        Ok(self.give(&held))
    }

    /// Stores a new name at once.
    async fn make(
        self: &Arc<Self>,
        ctx: &Ctx,
        place: &Place<S>,
        attr: Attr,
        body: Option<Arc<S::Staging>>,
    ) -> Result<Held<S>> {
        if self.find(&place.dir, &place.name, ctx.until).await?.is_some() {
            return Err(Error::Exists);
        }
        let dir = attr.kind == Kind::Dir;
        let key = match self.keys.marker(&place.path)?.filter(|_| dir) {
            Some(marker) => marker,
            None => self.keys.file(&place.path)?,
        };
        let object = Arc::new(self.store.put(&key, body, attr.to_headers(None), Ack::Close, ctx.until).await?);
        self.heads.forget(&key);
        let held = {
            let mut names = place.dir.dir.lock();
            let found = Found { attr, object: Some(object.clone()), lies_at: None, expires: self.ttl_from_now() };
            let held = self.instantiate(&place.dir, &place.name, found).ok_or(Error::NotFound)?;
            let item = Item { name: place.name.clone(), dir, known: Some(object) };
            names.change(&place.name, Some(item), true);
            self.absent.lock().pop(&(place.dir.ino, place.name.clone()));
            held
        };
        self.touch_dir(&place.dir);
        Ok(held)
    }

    pub async fn unlink(self: &Arc<Self>, ctx: &Ctx, parent: u64, name: &OsStr) -> Result<()> {
        let place = self.place(parent, name, false, ctx.until).await?;
        let held = self.find(&place.dir, &place.name, ctx.until).await?.ok_or(Error::NotFound)?;
        if held.kind == Kind::Dir {
            return Err(Error::IsDir);
        }
        self.keep_readable(&held)?;
        if is_in_bucket(&held) {
            self.keep_dir(&place.dir, ctx.until).await?;
            self.store.delete(&self.keys.file(&place.path)?, ctx.until).await?;
        }
        self.take_away(&place, &held);
        Ok(())
    }

    pub async fn rmdir(self: &Arc<Self>, ctx: &Ctx, parent: u64, name: &OsStr) -> Result<()> {
        let place = self.place(parent, name, true, ctx.until).await?;
        let held = self.find(&place.dir, &place.name, ctx.until).await?.ok_or(Error::NotFound)?;
        if held.kind != Kind::Dir {
            return Err(Error::NotDir);
        }
        let marker = self.check_empty(&held, &place.path, ctx.until).await?;
        self.keep_dir(&place.dir, ctx.until).await?;
        self.delete_dir(&held, &place.path, marker, ctx.until).await?;
        self.take_away(&place, &held);
        Ok(())
    }

    /// Proves that a directory is empty; true if it has a marker.
    pub(super) async fn check_empty(&self, dir: &Arc<Inode<S>>, path: &str, until: Instant) -> Result<bool> {
        let not_empty = {
            let mut names = dir.dir.lock();
            names.has_local() || names.names(Instant::now()).is_some_and(|names| !names.is_empty())
        } || self.table.lock().is_dirty_below(dir.ino);
        if not_empty {
            return Err(Error::NotEmpty);
        }
        let below = self.store.below(&self.keys.below(path), until).await?;
        if below.children { Err(Error::NotEmpty) } else { Ok(below.marker) }
    }

    pub(super) async fn delete_dir(&self, dir: &Inode<S>, path: &str, marker: bool, until: Instant) -> Result<()> {
        // Without a marker but with an object, it is a directory in the old manner: an empty object without the slash.
        let old_manner = !marker && dir.state.lock().object.is_some();
        if let Some(key) = self.keys.marker(path)?.filter(|_| marker) {
            self.store.delete(&key, until).await?;
            self.heads.forget(&key);
        }
        if old_manner {
            self.store.delete(&self.keys.file(path)?, until).await?;
        }
        Ok(())
    }

    fn take_away(&self, place: &Place<S>, held: &Held<S>) {
        if let Ok(key) = self.keys.file(&place.path) {
            self.heads.forget(&key);
        }
        {
            let mut names = place.dir.dir.lock();
            names.change(&place.name, None, true);
            let mut table = self.table.lock();
            {
                let mut state = held.state.lock();
                state.unlinked = true;
                state.attr.ctime = SystemTime::now();
            }
            table.unlink(held.ino);
        }
        self.mark_clean(held);
        self.touch_dir(&place.dir);
    }

    /// A directory that exists only by what lies in it must stay when its last name goes: it gets a marker first.
    pub(super) async fn keep_dir(self: &Arc<Self>, dir: &Arc<Inode<S>>, until: Instant) -> Result<()> {
        let path = self.table.lock().path(dir.ino).filter(|_| dir.ino != ROOT);
        let Some(path) = path else { return Ok(()) };
        let Some(marker) = self.keys.marker(&path)? else { return Ok(()) };
        // Names that are not stored yet do not keep a directory in the bucket.
        let others = dir.dir.lock().stored_count(Instant::now()).is_some_and(|count| count > 1);
        if others || dir.state.lock().object.is_some() {
            return Ok(());
        }
        // Somebody else may have made one since.
        self.refresh(dir, until).await?;
        if dir.state.lock().object.is_some() {
            return Ok(());
        }
        let now = SystemTime::now();
        let attr = Attr { atime: now, mtime: now, ctime: now, ..dir.state.lock().attr };
        let object = Arc::new(self.store.put(&marker, None, attr.to_headers(None), Ack::Close, until).await?);
        self.heads.forget(&marker);
        self.set_dir_object(dir, attr, object);
        Ok(())
    }

    pub(super) fn set_dir_object(&self, dir: &Inode<S>, attr: Attr, object: Arc<Object>) {
        let mut state = dir.state.lock();
        state.attr = attr;
        state.object = Some(object);
        state.expires = self.ttl_from_now();
    }

    /// What a change in a directory does to its times; in memory only.
    pub(super) fn touch_dir(&self, dir: &Inode<S>) {
        dir.state.lock().touch(SystemTime::now());
    }

    fn new_attr(&self, ctx: &Ctx, dir: &Inode<S>, kind: Kind, mode: u32) -> Attr {
        let parent = dir.state.lock().attr;
        let mut attr = Attr::new(kind, mode & !ctx.umask, ctx.uid, ctx.gid, SystemTime::now());
        if parent.perm & libc::S_ISGID != 0 {
            attr.gid = parent.gid;
            if kind == Kind::Dir {
                attr.perm |= libc::S_ISGID;
            }
        }
        attr
    }
}

/// May there be an object under this name in the bucket?
pub(super) fn is_in_bucket<S: Store>(inode: &Inode<S>) -> bool {
    let state = inode.state.lock();
    state.object.is_some() || state.perhaps_stored
}
