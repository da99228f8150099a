//! Answers to READDIR and READDIRPLUS, built by us.
//!
//! `fuser` 0.18 cannot say that the type of a name is unknown, and in READDIRPLUS it uses one number for both the inode we give
//! out and the number the program sees, so that "no attributes for this one" becomes inode 0, which C libraries skip. A listing of a
//! bucket tells neither types nor attributes, so both are the normal case here. The answer is therefore written to the device
//! directly; the layout is the kernel's (`struct fuse_dirent`, `struct fuse_direntplus` in include/uapi/linux/fuse.h).

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::vfs::{DirEntry, Entry};

/// The smallest buffer that the kernel offers, whatever the program's own; `fuser` does not tell the size of this one.
const ANSWER_BYTES_MAX: usize = 4096;

/// `st_blksize`: what a program should read or write at a time.
pub const BLOCK_SIZE: u32 = 1 << 20;

const HEADER: usize = 16;

/// One answer in the making.
pub struct Answer {
    plus: bool,
    bytes: Vec<u8>,
    /// Inodes given out with it.
    pub given: Vec<u64>,
}

impl Answer {
    pub fn new(plus: bool) -> Answer {
        let mut bytes = Vec::with_capacity(HEADER + ANSWER_BYTES_MAX);
        bytes.resize(HEADER, 0);
        Answer { plus, bytes, given: Vec::new() }
    }

    /// False: no room left for this one.
    pub fn add(&mut self, line: &DirEntry) -> bool {
        let name = line.name.as_bytes();
        let head = if self.plus { 128 + 24 } else { 24 };
        let len = (head + name.len()).next_multiple_of(8);
        if self.bytes.len() - HEADER + len > ANSWER_BYTES_MAX {
            return false;
        }
        let start = self.bytes.len();
        if self.plus {
            self.entry(line.entry.as_ref());
            self.given.extend(line.entry.as_ref().map(|entry| entry.ino));
        }
        self.u64(line.ino);
        self.u64(line.next);
        self.u32(name.len() as u32);
        // DT_* are the type bits of the mode, shifted; 0 is DT_UNKNOWN: the program asks if it wants to know.
        self.u32(line.kind.map_or(0, |kind| kind.bits() >> 12));
        self.bytes.extend_from_slice(name);
        self.bytes.resize(start + len, 0);
        true
    }

    /// `struct fuse_entry_out`; all zero where there are no attributes to give.
    fn entry(&mut self, entry: Option<&Entry>) {
        let start = self.bytes.len();
        if let Some(entry) = entry {
            let attr = &entry.attr;
            self.u64(entry.ino);
            self.u64(0);
            self.u64(entry.ttl.as_secs());
            self.u64(entry.ttl.as_secs());
            self.u32(entry.ttl.subsec_nanos());
            self.u32(entry.ttl.subsec_nanos());
            self.u64(entry.ino);
            self.u64(attr.size);
            self.u64(attr.blocks());
            let times = [attr.atime, attr.mtime, attr.ctime].map(unix);
            for (seconds, _) in times {
                self.u64(seconds as u64);
            }
            for (_, nanos) in times {
                self.u32(nanos);
            }
            self.u32(attr.mode());
            self.u32(entry.nlink);
            self.u32(attr.uid);
            self.u32(attr.gid);
            self.u32(attr.rdev);
            self.u32(BLOCK_SIZE);
            self.u32(0);
        }
        self.bytes.resize(start + 128, 0);
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    /// Answers the request `unique` with what was added.
    pub fn send(&mut self, device: &Arc<File>, unique: u64) -> std::io::Result<()> {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[4..8].copy_from_slice(&0i32.to_ne_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        // The device takes an answer whole or not at all.
        (&**device).write(&self.bytes).map(drop)
    }
}

fn unix(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let whole = before.duration().as_secs() as i64;
            match Duration::from_secs(1).checked_sub(Duration::from_nanos(before.duration().subsec_nanos().into())) {
                Some(rest) if rest.as_secs() == 0 => (-whole - 1, rest.subsec_nanos()),
                _ => (-whole, 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Attr, Kind};

    #[test]
    fn layout_is_the_kernels() {
        let attr = Attr::new(Kind::File, 0o644, 1, 2, UNIX_EPOCH + Duration::new(5, 6));
        let entry = Entry { ino: 77, attr, nlink: 1, ttl: Duration::from_secs(9) };
        let line = |name: &str, kind, entry| DirEntry { ino: 77, name: name.into(), kind, next: 3, entry };
        let mut plain = Answer::new(false);
        assert!(plain.add(&line("abc", None, None)));
        assert_eq!(plain.bytes.len(), 16 + 32, "24 bytes of head, name padded to 8");
        assert_eq!(plain.bytes[16..24], 77u64.to_ne_bytes());
        assert_eq!(plain.bytes[32..36], 3u32.to_ne_bytes());
        assert_eq!(plain.bytes[36..40], 0u32.to_ne_bytes(), "unknown type");
        let mut plus = Answer::new(true);
        assert!(plus.add(&line("abc", Some(Kind::File), Some(entry))));
        assert!(plus.add(&line("d", Some(Kind::Dir), None)));
        assert_eq!(plus.bytes.len(), 16 + 160 + 160);
        assert_eq!(plus.bytes[16..24], 77u64.to_ne_bytes());
        assert_eq!(plus.bytes[16 + 160..16 + 160 + 128], [0; 128], "no attributes given");
        assert_eq!(plus.bytes[16 + 160 + 128..16 + 160 + 136], 77u64.to_ne_bytes(), "but the number is");
        assert_eq!(plus.given, [77]);
        let long = line(&"x".repeat(255), None, None);
        let taken = (0..100).take_while(|_| plain.add(&long)).count();
        assert!(plain.bytes.len() <= 16 + 4096 && taken >= 13);
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(unix(UNIX_EPOCH - Duration::from_millis(250)), (-1, 750_000_000));
        assert_eq!(unix(UNIX_EPOCH - Duration::from_secs(2)), (-2, 0));
    }
}
