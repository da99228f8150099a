//! Credentials whose source itself can be exchanged while requests are on their way (SIGHUP).

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use super::{CredentialError, CredentialSource, Credentials};

#[derive(Debug)]
pub struct Swap(RwLock<Arc<dyn CredentialSource>>);

impl Swap {
    pub fn new(source: Arc<dyn CredentialSource>) -> Swap {
        Swap(RwLock::new(source))
    }

    fn source(&self) -> Arc<dyn CredentialSource> {
        self.0.read().clone()
    }
}

impl CredentialSource for Swap {
    fn current(&self) -> Result<Arc<Credentials>, CredentialError> {
        self.source().current()
    }

    fn renewed(&self, used: &Credentials) -> bool {
        self.source().renewed(used)
    }

    fn replace(&self, source: Arc<dyn CredentialSource>) {
        *self.0.write() = source;
    }

    fn trouble(&self) -> Option<String> {
        self.source().trouble()
    }

    fn expires(&self) -> Option<SystemTime> {
        self.source().expires()
    }
}
