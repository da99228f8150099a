//! One bucket: keys, their versions, and the rules by which requests change them.
//!
//! Every overwrite on a versioned bucket adds a version, every delete a marker. Which version is *current* is clear on one
//! bucket alone; when replicas arrive late or out of order it is not documented. Both plausible rules are here
//! ([`Current`]), because the product must survive both.
//!
//! Owns: versions, order, pages of listings. Pure: no clock (moments are handed in), no I/O, no locks.
//! Promise: at most one version without an id per key; ids unique per key. Checked by the tables below.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::blob::Blob;
use super::failure::Failure;
use crate::object::VersionId;

pub mod page;
mod past;

/// `GET ?versioning`. A bucket can never go back to `Never`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Versioning {
    #[default]
    Never,
    Enabled,
    Suspended,
}

/// Which version a plain GET sees when replicas are among them. Undocumented by COS, so a switch of the admin API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Current {
    /// Latest moment of commit, wherever it was committed.
    #[default]
    NewestVersion,
    /// Whatever reached this bucket last.
    LastArrival,
}

/// The stored part of an object.
#[derive(Clone, Debug)]
pub struct Content {
    pub blob: Blob,
    /// Without quotes.
    pub etag: String,
    pub crc64: u64,
    /// Headers stored with the object, lower-case names: `content-type`, `x-cos-meta-*`, `x-cos-storage-class` ...
    pub headers: BTreeMap<String, String>,
}

/// What the emulator keeps among an object's headers and never sends: no header can have such a name.
pub const TAGS: &str = ":tags";
pub const ACL: &str = ":acl";
/// A restore from the archive (`api/archive`).
pub const RESTORE: &str = ":restore";

impl Content {
    /// Written by Append: takes no part in versions, copies or lifecycle.
    pub fn is_appendable(&self) -> bool {
        self.headers.get("x-cos-object-type").is_some_and(|kind| kind == "appendable")
    }

    pub fn class(&self) -> &str {
        self.headers.get("x-cos-storage-class").map_or("STANDARD", String::as_str)
    }
}

/// One version of one key, or a delete marker.
#[derive(Clone, Debug)]
pub struct Version {
    /// `None` is the version called `null`.
    pub id: Option<u64>,
    /// Moment of commit on the bucket that took the request; microseconds since 1970.
    pub micros: u64,
    /// Position in the order in which versions reached this bucket.
    pub arrival: u64,
    pub replica: bool,
    /// `None` is a delete marker.
    pub content: Option<Arc<Content>>,
}

impl Version {
    pub fn is_marker(&self) -> bool {
        self.content.is_none()
    }

    /// As spelled in headers and listings.
    pub fn id_text(&self) -> String {
        self.id.map_or_else(|| "null".into(), |micros| VersionId::from_micros(micros).0)
    }
}

/// What a DELETE did.
#[derive(Debug, Default)]
pub struct Deleted {
    /// The marker that was written.
    pub marker: Option<Arc<Version>>,
    /// The version that is gone for good.
    pub removed: Option<Arc<Version>>,
}

/// The versions of one bucket.
#[derive(Debug, Default)]
pub struct Shelf {
    versioning: Versioning,
    order: Current,
    /// Per key in order of age: the current version last. No key without a version.
    keys: BTreeMap<String, Vec<Arc<Version>>>,
    arrivals: u64,
}

impl Shelf {
    pub fn versioning(&self) -> Versioning {
        self.versioning
    }

    pub fn set_versioning(&mut self, versioning: Versioning) {
        self.versioning = versioning;
    }

    /// Changes the rule for every key at once.
    pub fn set_order(&mut self, order: Current) {
        self.order = order;
        for versions in self.keys.values_mut() {
            versions.sort_by_key(|v| age(order, v));
        }
    }

    /// A write by a client. Returns the new version and what it displaced for good.
    pub fn put(&mut self, key: &str, micros: u64, content: Content) -> (Arc<Version>, Option<Arc<Version>>) {
        self.write(key, micros, Some(Arc::new(content)))
    }

    /// A write that takes no part in versioning: always the version called `null`. Also returns what it displaced.
    pub fn put_null(&mut self, key: &str, micros: u64, content: Content) -> (Arc<Version>, Option<Arc<Version>>) {
        self.write_as(key, None, micros, Some(Arc::new(content)))
    }

    fn write(&mut self, key: &str, micros: u64, content: Option<Arc<Content>>) -> (Arc<Version>, Option<Arc<Version>>) {
        let id = (self.versioning == Versioning::Enabled).then_some(micros);
        self.write_as(key, id, micros, content)
    }

    fn write_as(
        &mut self,
        key: &str,
        id: Option<u64>,
        micros: u64,
        content: Option<Arc<Content>>,
    ) -> (Arc<Version>, Option<Arc<Version>>) {
        let removed = if id.is_none() { self.remove(key, None) } else { None };
        self.arrivals += 1;
        let version = Arc::new(Version { id, micros, arrival: self.arrivals, replica: false, content });
        self.insert(key, Arc::clone(&version));
        (version, removed)
    }

    /// DELETE without a version id.
    pub fn delete(&mut self, key: &str, micros: u64) -> Deleted {
        match self.versioning {
            Versioning::Never => Deleted { marker: None, removed: self.remove(key, None) },
            Versioning::Enabled | Versioning::Suspended => {
                let (marker, removed) = self.write(key, micros, None);
                Deleted { marker: Some(marker), removed }
            }
        }
    }

