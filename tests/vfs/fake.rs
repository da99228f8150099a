//! A bucket in memory that keeps the door's promises, counts requests, and can be slow, broken or written to by strangers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::journal::Move;
use cosfs_ha::object::{ETag, Headers, Key, Object, Token, VersionId};
use cosfs_ha::store::{Ack, Below, Depth, Entry, Error, Listing, Patch, Result, Staging, Store};
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Default)]
pub struct Fake {
    inner: Mutex<Inner>,
    pub heads: AtomicU64,
    pub lists: AtomicU64,
    pub belows: AtomicU64,
    pub puts: AtomicU64,
    pub patches: AtomicU64,
    pub deletes: AtomicU64,
    /// Scratch files that exist now.
    pub scratch: Arc<AtomicU64>,
    /// Writes stand still just before they get their scratch file, and how many do.
    pub hold_staging: AtomicBool,
    pub held: AtomicU64,
    /// Renames stand still after the bucket has made them and before they answer, and how many do.
    pub hold_renames: AtomicBool,
    pub renamed: AtomicU64,
    /// Moves of directories that an earlier process has begun.
    pub moves: Mutex<Vec<Move>>,
    /// Keys that this mount has written or removed since such a move began.
    pub written: Mutex<std::collections::HashSet<String>>,
    /// Questions get no answer at all, and everybody knows.
    pub silent: AtomicBool,
}

#[derive(Default)]
struct Inner {
    keys: BTreeMap<String, Arc<Stored>>,
    versions: u64,
    /// Time that every answer takes.
    delay: Duration,
    /// Nobody answers.
    down: bool,
    /// Only writes are refused.
    writes_down: bool,
    /// Give headers in listings, as a store with a warm index does.
    knows_headers: bool,
    /// Answers of listings wait here until released.
    hold_lists: bool,
}

struct Stored {
    object: Object,
    data: Bytes,
}

pub struct Reader(Arc<Stored>);

pub struct Scratch {
    file: std::fs::File,
    alive: Arc<AtomicU64>,
}

impl Staging for Scratch {
    fn file(&self) -> &std::fs::File {
        &self.file
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::default()
    }

    pub fn set_delay(&self, delay: Duration) {
        self.inner.lock().delay = delay;
    }

    pub fn set_down(&self, down: bool) {
        self.inner.lock().down = down;
    }

    pub fn set_writes_down(&self, down: bool) {
        self.inner.lock().writes_down = down;
    }

    pub fn set_knows_headers(&self, knows: bool) {
        self.inner.lock().knows_headers = knows;
    }

    pub fn set_hold_lists(&self, hold: bool) {
        self.inner.lock().hold_lists = hold;
    }

    /// Requests that answer a question about names.
    pub fn questions(&self) -> u64 {
        self.heads.load(Ordering::SeqCst) + self.lists.load(Ordering::SeqCst) + self.belows.load(Ordering::SeqCst)
    }

    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    /// Somebody else writes.
    pub fn foreign_put(&self, key: &str, data: &[u8], user: &[(&str, &str)]) {
        let headers = Headers {
            content_type: None,
            user: user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            ..Headers::default()
        };
        self.inner.lock().put(key, Bytes::copy_from_slice(data), headers);
    }

    pub fn foreign_delete(&self, key: &str) {
        self.inner.lock().keys.remove(key);
    }

    pub fn keys(&self) -> Vec<String> {
        self.inner.lock().keys.keys().cloned().collect()
    }

    pub fn data(&self, key: &str) -> Option<Bytes> {
        self.inner.lock().keys.get(key).map(|stored| stored.data.clone())
    }

    pub fn headers(&self, key: &str) -> Option<Headers> {
        self.inner.lock().keys.get(key).map(|stored| stored.object.headers.clone())
    }

    async fn answer(&self, write: bool, until: Instant) -> Result<()> {
        let (delay, dead) = {
            let inner = self.inner.lock();
            (inner.delay, inner.down || (write && inner.writes_down))
        };
        while self.silent.load(Ordering::SeqCst) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if Instant::now() >= until {
            return Err(Error::Unavailable("no answer in time".into()));
        }
        if !delay.is_zero() {
            tokio::time::timeout_at(until, tokio::time::sleep(delay))
                .await
                .map_err(|_| Error::Unavailable("too slow".into()))?;
        }
        if dead { Err(Error::Unavailable("nobody answers".into())) } else { Ok(()) }
    }
}

