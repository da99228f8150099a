//! Files and directories over keys: what a program may expect of a local disk, on top of "get, put, list, delete a key".
//!
//! Knows no FUSE and no HTTP: below it stands one [`Store`], above it whoever has file names and handles, the kernel or a test.
//!
//! The promises (tests/vfs checks them against a plain in-memory file system, with foreign changes and outages in between):
//!
//! * An outage never looks like "no such file", an empty directory, a short listing or a short file.
//! * What one handle wrote, every handle and every name on this mount reads at once.
//! * Written data stays here, readable, until the store acknowledged it; a failed commit is tried again, never dropped.
//! * `close` and `fsync` of a writable handle return only when everything written before is acknowledged, or say why not.
//!
//! # Locks, in the order in which they may be taken
//!
//! 1. [`turns`]: not a lock but an order of operations on names; the only thing held across an await, asked for once per operation.
//! 2. `Inode::dir`, of two directories in ascending order of inode number
//! 3. the [`inode::Table`]
//! 4. `Inode::io`, only on threads that may block; nothing but 5 is taken under it
//! 5. `Inode::state`, of one inode at a time
//! 6. leaves: handles, set of dirty inodes, negative names, list of cached directories, trees on the move
//!
//! No lock of 2 to 6 is held across an await.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;
use tokio::time::Instant;

use crate::store::Store;
use attr::Defaults;
use handle::Handles;
use inode::{Inode, Table};
use lookup::Heads;
use moving::Trees;
use name::Keys;
use turns::Turns;

pub use attr::{Attr, Kind};
pub use data::{Opened, Writer};
pub use error::{Error, Result};
pub use inode::ROOT;
pub use listing::DirEntry;
pub use rename::RenameMode;
pub use setattr::{SetAttr, SetTime};

pub mod attr;
mod commit;
mod data;
pub mod error;
mod handle;
mod inode;
mod listing;
mod lookup;
mod moving;
mod name;
mod namespace;
mod rename;
mod setattr;
mod staging;
mod tree;
mod turns;

/// Who asks, and until when an answer is of use.
#[derive(Clone, Copy, Debug)]
pub struct Ctx {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub umask: u32,
    pub until: Instant,
}

#[derive(Clone, Debug)]
pub struct VfsOptions {
    /// Everything lies below this key prefix; slashes at its ends do not matter.
    pub prefix: String,
    /// How long names and attributes count without asking again.
    pub metadata_ttl: Duration,
    /// Longest time without an answer; also the limit of each step of an operation that has many.
    pub max_stall: Duration,
    /// Show everything as owned by this user or group, whatever the metadata says.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Permission bits to take away from everything shown.
    pub umask: u32,
    /// Owner of what has no owner in its metadata.
    pub default_uid: u32,
    pub default_gid: u32,
    /// Permissions of what has none in its metadata.
    pub default_file_perm: u32,
    pub default_dir_perm: u32,
    pub read_only: bool,
    /// Names kept in directory listings altogether; above it the least recently used listing is dropped. About 150 bytes a name,
    /// more with known headers.
    pub listed_names_max: usize,
    /// Names known to be absent; above it the oldest are forgotten. About 100 bytes each.
    pub absent_names_max: usize,
    /// If a change leaves at least this many bytes of a stored object as they are, only the change is sent. Below it, one PUT is cheaper
    /// than the requests that a change in parts takes.
    pub patch_min: u64,
}

impl Default for VfsOptions {
    fn default() -> VfsOptions {
        VfsOptions {
            prefix: String::new(),
            metadata_ttl: Duration::from_secs(5),
            max_stall: Duration::from_secs(30),
            uid: None,
            gid: None,
            umask: 0,
            default_uid: 0,
            default_gid: 0,
            default_file_perm: 0o644,
            default_dir_perm: 0o755,
            read_only: false,
            listed_names_max: 500_000,
            absent_names_max: 100_000,
            patch_min: 32 << 20,
        }
    }
}

/// What a name or an inode shows to its user.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub ino: u64,
    pub attr: Attr,
    pub nlink: u32,
    /// How long this may be repeated without asking.
    pub ttl: Duration,
}

/// Something that a cache above (the kernel's) may still show and should drop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Other content than before: somebody else wrote the file.
    Data(u64),
    /// The name leads to another inode: somebody else replaced a file that is open.
    Name { dir: u64, name: Arc<str> },
}

