//! Moving names.
//!
//! A file is one object to move. A directory is everything below it, and no object store moves many keys at once: the new marker
//! comes first, then each object (sixteen at a time), the old marker goes last. Nobody on this mount sees the middle: the turn
//! covers both trees, the inodes move in one step at the end, and until then what was there is shown ([`super::moving`]); another
//! reader of the bucket can. When a part fails the
//! rename fails: what was moved is at the new place, the rest at the old one, both are directories, nothing is lost. When the process
//! ends in the middle, the next start finishes the move: it was noted before the first object moved.
//!
//! An open file keeps its inode and its data whatever happens to its name.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::attr::Kind;
use super::error::{Error, Result};
use super::inode::Inode;
use super::moving::{self, Kept, Moving};
use super::namespace::is_in_bucket;
use super::tree::Item;
use super::turns::Claim;
use super::{Ctx, Held, ORPHAN_RETRY, Vfs, name};
use crate::journal::Move;
use crate::object::{Key, Object, Token};
use crate::store::{Ack, Depth, Entry, Store};

/// Objects of one directory moved at the same time.
const MOVES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    Replace,
    NoReplace,
}

/// An object that an interrupted move has not moved yet.
struct Left {
    key: Key,
    token: Token,
}

/// One end of a rename.
struct End<S: Store> {
    dir: Held<S>,
    name: Arc<str>,
    path: String,
}

