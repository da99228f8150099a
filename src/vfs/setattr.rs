//! Changing attributes. On a file that is dirty anyway they ride along with its next commit; on a clean one the store replaces the
//! headers at once. Access times never leave memory.

use std::sync::Arc;
use std::time::SystemTime;

use super::attr::{Attr, Kind};
use super::error::{Error, Result};
use super::handle::Purpose;
use super::inode::{Inode, ROOT};
use super::turns::Claim;
use super::{Ctx, Entry, Vfs};
use crate::store::{Ack, Store};

#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    Now,
    At(SystemTime),
}

impl SetTime {
    fn at(self, now: SystemTime) -> SystemTime {
        match self {
            SetTime::Now => now,
            SetTime::At(time) => time,
        }
    }
}

/// What to change; the rest stays.
#[derive(Clone, Copy, Default, Debug)]
pub struct SetAttr {
    pub size: Option<u64>,
    /// Permission bits; type bits are ignored.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// The permission bits without set-user-id and, where the group may execute, set-group-id (without that it marks mandatory locking); `None` if
/// nothing changes. As the kernel does it for local disks (`setattr_should_drop_suidgid`).
fn without_privileges(perm: u32) -> Option<u32> {
    let mut kept = perm & !0o4000;
    if perm & 0o2010 == 0o2010 {
        kept &= !0o2000;
    }
    (kept != perm).then_some(kept)
}

impl SetAttr {
    fn stays_in_memory(&self) -> bool {
        self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.mtime.is_none()
    }

    fn apply(&self, attr: &mut Attr, now: SystemTime) {
        attr.perm = self.mode.map_or(attr.perm, |mode| mode & 0o7777);
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
        attr.atime = self.atime.map_or(attr.atime, |t| t.at(now));
        attr.mtime = self.mtime.map_or(attr.mtime, |t| t.at(now));
        attr.ctime = now;
    }
}

impl<S: Store> Vfs<S> {
    /// `fh`: the handle through which a program asked, if it was by `ftruncate` and the like.
    pub async fn setattr(self: &Arc<Self>, ctx: &Ctx, ino: u64, fh: Option<u64>, set: SetAttr) -> Result<Entry> {
        self.writable()?;
        let held = self.hold(ino)?;
        self.refresh(&held, ctx.until).await?;
        let mut set = set;
        // Another owner, or another content by somebody who is not root: the program no longer acts with the owner's rights.
        let loses = set.uid.is_some() || set.gid.is_some() || (set.size.is_some() && ctx.uid != 0);
        if loses && set.mode.is_none() && held.kind == Kind::File {
            set.mode = without_privileges(held.state.lock().attr.perm);
        }
        let mut commit = false;
        if let Some(size) = set.size {
            match held.kind {
                Kind::File => {}
                Kind::Dir => return Err(Error::IsDir),
                _ => return Err(Error::Invalid("only regular files have a length to set")),
            }
            let handle = fh.map(|fh| self.handles.get(fh)).transpose()?;
            if handle.as_ref().is_some_and(|h| !matches!(h.purpose, Purpose::File { write: true, .. })) {
                return Err(Error::Invalid("the handle is not open for writing"));
            }
            self.truncate(&held, size).await?;
            // No close will come for a truncate by path.
            commit = handle.is_none();
        }
        if set.stays_in_memory() {
            set.apply(&mut held.state.lock().attr, SystemTime::now());
        } else {
            self.set_headers(ctx, &held, &set).await?;
        }
        if commit {
            self.commit(&held, Ack::Close, ctx.until).await?;
        }
        Ok(self.entry_of(&held))
    }

    /// Somebody who is not root writes into the file.
    pub async fn drop_privileges(self: &Arc<Self>, ctx: &Ctx, ino: u64) -> Result<()> {
        let held = self.hold(ino)?;
        let mode = without_privileges(held.state.lock().attr.perm);
        match mode {
            Some(_) => self.set_headers(ctx, &held, &SetAttr { mode, ..SetAttr::default() }).await,
            None => Ok(()),
        }
    }

    async fn set_headers(self: &Arc<Self>, ctx: &Ctx, inode: &Arc<Inode<S>>, set: &SetAttr) -> Result<()> {
        loop {
            let path = self.table.lock().path(inode.ino);
            {
                let mut state = inode.state.lock();
                if state.replaced {
                    return Err(Error::Stale);
                }
                if state.unlinked || state.is_dirty() || path.is_none() {
                    set.apply(&mut state.attr, SystemTime::now());
                    state.headers.changed += 1;
                    return Ok(());
                }
            }
            let Some(path) = path else { return Ok(()) };
            let _turn = self.turns.take(vec![Claim::Name(path.clone())], ctx.until).await?;
            if self.table.lock().path(inode.ino).as_ref() != Some(&path) {
                continue;
            }
            if inode.kind == Kind::Dir {
                return self.set_dir_headers(ctx, inode, &path, set).await;
            }
            let old = {
                let mut state = inode.state.lock();
                if state.is_dirty() {
                    continue;
                }
                let old = state.attr;
                set.apply(&mut state.attr, SystemTime::now());
                state.headers.changed += 1;
                old
            };
            let result = self.commit_in_turn(inode, &path, Ack::Close, ctx.until).await;
            if result.is_err() {
                // Refused means refused: the program is told, and nothing is left to be tried later behind its back.
                let mut state = inode.state.lock();
                let taken = state.headers.committed == state.headers.changed && !matches!(result, Err(Error::Stale));
                if !taken && !state.content.is_dirty() {
                    state.attr = Attr { size: state.attr.size, ..old };
                    state.headers.committed = state.headers.changed;
                }
            }
            self.mark_clean(inode);
            return result;
        }
    }

    async fn set_dir_headers(&self, ctx: &Ctx, dir: &Arc<Inode<S>>, path: &str, set: &SetAttr) -> Result<()> {
        let (mut attr, object) = {
            let state = dir.state.lock();
            (state.attr, state.object.clone())
        };
        set.apply(&mut attr, SystemTime::now());
        let Some(marker) = self.keys.marker(path)? else {
            // The root of a bucket has no key to keep this under.
            debug_assert_eq!(dir.ino, ROOT);
            dir.state.lock().attr = attr;
            return Ok(());
        };
        let headers = attr.to_headers(object.as_ref().map(|object| &object.headers));
        // A marker has no content to keep, so writing it anew is as good as replacing its headers, and mends the old manner.
        let object = Arc::new(self.store.put(&marker, None, headers, Ack::Close, ctx.until).await?);
        self.heads.forget(&marker);
        self.set_dir_object(dir, attr, object.clone());
        if dir.ino != ROOT {
            let place = self.table.lock().place(dir.ino);
            if let Some((parent, name)) = place
                && let Ok(parent) = self.hold_dir(parent)
            {
                let item = super::tree::Item { name: name.clone(), dir: true, known: Some(object) };
                parent.dir.lock().change(&name, Some(item), true);
            }
        }
        Ok(())
    }
}
