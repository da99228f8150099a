//! Directories on their way to another name.
//!
//! A bucket moves one key at a time, and each of those moves is a record of its own. That the rest is to follow stands nowhere in them. So
//! it is noted here before the first key moves, and the note goes when the last one has: what a start finds is to be finished.
//!
//! A note is a small file of its own, on stable storage before the first move and gone for good before the caller is answered: one that
//! came back after a power cut would move what somebody has put under the old name since.
//!
//! Owns the notes. Owns not what a move is (`vfs/rename`). Checked by the tests here and by a kill on a mount.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::error::{Error, Result};

/// Paths as the file system has them, without a slash at either end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    pub from: String,
    pub to: String,
    /// Writes of this mount from this number on were made after the move had begun; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

#[derive(Debug)]
pub struct Moves {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    next: AtomicU64,
}

impl Moves {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Moves {
        let moves = Moves { disk, dir, next: AtomicU64::new(1) };
        let last = moves.all().last().map_or(0, |(number, _)| *number);
        moves.next.store(last + 1, Ordering::Relaxed);
        moves
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}"))
    }

    /// Blocks until the note is on stable storage.
    pub fn note(&self, what: &Move) -> Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let text = serde_json::to_vec(what).map_err(|e| Error::Disk(e.to_string()))?;
        let noted = self.disk.create_dir(&self.dir).and_then(|()| self.disk.replace(&self.path(number), &text));
        noted.map_err(|e| Error::io("note a move", &e))?;
        Ok(number)
    }

    /// Blocks until the note is gone for good.
    pub fn forget(&self, number: u64) -> Result<()> {
        let gone = self.disk.remove(&self.path(number)).and_then(|()| self.disk.sync_dir(&self.dir));
        gone.map_err(|e| Error::io("forget a move", &e))
    }

    /// In the order in which they were noted. What cannot be read was never noted in full.
    pub fn all(&self) -> Vec<(u64, Move)> {
        let names = self.disk.list(&self.dir).unwrap_or_default();
        let noted = names.iter().filter(|name| name.len() == 16).filter_map(|name| {
            let number = u64::from_str_radix(name, 16).ok()?;
            let text = self.disk.read(&self.path(number)).ok()?;
            Some((number, serde_json::from_slice(&text).ok()?))
        });
        noted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::disk::RealDisk;

    #[test]
    fn notes_outlive_their_owner_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Moves::new(Arc::new(RealDisk), dir.path().join("moves"));
        let what = |n: u32| Move { from: format!("a/{n}"), to: format!("b/{n}"), before: Some(7) };
        let first = open();
        assert_eq!(first.all(), []);
        let numbers: Vec<u64> = (0..3).map(|n| first.note(&what(n)).unwrap()).collect();
        first.forget(numbers[1]).unwrap();
        std::fs::write(dir.path().join("moves/00000000000000ff"), "{\"from\":").unwrap();
        let second = open();
        assert_eq!(second.all(), [(numbers[0], what(0)), (numbers[2], what(2))]);
        assert!(second.note(&what(9)).unwrap() > numbers[2], "numbers are not used twice");
    }
}
