//! The store over two buckets: its parts, and the door's methods handed to the module that does each.
//!
//! Owns: the wiring and the facts known of a key. Owns not: any decision about a master (`failover`), any retry outside
//! `ask`, any rule about freshness (`freshness`).

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::ask::on_disk;
use super::budget::Budget;
use super::canary::Canaries;
use super::conflict::{Conflicts, Searches};
use super::coverage::Coverage;
use super::freshness::Fact;
use super::list::Listings;
use super::look::everything_down;
use super::overtaken::Doubts;
use super::read::{Fetches, Reader};
use super::settle::{Settle, newer_than_acked};
use super::staging::Scratch;
use super::{Ack, Below, Depth, Error, Listing, Patch, Result, Store};
use crate::cache::{Cache, Known};
use crate::cdn::Cdn;
use crate::clock;
use crate::failover::Tuning;
use crate::journal::{Journal, Move, Op, Record, Stage};
use crate::linkage::Linkages;
use crate::mutant::{Mutant, lacks};
use crate::object::{ETag, Epoch, Headers, Key, Object, Site, Stamp, Token};
use crate::origin::Origin;

/// Writes whose tokens are remembered; about 200 bytes each.
const SETTLED_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// When `close` and `fsync` return.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Commit {
    /// When the write is in the local journal.
    Journal,
    /// When the present master has acknowledged it.
    #[default]
    OneRegion,
    /// When both buckets have acknowledged it.
    TwoRegions,
}

/// What a write that no bucket takes in time answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenUnreachable {
    /// Success, with a warning in the log: the journal has it and sends it later.
    #[default]
    Journal,
    /// An error; the journal sends it later all the same.
    Error,
}

/// What a write answers that one bucket has and the other cannot take, in [`Commit::TwoRegions`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecondRegion {
    /// Success, with a warning in the log: the journal brings it there later.
    #[default]
    Degrade,
    /// It waits for the second bucket; at the end of its time [`WhenUnreachable`] decides.
    Block,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub commit: Commit,
    pub when_unreachable: WhenUnreachable,
    /// What a write answers in [`Commit::TwoRegions`] that one bucket has and the other cannot take.
    pub second_region: SecondRegion,
    /// What becomes of a content that somebody else stored meanwhile.
    pub conflicts: Conflicts,
    /// Does the master's "not found" count while the other bucket is down and no audit was ever made?
    pub trust_unaudited: bool,
    /// Pause between two syncs of what programs wrote without asking for one; zero: never.
    pub sync_interval: Duration,
    /// How long a write waits while no bucket takes writes at all, before [`WhenUnreachable`] decides.
    pub max_stall: Duration,
    /// Keys of this mount begin with it: empty, or ending in `/`.
    pub prefix: String,
    /// Memory for bodies on their way, bytes.
    pub memory_bytes: u64,
    /// Pause between two coverage audits.
    pub audit_every: Duration,
    /// Where the result of the audit is kept between two runs.
    pub coverage_file: Option<PathBuf>,
    /// A write that the cloud has not replicated after this long is uploaded to the second bucket by us.
    pub lag_max: Duration,
    /// A further source of contents.
    pub cdn: Option<Arc<Cdn>>,
    /// A further source of contents, and a place for copies of writes.
    pub origin: Option<Arc<Origin>>,
    /// Pause between two rounds of test objects while A catches up; `None`: there are none, because nobody goes back by himself.
    pub canary_every: Option<Duration>,
    /// A bucket that lost an answer may commit that write this long after it is well again.
    pub late_commit: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            commit: Commit::default(),
            when_unreachable: WhenUnreachable::default(),
            second_region: SecondRegion::default(),
            conflicts: Conflicts::default(),
            trust_unaudited: false,
            sync_interval: Duration::from_secs(5),
            max_stall: Duration::from_secs(30),
            prefix: String::new(),
            memory_bytes: 96 << 20,
            audit_every: Duration::from_secs(600),
            coverage_file: None,
            lag_max: Tuning::default().lag_max,
            cdn: None,
            origin: None,
            canary_every: None,
            late_commit: Tuning::default().late_commit,
        }
    }
}

