//! Many objects at once, without a request each: for tests of what happens at a million keys.
//!
//! All objects of one call share their content, so that a million of them take a few hundred bytes each. They come into being past replication, in
//! one bucket or with the same version id in both, as if replicated long ago. Only in memory: nothing of this is kept with `--data`.

use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use serde::Deserialize;

use super::blob::Blob;
use super::site::{Content, Version, Versioning};
use super::world::{World, hex};
use crate::object::Site;

/// Objects written before somebody else gets his turn at the bucket.
const TURN: u64 = 10_000;
/// More than anybody lists in a test; a slip of the pen must not take the host's memory.
const COUNT_MAX: u64 = 10_000_000;

/// `POST /v1/fill`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// Both buckets if it is left out.
    pub site: Option<Site>,
    /// Keys are this and a number of eight digits.
    pub prefix: String,
    /// First number.
    #[serde(default)]
    pub first: u64,
    pub count: u64,
    /// Content of every object.
    #[serde(default)]
    pub content: String,
}

impl World {
    pub fn fill(&self, fill: &Fill) -> Result<(), String> {
        if fill.count > COUNT_MAX {
            return Err(format!("at most {COUNT_MAX} objects at a time"));
        }
        if self.shelter().is_some() {
            return Err("only without --data".into());
        }
        let sites: Vec<Site> = fill.site.map_or_else(|| Site::ALL.to_vec(), |site| vec![site]);
        let body = Bytes::from(fill.content.clone());
        let content = Arc::new(Content {
            etag: hex(&Md5::digest(&body)),
            crc64: crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &body),
            blob: Blob::memory(vec![body]),
            headers: [("content-type".to_owned(), "application/octet-stream".to_owned())].into(),
        });
        let end = fill.first + fill.count;
        for first in (fill.first..end).step_by(TURN as usize) {
            let numbers = first..(first + TURN).min(end);
            let moments: Vec<u64> = numbers.clone().map(|_| self.clock.next()).collect();
            for (index, site) in sites.iter().enumerate() {
                let mut state = self.bucket(*site).write();
                let versioned = state.shelf.versioning() == Versioning::Enabled;
                for (number, micros) in numbers.clone().zip(&moments) {
                    let (id, content) = (versioned.then_some(*micros), Some(Arc::clone(&content)));
                    let version = Version { id, micros: *micros, arrival: number, replica: index > 0, content };
                    state.shelf.restore(&format!("{}{number:08}", fill.prefix), version);
                }
            }
        }
        Ok(())
    }
}
