//! Answers in the kernel's words: what the file system knows, put into what fuser sends.
//!
//! Owns the translation, in both directions where a request carries a value. Owns not: the numbers of errors (`errno`), directories
//! (`dirent`), when an answer is due (`adapter`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, TimeOrNow,
};

use super::dirent::BLOCK_SIZE;
use crate::store::Store;
use crate::vfs::{Entry, Kind, Opened, SetTime, Vfs};

fn file_attr(entry: &Entry) -> FileAttr {
    let attr = &entry.attr;
    FileAttr {
        ino: INodeNo(entry.ino),
        size: attr.size,
        blocks: attr.blocks(),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: match attr.kind {
            Kind::File => FileType::RegularFile,
            Kind::Dir => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::NamedPipe,
            Kind::Socket => FileType::Socket,
            Kind::CharDev => FileType::CharDevice,
            Kind::BlockDev => FileType::BlockDevice,
        },
        perm: attr.perm as u16,
        nlink: entry.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn fopen_flags(opened: &Opened) -> FopenFlags {
    if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

pub(super) fn reply_entry(reply: ReplyEntry, answer: Result<Entry, Errno>) {
    match answer {
        Ok(entry) => reply.entry(&entry.ttl, &file_attr(&entry), Generation(0)),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_attr(reply: ReplyAttr, answer: Result<Entry, Errno>) {
    match answer {
        Ok(entry) => reply.attr(&entry.ttl, &file_attr(&entry)),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, answer: Result<(), Errno>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_open(reply: ReplyOpen, answer: Result<Opened, Errno>) {
    match answer {
        Ok(opened) => reply.opened(FileHandle(opened.fh), fopen_flags(&opened)),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_create(reply: ReplyCreate, answer: Result<(Entry, Opened), Errno>) {
    match answer {
        Ok((entry, opened)) => {
            let (attr, flags) = (file_attr(&entry), fopen_flags(&opened));
            reply.created(&entry.ttl, &attr, Generation(0), FileHandle(opened.fh), flags);
        }
        Err(e) => reply.error(e),
    }
}

pub(super) fn entry_back<S: Store>(vfs: &Arc<Vfs<S>>, entry: Entry) {
    vfs.forget(entry.ino, 1);
}

pub(super) fn opened_back<S: Store>(vfs: &Arc<Vfs<S>>, opened: Opened) {
    // It was given a moment ago: the number is known.
    let _ = vfs.release(opened.fh);
}

pub(super) fn created_back<S: Store>(vfs: &Arc<Vfs<S>>, (entry, opened): (Entry, Opened)) {
    opened_back(vfs, opened);
    entry_back(vfs, entry);
}

pub(super) fn reply_data(reply: ReplyData, answer: Result<Bytes, Errno>) {
    match answer {
        Ok(bytes) => reply.data(&bytes),
        Err(e) => reply.error(e),
    }
}

/// Before 1970 the library takes the nanoseconds, which count forwards, as if they counted backwards (fuser 0.18, `time.rs`).
fn decoded(time: SystemTime) -> SystemTime {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if !before.is_zero() => {
            UNIX_EPOCH - Duration::from_secs(before.as_secs()) + Duration::from_nanos(before.subsec_nanos().into())
        }
        _ => time,
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::SpecificTime(time) => SetTime::At(decoded(time)),
        TimeOrNow::Now => SetTime::Now,
    }
}
