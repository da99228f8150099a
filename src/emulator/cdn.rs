//! A content delivery network in front of one bucket: fast, and wrong in all the ways that caches are.
//!
//! It answers GET and HEAD by URL: a copy lives for its time to live whatever happens to the object meanwhile, an absence lives for ten
//! seconds, and `x-cos-request-id` in an answer is that of the request that filled the cache. What is not there is pulled over the network from
//! the main origin (a region, on its own port, so the faults of the region count) and, where that answers 4XX or 5XX or nothing, from a standby.
//!
//! Sources: docs/cos-protocol.md, "CDN". Decided here: a copy is always of the whole object; what is larger than [`ENTRY_BYTES_MAX`] is
//! passed through and not kept; when main and standby both fail, the standby's answer is given.
//!
//! Owns: settings, pulling, answers. Owns not: what is kept and how long (`cdn/cache`), signed URLs (`cos::url_auth`), faults (`door`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::api::object::{check_conditions, parse_range};
use super::blob::Blob;
use super::clock::{http_date, parse_http_date, wall_micros};
use super::door::{Outcome, Room, Visit};
use super::failure::Failure;
use super::http::call::Call;
use super::http::send::Reply;
use super::origin::plain_refusal;
use super::site::{Content, Version};
use crate::cos::url_auth::{Admitted, UrlAuth};

mod cache;
mod pull;

pub use cache::EntryState;
use cache::{Cache, ENTRY_BYTES_MAX, Entry};
pub use pull::Roads;
use pull::{Pulled, Puller};

/// What can be set, with the defaults that the CDN documents. `PUT /v1/cdn` replaces all of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub domain: String,
    /// Signed URLs; none: everybody may read.
    pub auth: Option<UrlAuth>,
    /// `?versionId=1` and `?versionId=2` are two entries.
    pub query_in_key: bool,
    pub ttl_s: u64,
    pub not_found_ttl_s: u64,
    /// `Cache-Control` of the origin counts before `ttl_s`.
    pub honour_cache_control: bool,
    /// `a`, `b`, `origin` or `host:port`.
    pub main: String,
    pub standby: Option<String>,
    /// Requests to a bucket as main origin are signed by the CDN's own account.
    pub private_access: bool,
    /// 301 and 302 of the origin are followed, three at most.
    pub follow_redirect: bool,
    /// An expired copy is better than an error.
    pub offline_cache: bool,
    pub connect_timeout_ms: u64,
    pub load_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            domain: super::CDN_DOMAIN.into(),
            auth: None,
            query_in_key: true,
            ttl_s: 30 * 24 * 3600,
            not_found_ttl_s: 10,
            honour_cache_control: true,
            main: "a".into(),
            standby: None,
            private_access: true,
            follow_redirect: false,
            offline_cache: false,
            connect_timeout_ms: 5000,
            load_timeout_ms: 10_000,
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counters {
    pub hits: u64,
    /// Of the hits, those of an absence.
    pub not_found_hits: u64,
    pub misses: u64,
    /// Answered with an expired copy because no origin answered.
    pub offline_hits: u64,
    /// Not signed, or not well.
    pub refused: u64,
    pub main_pulls: u64,
    pub standby_pulls: u64,
    /// Neither origin gave an answer.
    pub failed_pulls: u64,
    pub purged: u64,
}

/// `POST /v1/cdn/purge`; both empty: everything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Purge {
    /// Each one entry, with its query where the query is in the key.
    pub urls: Vec<String>,
    /// Folders.
    pub paths: Vec<String>,
}

/// The CDN in `GET /v1/state`.
#[derive(Clone, Debug, Serialize)]
pub struct CdnState {
    pub settings: Settings,
    pub counters: Counters,
    pub objects: Vec<EntryState>,
}

#[derive(Debug)]
struct Edge {
    roads: Roads,
    puller: RwLock<Arc<Puller>>,
    cache: Mutex<Cache>,
    counters: Mutex<Counters>,
}

#[derive(Debug)]
pub struct Cdn {
    edge: Arc<Edge>,
}

impl Cdn {
    pub fn new(roads: Roads) -> Result<Cdn, String> {
        let puller = Arc::new(Puller::new(Settings::default())?);
        let edge = Edge { roads, puller: RwLock::new(puller), cache: Mutex::default(), counters: Mutex::default() };
        Ok(Cdn { edge: Arc::new(edge) })
    }

    pub fn settings(&self) -> Settings {
        self.edge.puller.read().settings.clone()
    }

