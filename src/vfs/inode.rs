//! The inodes the kernel or an open handle knows, and their place in the tree.
//!
//! An inode lives as long as somebody counts on it: the kernel (lookups), a handle or an operation (pins), uncommitted data (a pin
//! as well) or a child. So the table is bounded by the kernel's own counts. Paths are not stored but walked up, which makes moving
//! a directory with everything the kernel knows below it one change.
//!
//! A number is a stable hash of the path at birth, so that `d_ino` in a listing agrees with `st_ino` without an inode for every
//! listed name, and so that a remount shows the same numbers. A number in use is never given twice: the next probe is taken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::attr::{Attr, Kind};
use super::name;
use super::staging::Layer;
use super::tree::DirState;
use crate::object::{Key, Object};
use crate::store::Store;

pub const ROOT: u64 = 1;

pub struct Inode<S: Store> {
    pub ino: u64,
    pub kind: Kind,
    pub state: Mutex<State<S>>,
    /// Serialises writes into the scratch file with its sealing. Taken before `state`, only on threads that may block.
    pub io: Mutex<()>,
    /// Directories only.
    pub dir: Mutex<DirState>,
}

/// What is known of one inode now.
pub struct State<S: Store> {
    pub attr: Attr,
    /// The stored object these attributes belong to; `None` for what is not stored yet and for implied directories.
    pub object: Option<Arc<Object>>,
    /// The key of that object while the path does not tell it: its directory is being moved ([`super::moving`]).
    pub lies_at: Option<Key>,
    pub expires: Instant,
    pub unlinked: bool,
    /// Unlinked because its name leads to something else now, which nobody who has it open knows: they read on and cannot write. Whoever comes
    /// by a name that the kernel remembers has to look that up again.
    pub replaced: bool,
    /// An upload of this name was tried and its outcome is unknown: there may be an object although `object` is `None`.
    pub perhaps_stored: bool,
    pub layer: Option<Layer<S>>,
    pub reader: Option<Arc<S::Reader>>,
    /// Counts changes of content and of headers; what is committed lags behind.
    pub content: Progress,
    pub headers: Progress,
    /// The inode holds a pin on itself while uncommitted.
    pub self_pinned: bool,
    pub handles: u32,
    /// Those of them that may write.
    pub writers: u32,
    pub target: Option<Arc<[u8]>>,
    /// When the last read ran out of time.
    pub read_gave_up: Option<Instant>,
    /// The kernel's page cache may go on showing what it has: nobody else changed the content since the last open.
    pub cache_ok: bool,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Progress {
    pub changed: u64,
    pub committed: u64,
}

impl Progress {
    pub fn is_dirty(&self) -> bool {
        self.changed != self.committed
    }
}

impl<S: Store> State<S> {
    pub fn is_dirty(&self) -> bool {
        !self.unlinked && (self.content.is_dirty() || self.headers.is_dirty())
    }

    /// Attributes that may be shown without asking.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.is_dirty() || self.unlinked || now < self.expires
    }

    pub fn size(&self) -> u64 {
        self.layer.as_ref().map_or(self.attr.size, Layer::size)
    }

    pub fn shown_attr(&self) -> Attr {
        Attr { size: self.size(), ..self.attr }
    }

    pub fn touch(&mut self, now: SystemTime) {
        self.attr.mtime = now;
        self.attr.ctime = now;
    }
}

impl<S: Store> Inode<S> {
    pub fn new(ino: u64, attr: Attr, object: Option<Arc<Object>>, expires: Instant) -> Inode<S> {
        Inode {
            ino,
            kind: attr.kind,
            state: Mutex::new(State {
                attr,
                object,
                lies_at: None,
                expires,
                unlinked: false,
                replaced: false,
                perhaps_stored: false,
                layer: None,
                reader: None,
                content: Progress::default(),
                headers: Progress::default(),
                self_pinned: false,
                handles: 0,
                writers: 0,
                target: None,
                read_gave_up: None,
                cache_ok: true,
            }),
            io: Mutex::new(()),
            dir: Mutex::new(DirState::default()),
        }
    }
}

struct Node<S: Store> {
    inode: Arc<Inode<S>>,
    parent: u64,
    name: Arc<str>,
    /// False after unlink: it has no path any more.
    linked: bool,
    lookups: u64,
    pins: u64,
    children: HashMap<Arc<str>, u64>,
}

pub struct Table<S: Store> {
    nodes: HashMap<u64, Node<S>>,
}

