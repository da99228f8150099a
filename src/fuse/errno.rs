//! One table from what went wrong to the number a program gets.

use fuser::Errno;

use crate::store;
use crate::vfs::Error;

pub fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDir => Errno::ENOTDIR,
        Error::IsDir => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::BadName => Errno::EILSEQ,
        Error::Invalid(_) => Errno::EINVAL,
        Error::NotPermitted(_) => Errno::EPERM,
        Error::Denied => Errno::EACCES,
        Error::NotSupported(_) => Errno::EOPNOTSUPP,
        Error::BadHandle => Errno::EBADF,
        Error::TooBig => Errno::EFBIG,
        Error::ReadOnly => Errno::EROFS,
        Error::Stale => Errno::ESTALE,
        Error::TimedOut(_) => Errno::ETIMEDOUT,
        Error::Busy => Errno::EAGAIN,
        Error::Disk(_) | Error::Io(_) => Errno::EIO,
        Error::Store(error) => match error {
            // Not ETIMEDOUT: programs know EIO from a failing disk, which is what this is to them.
            store::Error::Unavailable(_) => Errno::EIO,
            store::Error::Gone(_) => Errno::ESTALE,
            store::Error::Denied(_) => Errno::EACCES,
            store::Error::Full(_) => Errno::ENOSPC,
            store::Error::TooLarge(_) => Errno::EFBIG,
            store::Error::Key(_) => Errno::EILSEQ,
            store::Error::Rejected(_) | store::Error::Disk(_) | store::Error::Late { .. } => Errno::EIO,
        },
    }
}

/// Does this answer a program's own question or mistake, rather than tell of trouble?
pub fn is_everyday(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound
            | Error::Exists
            | Error::NotDir
            | Error::IsDir
            | Error::NotEmpty
            | Error::NameTooLong
            | Error::BadName
            | Error::Invalid(_)
            | Error::NotPermitted(_)
            | Error::NotSupported(_)
            | Error::ReadOnly
            | Error::TooBig
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_never_absence() {
        let outages = [
            Error::Store(store::Error::Unavailable("x".into())),
            Error::Store(store::Error::Rejected("x".into())),
            Error::Store(store::Error::Gone("x".into())),
            Error::TimedOut("x"),
            Error::Busy,
            Error::Io("x".into()),
        ];
        for outage in outages {
            assert_ne!(errno(&outage).code(), libc::ENOENT, "{outage}");
            assert!(!is_everyday(&outage), "{outage} must be logged as a warning");
        }
    }
}