    /// What is cached stays.
    pub fn set(&self, settings: Settings) -> Result<(), String> {
        for origin in [Some(&settings.main), settings.standby.as_ref()].into_iter().flatten() {
            self.edge.roads.find(origin)?;
        }
        *self.edge.puller.write() = Arc::new(Puller::new(settings)?);
        Ok(())
    }

    pub fn counters(&self) -> Counters {
        *self.edge.counters.lock()
    }

    /// How many entries are gone.
    pub fn purge(&self, purge: &Purge) -> u64 {
        let purged = self.edge.cache.lock().purge(&purge.urls, &purge.paths);
        self.edge.counters.lock().purged += purged;
        purged
    }

    pub fn state(&self, objects: bool) -> CdnState {
        let list = if objects { self.edge.cache.lock().list(Instant::now()) } else { Vec::new() };
        CdnState { settings: self.settings(), counters: self.counters(), objects: list }
    }

    async fn carry_out(&self, visit: &mut Visit<'_>) -> Outcome {
        let call = match Call::plain(visit.parts) {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        if let Some(early) = visit.begin(&call.subject()).await? {
            return Ok(early);
        }
        if !matches!(call.method.as_str(), "GET" | "HEAD") {
            return Ok(Err(Failure::new(405, "MethodNotAllowed", "The CDN reads only.")));
        }
        let uri = &visit.parts.uri;
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or("").to_owned());
        let edge = Arc::clone(&self.edge);
        visit.finish(async move { edge.answer(&call, path, query).await }).await
    }
}

impl Room for Cdn {
    fn answer<'a>(&'a self, visit: &'a mut Visit<'_>) -> BoxFuture<'a, Outcome> {
        self.carry_out(visit).boxed()
    }

    fn refusal(&self, failure: &Failure, _resource: &str, _request_id: &str) -> Reply {
        plain_refusal(failure, "cdn")
    }
}

impl Edge {
    async fn answer(&self, call: &Call, path: String, query: String) -> Result<Reply, Failure> {
        let puller = Arc::clone(&self.puller.read());
        let settings = &puller.settings;
        let admitted = match &settings.auth {
            None => Admitted { path, origin_query: query.clone(), query },
            Some(auth) => auth.verify(&path, &query, wall_micros() / 1_000_000).map_err(|refused| {
                self.counters.lock().refused += 1;
                Failure::new(403, "AccessDenied", refused.to_string())
            })?,
        };
        let key = match admitted.query.as_str() {
            query if settings.query_in_key && !query.is_empty() => format!("{}?{query}", admitted.path),
            _ => admitted.path.clone(),
        };
        let kept = self.cache.lock().get(&key);
        if let Some(entry) = kept.clone().filter(|entry| Instant::now() < entry.expires) {
            let mut counters = self.counters.lock();
            counters.hits += 1;
            counters.not_found_hits += u64::from(entry.status == 404);
            drop(counters);
            return show(&entry, call, "Cache Hit");
        }
        self.counters.lock().misses += 1;
        let pulled = self.pull(&puller, call, &admitted).await;
        let failed = pulled.as_ref().map_or(true, |pulled| pulled.status >= 500);
        if let Some(entry) = kept.filter(|entry| failed && settings.offline_cache && entry.status == 200) {
            self.counters.lock().offline_hits += 1;
            return show(&entry, call, "Cache Hit");
        }
        let pulled = pulled?;
        if call.method == "HEAD" && pulled.status != 404 {
            let reply = headers(Reply::new(pulled.status), &pulled.headers, "Cache Miss");
            return Ok(reply.length(pulled.len.unwrap_or(0)));
        }
        let ttl = match pulled.status {
            200 => settings.lifetime(&pulled.headers),
            404 => Some(Duration::from_secs(settings.not_found_ttl_s)),
            _ => None,
        };
        let small = pulled.len.is_some_and(|len| len <= ENTRY_BYTES_MAX);
        match ttl {
            Some(ttl) if small && (call.method == "GET" || pulled.status == 404) => {
                let body =
                    if call.method == "GET" { pulled.response.bytes().await.map_err(broken)? } else { Bytes::new() };
                let now = Instant::now();
                let entry =
                    Entry { status: pulled.status, headers: pulled.headers, body, stored: now, expires: now + ttl };
                let entry = Arc::new(entry);
                self.cache.lock().insert(key, Arc::clone(&entry));
                show(&entry, call, "Cache Miss")
            }
            _ => Ok(self.pass(&puller, call, &admitted, pulled).await),
        }
    }

