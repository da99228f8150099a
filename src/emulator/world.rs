//! Both buckets with all that they share: the clock, the replication between them, the disk.
//!
//! Every change of a bucket goes through one method here, which under the bucket's lock applies the rule of `site`, writes the record
//! (with `--data`) and queues the replica. So the order of versions, of records and of replicas is one order.
//!
//! Owns: buckets, uploads under way, configurations. Owns not: HTTP, faults.
//! Locks: a bucket, then a direction, then the ledger; never two buckets at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use md5::{Digest, Md5};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::blob::{Blob, Shelter};
use super::clock::Clock;
use super::failure::Failure;
use super::ledger::{Ledger, Record};
use super::replicator::{Direction, Job};
use super::site::{Content, Current, Deleted, Shelf, Version, Versioning};
use crate::cos::xml::{ReplicationConfiguration, ReplicationRule, Toggle};
use crate::object::Site;

mod keep;
pub mod upload;

/// Replicas carried over under one call, so that a long backlog does not starve the requests.
const REPLICAS_PER_TURN: usize = 256;

/// A rule set with the moment it was made.
#[derive(Clone, Debug)]
pub struct Replication {
    pub config: ReplicationConfiguration,
    pub created: u64,
}

/// What the lock of one bucket guards.
#[derive(Debug, Default)]
pub struct State {
    pub shelf: Shelf,
    /// By key, then upload id.
    pub uploads: BTreeMap<(String, String), upload::Upload>,
    pub replication: Option<Replication>,
    /// As it was put.
    pub lifecycle: Option<String>,
    /// By the name of their parameter, as they were put.
    pub configurations: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Bucket {
    pub site: Site,
    pub name: String,
    pub region: String,
    state: RwLock<State>,
}

impl Bucket {
    pub fn new(site: Site, name: &str, region: &str) -> Bucket {
        Bucket { site, name: name.into(), region: region.into(), state: RwLock::default() }
    }

    /// The same bucket with other content, to be looked at only.
    pub fn with_shelf(&self, shelf: Shelf) -> Bucket {
        let state = RwLock::new(State { shelf, ..State::default() });
        Bucket { site: self.site, name: self.name.clone(), region: self.region.clone(), state }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// For what needs neither a record nor a replica; everything else goes through [`World`].
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// As replication rules name it.
    pub fn resource(&self) -> String {
        format!("qcs::cos:{}::{}", self.region, self.name)
    }
}

/// A committed write.
#[derive(Debug)]
pub struct Written {
    pub version: Arc<Version>,
    /// As shown in answers; `None` on a bucket that never had versioning.
    pub id: Option<String>,
}

#[derive(Debug)]
pub struct World {
    pub clock: Clock,
    pub keys: super::keyring::Keyring,
    buckets: [Bucket; 2],
    directions: [Direction; 2],
    /// The replicator has something new to look at.
    pub wake: Notify,
    ledger: Option<Ledger>,
    shelter: Option<Arc<Shelter>>,
    current: RwLock<Current>,
    /// A fault that stops replication stands at this site.
    isolated: [AtomicBool; 2],
    /// Microseconds by which the calendar is put forward.
    ahead: AtomicU64,
}

impl World {
    pub fn new(names: [(&str, &str); 2], lag: Duration, seed: u64, disk: Option<(Ledger, Arc<Shelter>)>) -> World {
        let (ledger, shelter) = disk.unzip();
        let bucket = |site: Site| {
            let (name, region) = names[site.index()];
            Bucket::new(site, name, region)
        };
        World {
            clock: Clock::default(),
            keys: super::keyring::Keyring::default(),
            buckets: [bucket(Site::A), bucket(Site::B)],
            directions: [Direction::new(lag, seed.wrapping_add(1)), Direction::new(lag, seed.wrapping_add(2))],
            wake: Notify::new(),
            ledger,
            shelter,
            current: RwLock::default(),
            isolated: [AtomicBool::new(false), AtomicBool::new(false)],
            ahead: AtomicU64::new(0),
        }
    }

    pub fn bucket(&self, site: Site) -> &Bucket {
        &self.buckets[site.index()]
    }

    pub fn by_name(&self, name: &str) -> Option<&Bucket> {
        self.buckets.iter().find(|b| b.name == name)
    }

    /// The bucket that has bound a domain of its own.
    pub fn by_domain(&self, host: &str) -> Option<Site> {
        let name = host.split(':').next().filter(|name| !name.is_empty())?;
        let bound = |bucket: &&Bucket| {
            bucket
                .read()
                .configurations
                .get("domain")
                .is_some_and(|text| text.contains(&format!("<Name>{name}</Name>")))
        };
        self.buckets.iter().find(bound).map(|bucket| bucket.site)
    }

    /// The queue of what was committed at this site.
    pub fn direction(&self, from: Site) -> &Direction {
        &self.directions[from.index()]
    }

