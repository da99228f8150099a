//! What can go wrong with a key, as the file system needs to know it.

use crate::object::KeyError;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Every place that could know was asked and none answered in time, or what answered cannot be proven fresh. Never means "absent".
    #[error("no place could answer in time: {0}")]
    Unavailable(String),
    /// The pinned version is gone everywhere (somebody removed it for good).
    #[error("the version that was opened no longer exists: {0}")]
    Gone(String),
    #[error("refused by the bucket's permissions: {0}")]
    Denied(String),
    /// The local journal or its disk has no room.
    #[error("no room in the journal: {0}")]
    Full(String),
    #[error("object too large: {0}")]
    TooLarge(String),
    #[error("invalid key: {0}")]
    Key(#[from] KeyError),
    /// The bucket refused the request for a reason that repeating does not mend.
    #[error("rejected by the bucket: {0}")]
    Rejected(String),
    /// The local disk failed.
    #[error("local disk: {0}")]
    Disk(String),
    /// The write stands, though it is not as safe yet as was asked: the journal has it and sends it when it can. So there is nothing to be
    /// tried again. `object` is what the key now holds; `None` after a delete.
    #[error("{why}")]
    Late { object: Option<Box<crate::object::Object>>, why: Box<Error> },
}