    /// Hands an answer on that is not kept.
    async fn pass(&self, puller: &Puller, call: &Call, admitted: &Admitted, mut pulled: Pulled) -> Reply {
        // The pull asked for the whole object to keep it; the client asked for less of something too large to keep.
        if pulled.status == 200
            && let Some(range) = call.header("range")
            && let Ok(part) = puller.pull(&self.roads, &pulled.origin, call, admitted, Some(range)).await
        {
            pulled = part;
        }
        let reply = headers(Reply::new(pulled.status), &pulled.headers, "Cache Miss");
        match pulled.len {
            Some(len) => {
                let chunks = pulled.response.bytes_stream().map(|chunk| chunk.map_err(std::io::Error::other));
                reply.stream(len, chunks.boxed())
            }
            None => reply.blob(Blob::memory(pulled.response.bytes().await.into_iter().collect())),
        }
    }

    /// From the main origin, or from the standby where that did not answer well. The 4XX rule makes no difference between "is not
    /// there" and "may not": both go to the standby.
    async fn pull(&self, puller: &Puller, call: &Call, admitted: &Admitted) -> Result<Pulled, Failure> {
        let settings = &puller.settings;
        self.counters.lock().main_pulls += 1;
        let first = puller.pull(&self.roads, &settings.main, call, admitted, None).await;
        if first.as_ref().is_ok_and(|pulled| pulled.status < 400) {
            return first;
        }
        let outcome = match &settings.standby {
            None => first,
            Some(standby) => {
                self.counters.lock().standby_pulls += 1;
                puller.pull(&self.roads, standby, call, admitted, None).await.or(first)
            }
        };
        if outcome.is_err() {
            self.counters.lock().failed_pulls += 1;
        }
        outcome
    }
}

fn broken(error: reqwest::Error) -> Failure {
    Failure::new(502, "BadGateway", format!("the origin's answer broke off: {}", error.without_url()))
}

impl Settings {
    /// How long an answer may be kept; `None`: not at all.
    fn lifetime(&self, headers: &[(String, String)]) -> Option<Duration> {
        let own = Some(Duration::from_secs(self.ttl_s)).filter(|ttl| !ttl.is_zero());
        let control = headers.iter().find(|(name, _)| name == "cache-control").map(|(_, value)| value.to_lowercase());
        let Some(control) = control.filter(|_| self.honour_cache_control) else { return own };
        let directives = || control.split(',').map(str::trim);
        if directives().any(|d| matches!(d, "no-store" | "no-cache" | "private")) {
            return None;
        }
        match directives().find_map(|d| d.strip_prefix("max-age=")?.parse().ok()) {
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => own,
        }
    }
}

fn headers(mut reply: Reply, list: &[(String, String)], lookup: &str) -> Reply {
    for (name, value) in list {
        reply = reply.with(name.as_str(), value.as_str());
    }
    reply.outside_cos().with("server", "cdn").with("x-cache-lookup", lookup)
}

/// An entry as this client wants it: conditions, then range.
fn show(entry: &Entry, call: &Call, lookup: &str) -> Result<Reply, Failure> {
    if entry.status != 200 {
        let body = Blob::memory(vec![entry.body.clone()]);
        return Ok(headers(Reply::new(entry.status), &entry.headers, lookup).blob(body));
    }
    let text = |name: &str| entry.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    let micros = parse_http_date(text("last-modified")).unwrap_or(0);
    let etag = text("etag").trim_matches('"').to_owned();
    let version = Version { id: None, micros, arrival: 0, replica: false, content: None };
    let content = Content { blob: Blob::default(), etag, crc64: 0, headers: Default::default() };
    check_conditions(|name| call.header(name), &version, &content)
        .map_err(|failure| failure.with("etag", text("etag")).with("x-cache-lookup", lookup))?;
    let size = entry.body.len() as u64;
    let age = entry.stored.elapsed().as_secs();
    let range = call.header("range").filter(|_| call.method == "GET").and_then(|text| parse_range(text, size));
    let (status, body, extent) = match range {
        None => (200, entry.body.clone(), None),
        Some(Some((first, last))) => {
            let part = entry.body.slice(first as usize..=last as usize);
            (206, part, Some(format!("bytes {first}-{last}/{size}")))
        }
        Some(None) => {
            return Err(Failure::new(416, "InvalidRange", "The range is outside of the object.")
                .with("content-range", format!("bytes */{size}")));
        }
    };
    let reply = headers(Reply::new(status), &entry.headers, lookup).with("age", age.to_string());
    Ok(reply.with_some("content-range", extent).blob(Blob::memory(vec![body])))
}

/// For entries of `GET /v1/state`.
fn moment(stored: Instant) -> String {
    http_date(wall_micros().saturating_sub(stored.elapsed().as_micros() as u64))
}
