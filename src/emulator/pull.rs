//! Origin-pull: a bucket that fetches elsewhere what it does not have.
//!
//! Three modes, one of them a trap for everybody who keeps changing files in the bucket: a mirror *writes*. A key whose current version
//! is a delete marker answers 404 like one that never was, so a file that was deleted here and still lies at the origin comes back as the
//! newest version, and is replicated. What was written while the mirror was fetching is covered by what it fetched.
//!
//! Sources: docs/cos-protocol.md, "Origin-pull". Decided here because nothing is said: HEAD pulls nothing; a version id in the request
//! pulls nothing; what was pulled replicates like any other write.
//!
//! Owns: fetching and storing. Owns not: the rules (`pull/rules`), when a read has failed (`http`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::api::object::get;
use super::blob::Blob;
use super::failure::Failure;
use super::http::call::Call;
use super::http::send::Reply;
use super::site::Content;
use super::world::{Bucket, World, hex};
use crate::object::Site;
use crate::web;

pub mod rules;

use rules::{Mode, Rule};

/// Larger files of an origin are refused: they pass through memory.
const PULL_BYTES_MAX: u64 = 256 << 20;
/// Arbitrary; the documentation gives no number.
const HOPS_MAX: usize = 5;
const CONNECT_MAX: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// What of the origin's answer is stored with the object.
const STORED: [&str; 5] = ["cache-control", "content-disposition", "content-encoding", "content-type", "expires"];

/// A read that may be pulled, as far as the origin needs to know it.
#[derive(Clone, Debug)]
pub struct Wanted {
    call: Call,
    query: String,
    secure: bool,
    rules: String,
}

impl Wanted {
    /// `None` for requests that no rule can concern.
    pub fn of(call: &Call, bucket: &Bucket, query: &str, secure: bool) -> Option<Wanted> {
        if call.method != "GET" || !call.subject().plain_read {
            return None;
        }
        let rules = bucket.read().configurations.get("origin").cloned()?;
        Some(Wanted { call: call.clone(), query: query.to_owned(), secure, rules })
    }
}

/// A whole answer of an origin.
struct Fetched {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

#[derive(Debug)]
pub struct Puller {
    world: Arc<World>,
    client: reqwest::Client,
    dice: Mutex<StdRng>,
}

impl Puller {
    pub fn new(world: Arc<World>, seed: u64) -> Result<Puller, reqwest::Error> {
        let client = web::plain()
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX)
            // Origins of a rehearsal speak plain HTTP; those with certificates of their own are asked without a check.
            .danger_accept_invalid_certs(true)
            .build()?;
        Ok(Puller { world, client, dice: Mutex::new(StdRng::seed_from_u64(seed)) })
    }

    /// What the client gets in place of a failure: the same failure where no rule concerns it.
    pub async fn instead(self: Arc<Puller>, wanted: Wanted, failure: Failure) -> Result<Reply, Failure> {
        let rules = rules::read(&wanted.rules)?;
        let Some(rule) = rules.into_iter().find(|rule| rule.fits(&wanted.call.key, failure.status)) else {
            return Err(failure);
        };
        match rule.mode {
            Mode::Mirror => self.mirror(wanted, rule, failure).await,
            Mode::Proxy | Mode::Redirect => {
                let url = rule.url(&rule.hosts[0].name, &wanted.call.key, &wanted.query, wanted.secure);
                let reply = Reply::new(rule.redirect_code).with("location", url);
                if rule.mode == Mode::Proxy {
                    tokio::spawn(async move { self.store_later(&wanted, &rule).await });
                }
                Ok(reply)
            }
        }
    }

    async fn mirror(self: Arc<Puller>, wanted: Wanted, rule: Rule, failure: Failure) -> Result<Reply, Failure> {
        let range = wanted.call.header("range").map(str::to_owned);
        let fetched = self.fetch(&wanted, &rule, range.as_deref()).await.map_err(|why| failed(&why))?;
        match fetched.status {
            200 => {
                self.store(wanted.call.site, &wanted.call.key, &fetched)?;
                get(self.world.bucket(wanted.call.site), &wanted.call, self.world.now())
            }
            206 => {
                // The client has its part; the whole comes by a second request that nobody waits for.
                let kept =
                    |name: &str| STORED.contains(&name) || matches!(name, "content-range" | "etag" | "last-modified");
                let mut reply = Reply::new(206);
                for (name, value) in fetched.headers.iter().filter(|(name, _)| kept(name)) {
                    reply = reply.with(name.as_str(), value.as_str());
                }
                tokio::spawn(async move { self.store_later(&wanted, &rule).await });
                Ok(reply.blob(Blob::memory(vec![fetched.body])))
            }
            404 => Err(failure),
            status if (300..400).contains(&status) || rule.transparent => {
                let mut reply = Reply::new(status);
                for (name, value) in
                    fetched.headers.iter().filter(|(n, _)| matches!(n.as_str(), "location" | "content-type"))
                {
                    reply = reply.with(name.as_str(), value.as_str());
                }
                Ok(reply.blob(Blob::memory(vec![fetched.body])))
            }
            status => Err(failed(&format!("it answered {status}"))),
        }
    }

