//! The external origin: a store outside of both regions that holds what was written lately.
//!
//! When both buckets are gone, what was written in the last hours is what people miss most. So each write is also copied to a third place, in the
//! background and within a bandwidth, kept for the hot window and then removed. It lies there under its plain key, as any tool would put it,
//! so that a redirect rule of bucket B, or a person, finds it.
//!
//! A plain server has no versions. What proves that its bytes are those of a version: either this mount put them there itself (the [`index`] says
//! under which ETag, and the answer has that ETag), or the whole content has the checksum of the version.
//!
//! Owns: the places ([`place`]), the redirects of buckets to them ([`follow`]), the index of what this mount keeps there, pace and backlog. Owns not: when it is asked (`store/elsewhere`), what is
//! copied when (`store/backup`).

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config;
use crate::cos::redirect::Redirect;
use crate::object::{Key, Object, Token};
use follow::Follow;
use index::Index;
pub use index::Kept;
use place::{Found, Place};

mod follow;
mod index;
mod place;

/// Largest content that is fetched as a whole only to prove it by its checksum.
const WHOLE_MAX: u64 = 64 << 20;

/// Pieces of a content on their way to the origin.
pub type Pieces = BoxStream<'static, Result<Bytes, String>>;

/// Why the origin was of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("the origin has no such object")]
    Missing,
    #[error("nothing proves that the origin has this version")]
    Unproven,
    #[error("the origin cannot name this key")]
    Unnameable,
    #[error("the origin: {0}")]
    Failed(String),
}

/// Counters; they only grow.
#[derive(Default, Debug)]
pub struct Counters {
    pub copied: AtomicU64,
    pub copied_bytes: AtomicU64,
    pub removed: AtomicU64,
    /// Left out because too much was waiting.
    pub dropped: AtomicU64,
    pub failed: AtomicU64,
}

/// What waits for its copy.
#[derive(Default, Debug)]
struct Backlog {
    queue: VecDeque<(Key, Object)>,
    bytes: u64,
}

/// One external origin.
#[derive(Debug)]
pub struct Origin {
    place: Place,
    follow: Follow,
    index: Index,
    writes: bool,
    pub hot_window: Duration,
    backlog_max: u64,
    backlog: Mutex<Backlog>,
    pub pace: Pace,
    trouble: Mutex<Option<String>>,
    pub counters: Counters,
}

impl Origin {
    /// `None` if none is configured. Nothing is contacted yet.
    pub fn open(config: &config::Origin, dir: &Path) -> Result<Option<Origin>, String> {
        let Some(url) = &config.url else { return Ok(None) };
        let refuse = |why: String| format!("[origin] {why}");
        Ok(Some(Origin {
            place: Place::new(url, config).map_err(refuse)?,
            follow: Follow::new(config).map_err(refuse)?,
            index: Index::open(&dir.join("origin.redb")).map_err(refuse)?,
            writes: config.write,
            hot_window: config.hot_window,
            backlog_max: config.backlog.0,
            backlog: Mutex::default(),
            pace: Pace::new(config.bandwidth.0),
            trouble: Mutex::default(),
            counters: Counters::default(),
        }))
    }

    pub fn takes_writes(&self) -> bool {
        self.writes
    }

    /// Notes that a write is to be copied. A newer one of the same key takes the place of an older; the oldest ones fall out of a full backlog.
    pub fn note(&self, key: &Key, object: &Object) {
        if !self.writes || key.is_dir_marker() {
            return;
        }
        let mut backlog = self.backlog.lock();
        if let Some(at) = backlog.queue.iter().position(|(waiting, _)| waiting == key)
            && let Some((_, old)) = backlog.queue.remove(at)
        {
            backlog.bytes -= old.token.size;
        }
        backlog.bytes += object.token.size;
        backlog.queue.push_back((key.clone(), object.clone()));
        while backlog.bytes > self.backlog_max || backlog.queue.len() > BACKLOG_OBJECTS {
            let Some((key, old)) = backlog.queue.pop_front() else { return };
            backlog.bytes -= old.token.size;
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            log::warn!("{key}: not copied to the origin, too much is waiting");
        }
    }

    /// The oldest write that waits.
    pub fn next(&self) -> Option<(Key, Object)> {
        let mut backlog = self.backlog.lock();
        let next = backlog.queue.pop_front()?;
        backlog.bytes -= next.1.token.size;
        Some(next)
    }

    /// Number and bytes of what waits.
    pub fn waiting(&self) -> (u64, u64) {
        let backlog = self.backlog.lock();
        (backlog.queue.len() as u64, backlog.bytes)
    }

    /// Number and bytes of what this mount keeps there.
    pub fn kept(&self) -> (u64, u64) {
        self.index.totals()
    }

    pub fn knows(&self, key: &Key, token: &Token) -> bool {
        self.index.get(key).is_some_and(|kept| kept.done && kept.token.same(token))
    }