    pub fn shelter(&self) -> Option<&Arc<Shelter>> {
        self.shelter.as_ref()
    }

    pub fn current(&self) -> Current {
        *self.current.read()
    }

    pub fn set_current(&self, current: Current) {
        *self.current.write() = current;
        self.buckets.iter().for_each(|b| b.state.write().shelf.set_order(current));
    }

    pub fn isolate(&self, site: Site, isolated: bool) {
        self.isolated[site.index()].store(isolated, Ordering::SeqCst);
        self.wake.notify_one();
    }

    pub(super) fn record(&self, record: Record) {
        if let Some(ledger) = &self.ledger {
            ledger.append(&record);
        }
    }

    /// A change did not get to the disk.
    pub fn has_failed(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::has_failed)
    }

    /// After a version was shelved, still under the lock of its bucket.
    fn committed(&self, bucket: &Bucket, state: &State, key: &str, version: &Arc<Version>) {
        let covered = version.id.is_some() && state.covers(key, version);
        if self.ledger.is_some() {
            self.record(Record::put(bucket.site, key, version, covered));
        }
        if covered {
            self.direction(bucket.site).push(key, Arc::clone(version));
            self.wake.notify_one();
        }
    }

    /// Commits a body under a key. `exclusive` is `x-cos-forbid-overwrite`, which counts only where versioning never was on.
    pub fn put(&self, bucket: &Bucket, key: &str, content: Content, exclusive: bool) -> Result<Written, Failure> {
        let mut state = bucket.state.write();
        if exclusive && state.shelf.versioning() == Versioning::Never && state.shelf.current(key).is_some() {
            return Err(Failure::new(409, "FileAlreadyExists", "The object already exists."));
        }
        Ok(self.put_locked(bucket, &mut state, key, content))
    }

    fn put_locked(&self, bucket: &Bucket, state: &mut State, key: &str, content: Content) -> Written {
        // What it displaced lets go of its body on disk only when the record that replaces it is written.
        let (version, _displaced) = state.shelf.put(key, self.clock.next(), content);
        self.committed(bucket, state, key, &version);
        Written { id: state.shelf.shown_id(&version), version }
    }

    pub fn delete(&self, bucket: &Bucket, key: &str) -> Deleted {
        let mut state = bucket.state.write();
        let deleted = state.shelf.delete(key, self.clock.next());
        match (&deleted.marker, &deleted.removed) {
            (Some(marker), _) => self.committed(bucket, &state, key, marker),
            (None, Some(removed)) => {
                self.record(Record::Remove { site: bucket.site, key: key.into(), id: removed.id });
            }
            (None, None) => {}
        }
        deleted
    }

    pub fn delete_version(&self, bucket: &Bucket, key: &str, id: &str) -> Result<Deleted, Failure> {
        let mut state = bucket.state.write();
        let deleted = state.shelf.delete_version(key, id)?;
        if let Some(removed) = &deleted.removed {
            self.record(Record::Remove { site: bucket.site, key: key.into(), id: removed.id });
        }
        Ok(deleted)
    }

    pub fn set_versioning(&self, bucket: &Bucket, to: Versioning) -> Result<(), Failure> {
        let mut state = bucket.state.write();
        if to == Versioning::Suspended && state.replication.is_some() {
            let message = "Versioning cannot be suspended while the bucket has replication rules.";
            return Err(Failure::new(409, "InvalidBucketState", message));
        }
        state.shelf.set_versioning(to);
        self.record(Record::Versioning { site: bucket.site, to });
        Ok(())
    }

    pub fn set_replication(&self, bucket: &Bucket, config: Option<ReplicationConfiguration>) -> Result<(), Failure> {
        if let Some(config) = &config {
            self.check_rules(bucket, config)?;
        }
        let mut state = bucket.state.write();
        if config.is_some() && state.shelf.versioning() != Versioning::Enabled {
            let message = "Replication needs versioning to be enabled on the source bucket.";
            return Err(Failure::new(409, "InvalidBucketState", message));
        }
        let created = self.clock.next();
        let new = config.map(|config| Replication { config, created });
        self.record(Record::Replication { site: bucket.site, config: new.as_ref().map(|r| r.config.clone()), created });
        state.replication = new;
        // Transfers in flight stop with their rule; what was committed meanwhile is never caught up.
        for job in self.direction(bucket.site).retain(|key| state.rule(key).is_some()) {
            self.record(Record::Dropped { site: bucket.site, key: job.key, id: job.version.id });
        }
        Ok(())
    }

