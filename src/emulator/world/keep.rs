//! What happens to a bucket beside reading and writing objects: configurations, changes in place, the calendar.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crc_fast::CrcAlgorithm::Crc64Xz;

use super::{Bucket, Received, World};
use crate::cos::xml::from_xml;
use crate::emulator::blob::Blob;
use crate::emulator::clock::wall_micros;
use crate::emulator::failure::Failure;
use crate::emulator::ledger::Record;
use crate::emulator::lifecycle::{Lifecycle, Step, plan};
use crate::emulator::site::{Content, Version};

/// One append, and the whole object.
const APPEND_BYTES_MAX: u64 = 5 << 30;

impl World {
    /// The date by which lifecycle and restores go: the wall's, put forward by the admin API.
    pub fn now(&self) -> u64 {
        wall_micros().saturating_add(self.ahead.load(Ordering::SeqCst))
    }

    /// Puts the calendar forward and does what is due. Returns how many steps that were.
    pub fn put_ahead(&self, ahead: Duration) -> usize {
        self.ahead.store(ahead.as_micros() as u64, Ordering::SeqCst);
        self.run_lifecycle()
    }

    /// Replaces a configuration that is kept as it was put; `None` removes it.
    pub fn set_configuration(&self, bucket: &Bucket, name: &str, text: Option<String>) {
        let mut state = bucket.write();
        self.record(Record::Configuration { site: bucket.site, name: name.into(), text: text.clone() });
        match text {
            Some(text) => drop(state.configurations.insert(name.to_owned(), text)),
            None => drop(state.configurations.remove(name)),
        }
    }

    /// Changes what is kept with a version; no new version, and nothing to replicate.
    pub fn amend(
        &self,
        bucket: &Bucket,
        key: &str,
        version: Option<&str>,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut state = bucket.write();
        let (old, content) = state.shelf.get(key, version)?;
        let mut content: Content = (*content).clone();
        change(&mut content.headers)?;
        if let Some(new) = state.shelf.amend(key, old.id, content) {
            self.record(Record::put(bucket.site, key, &new, false));
        }
        Ok(())
    }

    /// Adds to the end of an appendable object, or begins one.
    pub fn append(
        &self,
        bucket: &Bucket,
        key: &str,
        position: u64,
        more: Received,
        headers: BTreeMap<String, String>,
    ) -> Result<Arc<Content>, Failure> {
        let mut state = bucket.write();
        let old = state.shelf.current(key).and_then(|version| version.content.clone());
        let have = old.as_ref().map_or(0, |content| content.blob.len());
        if old.as_ref().is_some_and(|content| !content.is_appendable()) {
            return Err(Failure::new(409, "ObjectNotAppendable", "The object is not appendable."));
        }
        if position != have {
            return Err(Failure::new(409, "AppendPositionErr", format!("The object ends at {have}.")));
        }
        if have + more.blob.len() > APPEND_BYTES_MAX {
            return Err(Failure::new(400, "EntityTooLarge", "An appendable object may have 5 GB."));
        }
        let crc64 = old.as_ref().map_or(0, |content| content.crc64);
        let content = Content {
            crc64: crc_fast::checksum_combine(Crc64Xz, crc64, more.crc64, more.blob.len()),
            blob: Blob::join(old.iter().map(|content| &content.blob).chain([&more.blob])),
            // Of an object in pieces: no function of the content, as with multipart uploads.
            etag: self.arbitrary_hex(key),
            headers: old.map_or(headers, |content| content.headers.clone()),
        };
        // What it displaced lets go of its body on disk only when the record that replaces it is written.
        let (version, _displaced) = state.shelf.put_null(key, self.clock.next(), content);
        self.record(Record::put(bucket.site, key, &version, false));
        version.content.clone().ok_or_else(|| Failure::internal("a version without content"))
    }

    /// Carries out the lifecycle rules of both buckets. Nothing of it is replicated.
    pub fn run_lifecycle(&self) -> usize {
        let now = self.now();
        self.buckets.iter().map(|bucket| self.run_rules(bucket, now)).sum()
    }

    fn run_rules(&self, bucket: &Bucket, now: u64) -> usize {
        let mut state = bucket.write();
        let rules = state.lifecycle.as_deref().and_then(|text| from_xml::<Lifecycle>(text.as_bytes()).ok());
        let Some(rules) = rules else { return 0 };
        let steps = plan(&rules, &state.shelf, now);
        let site = bucket.site;
        for step in &steps {
            match step {
                Step::Expire { key } => {
                    let deleted = state.shelf.delete(key, self.clock.next());
                    match (deleted.marker, deleted.removed) {
                        (Some(marker), _) => self.record(Record::put(site, key, &marker, false)),
                        (None, Some(gone)) => self.record(Record::Remove { site, key: key.clone(), id: gone.id }),
                        (None, None) => {}
                    }
                }
                Step::Remove { key, id } => {
                    // Bound, so that its body on disk goes after the record.
                    if let Some(_removed) = state.shelf.remove(key, *id) {
                        self.record(Record::Remove { site, key: key.clone(), id: *id });
                    }
                }
                Step::Transition { key, id, class } => {
                    let content = state.shelf.find(key, *id).and_then(|version: &Arc<Version>| version.content.clone());
                    let Some(content) = content else { continue };
                    let mut content: Content = (*content).clone();
                    content.headers.insert("x-cos-storage-class".into(), class.clone());
                    if let Some(new) = state.shelf.amend(key, *id, content) {
                        self.record(Record::put(site, key, &new, false));
                    }
                }
            }
        }
        let old: Vec<_> = state
            .uploads
            .iter()
            .filter(|((key, _), upload)| rules.aborts(key, upload.started, now))
            .map(|(name, _)| name.clone())
            .collect();
        for (key, upload) in &old {
            // The record first: with the upload go the bodies of its parts.
            self.record(Record::End { site, key: key.clone(), upload: upload.clone() });
            state.uploads.remove(&(key.clone(), upload.clone()));
        }
        steps.len() + old.len()
    }
}
