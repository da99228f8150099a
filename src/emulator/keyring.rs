//! Whom the emulator lets in: one identity from the start, others and none of them as an administrator says.

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{SECRET_ID, SECRET_KEY};

/// One key pair; temporary ones come with a token, which a request must then carry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub secret_id: String,
    pub secret_key: String,
    #[serde(default)]
    pub token: Option<String>,
}

/// `PUT /v1/credentials` replaces all of it.
#[derive(Debug)]
pub struct Keyring(RwLock<Vec<Identity>>);

impl Default for Keyring {
    fn default() -> Keyring {
        let first = Identity { secret_id: SECRET_ID.into(), secret_key: SECRET_KEY.into(), token: None };
        Keyring(RwLock::new(vec![first]))
    }
}

impl Keyring {
    pub fn find(&self, secret_id: &str) -> Option<Identity> {
        self.0.read().iter().find(|identity| identity.secret_id == secret_id).cloned()
    }

    pub fn replace(&self, identities: Vec<Identity>) {
        *self.0.write() = identities;
    }

    pub fn ids(&self) -> Vec<String> {
        self.0.read().iter().map(|identity| identity.secret_id.clone()).collect()
    }
}