/// The store of one mount. Cheap to clone.
#[derive(Clone)]
pub struct HaStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) links: Linkages,
    pub(super) journal: Arc<Journal>,
    pub(super) cache: Arc<Cache>,
    pub(super) options: Options,
    pub(super) budget: Budget,
    pub(super) coverage: Coverage,
    pub(super) canaries: Canaries,
    pub(super) settle: Settle,
    pub(super) doubts: Doubts,
    pub(super) searches: Searches,
    pub(super) fetches: Mutex<Fetches>,
    pub(super) listings: Mutex<Listings>,
    /// What a bucket made of the latest writes, by sequence number: a file opened before its write had an answer finds its version here.
    pub(super) settled: Mutex<LruCache<u64, Token>>,
    pub(super) tally: super::Tally,
    pub(super) rt: Handle,
}

/// What is still on its way, for `status`, `umount` and the log.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Pending {
    pub key: String,
    pub bytes: u64,
    /// Not yet in the present master.
    pub unsent: bool,
}

impl HaStore {
    /// Starts the store and everything that runs behind it: replay of the journal, verification, coverage audit.
    pub fn start(links: Linkages, journal: Arc<Journal>, cache: Arc<Cache>, options: Options, rt: Handle) -> HaStore {
        let inner = Arc::new(Inner {
            budget: Budget::new(options.memory_bytes),
            coverage: Coverage::new(options.coverage_file.clone()),
            canaries: Canaries::default(),
            settle: Settle::new(),
            doubts: Doubts::default(),
            searches: Searches::new(),
            fetches: Mutex::new(Fetches::default()),
            listings: Mutex::new(Listings::new()),
            settled: Mutex::new(LruCache::new(SETTLED_MAX)),
            tally: super::Tally::default(),
            links,
            journal,
            cache,
            options,
            rt,
        });
        Inner::start_settling(&inner);
        Inner::start_syncing(&inner);
        Inner::start_audits(&inner);
        Inner::start_canaries(&inner);
        HaStore { inner }
    }

    /// Writes that are not yet verified in both buckets, oldest first.
    pub fn pending(&self) -> Vec<Pending> {
        let master = self.inner.links.view().master;
        let mut records = self.inner.journal.all();
        records.sort_by_key(|r| r.seq);
        records
            .iter()
            .map(|r| Pending { key: r.key.to_string(), bytes: size_of(r), unsent: !holds(r, master) })
            .collect()
    }