impl<S: Store> Vfs<S> {
    pub async fn rename(
        self: &Arc<Self>,
        ctx: &Ctx,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<()> {
        self.writable()?;
        loop {
            let from = self.end(parent, name)?;
            let to = self.end(new_parent, new_name)?;
            let source = self.find(&from.dir, &from.name, ctx.until).await?.ok_or(Error::NotFound)?;
            let claim = |path: &str| match source.kind {
                Kind::Dir => Claim::Tree(path.to_string()),
                _ => Claim::Name(path.to_string()),
            };
            let claims = match from.path == to.path {
                true => vec![claim(&from.path)],
                false => vec![claim(&from.path), claim(&to.path)],
            };
            let _turn = self.turns.take(claims, ctx.until).await?;
            let unmoved = {
                let table = self.table.lock();
                let at = |end: &End<S>| table.path(end.dir.ino).map(|dir| name::join(&dir, &end.name));
                at(&from).as_ref() == Some(&from.path)
                    && at(&to).as_ref() == Some(&to.path)
                    && table.path(source.ino).as_ref() == Some(&from.path)
            };
            if unmoved {
                return self.rename_in_turn(ctx, &from, &to, &source, mode).await;
            }
        }
    }

    fn end(&self, parent: u64, name: &OsStr) -> Result<End<S>> {
        let name: Arc<str> = name::check(name)?.into();
        let (dir, dir_path) = self.live_dir(parent)?;
        let path = name::join(&dir_path, &name);
        self.keys.file(&path)?;
        Ok(End { dir, name, path })
    }

    async fn rename_in_turn(
        self: &Arc<Self>,
        ctx: &Ctx,
        from: &End<S>,
        to: &End<S>,
        source: &Held<S>,
        mode: RenameMode,
    ) -> Result<()> {
        let is_dir = source.kind == Kind::Dir;
        if is_dir && from.path != to.path && self.table.lock().is_within(to.dir.ino, source.ino) {
            return Err(Error::Invalid("a directory cannot be moved into itself"));
        }
        let target = self.find(&to.dir, &to.name, ctx.until).await?;
        if target.is_some() && mode == RenameMode::NoReplace {
            return Err(Error::Exists);
        }
        if from.path == to.path {
            return Ok(());
        }
        if let Some(target) = &target {
            match (is_dir, target.kind == Kind::Dir) {
                (true, false) => return Err(Error::NotDir),
                (false, true) => return Err(Error::IsDir),
                (true, true) => _ = self.check_empty(target, &to.path, ctx.until).await?,
                (false, false) => {}
            }
        }
        // Before anything moves: the old directory must not vanish with its last name.
        if is_dir || is_in_bucket(source) {
            self.keep_dir(&from.dir, ctx.until).await?;
        }
        if !is_dir && is_in_bucket(source) {
            self.commit_in_turn(source, &from.path, Ack::Close, ctx.until).await?;
        }
        if let Some(target) = &target {
            self.keep_readable(target)?;
        }
        let kept = Kept::new().and(&from.dir, &from.name, Some(source)).and(&to.dir, &to.name, target.as_ref());
        let mut moving = None;
        let known = match is_dir {
            true => {
                let what = Move { from: from.path.clone(), to: to.path.clone(), before: None };
                moving = Some(self.trees.begin(what.clone()));
                // What was asked before looks at one place only.
                for dir in target.iter().chain([source]) {
                    self.known_in(dir).iter().for_each(|inode| inode.dir.lock().doubt());
                }
                let vfs = self.clone();
                let number = self.blocking(move || Ok(vfs.store.begin_move(&what)?)).await?;
                let moved = self.move_tree(from, to, source).await;
                // Also when it failed: the caller knows, and may want something else now.
                let vfs = self.clone();
                self.blocking(move || Ok(vfs.store.end_move(number)?)).await?;
                if moved.is_err() {
                    moving = None;
                    self.forget_names(source, target.as_ref());
                }
                moved?
            }
            false => self.move_file(ctx, from, to, source, target.as_ref()).await?,
        };
        self.change_names(from, to, source, target.as_ref(), known, moving);
        kept.release();
        Ok(())
    }

    /// Returns the object at the new place; `None` while the file is not stored at all.
    async fn move_file(
        self: &Arc<Self>,
        ctx: &Ctx,
        from: &End<S>,
        to: &End<S>,
        source: &Held<S>,
        target: Option<&Held<S>>,
    ) -> Result<Option<Arc<Object>>> {
        if !is_in_bucket(source) {
            // Never stored: the next commit goes to the new name, over what stands there.
            if target.is_some_and(|target| is_in_bucket(target)) {
                source.state.lock().perhaps_stored = true;
            }
            return Ok(None);
        }
        let object = source.state.lock().object.clone().ok_or(Error::Stale)?;
        let (from_key, to_key) = (self.keys.file(&from.path)?, self.keys.file(&to.path)?);
        let moved = self.move_object(&from_key, &object, &to_key, ctx.until).await?;
        self.adopt_moved(source, &to_key, &object, moved.clone());
        Ok(Some(moved))
    }

    async fn move_object(&self, from: &Key, object: &Object, to: &Key, until: Instant) -> Result<Arc<Object>> {
        let moved = self.store.rename(from, object, to, object.headers.clone(), until).await?;
        self.heads.forget(from);
        self.heads.forget(to);
        Ok(Arc::new(moved))
    }

    /// The inode's content now lies under another key.
    fn adopt_moved(&self, inode: &Inode<S>, key: &Key, old: &Object, moved: Arc<Object>) {
        let reader = Arc::new(self.store.open(key, &moved));
        let mut state = inode.state.lock();
        let same = state.object.as_ref().is_some_and(|object| object.token.same(&old.token));
        if let Some(layer) = state.layer.as_mut().filter(|_| same) {
            layer.rebase(reader.clone());
        }
        state.reader = Some(reader).filter(|_| state.handles > 0);
        state.object = Some(moved);
        state.lies_at = Some(key.clone());
        state.attr.ctime = SystemTime::now();
        // Somebody else had written it: its attributes are to be read again.
        state.expires = if same { self.ttl_from_now() } else { Instant::now() };
    }

    /// The same for an object at `rest` below a moving directory.
    fn adopt_moved_below(&self, source: &Held<S>, rest: &str, key: &Key, old: &Object, moved: Arc<Object>) {
        let (path, is_dir) = (rest.trim_end_matches('/'), rest.ends_with('/'));
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = match dir {
            "" => Some(source.inode.clone()),
            dir => self.table.lock().find(source.ino, dir).cloned(),
        };
        // Whom the kernel does not know, nobody asks about what is in it.
        let Some(dir) = dir else { return };
        // Under this lock, so that no answer from before the move can come between.
        let mut names = dir.dir.lock();
        let name: Arc<str> = name.into();
        names.change(&name, Some(Item { name: name.clone(), dir: is_dir, known: None }), true);
        self.absent.lock().pop(&(dir.ino, name.clone()));
        let inode = self.table.lock().child(dir.ino, &name).cloned();
        if let Some(inode) = inode.filter(|inode| is_dir == (inode.kind == Kind::Dir)) {
            self.adopt_moved(&inode, key, old, moved);
        }
    }

    async fn move_tree(self: &Arc<Self>, from: &End<S>, to: &End<S>, source: &Held<S>) -> Result<Option<Arc<Object>>> {
        // Each step has the whole patience: a large directory takes longer than any one answer may.
        let patience = || Instant::now() + self.options.max_stall;
        let (from_prefix, to_prefix) = (self.keys.below(&from.path), self.keys.below(&to.path));
        let listing = self.store.list(&from_prefix, Depth::All, patience()).await?;
        let too_long =
            |key: &Key| key.as_str().len() - from_prefix.len() + to_prefix.len() > crate::object::KEY_BYTES_MAX;
        if listing.entries.iter().any(|entry| too_long(&entry.key)) {
            return Err(Error::NameTooLong);
        }
        let (attr, old) = {
            let state = source.state.lock();
            (state.attr, state.object.clone())
        };
        let marker = self.keys.marker(&to.path)?.ok_or(Error::Invalid("the root cannot be replaced"))?;
        let headers = attr.to_headers(old.as_ref().map(|object| &object.headers));
        let object = Arc::new(self.store.put(&marker, None, headers, Ack::Close, patience()).await?);
        let total = listing.entries.len();
        let mut has_marker = false;
        let children: Vec<Entry> = listing
            .entries
            .into_iter()
            .filter(|entry| {
                let own = entry.key.as_str() == from_prefix;
                has_marker |= own;
                !own
            })
            .collect();
        let moves = children.into_iter().map(|entry| {
            let (to_prefix, from_prefix) = (&to_prefix, &from_prefix);
            async move {
                let rest = &entry.key.as_str()[from_prefix.len()..];
                let to_key = Key::new(format!("{to_prefix}{rest}"))?;
                let object = match entry.known {
                    Some(object) => object,
                    None => match self.head(&entry.key, patience()).await? {
                        Some(object) => object,
                        // Somebody else removed it meanwhile.
                        None => return Ok(()),
                    },
                };
                let moved = self.move_object(&entry.key, &object, &to_key, patience()).await?;
                self.adopt_moved_below(source, rest, &to_key, &object, moved);
                Ok::<(), Error>(())
            }
        });
        let result = futures::stream::iter(moves).buffer_unordered(MOVES).try_collect::<()>().await;
        if let Err(e) = result {
            log::error!("{} -> {}: moved in part only ({total} objects in all): {e}", from.path, to.path);
            return Err(e);
        }
        self.delete_dir(source, &from.path, has_marker, patience()).await?;
        self.heads.forget(&marker);
        source.state.lock().object = Some(object.clone());
        Ok(Some(object))
    }

    /// Finishes the moves that an earlier process began. Whoever needs these trees waits meanwhile, as it would have for the move itself.
    pub async fn finish_moves(self: Arc<Self>) {
        // One that cannot end keeps no other from it.
        let moves = self.store.begun_moves().into_iter().map(|(number, what)| self.finish_noted(number, what));
        futures::future::join_all(moves).await;
    }

    async fn finish_noted(self: &Arc<Self>, number: u64, what: Move) {
        let Move { from, to, .. } = &what;
        log::info!("{from} -> {to}: the move of this directory was interrupted and is finished now");
        let claims = || vec![Claim::Tree(from.clone()), Claim::Tree(to.clone())];
        let mut left = None;
        loop {
            let until = Instant::now() + self.options.max_stall;
            let done = match self.turns.take(claims(), until).await {
                Ok(_turn) => self.finish_move(&what, &mut left).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => break,
                Err(error) => log::warn!("{from} -> {to}: not finished yet: {error}"),
            }
            tokio::time::sleep(ORPHAN_RETRY).await;
        }
        let vfs = self.clone();
        if let Err(error) = self.blocking(move || Ok(vfs.store.end_move(number)?)).await {
            log::error!("{from} -> {to}: {error}");
        }
    }

    /// `left`: what there was to be moved when it was first known. Between two tries the trees are free, and what programs make there since is
    /// theirs to keep where it is.
    async fn finish_move(&self, what: &Move, left: &mut Option<Vec<Left>>) -> Result<()> {
        let Move { from, to, before } = what;
        let patience = || Instant::now() + self.options.max_stall;
        let (from_prefix, to_prefix) = (self.keys.below(from), self.keys.below(to));
        let left = match left {
            Some(left) => left,
            None => {
                let listing = self.store.list(&from_prefix, Depth::All, patience()).await?;
                let heads = listing.entries.into_iter().map(|Entry { key, .. }| async move {
                    let object = self.store.head(&key, patience()).await?;
                    Ok::<_, Error>(object.map(|object| Left { key, token: object.token }))
                });
                let found: Vec<_> = futures::stream::iter(heads).buffer_unordered(MOVES).try_collect().await?;
                left.insert(found.into_iter().flatten().collect())
            }
        };
        let moves: Vec<_> = left.iter().map(|left| self.move_left(left, &from_prefix, &to_prefix, *before)).collect();
        futures::stream::iter(moves).buffer_unordered(MOVES).try_collect::<()>().await?;
        let below = self.store.below(&from_prefix, patience()).await?;
        if let Some(marker) = self.keys.marker(from)?.filter(|_| below.marker && !below.children) {
            self.store.delete(&marker, patience()).await?;
            self.heads.forget(&marker);
        }
        Ok(())
    }

    async fn move_left(
        &self,
        Left { key: from_key, token }: &Left,
        from_prefix: &str,
        to_prefix: &str,
        before: Option<u64>,
    ) -> Result<()> {
        let until = Instant::now() + self.options.max_stall;
        let rest = &from_key.as_str()[from_prefix.len()..];
        if rest.is_empty() {
            return Ok(());
        }
        let to_key = Key::new(format!("{to_prefix}{rest}"))?;
        let Some(object) = self.store.head(from_key, until).await? else { return Ok(()) };
        let there = self.store.head(&to_key, until).await?;
        let written = |key: &Key| before.is_some_and(|seq| self.store.written_since(key, seq));
        let changed_here = !object.token.same(token) || written(from_key);
        let changed_there = match &there {
            // There was nothing when the move began, so another content than the interrupted move's own copy came after it.
            Some(there) => !there.token.same_bytes(token),
            None => written(&to_key),
        };
        if changed_here || changed_there {
            log::warn!("{from_key}: stays here, because this or {to_key} was written after the move had begun");
            return Ok(());
        }
        self.move_object(from_key, &object, &to_key, until).await.map(drop)
    }

    fn change_names(
        &self,
        from: &End<S>,
        to: &End<S>,
        source: &Held<S>,
        target: Option<&Held<S>>,
        known: Option<Arc<Object>>,
        moving: Option<Moving>,
    ) {
        let stored = known.is_some();
        let item = Item { name: to.name.clone(), dir: source.kind == Kind::Dir, known };
        if source.kind == Kind::Dir {
            self.forget_below(source);
        }
        {
            let same = from.dir.ino == to.dir.ino;
            // Both directories at once, in the order of their numbers, so that the name is never in neither or in both.
            let (low, high) = if from.dir.ino < to.dir.ino { (&from.dir, &to.dir) } else { (&to.dir, &from.dir) };
            let mut low_names = low.dir.lock();
            let mut high_names = (!same).then(|| high.dir.lock());
            let from_is_low = from.dir.ino == low.ino;
            match (&mut high_names, from_is_low) {
                (Some(high), true) => {
                    low_names.change(&from.name, None, true);
                    high.change(&to.name, Some(item), stored);
                }
                (Some(high), false) => {
                    high.change(&from.name, None, true);
                    low_names.change(&to.name, Some(item), stored);
                }
                (None, _) => {
                    low_names.change(&from.name, None, true);
                    low_names.change(&to.name, Some(item), stored);
                }
            }
            self.absent.lock().pop(&(to.dir.ino, to.name.clone()));
            let mut table = self.table.lock();
            if let Some(target) = target {
                {
                    let mut state = target.state.lock();
                    state.unlinked = true;
                    state.attr.ctime = SystemTime::now();
                }
                table.unlink(target.ino);
            }
            table.rename(source.ino, to.dir.ino, &to.name);
            // Under the table's lock: whoever reads a path after it finds what lies there, and whoever read it before is not believed.
            moving::settled(&table, source);
            drop(moving);
        }
        if let Some(target) = target {
            self.mark_clean(target);
        }
        self.touch_dir(&from.dir);
        self.touch_dir(&to.dir);
    }

    /// A directory and what of it is in memory.
    fn known_in(&self, dir: &Inode<S>) -> Vec<Arc<Inode<S>>> {
        self.table.lock().within(dir.ino)
    }

    /// Listings below a moved directory may hold objects under their old keys.
    fn forget_below(&self, dir: &Inode<S>) {
        for inode in self.known_in(dir).iter().filter(|inode| inode.kind == Kind::Dir) {
            inode.dir.lock().reset();
        }
    }

    /// After half a move nothing that was known about either tree counts any more.
    fn forget_names(&self, source: &Held<S>, target: Option<&Held<S>>) {
        let now = Instant::now();
        for dir in target.into_iter().chain([source]) {
            self.forget_below(dir);
            for inode in self.known_in(dir) {
                inode.state.lock().expires = now;
            }
        }
        self.absent.lock().clear();
    }
}
