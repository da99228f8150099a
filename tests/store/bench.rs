//! Everything a store needs, in one process and one temporary directory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::cache::Cache;
use cosfs_ha::cos::credentials::Fixed;
use cosfs_ha::cos::{Attempt, BucketAddress, Client, ClockOffset, Credentials, Get, Kind as CosKind, Progress};
use cosfs_ha::emulator::{self, Emulator, Fault, Kind};
use cosfs_ha::failover::{Start, State, Tuning};
use cosfs_ha::journal::Journal;
use cosfs_ha::linkage::Linkages;
use cosfs_ha::object::{Headers, Key, Object, Site};
use cosfs_ha::store::{Ack, HaStore, Options, Staging, Store};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long a write with a lost answer is watched here: the emulator commits late only where a test says so, and sooner than this.
pub const LATE_COMMIT: Duration = Duration::from_secs(3);
/// Longest wait of a test for something that must happen. Not a measurement.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Bench {
    pub emulator: Emulator,
    pub store: HaStore,
    pub links: Linkages,
    pub journal: Arc<Journal>,
    _dir: TempDir,
}

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub fn emulator(lag_ms: u64) -> Emulator {
    let options = emulator::Options { lag: Duration::from_millis(lag_ms), ..emulator::Options::default() };
    Emulator::start(options).unwrap()
}

pub fn client(emulator: &Emulator, site: Site) -> Client {
    let (bucket, region) = emulator::BUCKETS[site.index()];
    let address = BucketAddress {
        bucket: bucket.into(),
        region: region.into(),
        endpoint: Some(emulator.endpoint(site)),
        https: false,
    };
    let credentials = Credentials::new(emulator::SECRET_ID.into(), emulator::SECRET_KEY.into(), None).unwrap();
    Client::new(address, Arc::new(Fixed::new(credentials)), Arc::new(ClockOffset::default())).unwrap()
}

impl Bench {
    pub fn new(lag_ms: u64) -> Bench {
        Bench::with(emulator(lag_ms), tempfile::tempdir().unwrap(), Options::default())
    }

    pub fn with(emulator: Emulator, dir: TempDir, options: Options) -> Bench {
        // A second bench finds it done already.
        let _ = env_logger::builder().is_test(true).format_timestamp_millis().try_init();
        let rt = tokio::runtime::Handle::current();
        let (journal, _) = Journal::open(&dir.path().join("journal"), 4 << 30).unwrap();
        let journal = Arc::new(journal);
        let cache = Arc::new(Cache::open(&dir.path().join("cache"), 1 << 30).unwrap());
        let (epoch, master) = journal.epoch();
        let reign = journal.clone();
        let links = Linkages::start(
            [client(&emulator, Site::A), client(&emulator, Site::B)],
            Tuning::default(),
            Start { epoch, master },
            key(".cosfs-ha/sentinel"),
            Box::new(move |epoch, master| reign.set_epoch(epoch, master).map_err(|e| e.to_string())),
            &rt,
        );
        let coverage_file = Some(dir.path().join("coverage.json"));
        let options = Options { coverage_file, late_commit: LATE_COMMIT, ..options };
        let store = HaStore::start(links.clone(), journal.clone(), cache, options, rt);
        Bench { emulator, store, links, journal, _dir: dir }
    }

    pub async fn put(&self, name: &str, content: &[u8]) -> Object {
        self.try_put(name, content, soon()).await.unwrap()
    }

    pub async fn try_put(&self, name: &str, content: &[u8], until: Instant) -> cosfs_ha::store::Result<Object> {
        let staging = self.store.staging().unwrap();
        self.store.reserve(&staging, content.len() as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(staging.file(), content, 0).unwrap();
        self.store.put(&key(name), Some(Arc::new(staging)), Headers::default(), Ack::Close, until).await
    }

    pub async fn get(&self, name: &str) -> Option<Bytes> {
        let object = self.store.head(&key(name), soon()).await.unwrap()?;
        Some(self.read(name, &object).await.unwrap())
    }

    pub async fn read(&self, name: &str, object: &Object) -> cosfs_ha::store::Result<Bytes> {
        let reader = self.store.open(&key(name), object);
        let len = u32::try_from(object.token.size).unwrap();
        self.store.read(&reader, 0, len, soon()).await
    }

    /// What a plain client finds in one bucket.
    pub async fn in_bucket(&self, site: Site, name: &str) -> Option<Bytes> {
        let progress = Progress::new();
        let client = client(&self.emulator, site);
        match client.get(&key(name), &Get::default(), &Attempt::new(&progress)).await {
            Ok(answer) => Some(answer.body.collect().await.unwrap()),
            Err(error) if error.kind == CosKind::NoSuchKey => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn fault(&self, site: Site, kind: Kind) {
        self.emulator.set_faults(site, vec![Fault::new(kind)]).unwrap();
    }

    pub fn heal(&self, site: Site) {
        self.emulator.set_faults(site, Vec::new()).unwrap();
    }

    pub fn stall_replication(&self) {
        self.replication(serde_json::json!({"a_to_b": {"stalled": true}, "b_to_a": {"stalled": true}}));
    }

    pub fn replication(&self, change: serde_json::Value) {
        self.emulator.change_replication(serde_json::from_value(change).unwrap());
    }

    pub async fn wait_state(&self, wanted: &[State]) {
        let end = Instant::now() + Duration::from_secs(60);
        while !wanted.contains(&self.links.view().state) {
            assert!(Instant::now() < end, "still {:?}: {}", self.links.view().state, self.links.view().explain);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the audit has compared the buckets at least once.
    pub async fn wait_audit(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.store.coverage().contains("compared") {
            assert!(Instant::now() < end, "{}", self.store.coverage());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the journal has nothing left.
    pub async fn wait_settled(&self) {
        let end = Instant::now() + Duration::from_secs(90);
        while !self.store.pending().is_empty() {
            assert!(Instant::now() < end, "left: {:?}", self.store.pending());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Requests of one method that a region has seen.
    pub fn requests(&self, site: Site, method: &str) -> usize {
        self.emulator.log(site).iter().filter(|entry| entry.method == method).count()
    }
}
