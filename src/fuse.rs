//! What the kernel expects: the only room that names `fuser`.
//!
//! The adapter decodes a request, answers it at once where the answer is in memory, and otherwise hands the reply to a task: the
//! two threads that read requests never wait for network or disk. A task runs to its end even when the answer is due earlier (the
//! kernel lets nobody interrupt a waiting program, so each operation is answered within `max_stall` whatever happens).
//!
//! We mount by ourselves rather than through `fuser`, and give it the open device. Its own way would unmount whatever lies on the
//! mount point when it ends, even if that is no longer ours, could not unmount while a file is open, and shows every mount as
//! plain `fuse`. Owning the device also lets `dirent` answer directory reads in full, which `fuser` 0.18 cannot.
//!
//! Owns: mounting, unmounting, replies, kernel cache rules. Owns not: any rule about files; that is `vfs`.

use std::path::PathBuf;
use std::time::Duration;

pub use session::{Mounted, check, mount};

mod adapter;
mod dirent;
mod errno;
mod notify;
mod reply;
mod session;
mod sys;

#[derive(Clone, Debug)]
pub struct MountOptions {
    pub mountpoint: PathBuf,
    /// What `df` and `mount` show as the source. Commas and spaces are replaced: they would be read as further options.
    pub source: String,
    pub read_only: bool,
    pub noexec: bool,
    /// Let set-user-id bits and device files count; the kernel lets only root ask for that.
    pub suid: bool,
    pub dev: bool,
    /// Every write is followed by a sync.
    pub sync: bool,
    /// Let other users in; permissions still hold.
    pub allow_other: bool,
    /// Mount over a directory that is not empty.
    pub nonempty: bool,
    /// Read-ahead of the kernel for each file, in bytes. Raised through the backing device's file, which only root may write.
    pub readahead_bytes: u64,
    /// Largest request, in bytes.
    pub request_bytes_max: u32,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            mountpoint: PathBuf::new(),
            source: "cosfs-ha".to_string(),
            read_only: false,
            noexec: false,
            suid: false,
            dev: false,
            sync: false,
            allow_other: false,
            nonempty: false,
            readahead_bytes: 1 << 20,
            request_bytes_max: 1 << 20,
        }
    }
}

/// Why a mount did not come about, in words for the person who asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("mount point {0} does not exist; create it with: mkdir -p {0}")]
    Missing(PathBuf),
    #[error("mount point {0} is not a directory")]
    NotDirectory(PathBuf),
    #[error("mount point {0} is not empty; its content would be hidden (option nonempty mounts all the same)")]
    NotEmpty(PathBuf),
    #[error("something is already mounted at {0} ({1}); choose another directory, or unmount that: umount {0}")]
    AlreadyMounted(PathBuf, String),
    #[error("mount point {0} belongs to a file system whose program has ended; clean up with: umount -l {0}")]
    Dead(PathBuf),
    #[error("mount point {0}: {1}")]
    MountPoint(PathBuf, std::io::Error),
    #[error(
        "/dev/fuse: {0} (is the fuse module loaded? try: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    )]
    Device(std::io::Error),
    #[error("only root mounts without the program fusermount3, which was not found; install the package fuse3")]
    NoHelper,
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    #[error("mount(2) failed: {0}")]
    Mount(std::io::Error),
    #[error("the kernel did not agree on a FUSE session: {0}")]
    Session(std::io::Error),
    #[error("{0} could not be unmounted: {1}")]
    Unmount(PathBuf, String),
    #[error("max_stall of {0:?} leaves no time to answer")]
    Stall(Duration),
}
