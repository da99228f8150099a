//! What the CDN keeps: answers by URL, bounded in bytes, the least recently used ones leave first.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lru::LruCache;
use serde::Serialize;

/// Larger bodies are passed through.
pub const ENTRY_BYTES_MAX: u64 = 64 << 20;
/// Of all bodies together: a rehearsal has small data, and this is a memory cache.
const CACHE_BYTES_MAX: u64 = 256 << 20;
/// What an entry without a body takes, roughly; it bounds the number of cached absences.
const ENTRY_BYTES: u64 = 512;

#[derive(Debug)]
pub struct Entry {
    pub status: u16,
    /// As the origin gave them, end to end.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub stored: Instant,
    pub expires: Instant,
}

impl Entry {
    fn weight(&self) -> u64 {
        self.body.len() as u64 + ENTRY_BYTES
    }
}

/// One entry in `GET /v1/state`.
#[derive(Clone, Debug, Serialize)]
pub struct EntryState {
    pub url: String,
    pub status: u16,
    pub size: u64,
    pub etag: String,
    pub stored: String,
    /// Seconds left; 0: expired.
    pub ttl_s: u64,
}

#[derive(Debug)]
pub struct Cache {
    entries: LruCache<String, Arc<Entry>>,
    bytes: u64,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache { entries: LruCache::unbounded(), bytes: 0 }
    }
}

impl Cache {
    /// Fresh or expired.
    pub fn get(&mut self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key).cloned()
    }

    pub fn insert(&mut self, key: String, entry: Arc<Entry>) {
        self.bytes += entry.weight();
        if let Some(old) = self.entries.put(key, entry) {
            self.bytes -= old.weight();
        }
        while self.bytes > CACHE_BYTES_MAX {
            let Some((_, old)) = self.entries.pop_lru() else { break };
            self.bytes -= old.weight();
        }
    }

    /// Without anything named: everything. URLs may carry scheme and domain.
    pub fn purge(&mut self, urls: &[String], paths: &[String]) -> u64 {
        let all = urls.is_empty() && paths.is_empty();
        let urls: Vec<&str> = urls.iter().map(|url| local(url)).collect();
        let paths: Vec<&str> = paths.iter().map(|path| local(path)).collect();
        let hit = |key: &str| all || urls.contains(&key) || paths.iter().any(|path| key.starts_with(path));
        let keys: Vec<String> = self.entries.iter().map(|(key, _)| key).filter(|key| hit(key)).cloned().collect();
        for key in &keys {
            if let Some(old) = self.entries.pop(key) {
                self.bytes -= old.weight();
            }
        }
        keys.len() as u64
    }

    pub fn list(&self, now: Instant) -> Vec<EntryState> {
        let state = |(key, entry): (&String, &Arc<Entry>)| EntryState {
            url: key.clone(),
            status: entry.status,
            size: entry.body.len() as u64,
            etag: entry.headers.iter().find(|(n, _)| n == "etag").map_or_else(String::new, |(_, v)| v.clone()),
            stored: super::moment(entry.stored),
            ttl_s: entry.expires.saturating_duration_since(now).as_secs(),
        };
        let mut list: Vec<_> = self.entries.iter().map(state).collect();
        list.sort_by(|a, b| a.url.cmp(&b.url));
        list
    }
}

/// `https://domain/path` as `/path`.
fn local(url: &str) -> &str {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(size: usize) -> Arc<Entry> {
        let now = Instant::now();
        Arc::new(Entry { status: 200, headers: Vec::new(), body: vec![0; size].into(), stored: now, expires: now })
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_leave() {
        let mut cache = Cache::default();
        let size = 60 << 20;
        for name in ["/1", "/2", "/3", "/4"] {
            cache.insert(name.into(), entry(size));
        }
        assert!(cache.get("/1").is_some(), "used now");
        cache.insert("/5".into(), entry(size));
        let names: Vec<String> = cache.list(Instant::now()).into_iter().map(|e| e.url).collect();
        assert_eq!(names, ["/1", "/3", "/4", "/5"]);
        assert!(cache.bytes <= CACHE_BYTES_MAX);
    }

    #[test]
    fn purge_table() {
        let fill = || {
            let mut cache = Cache::default();
            ["/a", "/a?v=1", "/dir/b", "/dir/c"].iter().for_each(|key| cache.insert((*key).into(), entry(1)));
            cache
        };
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        type Row = (&'static [&'static str], &'static [&'static str], u64);
        let rows: &[Row] = &[
            (&["/a"], &[], 1),
            (&["http://files.example.com/a?v=1"], &[], 1),
            (&[], &["/dir/"], 2),
            (&["/a"], &["https://files.example.com/dir/"], 3),
            (&["/nothing"], &[], 0),
            (&[], &[], 4),
        ];
        for (urls, paths, gone) in rows {
            let mut cache = fill();
            assert_eq!(cache.purge(&own(urls), &own(paths)), *gone, "{urls:?} {paths:?}");
            assert_eq!(cache.list(Instant::now()).len() as u64, 4 - gone);
        }
        let mut cache = fill();
        cache.purge(&[], &[]);
        assert_eq!(cache.bytes, 0);
    }
}
