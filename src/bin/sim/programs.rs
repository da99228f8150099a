//! The programs on the mount: each does one thing after the other and notes what it saw.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::object::{Headers, Key, Object};
use cosfs_ha::store::{Ack, Depth, Error, HaStore, Result, Staging, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::history::{History, content, value_of};
use super::linear::Act;
use super::regions::Regions;

/// How long a call may take: the mount's `max_stall`.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Keys that only this mount writes.
pub const OWN: [&str; 8] = ["d/k0", "d/k1", "d/k2", "d/k3", "d/k4", "d/k5", "d/k6", "d/k7"];
/// Keys that other programs write as well.
pub const SHARED: [&str; 2] = ["s/x", "s/y"];
/// Objects that are in bucket A only, from before the replication rule; nobody writes them.
pub const ONLY_A: [&str; 2] = ["d/old0", "d/old1"];
/// What every key holds at the beginning that holds anything.
pub const FIRST: u64 = 1;

/// Half of the keys exist at the beginning.
pub fn initial(key: &str) -> Option<u64> {
    let own = OWN.iter().position(|k| *k == key).is_some_and(|i| i % 2 == 0);
    (own || ONLY_A.contains(&key)).then_some(FIRST)
}

#[derive(Clone)]
pub struct Stage {
    pub regions: Arc<Regions>,
    pub history: Arc<History>,
    /// The last version number given out.
    pub values: Arc<AtomicU64>,
    pub incarnation: u32,
}

impl Stage {
    fn fresh(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn begin(&self, key: &str, act: Act) -> usize {
        self.history.begin(key, self.regions.now(), act)
    }

    fn ended<T>(&self, op: usize, result: &Result<T>) {
        let now = self.regions.now();
        match result {
            Ok(_) => self.history.end(op, now),
            Err(Error::Gone(_)) => self.history.overtaken(op, now),
            Err(error) => self.history.failed(op, now, error.to_string()),
        }
    }

    pub async fn write(&self, store: &HaStore, key: &str, len: usize, ack: Ack) {
        let value = self.fresh();
        let op = self.begin(key, Act::Write(Some(value)));
        let bytes = content(value, len);
        let result = put(store, key, &bytes, ack).await;
        self.ended(op, &result);
    }

    pub async fn delete(&self, store: &HaStore, key: &str) {
        let op = self.begin(key, Act::Write(None));
        let result = store.delete(&named(key), Instant::now() + PATIENCE).await;
        self.ended(op, &result);
    }

    /// Opens and reads the whole file.
    pub async fn read(&self, store: &HaStore, key: &str) {
        let op = self.begin(key, Act::Read(None));
        let result = self.look(store, key).await;
        let now = self.regions.now();
        match result {
            Ok(seen) => self.history.saw(op, now, Act::Read(seen)),
            Err(error) => self.history.failed(op, now, error.to_string()),
        }
    }

    async fn look(&self, store: &HaStore, key: &str) -> Result<Option<u64>> {
        let until = Instant::now() + PATIENCE;
        let name = named(key);
        let mut looks = 0;
        let bytes = loop {
            let Some(object) = store.head(&name, until).await? else { return Ok(None) };
            let reader = store.open(&name, &object);
            looks += 1;
            match store.read(&reader, 0, u32::try_from(object.token.size).unwrap_or(u32::MAX), until).await {
                // Overwritten between look and open: ESTALE, after which the kernel looks again.
                Err(Error::Gone(_)) if looks < 3 => {}
                done => break done?,
            }
        };
        match value_of(key, &bytes) {
            Ok(value) => Ok(Some(value)),
            Err(wrong) => {
                self.history.wrong.lock().push(wrong);
                Ok(None)
            }
        }
    }

    /// Opens a file, lets some time pass and reads then: what was there when it was opened.
    pub async fn read_late(&self, store: &HaStore, key: &str, pause: Duration) {
        let op = self.begin(key, Act::Read(None));
        let name = named(key);
        let found = store.head(&name, Instant::now() + PATIENCE).await;
        let opened = self.regions.now();
        let object = match found {
            Ok(Some(object)) => object,
            Ok(None) => return self.history.saw(op, opened, Act::Read(None)),
            Err(error) => return self.history.failed(op, opened, error.to_string()),
        };
        let reader = store.open(&name, &object);
        tokio::time::sleep(pause).await;
        let size = u32::try_from(object.token.size).unwrap_or(u32::MAX);
        let until = Instant::now() + PATIENCE;
        // Why it cannot be had any more is told by the reads that follow their look at once.
        if let Ok(bytes) = store.read(&reader, 0, size, until).await {
            match value_of(key, &bytes) {
                Ok(value) => self.history.saw(op, opened, Act::Read(Some(value))),
                Err(wrong) => self.history.wrong.lock().push(wrong),
            }
        }
    }

    /// Asks for names that do not exist.
    pub async fn storm(self, store: HaStore, until: Duration) {
        let mut number = 0;
        while self.regions.now() < until {
            number += 1;
            let name = format!("none/{number}");
            match store.head(&named(&name), Instant::now() + PATIENCE).await {
                Ok(None) => {}
                other => self.history.wrong.lock().push(format!("{name}: {other:?}")),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lists the folder: each key is there or not.
    pub async fn list(&self, store: &HaStore) {
        let ops: Vec<(&str, usize)> =
            OWN.iter().chain(&ONLY_A).map(|key| (*key, self.begin(key, Act::Listed(false)))).collect();
        let result = store.list("d/", Depth::Children, Instant::now() + PATIENCE).await;
        let now = self.regions.now();
        for (key, op) in ops {
            match &result {
                Ok(listing) => {
                    let there = listing.entries.iter().any(|e| e.key.as_str() == key);
                    self.history.saw(op, now, Act::Listed(there));
                }
                Err(error) => self.history.failed(op, now, error.to_string()),
            }
        }
    }

    /// What is under a key now, and which write it is: read first, so that the checker knows what is moved or copied.
    async fn grasp(&self, store: &HaStore, key: &str) -> Option<(Object, u64)> {
        let until = Instant::now() + PATIENCE;
        let name = named(key);
        let object = store.head(&name, until).await.ok()??;
        let reader = store.open(&name, &object);
        let size = u32::try_from(object.token.size).unwrap_or(u32::MAX);
        let bytes = store.read(&reader, 0, size, until).await.ok()?;
        Some((object, value_of(key, &bytes).ok()?))
    }

    /// Moves a file if it is there. Two calls to the checker: the target is written, the source removed.
    pub async fn rename(&self, store: &HaStore, from: &str, to: &str) {
        let Some((object, value)) = self.grasp(store, from).await else { return };
        let written = self.begin(to, Act::Write(Some(value)));
        let removed = self.begin(from, Act::Write(None));
        let until = Instant::now() + PATIENCE;
        let result = store.rename(&named(from), &object, &named(to), Headers::default(), until).await;
        self.ended(written, &result);
        self.ended(removed, &result);
    }

    /// Replaces the headers of a file and keeps its content: a copy inside the service.
    pub async fn touch(&self, store: &HaStore, key: &str) {
        let Some((object, value)) = self.grasp(store, key).await else { return };
        let op = self.begin(key, Act::Write(Some(value)));
        let result = store.set_headers(&named(key), &object, Headers::default(), Instant::now() + PATIENCE).await;
        self.ended(op, &result);
    }
}

async fn put(store: &HaStore, key: &str, bytes: &Bytes, ack: Ack) -> Result<()> {
    let staging = store.staging()?;
    store.reserve(&staging, bytes.len() as u64)?;
    staging.file().write_all_at(bytes, 0).map_err(|e| cosfs_ha::store::Error::Disk(e.to_string()))?;
    let until = Instant::now() + PATIENCE;
    store.put(&named(key), Some(Arc::new(staging)), Headers::default(), ack, until).await.map(drop)
}

pub fn named(key: &str) -> Key {
    match Key::new(key) {
        Ok(key) => key,
        Err(error) => unreachable!("a key of the simulation: {error}"),
    }
}

/// Works until it is aborted.
pub async fn work(stage: Stage, store: HaStore, seed: u64, pace: Duration, shared: bool, until: Duration) {
    let mut dice = StdRng::seed_from_u64(seed);
    while stage.regions.now() < until {
        let pause = pace.mul_f64(-(1.0 - dice.random::<f64>()).ln());
        tokio::time::sleep(pause).await;
        // A third of all is for two of the keys.
        let index =
            if dice.random_range(0..3) == 0 { dice.random_range(0..2) } else { dice.random_range(0..OWN.len()) };
        let key = OWN[index];
        let len = dice.random_range(20..2000);
        if shared && dice.random_range(0..3) == 0 {
            match dice.random_range(0..2) {
                0 => stage.read(&store, SHARED[index % 2]).await,
                _ => stage.write(&store, SHARED[index % 2], len, Ack::Close).await,
            }
            continue;
        }
        match dice.random_range(0..100) {
            0..38 => stage.read(&store, key).await,
            38..72 => {
                let ack = if dice.random_range(0..4) == 0 { Ack::Fsync } else { Ack::Close };
                stage.write(&store, key, len, ack).await;
            }
            72..80 => stage.delete(&store, key).await,
            80..86 => stage.list(&store).await,
            86..90 => stage.rename(&store, key, OWN[(index + 3) % OWN.len()]).await,
            90..93 => stage.touch(&store, key).await,
            93..96 => stage.read(&store, ONLY_A[index % 2]).await,
            _ => stage.read_late(&store, key, pause).await,
        }
    }
}