impl Inner {
    fn put(&mut self, key: &str, data: Bytes, headers: Headers) -> Object {
        self.versions += 1;
        let micros = 1_700_000_000_000_000 + self.versions;
        let object = Object {
            token: Token {
                version: Some(VersionId::from_micros(micros)),
                etag: ETag(format!("e{}", self.versions)),
                size: data.len() as u64,
                crc64: None,
                modified_micros: micros,
                stamp: None,
            },
            headers,
        };
        self.keys.insert(key.to_string(), Arc::new(Stored { object: object.clone(), data }));
        object
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = (&String, &Arc<Stored>)> {
        let prefix = prefix.to_string();
        self.keys.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix))
    }
}

impl Store for Fake {
    type Reader = Reader;
    type Staging = Scratch;

    async fn head(&self, key: &Key, until: Instant) -> Result<Option<Object>> {
        self.heads.fetch_add(1, Ordering::SeqCst);
        let found = self.inner.lock().keys.get(key.as_str()).map(|stored| stored.object.clone());
        self.answer(false, until).await?;
        Ok(found)
    }

    async fn list(&self, prefix: &str, depth: Depth, until: Instant) -> Result<Listing> {
        let listing = {
            let inner = self.inner.lock();
            let mut listing = Listing::default();
            for (key, stored) in inner.under(prefix) {
                match key[prefix.len()..].find('/') {
                    Some(at) if depth == Depth::Children => {
                        let folded = &key[..prefix.len() + at + 1];
                        if listing.prefixes.last().is_none_or(|last| last != folded) {
                            listing.prefixes.push(folded.to_string());
                        }
                    }
                    _ => listing.entries.push(Entry {
                        key: Key::new(key.as_str()).expect("stored keys are valid"),
                        size: stored.object.token.size,
                        modified_micros: stored.object.token.modified_micros,
                        known: inner.knows_headers.then(|| Arc::new(stored.object.clone())),
                    }),
                }
            }
            listing
        };
        let pages = (listing.entries.len() + listing.prefixes.len()).div_ceil(1000).max(1);
        self.lists.fetch_add(pages as u64, Ordering::SeqCst);
        while self.inner.lock().hold_lists {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.answer(false, until).await?;
        Ok(listing)
    }

    async fn has_children(&self, prefix: &str, until: Instant) -> Result<bool> {
        Ok(self.below(prefix, until).await?.children)
    }

    async fn below(&self, prefix: &str, until: Instant) -> Result<Below> {
        self.belows.fetch_add(1, Ordering::SeqCst);
        let below = {
            let inner = self.inner.lock();
            let children = inner.under(prefix).any(|(key, _)| key != prefix);
            Below { marker: inner.keys.contains_key(prefix), children }
        };
        self.answer(false, until).await?;
        Ok(below)
    }

    fn open(&self, key: &Key, object: &Object) -> Reader {
        let inner = self.inner.lock();
        let stored = inner.keys.get(key.as_str()).filter(|stored| stored.object.token.same(&object.token));
        let gone = || Stored { object: object.clone(), data: Bytes::new() };
        Reader(stored.cloned().unwrap_or_else(|| Arc::new(gone())))
    }

    async fn read(&self, reader: &Reader, offset: u64, len: u32, until: Instant) -> Result<Bytes> {
        self.answer(false, until).await?;
        let data = &reader.0.data;
        if (data.len() as u64) < reader.0.object.token.size {
            return Err(Error::Gone("that version".into()));
        }
        let start = (offset as usize).min(data.len());
        Ok(data.slice(start..(start + len as usize).min(data.len())))
    }

    fn staging(&self) -> Result<Scratch> {
        self.held.fetch_add(1, Ordering::SeqCst);
        while self.hold_staging.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.held.fetch_sub(1, Ordering::SeqCst);
        let file = tempfile::tempfile().map_err(|e| Error::Disk(e.to_string()))?;
        self.scratch.fetch_add(1, Ordering::SeqCst);
        Ok(Scratch { file, alive: self.scratch.clone() })
    }

    fn reserve(&self, _staging: &Scratch, _bytes: u64) -> Result<()> {
        Ok(())
    }

    async fn put(
        &self,
        key: &Key,
        data: Option<Arc<Scratch>>,
        headers: Headers,
        _ack: Ack,
        until: Instant,
    ) -> Result<Object> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let read = || -> std::io::Result<Bytes> {
            use std::os::unix::fs::FileExt;
            let Some(staging) = &data else { return Ok(Bytes::new()) };
            let mut bytes = vec![0; staging.file.metadata()?.len() as usize];
            staging.file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes.into())
        };
        let before = read().map_err(|e| Error::Disk(e.to_string()))?;
        self.answer(true, until).await?;
        let after = read().map_err(|e| Error::Disk(e.to_string()))?;
        assert_eq!(before, after, "what was handed over must not change under the upload");
        Ok(self.inner.lock().put(key.as_str(), after, headers))
    }

    async fn patch(
        &self,
        key: &Key,
        patch: Patch<Fake>,
        headers: Headers,
        _ack: Ack,
        until: Instant,
    ) -> Result<Object> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.patches.fetch_add(1, Ordering::SeqCst);
        let base = &patch.base.0;
        if (base.data.len() as u64) < base.object.token.size {
            return Err(Error::Gone("that version".into()));
        }
        let merge = || -> std::io::Result<Bytes> {
            use std::os::unix::fs::FileExt;
            let shown = base.data.len().min(patch.shown as usize);
            let mut bytes = base.data[..shown].to_vec();
            bytes.resize(patch.size as usize, 0);
            for range in &patch.ranges {
                let staging = patch.staging.as_ref().expect("ranges have a file");
                staging.file.read_exact_at(&mut bytes[range.start as usize..range.end as usize], range.start)?;
            }
            Ok(bytes.into())
        };
        let before = merge().map_err(|e| Error::Disk(e.to_string()))?;
        self.answer(true, until).await?;
        let after = merge().map_err(|e| Error::Disk(e.to_string()))?;
        assert_eq!(before, after, "what was handed over must not change under the upload");
        Ok(self.inner.lock().put(key.as_str(), after, headers))
    }

    async fn set_headers(&self, key: &Key, _object: &Object, headers: Headers, until: Instant) -> Result<Object> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.answer(true, until).await?;
        let mut inner = self.inner.lock();
        let stored = inner.keys.get(key.as_str()).cloned().ok_or(Error::Gone(key.to_string()))?;
        Ok(inner.put(key.as_str(), stored.data.clone(), headers))
    }

    async fn rename(&self, from: &Key, _object: &Object, to: &Key, headers: Headers, until: Instant) -> Result<Object> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.answer(true, until).await?;
        let moved = {
            let mut inner = self.inner.lock();
            let stored = inner.keys.remove(from.as_str()).ok_or(Error::Gone(from.to_string()))?;
            inner.put(to.as_str(), stored.data.clone(), headers)
        };
        self.renamed.fetch_add(1, Ordering::SeqCst);
        while self.hold_renames.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.renamed.fetch_sub(1, Ordering::SeqCst);
        Ok(moved)
    }

    fn is_dark(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    async fn blackout(&self, until: Instant) {
        while !self.is_dark() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if Instant::now() >= until {
                std::future::pending::<()>().await;
            }
        }
    }

    fn written_since(&self, key: &Key, _seq: u64) -> bool {
        self.written.lock().contains(key.as_str())
    }

    fn begun_moves(&self) -> Vec<(u64, Move)> {
        (0..).zip(self.moves.lock().iter().cloned()).collect()
    }

    fn end_move(&self, _number: u64) -> Result<()> {
        self.moves.lock().clear();
        Ok(())
    }

    async fn delete(&self, key: &Key, until: Instant) -> Result<()> {
        self.deletes.fetch_add(1, Ordering::SeqCst);
        self.answer(true, until).await?;
        self.inner.lock().keys.remove(key.as_str());
        Ok(())
    }

    async fn sync(&self, until: Instant) -> Result<()> {
        self.answer(true, until).await
    }
}
