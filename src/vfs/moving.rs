//! What is shown of names while they are being moved.
//!
//! A rename is one step for a program, and several requests in the bucket; for a directory thousands. Until the step is made, both
//! names show what they showed before:
//!
//! * The two names themselves are *kept* ([`super::tree::DirState::keep`]): no answer of the bucket changes them, a lookup gives the
//!   inode that is there, or none. Without this a lookup of the old name during the move finds nothing in the bucket and takes the
//!   moving inode's name away for good.
//! * Below a moving directory, an object is at its old place or at its new one. Whoever asks for it asks at both, the old place
//!   first: what has left that one has arrived at the other. The answer remembers where the object lies, because the path does not
//!   tell it yet. Below the new name nothing is shown until the step.

use std::sync::Arc;

use parking_lot::Mutex;

use super::inode::{Inode, Table};
use super::name;
use super::tree::Item;
use super::{Held, Kind};
use crate::journal::Move;
use crate::store::Store;

/// Directories that are being moved now.
#[derive(Clone, Default)]
pub struct Trees(Arc<Mutex<Vec<Arc<Move>>>>);

/// Where the objects of a path are to be looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Places {
    Own,
    /// At the path itself, or at this one.
    Both(String),
    /// The path is below the new name of a directory on its way: nothing is there yet.
    Nowhere,
}

/// A directory counts as moving while this is held.
pub struct Moving {
    trees: Trees,
    what: Arc<Move>,
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.trees.0.lock().retain(|other| !Arc::ptr_eq(other, &self.what));
    }
}

impl Trees {
    pub fn begin(&self, what: Move) -> Moving {
        let what = Arc::new(what);
        self.0.lock().push(what.clone());
        Moving { trees: self.clone(), what }
    }

    /// For what lies in a directory at `dir`.
    pub fn places_in(&self, dir: &str) -> Places {
        let trees = self.0.lock();
        // Of two moves neither contains the other: each has the turn on both its trees.
        trees
            .iter()
            .find_map(|what| match (name::below(dir, &what.from), name::below(dir, &what.to)) {
                (Some(""), _) => Some(Places::Both(what.to.clone())),
                (Some(rest), _) => Some(Places::Both(name::join(&what.to, rest))),
                (_, Some(_)) => Some(Places::Nowhere),
                _ => None,
            })
            .unwrap_or(Places::Own)
    }
}

/// Two names that show what they showed, until [`Kept::release`] or until this is dropped.
pub struct Kept<S: Store> {
    ends: Vec<(Arc<Inode<S>>, Arc<str>)>,
}

impl<S: Store> Kept<S> {
    pub fn new() -> Kept<S> {
        Kept { ends: Vec::with_capacity(2) }
    }

    /// `inode`: what is there.
    pub fn and(mut self, dir: &Held<S>, name: &Arc<str>, inode: Option<&Held<S>>) -> Kept<S> {
        let item = inode.map(|inode| Item { name: name.clone(), dir: inode.kind == Kind::Dir, known: None });
        dir.dir.lock().keep(name, item);
        self.ends.push((dir.inode.clone(), name.clone()));
        self
    }

    /// The step is made; the directories know it already.
    pub fn release(mut self) {
        self.ends.clear();
    }
}

impl<S: Store> Drop for Kept<S> {
    /// Nobody knows which of the two names has what now: the next question goes to the bucket.
    fn drop(&mut self) {
        for (dir, name) in self.ends.drain(..) {
            dir.dir.lock().let_go(&name);
        }
    }
}

/// From the moment in which the paths have changed, they tell again where the objects lie. To be called with the table locked.
pub fn settled<S: Store>(table: &Table<S>, source: &Inode<S>) {
    for inode in table.within(source.ino) {
        inode.state.lock().lies_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_at_its_old_or_at_its_new_place() {
        let trees = Trees::default();
        let what = Move { from: "a/b".into(), to: "c".into(), before: None };
        let moving = trees.begin(what);
        let rows = [
            ("", Places::Own),
            ("a", Places::Own),
            ("a/bb", Places::Own),
            ("a/b", Places::Both("c".into())),
            ("a/b/x/y", Places::Both("c/x/y".into())),
            ("c", Places::Nowhere),
            ("c/x", Places::Nowhere),
            ("cc", Places::Own),
        ];
        for (dir, expect) in rows {
            assert_eq!(trees.places_in(dir), expect, "{dir}");
        }
        drop(moving);
        assert_eq!(trees.places_in("a/b"), Places::Own);
    }
}