/// How soon uncommitted files that nobody has open are tried again.
const ORPHAN_RETRY: Duration = Duration::from_secs(5);

/// The slowest upload that a commit waits for beyond its deadline. A large file on a healthy line takes longer than any stall
/// limit; this only keeps the limit from cutting it.
const COMMIT_BYTES_PER_SECOND_MIN: u64 = 16 << 20;

/// In an outage, how long what was last known is shown before the store is asked again.
const STALE_GRACE: Duration = Duration::from_secs(1);

/// The file system. Cheap to share; all operations may run at the same time.
pub struct Vfs<S: Store> {
    store: Arc<S>,
    options: VfsOptions,
    keys: Keys,
    defaults: Defaults,
    rt: Runtime,
    table: Arc<Mutex<Table<S>>>,
    turns: Arc<Turns>,
    trees: Trees,
    handles: Handles<S>,
    dirty: Mutex<HashMap<u64, Arc<Inode<S>>>>,
    absent: Mutex<LruCache<(u64, Arc<str>), Instant>>,
    listed: Mutex<ListedDirs<S>>,
    heads: Heads,
    notices: OnceLock<Box<dyn Fn(Notice) + Send + Sync>>,
}

/// Directories whose listing is kept, least recently used first.
struct ListedDirs<S: Store> {
    dirs: LruCache<u64, (Weak<Inode<S>>, usize)>,
    names: usize,
}

/// An inode that cannot vanish while this is held. Never dropped under the table's lock or an inode's.
struct Held<S: Store> {
    table: Arc<Mutex<Table<S>>>,
    inode: Arc<Inode<S>>,
}

impl<S: Store> Deref for Held<S> {
    type Target = Arc<Inode<S>>;
    fn deref(&self) -> &Arc<Inode<S>> {
        &self.inode
    }
}

impl<S: Store> Drop for Held<S> {
    fn drop(&mut self) {
        self.table.lock().unpin(self.inode.ino);
    }
}

impl<S: Store> Vfs<S> {
    pub fn new(store: Arc<S>, options: VfsOptions, rt: Runtime) -> Arc<Vfs<S>> {
        let defaults = Defaults {
            uid: options.default_uid,
            gid: options.default_gid,
            file_perm: options.default_file_perm,
            dir_perm: options.default_dir_perm,
        };
        let now = SystemTime::now();
        let root = Attr { atime: now, mtime: now, ctime: now, ..Attr::implied_dir(&defaults) };
        let root = Arc::new(Inode::new(ROOT, root, None, Instant::now()));
        let vfs = Arc::new(Vfs {
            store,
            keys: Keys::new(&options.prefix),
            defaults,
            table: Arc::new(Mutex::new(Table::new(root))),
            turns: Arc::default(),
            trees: Trees::default(),
            handles: Handles::default(),
            dirty: Mutex::default(),
            absent: Mutex::new(LruCache::unbounded()),
            listed: Mutex::new(ListedDirs { dirs: LruCache::unbounded(), names: 0 }),
            heads: Heads::default(),
            notices: OnceLock::new(),
            options,
            rt: rt.clone(),
        });
        rt.spawn(Vfs::retry_orphans(Arc::downgrade(&vfs)));
        vfs
    }

    pub fn options(&self) -> &VfsOptions {
        &self.options
    }

    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// Called (at most once) by whoever caches above. `tell` must not call back into the file system or block.
    pub fn on_notice(&self, tell: impl Fn(Notice) + Send + Sync + 'static) {
        if self.notices.set(Box::new(tell)).is_err() {
            log::warn!("a second listener for notices is ignored");
        }
    }

    fn notify(&self, notice: Notice) {
        if let Some(tell) = self.notices.get() {
            tell(notice);
        }
    }

    /// Inodes in memory, for status and tests.
    pub fn inode_count(&self) -> usize {
        self.table.lock().count()
    }

    /// The kernel dropped `count` of the references that lookups gave it.
    pub fn forget(&self, ino: u64, count: u64) {
        self.table.lock().forget(ino, count);
    }

    /// Path below the mount point, for log lines.
    pub fn path_of(&self, ino: u64) -> Option<String> {
        self.table.lock().path(ino)
    }

