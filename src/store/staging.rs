//! The scratch file behind one file that is being written.
//!
//! It lives on the journal's disk, so that committing it is a rename and never a copy. Sealed, it belongs to a journal record
//! and must not change any more; unsealed and dropped, it disappears.

use std::fs::File;
use std::sync::Arc;

use super::{Error, Result, Staging};
use crate::journal::{Journal, SpoolId, StagingFile};

pub struct Scratch {
    file: StagingFile,
    journal: Arc<Journal>,
}

impl Scratch {
    pub(super) fn new(journal: Arc<Journal>) -> Result<Scratch> {
        Ok(Scratch { file: journal.spool().create()?, journal })
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<()> {
        self.file.reserve(bytes).map_err(|full| Error::Full(full.to_string()))
    }

    /// Freezes the content under a name that a journal record can point to; a second call gives a second name. Blocking.
    pub(super) fn seal(&self, sync: bool) -> Result<SpoolId> {
        Ok(self.journal.spool().seal(&self.file, sync)?)
    }
}

impl Staging for Scratch {
    fn file(&self) -> &File {
        self.file.file()
    }
}