    async fn store_later(&self, wanted: &Wanted, rule: &Rule) {
        let stored = match self.fetch(wanted, rule, None).await {
            Ok(fetched) if fetched.status == 200 => {
                self.store(wanted.call.site, &wanted.call.key, &fetched).map_err(|e| e.to_string())
            }
            Ok(fetched) => Err(format!("the origin answered {}", fetched.status)),
            Err(why) => Err(why),
        };
        if let Err(why) = stored {
            log::debug!("origin-pull of {}: {why}", wanted.call.key);
        }
    }

    /// From one of the hosts by weight, then from its standbys.
    async fn fetch(&self, wanted: &Wanted, rule: &Rule, range: Option<&str>) -> Result<Fetched, String> {
        let total: u64 = rule.hosts.iter().map(|host| u64::from(host.weight)).sum();
        let mut throw = if total == 0 { 0 } else { self.dice.lock().random_range(0..total) };
        let chosen = rule.hosts.iter().find(|host| match throw.checked_sub(u64::from(host.weight)) {
            Some(rest) if total > 0 => {
                throw = rest;
                false
            }
            _ => true,
        });
        let host = chosen.unwrap_or(&rule.hosts[0]);
        let mut outcome = Err("no host".to_owned());
        for name in std::iter::once(&host.name).chain(&host.standbys) {
            let url = rule.url(name, &wanted.call.key, &wanted.query, wanted.secure);
            outcome = self.ask(url, &rule.headers(&wanted.call.headers), range, rule.follow_redirection).await;
            let goes_on = |status: u16| status >= 500 || rule.standby_codes.contains(&status);
            if outcome.as_ref().is_ok_and(|fetched| !goes_on(fetched.status)) {
                break;
            }
        }
        outcome
    }

    async fn ask(
        &self,
        mut url: String,
        headers: &[(String, String)],
        range: Option<&str>,
        follow: bool,
    ) -> Result<Fetched, String> {
        for _ in 0..=HOPS_MAX {
            let mut request = self.client.get(&url);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let mut response = request.send().await.map_err(|e| e.without_url().to_string())?;
            let status = response.status().as_u16();
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers: Vec<(String, String)> =
                response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            let location = headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value.clone());
            if let Some(location) = location.filter(|_| follow && (300..400).contains(&status)) {
                url = location;
                continue;
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|e| e.without_url().to_string())? {
                if (body.len() + chunk.len()) as u64 > PULL_BYTES_MAX {
                    return Err(format!("the file is larger than {PULL_BYTES_MAX} bytes"));
                }
                body.extend_from_slice(&chunk);
            }
            return Ok(Fetched { status, headers, body: body.into() });
        }
        Err("too many redirects".into())
    }

    /// A write like any other: a new version, which replicates.
    fn store(&self, site: Site, key: &str, fetched: &Fetched) -> Result<(), Failure> {
        let kept = |name: &str| STORED.contains(&name) || name.starts_with("x-cos-meta-");
        let headers = fetched.headers.iter().filter(|(name, _)| kept(name)).cloned().collect();
        let etag = hex(&Md5::digest(&fetched.body));
        let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &fetched.body);
        let blob = self.kept(&fetched.body).map_err(|e| Failure::internal(e.to_string()))?;
        let content = Content { blob, etag, crc64, headers };
        self.world.put(self.world.bucket(site), key, content, false).map(drop)
    }

    fn kept(&self, body: &Bytes) -> io::Result<Blob> {
        let Some(shelter) = self.world.shelter() else { return Ok(Blob::memory(vec![body.clone()])) };
        let (file, name) = shelter.create()?;
        io::Write::write_all(&mut &file, body)?;
        Ok(Blob::file(name, body.len() as u64))
    }
}

/// COS documents the status, and no code for it.
fn failed(why: &str) -> Failure {
    Failure::new(424, "OriginPullFailed", format!("The origin could not be asked: {why}."))
}