    /// Puts a content there. The index knows of it before it is there, so that nothing stays for ever after a crash.
    pub async fn put(&self, key: &Key, object: &Object, pieces: Pieces) -> Result<(), Error> {
        let token = &object.token;
        let mut kept = Kept { token: token.clone(), etag: None, micros: now_micros(), done: false };
        self.index.set(key, &kept);
        let content_type = object.headers.content_type.as_deref();
        let result = self.place.put(key, token.size, content_type, pieces).await;
        match &result {
            Ok(etag) => {
                kept.etag.clone_from(etag);
                kept.done = true;
                self.index.set(key, &kept);
                self.counters.copied.fetch_add(1, Ordering::Relaxed);
                self.counters.copied_bytes.fetch_add(token.size, Ordering::Relaxed);
                *self.trouble.lock() = None;
            }
            Err(error) => self.failed(error),
        }
        result.map(drop)
    }

    /// A range of one version, proven to be of it. With `way`, from where a bucket redirects to.
    pub async fn get(
        &self,
        key: &Key,
        token: &Token,
        range: &Range<u64>,
        way: Option<&Redirect>,
    ) -> Result<Bytes, Error> {
        if token.size == 0 {
            return Err(Error::Unproven);
        }
        let kept = self.index.get(key).filter(|kept| kept.done && kept.token.same(token));
        if let Some(etag) = kept.and_then(|kept| kept.etag) {
            let found = self.fetch(key, range, way).await?;
            return match found.etag.as_ref() == Some(&etag) && found.total == token.size {
                true if found.bytes.len() as u64 == range.end - range.start => Ok(found.bytes),
                true => Err(Error::Failed("fewer bytes than asked for".into())),
                false => Err(Error::Unproven),
            };
        }
        let Some(sum) = token.crc64.filter(|_| token.size <= WHOLE_MAX) else { return Err(Error::Unproven) };
        let found = self.fetch(key, &(0..token.size), way).await?;
        let same = found.total == token.size
            && found.bytes.len() as u64 == token.size
            && crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &found.bytes) == sum;
        if !same {
            return Err(Error::Unproven);
        }
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(found.bytes.len());
        Ok(found.bytes.slice(at(range.start)..at(range.end)))
    }

    async fn fetch(&self, key: &Key, range: &Range<u64>, way: Option<&Redirect>) -> Result<Found, Error> {
        match way {
            None => self.place.get(key, range.clone()).await,
            Some(redirect) => self.follow.get(redirect, range).await,
        }
    }

    /// Removes what this mount put there under a key.
    pub async fn remove(&self, key: &Key) -> Result<(), Error> {
        match self.place.delete(key).await {
            Ok(()) | Err(Error::Missing | Error::Unnameable) => {}
            Err(error) => {
                self.failed(&error);
                return Err(error);
            }
        }
        self.index.remove(key);
        self.counters.removed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What has been there longer than the hot window, oldest first, a few at a time.
    pub fn cooled(&self) -> Vec<(Key, Kept)> {
        let window = u64::try_from(self.hot_window.as_micros()).unwrap_or(u64::MAX);
        self.index.older_than(now_micros().saturating_sub(window))
    }

    /// Whether there is anything of this mount under the key.
    pub fn holds(&self, key: &Key) -> bool {
        self.index.get(key).is_some()
    }

    fn failed(&self, error: &Error) {
        if let Error::Failed(why) = error {
            *self.trouble.lock() = Some(format!("the external origin does not work: {why}"));
        }
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Why the last copy or removal did not work.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

/// Does once what a mount does with an origin: a small file there and back, or, where it only reads, a question.
pub async fn check(config: &config::Origin, key: &Key) -> Result<(), String> {
    let Some(url) = &config.url else { return Err("none is configured".into()) };
    Follow::new(config)?;
    let place = Place::new(url, config)?;
    let content = Bytes::from_static(b"cosfs-ha doctor was here\n");
    let range = 0..content.len() as u64;
    if !config.write {
        return match place.get(key, range).await {
            Ok(_) | Err(Error::Missing) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
    }
    let pieces = futures::stream::iter([Ok(content.clone())]);
    let there = place.put(key, range.end, None, Box::pin(pieces)).await;
    let back = match there {
        Ok(_) => place.get(key, range).await.map(|found| found.bytes),
        Err(error) => Err(error),
    };
    let removed = place.delete(key).await;
    match back {
        Ok(bytes) if bytes != content => Err("it gives back something else than it was given".into()),
        Ok(_) => removed.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Objects in the backlog; at about 500 bytes each, 50 MB.
const BACKLOG_OBJECTS: usize = 100_000;

fn now_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Lets so many bytes a second pass. Everybody who waits draws from the same allowance.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    /// When all bytes given so far are paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// What may go out at once after a rest: long enough that a busy host loses nothing, a thirtieth of half a minute.
    const BURST: Duration = Duration::from_secs(1);

    fn new(rate: u64) -> Pace {
        Pace { rate, paid: Mutex::new(None) }
    }

    /// Largest piece that should be asked for at once.
    pub fn piece(&self) -> usize {
        usize::try_from(self.rate / 8).unwrap_or(usize::MAX).clamp(4 << 10, 1 << 20)
    }

    /// Returns when so many bytes may go.
    pub async fn take(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let at = {
            let mut paid = self.paid.lock();
            let now = Instant::now();
            // A rest is not saved up: the burst below is all that goes out at once.
            let from = paid.unwrap_or(now).max(now);
            *paid = Some(from + cost);
            from + cost
        };
        tokio::time::sleep_until(at.checked_sub(Self::BURST).unwrap_or(at)).await;
    }
}

#[cfg(test)]
mod tests;