    /// Waits until the present master holds every acknowledged write; reports the number of writes left now and then. What is left
    /// at the deadline stays in the journal and is returned.
    pub async fn drain(&self, until: Instant, mut progress: impl FnMut(usize)) -> Vec<Pending> {
        loop {
            let unsent: Vec<Pending> = self.pending().into_iter().filter(|p| p.unsent).collect();
            progress(unsent.len());
            if unsent.is_empty() || Instant::now() >= until {
                return unsent;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Age of the oldest write that a site holds and the other does not: `[a to b, b to a]`, seconds.
    pub fn replication_lag(&self) -> [f64; 2] {
        let mut lag = [0.0_f64; 2];
        for record in self.inner.journal.all() {
            for from in Site::ALL {
                if record.acked[from.index()].is_some() && !holds(&record, from.other()) {
                    let age = clock::age(record.created).as_secs_f64();
                    lag[from.index()] = lag[from.index()].max(age);
                }
            }
        }
        lag
    }

    /// Age of the oldest write whose answer was lost.
    pub fn oldest_ambiguous(&self) -> Option<Duration> {
        if self.inner.journal.stats().ambiguous == 0 {
            return None;
        }
        let records = self.inner.journal.all();
        let open = records.iter().filter(|record| record.ambiguous.iter().any(|lost| *lost));
        open.map(|record| clock::age(record.created)).max()
    }

    /// Objects that each bucket lacks, by the last audit.
    pub fn missing(&self) -> [u64; 2] {
        self.inner.coverage.missing()
    }

    pub fn origin(&self) -> Option<&Origin> {
        self.inner.options.origin.as_deref()
    }

    pub fn cdn(&self) -> Option<&Cdn> {
        self.inner.options.cdn.as_deref()
    }

    /// Counters since the start.
    pub fn tally(&self) -> &super::Tally {
        &self.inner.tally
    }

    /// One sentence on how much of each bucket is known to be in the other.
    pub fn coverage(&self) -> String {
        self.inner.coverage.describe()
    }
}

/// Does a bucket hold this write, as far as proven?
pub(super) fn holds(record: &Record, site: Site) -> bool {
    record.acked[site.index()].is_some() || record.verified[site.index()]
}

pub(super) fn size_of(record: &Record) -> u64 {
    match &record.op {
        Op::Put { size, .. } => *size,
        Op::Delete { .. } => 0,
    }
}

pub(super) fn micros_of(time: std::time::SystemTime) -> u64 {
    micros(time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Inner {
    pub(super) fn stamp(&self, record: &Record) -> Stamp {
        Stamp { mount: self.journal.mount_id(), epoch: record.epoch, seq: record.seq }
    }

    /// A stamp that this mount gave.
    pub(super) fn own(&self, stamp: Option<Stamp>) -> Option<Stamp> {
        stamp.filter(|stamp| stamp.mount == self.journal.mount_id())
    }

    /// The object a pending write makes, or `None` for a delete. Before a bucket has answered, the token has no version and is
    /// recognised by its stamp.
    pub(super) fn object_of(&self, record: &Record) -> Option<Object> {
        let Op::Put { size, crc64, headers, .. } = &record.op else { return None };
        let master = self.links.view().master;
        let acked = |site: Site| record.acked[site.index()].as_ref().and_then(|ack| ack.token.clone());
        let token = acked(master).or_else(|| acked(master.other())).unwrap_or_else(|| Token {
            version: None,
            etag: ETag(String::new()),
            size: *size,
            crc64: *crc64,
            modified_micros: micros_of(record.created),
            stamp: Some(self.stamp(record)),
        });
        Some(Object { token, headers: headers.clone() })
    }

    /// The newest this mount knows of a key, from a pending write or else from what it saw last.
    pub(super) fn known(&self, key: &Key) -> Option<Known> {
        let Some(record) = self.journal.latest(key) else { return self.seen(key) };
        if let Some(newer) = self.overwritten_by(&record) {
            return Some(Known::Present(newer));
        }
        if self.is_outlived(&record) {
            return self.seen(key);
        }
        Some(self.known_after(&record))
    }

    /// What there is after this write.
    pub(super) fn known_after(&self, record: &Record) -> Known {
        match self.object_of(record) {
            Some(object) => Known::Present(object),
            None => {
                // The bucket's clock, where it has told.
                let marker = record.acked.iter().flatten().find_map(|ack| ack.marker.clone());
                let deleted = marker.as_ref().and_then(|marker| marker.commit_micros());
                let micros = deleted.unwrap_or_else(|| micros_of(record.created));
                Known::Absent { marker, micros, stamp: Some(self.stamp(record)) }
            }
        }
    }

    /// What the index says of a key is in its database when this returns, if the disk takes it.
    pub(super) async fn flush_index(&self, key: &Key) -> bool {
        if !self.cache.attrs().is_flushed(key) {
            let cache = self.cache.clone();
            let _ = on_disk(move || cache.attrs().flush()).await;
        }
        self.cache.attrs().is_flushed(key)
    }

    /// The newest this mount has shown of a key.
    fn seen(&self, key: &Key) -> Option<Known> {
        if lacks(Mutant::HighWaterMark) { None } else { self.cache.attrs().get(key) }
    }

    /// What somebody else wrote after a bucket had taken this record, if this mount has shown it.
    pub(super) fn overwritten_by(&self, record: &Record) -> Option<Object> {
        let Some(Known::Present(object)) = self.seen(&record.key) else { return None };
        let foreign = self.own(object.token.stamp).is_none();
        (foreign && newer_than_acked(&object.token, record)).then_some(object)
    }

    /// Did a power cut take a later write of this mount out of the journal, which a bucket had acknowledged?
    pub(super) fn is_outlived(&self, record: &Record) -> bool {
        self.own_seq_seen(&record.key) > record.seq
    }

    fn own_seq(&self, known: Option<Known>) -> Option<u64> {
        self.own(known?.stamp()).map(|stamp| stamp.seq)
    }

    /// Sequence number of the newest write of this mount that was seen in a bucket.
    pub(super) fn own_seq_seen(&self, key: &Key) -> u64 {
        self.own_seq(self.seen(key)).unwrap_or(0)
    }

    /// Swaps a token from before its upload for the one the bucket gave, once that is known.
    pub(super) fn resolve(&self, key: &Key, object: &Object) -> Object {
        if object.token.version.is_some() {
            return object.clone();
        }
        match self.known(key) {
            Some(Known::Present(known)) if known.token.same(&object.token) => {
                Object { token: known.token, headers: object.headers.clone() }
            }
            _ => match self.token_of_stamp(object.token.stamp) {
                Some(token) => Object { token, headers: object.headers.clone() },
                None => object.clone(),
            },
        }
    }

    /// The token that a bucket gave to a write of this mount.
    pub(super) fn token_of_stamp(&self, stamp: Option<Stamp>) -> Option<Token> {
        let stamp = self.own(stamp)?;
        let acked = self.journal.get(stamp.seq).map(|record| record.acked.clone()).unwrap_or_default();
        let master = self.links.view().master.index();
        let tokens = [acked[master].clone(), acked[1 - master].clone()];
        let token = tokens.into_iter().flatten().find_map(|ack| ack.token);
        token.or_else(|| self.settled.lock().get(&stamp.seq).cloned())
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.links.view().epoch
    }
}

pub(super) fn fact(known: Option<&Known>) -> Fact<'_> {
    match known {
        None => Fact::Nothing,
        Some(Known::Present(object)) => Fact::Present(&object.token),
        Some(Known::Absent { micros, stamp, .. }) => Fact::Absent { micros: *micros, stamp: *stamp },
    }
}

pub(super) fn now_micros() -> u64 {
    micros_of(clock::wall())
}

impl Store for HaStore {
    type Reader = Reader;
    type Staging = Scratch;

    async fn head(&self, key: &Key, until: Instant) -> Result<Option<Object>> {
        self.inner.head(key, until).await
    }

    async fn list(&self, prefix: &str, depth: Depth, until: Instant) -> Result<Listing> {
        self.inner.list(prefix, depth, until).await
    }

    async fn has_children(&self, prefix: &str, until: Instant) -> Result<bool> {
        self.inner.has_children(prefix, until).await
    }

    async fn below(&self, prefix: &str, until: Instant) -> Result<Below> {
        self.inner.below(prefix, until).await
    }

    fn open(&self, key: &Key, object: &Object) -> Reader {
        self.inner.open(key, object)
    }

    async fn read(&self, reader: &Reader, offset: u64, len: u32, until: Instant) -> Result<Bytes> {
        Inner::read(&self.inner, reader, offset, len, until).await
    }

    fn staging(&self) -> Result<Scratch> {
        Scratch::new(self.inner.journal.clone())
    }

    fn reserve(&self, staging: &Scratch, bytes: u64) -> Result<()> {
        staging.reserve(bytes)
    }

    async fn room(&self, until: Instant) -> bool {
        self.inner.room(until).await
    }

    async fn put(
        &self,
        key: &Key,
        data: Option<Arc<Scratch>>,
        headers: Headers,
        ack: Ack,
        until: Instant,
    ) -> Result<Object> {
        Inner::put(&self.inner, key, data, headers, ack, until).await
    }

    async fn patch(
        &self,
        key: &Key,
        patch: Patch<HaStore>,
        headers: Headers,
        ack: Ack,
        until: Instant,
    ) -> Result<Object> {
        Inner::patch(&self.inner, key, patch, headers, ack, until).await
    }

    async fn set_headers(&self, key: &Key, object: &Object, headers: Headers, until: Instant) -> Result<Object> {
        Inner::copy_to(&self.inner, key, object, key, headers, until).await
    }

    async fn rename(&self, from: &Key, object: &Object, to: &Key, headers: Headers, until: Instant) -> Result<Object> {
        let moved = Inner::copy_to(&self.inner, from, object, to, headers, until).await?;
        Inner::delete(&self.inner, from, until).await?;
        Ok(moved)
    }

    async fn delete(&self, key: &Key, until: Instant) -> Result<()> {
        Inner::delete(&self.inner, key, until).await
    }

    fn is_dark(&self) -> bool {
        everything_down(&self.inner.links.view())
    }

    async fn blackout(&self, until: Instant) {
        self.inner.blackout(until).await;
    }

    fn begin_move(&self, what: &Move) -> Result<u64> {
        let before = Some(self.inner.journal.next_seq());
        Ok(self.inner.journal.moves().note(&Move { before, ..what.clone() })?)
    }

    fn end_move(&self, number: u64) -> Result<()> {
        Ok(self.inner.journal.moves().forget(number)?)
    }

    fn begun_moves(&self) -> Vec<(u64, Move)> {
        self.inner.journal.moves().all()
    }

    fn written_since(&self, key: &Key, seq: u64) -> bool {
        self.inner.own_seq(self.inner.known(key)).is_some_and(|own| own >= seq)
    }

    fn stage(&self, key: &Key) -> Option<Stage> {
        self.inner.journal.latest(key).map(|record| record.stage())
    }

    async fn sync(&self, until: Instant) -> Result<()> {
        Inner::sync(&self.inner, until).await
    }
}

impl From<crate::journal::Error> for Error {
    fn from(error: crate::journal::Error) -> Error {
        match error {
            crate::journal::Error::Full(_) => Error::Full(error.to_string()),
            _ => Error::Disk(error.to_string()),
        }
    }
}