    fn check_rules(&self, bucket: &Bucket, config: &ReplicationConfiguration) -> Result<(), Failure> {
        if config.rules.is_empty() || config.rules.len() > 1000 {
            return Err(Failure::new(400, "MalformedXML", "A configuration has 1 to 1000 rules."));
        }
        let target = &config.rules[0].destination.bucket;
        for (index, rule) in config.rules.iter().enumerate() {
            if rule.destination.bucket != *target {
                return Err(Failure::new(400, "MultiBucketNotSupport", "All rules must have the same target."));
            }
            let prefix = rule.prefix.as_deref().unwrap_or("");
            let overlap = |other: &ReplicationRule| {
                let other = other.prefix.as_deref().unwrap_or("");
                prefix.starts_with(other) || other.starts_with(prefix)
            };
            if config.rules[..index].iter().any(overlap) {
                return Err(Failure::argument("The prefixes of replication rules must not overlap."));
            }
        }
        let Some(target) = self.buckets.iter().find(|b| b.resource() == *target && b.site != bucket.site) else {
            return Err(Failure::new(400, "TargetBucketNameInvalid", "The target bucket does not exist."));
        };
        if target.read().shelf.versioning() != Versioning::Enabled {
            let message = "Replication needs versioning to be enabled on the target bucket.";
            return Err(Failure::new(409, "InvalidBucketState", message));
        }
        Ok(())
    }

    pub fn set_lifecycle(&self, bucket: &Bucket, xml: Option<String>) {
        let mut state = bucket.state.write();
        self.record(Record::Lifecycle { site: bucket.site, xml: xml.clone() });
        state.lifecycle = xml;
    }

    /// Carries over what is due from one side. Says when to look again (`None`: when woken).
    pub fn replicate(&self, from: Site, now: Instant) -> Option<Instant> {
        if self.isolated.iter().any(|i| i.load(Ordering::SeqCst)) {
            return None;
        }
        for _ in 0..REPLICAS_PER_TURN {
            match self.direction(from).pop(now) {
                Ok(job) => self.carry(from, job),
                Err(next) => return next,
            }
        }
        Some(now)
    }

    fn carry(&self, from: Site, job: Job) {
        let Job { key, version, .. } = job;
        let id = version.id;
        let dropped = || self.record(Record::Dropped { site: from, key: key.clone(), id });
        let lost = version.is_marker() && self.direction(from).settings().lose_delete_markers;
        let source = self.bucket(from).read();
        // What was deleted for good before it was carried over cannot be read any more.
        let found = source.shelf.find(&key, id).filter(|_| !lost).cloned();
        let class = source.rule(&key).and_then(|rule| rule.destination.storage_class.clone());
        drop(source);
        let Some(version) = found.map(|version| with_class(version, class)) else { return dropped() };
        let target = self.bucket(from.other());
        let mut state = target.state.write();
        // A target without versioning invalidates the rules that point at it.
        if state.shelf.versioning() != Versioning::Enabled {
            return dropped();
        }
        match state.shelf.adopt(&key, &version) {
            Some(replica) if self.ledger.is_some() => self.record(Record::put(target.site, &key, &replica, false)),
            Some(_) => {}
            None => dropped(),
        }
    }

    /// An ETag of the multipart form: not a function of the content, as with COS.
    pub(in crate::emulator) fn arbitrary_hex(&self, salt: &str) -> String {
        let mut hasher = Md5::new();
        hasher.update(salt);
        hasher.update(self.clock.next().to_le_bytes());
        hex(&hasher.finalize())
    }

    /// What a start from disk found, put in place.
    pub(super) fn restore_job(&self, from: Site, key: &str, version: Arc<Version>) {
        self.direction(from).push(key, version);
    }

    /// An orderly end: everything on disk stays.
    pub fn close(&self) {
        if let Some(shelter) = &self.shelter {
            shelter.keep_all(true);
        }
    }
}

impl State {
    /// The enabled rule for a key.
    fn rule(&self, key: &str) -> Option<&ReplicationRule> {
        let rules = &self.replication.as_ref()?.config.rules;
        rules.iter().find(|r| r.status == Toggle::Enabled && key.starts_with(r.prefix.as_deref().unwrap_or("")))
    }

    fn covers(&self, key: &str, version: &Version) -> bool {
        let Some(rule) = self.rule(key) else { return false };
        let markers = rule.delete_marker_replication.as_ref().is_none_or(|d| d.status == Toggle::Enabled);
        markers || !version.is_marker()
    }
}

/// A version in the storage class that a replication rule sets.
fn with_class(version: Arc<Version>, class: Option<String>) -> Arc<Version> {
    let (Some(class), Some(content)) = (class, &version.content) else { return version };
    let mut content: Content = (**content).clone();
    content.headers.remove("x-cos-storage-class");
    content.headers.extend((class != "STANDARD").then(|| ("x-cos-storage-class".to_owned(), class)));
    Arc::new(Version { content: Some(Arc::new(content)), ..(*version).clone() })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A received body with its checksums.
#[derive(Clone, Debug)]
pub struct Received {
    pub blob: Blob,
    pub md5: [u8; 16],
    pub crc64: u64,
}