    fn hold(&self, ino: u64) -> Result<Held<S>> {
        let mut table = self.table.lock();
        let inode = table.get(ino).cloned().ok_or(Error::Stale)?;
        table.pin(ino);
        Ok(Held { table: self.table.clone(), inode })
    }

    fn hold_dir(&self, ino: u64) -> Result<Held<S>> {
        let held = self.hold(ino)?;
        if held.kind == Kind::Dir { Ok(held) } else { Err(Error::NotDir) }
    }

    /// A directory that still has a path.
    fn live_dir(&self, ino: u64) -> Result<(Held<S>, String)> {
        let held = self.hold_dir(ino)?;
        let path = self.table.lock().path(ino).ok_or(Error::NotFound)?;
        Ok((held, path))
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// How an inode looks now, and whether that needed no question.
    fn entry_of(&self, inode: &Inode<S>) -> Entry {
        let state = inode.state.lock();
        self.entry_from(inode, &state)
    }

    fn entry_from(&self, inode: &Inode<S>, state: &inode::State<S>) -> Entry {
        let ttl = match state.is_dirty() || state.unlinked {
            true => self.options.metadata_ttl,
            false => state.expires.saturating_duration_since(Instant::now()).min(self.options.metadata_ttl),
        };
        let nlink = match (state.unlinked, inode.kind) {
            (true, _) => 0,
            // Counting subdirectories would cost a listing; 1 tells `find` not to rely on the count.
            (false, _) => 1,
        };
        Entry { ino: inode.ino, attr: self.dress(state.shown_attr()), nlink, ttl }
    }

    /// The overrides of the mount options.
    fn dress(&self, mut attr: Attr) -> Attr {
        attr.uid = self.options.uid.unwrap_or(attr.uid);
        attr.gid = self.options.gid.unwrap_or(attr.gid);
        if attr.kind != Kind::Symlink {
            attr.perm &= !self.options.umask;
        }
        attr
    }

    /// Keeps a changed inode in memory until it is committed.
    fn mark_dirty(&self, inode: &Arc<Inode<S>>) {
        let mut table = self.table.lock();
        let mut state = inode.state.lock();
        if state.is_dirty() && !state.self_pinned {
            state.self_pinned = true;
            table.pin(inode.ino);
            self.dirty.lock().insert(inode.ino, inode.clone());
        }
    }

    /// The opposite, once everything is committed or the file is unlinked.
    fn mark_clean(&self, inode: &Arc<Inode<S>>) {
        let mut table = self.table.lock();
        let mut state = inode.state.lock();
        if !state.is_dirty() && state.self_pinned {
            state.self_pinned = false;
            self.dirty.lock().remove(&inode.ino);
            drop(state);
            table.unpin(inode.ino);
        }
    }

    fn count_listed(&self, dir: &Arc<Inode<S>>, names: usize) {
        let mut victims = Vec::new();
        {
            let mut listed = self.listed.lock();
            // The inode itself, which stays allocated, counts as well.
            let names = names + 1;
            let old = listed.dirs.put(dir.ino, (Arc::downgrade(dir), names)).map_or(0, |(_, n)| n);
            listed.names = listed.names + names - old;
            while listed.names > self.options.listed_names_max && listed.dirs.len() > 1 {
                let Some((_, (victim, names))) = listed.dirs.pop_lru() else { break };
                listed.names -= names;
                victims.push(victim);
            }
        }
        for victim in victims.iter().filter_map(Weak::upgrade) {
            victim.dir.lock().drop_names();
        }
    }

    fn used_listing(&self, dir: u64) {
        self.listed.lock().dirs.promote(&dir);
    }

    fn remember_absent(&self, dir: u64, name: &Arc<str>) {
        let mut absent = self.absent.lock();
        absent.put((dir, name.clone()), Instant::now() + self.options.metadata_ttl);
        while absent.len() > self.options.absent_names_max {
            absent.pop_lru();
        }
    }

    fn is_known_absent(&self, dir: u64, name: &Arc<str>) -> bool {
        self.absent.lock().peek(&(dir, name.clone())).is_some_and(|expires| Instant::now() < *expires)
    }

    fn ttl_from_now(&self) -> Instant {
        Instant::now() + self.options.metadata_ttl
    }

    /// Runs disk work where it may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match self.rt.spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) => Err(Error::Io(format!("a disk task ended early: {e}"))),
        }
    }
}