impl<S: Store> Table<S> {
    pub fn new(root: Arc<Inode<S>>) -> Table<S> {
        let node = Node {
            inode: root,
            parent: ROOT,
            name: "".into(),
            linked: true,
            lookups: 1,
            pins: 1,
            children: HashMap::new(),
        };
        Table { nodes: HashMap::from([(ROOT, node)]) }
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    pub fn get(&self, ino: u64) -> Option<&Arc<Inode<S>>> {
        self.nodes.get(&ino).map(|node| &node.inode)
    }

    pub fn child(&self, dir: u64, name: &str) -> Option<&Arc<Inode<S>>> {
        self.get(*self.nodes.get(&dir)?.children.get(name)?)
    }

    /// `None` when the inode, or a directory above it, was removed.
    pub fn path(&self, ino: u64) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let node = self.nodes.get(&at)?;
            if !node.linked {
                return None;
            }
            names.push(&*node.name);
            at = node.parent;
        }
        names.reverse();
        Some(names.join("/"))
    }

    pub fn parent(&self, ino: u64) -> Option<u64> {
        self.nodes.get(&ino).map(|node| node.parent)
    }

    /// The name and the directory of a linked inode.
    pub fn place(&self, ino: u64) -> Option<(u64, Arc<str>)> {
        self.nodes.get(&ino).filter(|node| node.linked).map(|node| (node.parent, node.name.clone()))
    }

    /// Is `ino` the directory `dir` or somewhere below it?
    pub fn is_within(&self, ino: u64, dir: u64) -> bool {
        let mut at = ino;
        loop {
            if at == dir {
                return true;
            }
            match self.parent(at) {
                Some(parent) if at != ROOT => at = parent,
                _ => return false,
            }
        }
    }

    /// The number that a name without an inode would get now.
    pub fn number_for(&self, path: &str) -> u64 {
        let mut probe = 0;
        loop {
            let number = hash(path, probe);
            if number > ROOT && !self.nodes.contains_key(&number) {
                return number;
            }
            probe += 1;
        }
    }

    /// Puts a new inode under a name that has none. It must be pinned or looked up before the table is unlocked.
    pub fn insert(&mut self, dir: u64, name: &Arc<str>, inode: Arc<Inode<S>>) {
        let ino = inode.ino;
        let node = Node {
            inode,
            parent: dir,
            name: name.clone(),
            linked: true,
            lookups: 0,
            pins: 0,
            children: HashMap::new(),
        };
        self.nodes.insert(ino, node);
        if let Some(parent) = self.nodes.get_mut(&dir) {
            parent.children.insert(name.clone(), ino);
        }
    }

    /// Takes the name away. The inode stays while it is counted on, and keeps its directory alive.
    pub fn unlink(&mut self, ino: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        if !std::mem::replace(&mut node.linked, false) {
            return;
        }
        let (parent, name) = (node.parent, node.name.clone());
        if let Some(parent) = self.nodes.get_mut(&parent)
            && parent.children.get(&name) == Some(&ino)
        {
            parent.children.remove(&name);
        }
        self.reap(ino);
        self.reap(parent);
    }

    /// Gives a linked inode another place. The caller has unlinked what stood there.
    pub fn rename(&mut self, ino: u64, dir: u64, name: &Arc<str>) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        debug_assert!(node.linked, "a moving inode keeps its name until the step");
        let old = std::mem::replace(&mut node.parent, dir);
        let old_name = std::mem::replace(&mut node.name, name.clone());
        if let Some(parent) = self.nodes.get_mut(&old) {
            parent.children.remove(&old_name);
        }
        if let Some(parent) = self.nodes.get_mut(&dir) {
            parent.children.insert(name.clone(), ino);
        }
        self.reap(old);
    }

    pub fn pin(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins += 1;
        }
    }

    pub fn unpin(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins = node.pins.saturating_sub(1);
        }
        self.reap(ino);
    }

    pub fn looked_up(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    pub fn forget(&mut self, ino: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.reap(ino);
    }

    /// The inode at a path relative to a directory, if it is in memory.
    pub fn find(&self, dir: u64, path: &str) -> Option<&Arc<Inode<S>>> {
        let mut at = dir;
        for name in path.split('/') {
            at = self.child(at, name)?.ino;
        }
        self.get(at)
    }

    /// All linked inodes strictly below a directory.
    pub fn below(&self, dir: u64) -> Vec<Arc<Inode<S>>> {
        let mut found = Vec::new();
        let mut todo = vec![dir];
        while let Some(node) = todo.pop().and_then(|ino| self.nodes.get(&ino)) {
            for child in node.children.values().filter_map(|ino| self.nodes.get(ino)) {
                found.push(child.inode.clone());
                todo.push(child.inode.ino);
            }
        }
        found
    }

    /// The same, and before them the directory itself.
    pub fn within(&self, dir: u64) -> Vec<Arc<Inode<S>>> {
        self.get(dir).cloned().into_iter().chain(self.below(dir)).collect()
    }

    /// Is anything below a directory not stored yet?
    pub fn is_dirty_below(&self, dir: u64) -> bool {
        self.below(dir).iter().any(|child| child.state.lock().is_dirty())
    }

    fn reap(&mut self, mut ino: u64) {
        while ino != ROOT {
            match self.nodes.get(&ino) {
                Some(node) if node.lookups == 0 && node.pins == 0 && node.children.is_empty() => {}
                _ => return,
            }
            let Some(node) = self.nodes.remove(&ino) else { return };
            if node.linked
                && let Some(parent) = self.nodes.get_mut(&node.parent)
            {
                parent.children.remove(&node.name);
            }
            ino = node.parent;
        }
    }
}

/// FNV-1a with a final mix (the constants of MurmurHash3): stable between versions of this program and of Rust's standard
/// hasher, and short. 64 bits: among ten million names, a collision has a chance of 1 in 400 000.
fn hash(path: &str, probe: u64) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64 ^ probe.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in path.bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// The number of `name` in a directory at `path`, for a listing.
pub fn listed_number<S: Store>(table: &Table<S>, dir: u64, path: &str, item: &str) -> u64 {
    match table.child(dir, item) {
        Some(inode) => inode.ino,
        None => table.number_for(&name::join(path, item)),
    }
}