    /// DELETE of one version, for good. An id that does not exist is no error.
    pub fn delete_version(&mut self, key: &str, id: &str) -> Result<Deleted, Failure> {
        if self.versioning == Versioning::Never {
            return Err(Failure::new(400, "BucketVersionNotOpen", "The bucket versioning is not enabled."));
        }
        let removed = parse_id(id).and_then(|id| self.remove(key, id));
        Ok(Deleted { marker: None, removed })
    }

    /// A replica from the other region: keeps id, moment and headers. `None` when it is here already.
    pub fn adopt(&mut self, key: &str, original: &Version) -> Option<Arc<Version>> {
        if original.id.is_none() || self.find(key, original.id).is_some() {
            return None;
        }
        self.arrivals += 1;
        let version = Arc::new(Version { arrival: self.arrivals, replica: true, ..original.clone() });
        self.insert(key, Arc::clone(&version));
        Some(version)
    }

    /// A version found on disk at the start, as it was.
    pub fn restore(&mut self, key: &str, version: Version) {
        self.arrivals = self.arrivals.max(version.arrival);
        self.remove(key, version.id);
        self.insert(key, Arc::new(version));
    }

    fn insert(&mut self, key: &str, version: Arc<Version>) {
        let order = self.order;
        match self.keys.get_mut(key) {
            Some(versions) => {
                let at = versions.partition_point(|v| age(order, v) < age(order, &version));
                versions.insert(at, version);
            }
            None => {
                self.keys.insert(key.to_owned(), vec![version]);
            }
        }
    }

    /// Takes a version away by its id (`None`: the one called `null`).
    pub fn remove(&mut self, key: &str, id: Option<u64>) -> Option<Arc<Version>> {
        let versions = self.keys.get_mut(key)?;
        let at = versions.iter().rposition(|v| v.id == id)?;
        let removed = versions.remove(at);
        if versions.is_empty() {
            self.keys.remove(key);
        }
        Some(removed)
    }

    /// The same version with other content: tags, access, a restore. No write, so its place and its moment stay.
    pub fn amend(&mut self, key: &str, id: Option<u64>, content: Content) -> Option<Arc<Version>> {
        let slot = self.keys.get_mut(key)?.iter_mut().rev().find(|v| v.id == id)?;
        *slot = Arc::new(Version { content: Some(Arc::new(content)), ..(**slot).clone() });
        Some(Arc::clone(slot))
    }

    pub fn find(&self, key: &str, id: Option<u64>) -> Option<&Arc<Version>> {
        self.keys.get(key)?.iter().rev().find(|v| v.id == id)
    }

    pub fn holds(&self, key: &str, id: Option<u64>) -> bool {
        self.find(key, id).is_some()
    }

    /// The current version, marker or not.
    pub fn current(&self, key: &str) -> Option<&Arc<Version>> {
        self.keys.get(key)?.last()
    }

    /// What a GET or HEAD sees: the version and its content.
    pub fn get(&self, key: &str, id: Option<&str>) -> Result<(Arc<Version>, Arc<Content>), Failure> {
        let marker = |version: &Version| {
            Failure::no_such_key().with("x-cos-delete-marker", "true").with("x-cos-version-id", version.id_text())
        };
        let version = match id {
            None => self.current(key).ok_or_else(Failure::no_such_key)?,
            Some(id) => {
                let id = parse_id(id).ok_or_else(Failure::no_such_version)?;
                self.find(key, id).ok_or_else(Failure::no_such_version)?
            }
        };
        let content = version.content.as_ref().ok_or_else(|| marker(version))?;
        Ok((Arc::clone(version), Arc::clone(content)))
    }

    /// How a version is named in answers; `None` on a bucket that never had versioning.
    pub fn shown_id(&self, version: &Version) -> Option<String> {
        (self.versioning != Versioning::Never).then(|| version.id_text())
    }

    pub fn keys(&self) -> impl Iterator<Item = (&String, &Arc<Version>)> {
        self.keys.iter().filter_map(|(key, versions)| Some((key, versions.last()?)))
    }

    /// Every key with its versions, oldest first.
    pub fn by_key(&self) -> impl Iterator<Item = (&String, &Vec<Arc<Version>>)> {
        self.keys.iter()
    }

    pub fn all(&self) -> impl Iterator<Item = (&String, &Arc<Version>)> {
        self.keys.iter().flat_map(|(key, versions)| versions.iter().map(move |v| (key, v)))
    }

    /// Keys from `start` on, each with its versions, oldest first.
    fn from<'a>(&'a self, start: Bound<&str>) -> impl Iterator<Item = (&'a String, &'a Vec<Arc<Version>>)> + use<'a> {
        self.keys.range::<str, _>((start, Bound::Unbounded))
    }
}

/// Sort key: the current version of a key has the greatest.
fn age(order: Current, version: &Version) -> (u64, u64) {
    match order {
        Current::NewestVersion => (version.micros, version.arrival),
        Current::LastArrival => (version.arrival, version.micros),
    }
}

/// `Some(None)` for `null`, `None` for what cannot be an id of ours.
pub fn parse_id(text: &str) -> Option<Option<u64>> {
    if text == "null" {
        return Some(None);
    }
    VersionId(text.to_owned()).commit_micros().map(Some)
}

#[cfg(test)]
mod tests;
