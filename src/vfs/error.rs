//! What a file system operation can answer besides success. `fuse/errno.rs` turns each into a number.

use crate::object::KeyError;
use crate::store;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Proven absent. Never the answer to an outage.
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDir,
    #[error("is a directory")]
    IsDir,
    #[error("directory not empty")]
    NotEmpty,
    #[error("name or key too long")]
    NameTooLong,
    /// Not UTF-8, or a character that no object key may hold.
    #[error("name cannot be an object key")]
    BadName,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("operation not permitted: {0}")]
    NotPermitted(&'static str),
    #[error("permission denied")]
    Denied,
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("bad file handle")]
    BadHandle,
    #[error("file too large")]
    TooBig,
    #[error("read-only file system")]
    ReadOnly,
    /// The inode or the version behind a handle is gone.
    #[error("stale file handle")]
    Stale,
    #[error("no answer within the time limit: {0}")]
    TimedOut(&'static str),
    /// The names under this operation went on changing; trying again may help.
    #[error("changed by others again and again")]
    Busy,
    #[error("local disk: {0}")]
    Disk(String),
    #[error("input/output error: {0}")]
    Io(String),
    #[error(transparent)]
    Store(store::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        match error {
            store::Error::Key(e) => e.into(),
            store::Error::Gone(_) => Error::Stale,
            store::Error::Disk(e) => Error::Disk(e),
            store::Error::Late { why, .. } => (*why).into(),
            other => Error::Store(other),
        }
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Error {
        match error {
            KeyError::TooLong => Error::NameTooLong,
            KeyError::Empty | KeyError::LeadingSlash | KeyError::Control => Error::BadName,
        }
    }
}

impl Error {
    /// Nobody could be asked: what was known before may still be shown.
    pub fn is_outage(&self) -> bool {
        matches!(self, Error::Store(store::Error::Unavailable(_)) | Error::TimedOut(_))
    }

    pub fn disk(error: std::io::Error) -> Error {
        if error.raw_os_error() == Some(libc::ENOSPC) {
            return Error::Store(store::Error::Full(error.to_string()));
        }
        Error::Disk(error.to_string())
    }
}
