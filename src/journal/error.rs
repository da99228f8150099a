//! What can go wrong with the journal, as the store needs to know it.

use std::io;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the directory.
    #[error("journal directory {} is in use by another cosfs-ha (process {})", dir.display(), .pid.map_or_else(|| "unknown".into(), |p| p.to_string()))]
    Locked { dir: PathBuf, pid: Option<u32> },
    #[error(
        "journal in {} has format {found}, this cosfs-ha knows formats up to {known}: start a newer cosfs-ha, or give another journal directory",
        dir.display()
    )]
    Newer { dir: PathBuf, found: u64, known: u64 },
    /// No room within the limit or on the disk. Passes when records are retired or the disk is cleared; nothing is latched.
    #[error("journal full: {0}")]
    Full(String),
    /// An earlier disk error made the journal's state on disk doubtful; this is that first error. Only a restart clears it.
    #[error("journal stopped after a disk error: {0}")]
    Poisoned(String),
    #[error("journal disk: {0}")]
    Disk(String),
    /// The record was retired, or its append failed.
    #[error("journal has no record {0}")]
    NoRecord(u64),
}

impl Error {
    /// Turns a failed file operation into words; a full disk keeps its own kind.
    pub(crate) fn io(what: &str, error: &io::Error) -> Error {
        match error.kind() {
            _ if is_full(error) => Error::Full(format!("{what}: {error}")),
            io::ErrorKind::ReadOnlyFilesystem => Error::Disk(format!(
                "{what}: the disk is mounted read-only; mount it writable, or give the journal another folder (journal.dir)"
            )),
            _ => Error::Disk(format!("{what}: {error}")),
        }
    }
}

/// Is this the error of a disk, or a quota, without room?
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
