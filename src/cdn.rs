//! Contents through a CDN domain: fast, outliving both buckets, and never to be believed on its word.
//!
//! An edge may show yesterday's object, or a 404 it learnt before the object existed, and it does so with a perfectly good 200. So it is
//! never asked "what is under this key" but only for the bytes of a version this mount knows already, and the answer counts only if it
//! proves to be that version:
//!
//! * the query names the version (an edge with the query in its cache key then cannot mix them up);
//! * if the answer names a version, it is that one; in any case its ETag and its full length are;
//! * a body that is the whole object has the object's checksum, where that is known.
//!
//! Whatever else comes back (404, 403, another version, silence) is no answer, and the reader goes on to the next source. A CDN that fails is left
//! alone for [`REST`] while the buckets serve.
//!
//! Owns: requests to the domain, the proof, its counters. Owns not: the order of sources (`store/read`), the hash (`cos/url_auth`).
//! Checked by the tests here against a server that lies in every way, and by `tests/mount/cdn`.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::config::{self, AuthDigest, AuthTime, AuthType, CdnAuth};
use crate::cos::ClockOffset;
use crate::cos::sign::{url_encode, url_encode_path};
use crate::cos::url_auth::{Algorithm, TimeFormat, Type, UrlAuth};
use crate::object::{ETag, Key, Token};
use crate::web;

/// Edges are near; one that needs longer is not one.
const CONNECT: Duration = Duration::from_secs(1);
/// An edge that has to fetch the object first gives it up after 10 s itself; nobody waits that long for a mere alternative.
const FIRST_BYTE: Duration = Duration::from_secs(3);
/// Between two pieces of a body.
const PROGRESS: Duration = Duration::from_secs(2);
/// After a failure the buckets are read without it for this long.
const REST: Duration = Duration::from_secs(30);

/// Why the CDN was of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    #[error("the CDN has another version")]
    Stale,
    #[error("the CDN has no such object")]
    Missing,
    #[error("the CDN refuses: status {0}")]
    Refused(u16),
    #[error("the CDN: {0}")]
    Failed(String),
    #[error("nothing could prove which version the CDN has")]
    Unprovable,
}

/// How requests ended.
#[derive(Default, Debug)]
pub struct Counters {
    pub used: AtomicU64,
    pub stale: AtomicU64,
    pub missing: AtomicU64,
    pub refused: AtomicU64,
    pub failed: AtomicU64,
}

impl Counters {
    /// By the names that the metrics use.
    pub fn all(&self) -> [(&'static str, u64); 5] {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        [
            ("used", read(&self.used)),
            ("stale", read(&self.stale)),
            ("missing", read(&self.missing)),
            ("refused", read(&self.refused)),
            ("failed", read(&self.failed)),
        ]
    }
}

/// One domain.
#[derive(Debug)]
pub struct Cdn {
    client: reqwest::Client,
    /// Scheme and domain.
    base: String,
    auth: Option<UrlAuth>,
    /// The provider's: a host whose clock is wrong still signs URLs that are valid.
    clock: Arc<ClockOffset>,
    share: u32,
    /// Counts fetches, to give the CDN its share of them evenly.
    turn: AtomicU64,
    rests_until: Mutex<Option<Instant>>,
    pub counters: Counters,
}

fn url_auth(auth: &CdnAuth) -> UrlAuth {
    let kind = match auth.kind {
        AuthType::A => Type::A,
        AuthType::B => Type::B,
        AuthType::C => Type::C,
        AuthType::D => Type::D,
    };
    UrlAuth {
        algorithm: match auth.algorithm {
            AuthDigest::Md5 => Algorithm::Md5,
            AuthDigest::Sha256 => Algorithm::Sha256,
        },
        sign_param: auth.sign_param.clone(),
        time_param: auth.time_param.clone(),
        time_format: Some(match auth.time_format {
            AuthTime::Decimal => TimeFormat::Dec,
            AuthTime::Hexadecimal => TimeFormat::Hex,
        }),
        expire_s: auth.valid.as_secs(),
        ..UrlAuth::new(kind, &auth.key.0)
    }
}

impl Cdn {
    /// `None` if no domain is configured. Nothing is contacted yet.
    pub fn new(config: &config::Cdn, clock: Arc<ClockOffset>) -> Result<Option<Cdn>, String> {
        if config.domain.is_empty() {
            return Ok(None);
        }
        let refuse = |why: String| format!("[cdn] {why}");
        let endpoint = config.endpoint.as_deref().and_then(|endpoint| endpoint.split_once("://"));
        let scheme = match endpoint {
            Some((scheme, _)) => scheme,
            None if config.https => "https",
            None => "http",
        };
        let place = endpoint.map(|(_, place)| address(place, scheme)).transpose().map_err(refuse)?;
        let client = web::build(scheme, || {
            let builder = web::ours().connect_timeout(CONNECT);
            match place {
                None => builder,
                Some(address) => builder.resolve(&config.domain, address),
            }
        });
        Ok(Some(Cdn {
            client: client.map_err(|error| refuse(error.to_string()))?,
            base: format!("{scheme}://{}", config.domain),
            auth: config.auth.as_ref().map(url_auth),
            clock,
            share: config.share,
            turn: AtomicU64::new(0),
            rests_until: Mutex::new(None),
            counters: Counters::default(),
        }))
    }

