//! Asynchronous replication between the two buckets, one queue a direction.
//!
//! A version enters the queue when it is committed and a rule of its bucket covers it; it leaves `lag` later, as the same
//! version with the same id, moment and headers. Replicas never enter a queue. Deletes by version id never do. The order
//! of entry is kept unless `reorder`; a stalled direction keeps its backlog; a version that was deleted for good before it was carried
//! over is gone.
//!
//! Owns: the queues and their settings. Owns not: which versions are covered (`world`), how a replica is shelved (`site`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::site::Version;

/// One direction's settings, as reported by the admin API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Settings {
    pub lag_ms: u64,
    pub stalled: bool,
    pub reorder: bool,
    pub lose_delete_markers: bool,
}

/// A change of [`Settings`]: what is left out stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub lag_ms: Option<u64>,
    pub stalled: Option<bool>,
    pub reorder: Option<bool>,
    pub lose_delete_markers: Option<bool>,
}

/// A version on its way.
#[derive(Clone, Debug)]
pub struct Job {
    pub key: String,
    pub version: Arc<Version>,
    pub queued: Instant,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    queue: VecDeque<Job>,
    dice: StdRng,
}

/// One direction.
#[derive(Debug)]
pub struct Direction {
    inner: Mutex<Inner>,
}

impl Direction {
    pub fn new(lag: Duration, seed: u64) -> Direction {
        let settings = Settings { lag_ms: lag.as_millis() as u64, ..Settings::default() };
        Direction { inner: Mutex::new(Inner { settings, queue: VecDeque::new(), dice: StdRng::seed_from_u64(seed) }) }
    }

    pub fn settings(&self) -> Settings {
        self.inner.lock().settings
    }

    pub fn pending(&self) -> usize {
        self.inner.lock().queue.len()
    }

    /// The same without what lies below a folder.
    pub fn pending_outside(&self, folder: &str) -> usize {
        self.inner.lock().queue.iter().filter(|job| !job.key.starts_with(folder)).count()
    }

    pub fn change(&self, change: Change) {
        let settings = &mut self.inner.lock().settings;
        settings.lag_ms = change.lag_ms.unwrap_or(settings.lag_ms);
        settings.stalled = change.stalled.unwrap_or(settings.stalled);
        settings.reorder = change.reorder.unwrap_or(settings.reorder);
        settings.lose_delete_markers = change.lose_delete_markers.unwrap_or(settings.lose_delete_markers);
    }

    /// The clock by which the queue was filled is behind by this much.
    pub fn moved(&self, by: Duration) {
        self.inner.lock().queue.iter_mut().for_each(|job| job.queued += by);
    }

    pub fn push(&self, key: &str, version: Arc<Version>) {
        let job = Job { key: key.to_owned(), version, queued: Instant::now() };
        self.inner.lock().queue.push_back(job);
    }

    /// Takes jobs away for which no rule stands any more. Returns them.
    pub fn retain(&self, covered: impl Fn(&str) -> bool) -> Vec<Job> {
        let queue = &mut self.inner.lock().queue;
        let (keep, dropped): (VecDeque<Job>, VecDeque<Job>) = queue.drain(..).partition(|job| covered(&job.key));
        *queue = keep;
        dropped.into()
    }

    /// The next version that is due, or when one will be (`None`: not before something changes).
    pub fn pop(&self, now: Instant) -> Result<Job, Option<Instant>> {
        let inner = &mut *self.inner.lock();
        if inner.settings.stalled {
            return Err(None);
        }
        let lag = Duration::from_millis(inner.settings.lag_ms);
        let Some(first) = inner.queue.front() else { return Err(None) };
        let due = first.queued + lag;
        if due > now {
            return Err(Some(due));
        }
        let index = if inner.settings.reorder {
            let ripe = inner.queue.partition_point(|job| job.queued + lag <= now);
            inner.dice.random_range(0..ripe.max(1))
        } else {
            0
        };
        inner.queue.remove(index).ok_or(None)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod stories;

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(n: u64) -> Arc<Version> {
        Arc::new(Version { id: Some(n), micros: n, arrival: n, replica: false, content: None })
    }

    fn drain(direction: &Direction, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| direction.pop(now).ok()).map(|job| job.version.micros).collect()
    }

    #[test]
    fn lag_stall_and_order() {
        let direction = Direction::new(Duration::from_millis(500), 1);
        let start = Instant::now();
        (0..40).for_each(|n| direction.push("k", marker(n)));
        assert!(drain(&direction, start + Duration::from_millis(100)).is_empty(), "not before the lag");
        let later = Instant::now() + Duration::from_secs(1);
        direction.change(Change { stalled: Some(true), ..Change::default() });
        assert!(drain(&direction, later).is_empty(), "stalled");
        assert_eq!(direction.pending(), 40, "the backlog stays");
        direction.change(Change { stalled: Some(false), ..Change::default() });
        assert_eq!(drain(&direction, later), (0..40).collect::<Vec<_>>(), "in order");
        direction.change(Change { reorder: Some(true), lag_ms: Some(0), ..Change::default() });
        (0..40).for_each(|n| direction.push("k", marker(n)));
        let mut mixed = drain(&direction, later);
        assert_ne!(mixed, (0..40).collect::<Vec<_>>(), "out of order");
        mixed.sort();
        assert_eq!(mixed, (0..40).collect::<Vec<_>>(), "but all of them");
    }

    #[test]
    fn a_rule_that_is_gone_takes_its_jobs_along() {
        let direction = Direction::new(Duration::ZERO, 1);
        direction.push("a/1", marker(1));
        direction.push("b/1", marker(2));
        assert_eq!(direction.retain(|key| key.starts_with("b/")).len(), 1);
        assert_eq!(drain(&direction, Instant::now() + Duration::from_secs(1)), [2]);
    }
}