    /// Is it the CDN's turn, while the buckets are well?
    pub fn has_turn(&self) -> bool {
        if self.rests_until.lock().is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let share = u64::from(self.share);
        let n = self.turn.fetch_add(1, Ordering::Relaxed);
        // The nth of a hundred is its turn whenever the whole part of n * share / 100 grows: evenly spread, not in a row.
        (n + 1) * share / 100 > n * share / 100
    }

    /// A range of one version, proven to be of it.
    pub async fn get(&self, key: &Key, token: &Token, range: &Range<u64>) -> Result<Bytes, Unusable> {
        let result = self.fetch(key, token, range).await;
        let counter = match &result {
            Ok(_) => &self.counters.used,
            Err(Unusable::Stale) => &self.counters.stale,
            Err(Unusable::Missing) => &self.counters.missing,
            Err(Unusable::Refused(_)) => &self.counters.refused,
            Err(Unusable::Failed(_)) => &self.counters.failed,
            Err(Unusable::Unprovable) => return result,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match &result {
            Ok(_) => *self.rests_until.lock() = None,
            Err(Unusable::Failed(_) | Unusable::Refused(_)) => self.rest(),
            Err(_) => {}
        }
        result
    }

    /// It did not deliver in time.
    pub fn was_late(&self) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        self.rest();
    }

    fn rest(&self) {
        *self.rests_until.lock() = Some(Instant::now() + REST);
    }

    fn url(&self, key: &Key, token: &Token) -> String {
        let path = format!("/{}", url_encode_path(key.as_str()));
        let query = match &token.version {
            Some(version) => format!("versionId={}", url_encode(&version.0)),
            None => String::new(),
        };
        let target = match &self.auth {
            Some(auth) => {
                let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                auth.sign(&path, &query, now, &format!("{:016x}", rand::random::<u64>()))
            }
            None if query.is_empty() => path,
            None => format!("{path}?{query}"),
        };
        format!("{}{target}", self.base)
    }

    async fn fetch(&self, key: &Key, token: &Token, range: &Range<u64>) -> Result<Bytes, Unusable> {
        if token.etag.0.is_empty() || range.is_empty() {
            return Err(Unusable::Unprovable);
        }
        let failed = |error: reqwest::Error| Unusable::Failed(error.without_url().to_string());
        let late = |_| Unusable::Failed("no answer in time".into());
        let request = self.client.get(self.url(key, token));
        let request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        let mut answer = tokio::time::timeout(FIRST_BYTE, request.send()).await.map_err(late)?.map_err(failed)?;
        prove(answer.status().as_u16(), answer.headers(), token, range)?;
        let expect = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut out = BytesMut::with_capacity(expect);
        while let Some(piece) = tokio::time::timeout(PROGRESS, answer.chunk()).await.map_err(late)?.map_err(failed)? {
            if out.len() + piece.len() > expect {
                return Err(Unusable::Failed("more bytes than announced".into()));
            }
            out.extend_from_slice(&piece);
        }
        if out.len() != expect {
            return Err(Unusable::Failed("fewer bytes than announced".into()));
        }
        let whole = range.start == 0 && range.end == token.size;
        if let (true, Some(sum)) = (whole, token.crc64)
            && crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &out) != sum
        {
            return Err(Unusable::Failed("wrong checksum".into()));
        }
        Ok(out.freeze())
    }
}

/// The address behind `host[:port]`.
fn address(place: &str, scheme: &str) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let place = place.trim_end_matches('/');
    let port = if scheme == "https" { 443 } else { 80 };
    let named = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let full = if named { place.to_string() } else { format!("{place}:{port}") };
    let found = full.to_socket_addrs().map_err(|error| format!("endpoint {place}: {error}"))?.next();
    found.ok_or_else(|| format!("endpoint {place} has no address"))
}

/// Is this the head of an answer with exactly these bytes of exactly this version?
fn prove(status: u16, headers: &http::HeaderMap, token: &Token, range: &Range<u64>) -> Result<(), Unusable> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match status {
        200 | 206 => {}
        404 => return Err(Unusable::Missing),
        // The copy at the edge is shorter than the version asked for.
        416 => return Err(Unusable::Stale),
        300..=499 => return Err(Unusable::Refused(status)),
        _ => return Err(Unusable::Failed(format!("status {status}"))),
    }
    let length: Option<u64> = text("content-length").and_then(|n| n.parse().ok());
    let (start, end, total) = match (status, length) {
        (206, _) => text("content-range").and_then(content_range).ok_or(Unusable::Unprovable)?,
        (_, Some(length)) => (0, length, length),
        (_, None) => return Err(Unusable::Unprovable),
    };
    let etag = text("etag").map(ETag::parse).ok_or(Unusable::Unprovable)?;
    let version = text("x-cos-version-id").filter(|version| !version.is_empty());
    let other_version = version.zip(token.version.as_ref()).is_some_and(|(shown, asked)| *shown != asked.0);
    if etag != token.etag || total != token.size || other_version {
        return Err(Unusable::Stale);
    }
    if (start, end) != (range.start, range.end) {
        return Err(Unusable::Failed("other bytes than asked for".into()));
    }
    Ok(())
}

/// `bytes 0-9/100` as (0, 10, 100).
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()?))
}

#[cfg(test)]
mod tests;
