//! The two regions without sockets, threads or a clock of their own: one call carries one request out.
//!
//! For simulations in virtual time (`src/bin/sim`). The buckets, the object API and replication are those of the emulator; connections,
//! latency and faults are the caller's, and so is the decision when something happens: a late commit is a late call. Signatures are not
//! checked here (tests/wire does), only looked at where the caller wants a clock to be wrong.
//!
//! Owns: the door. Owns not: anything behind it (`world`, `api`).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Xz;
use md5::{Digest, Md5};
use tokio::time::Instant;

use super::admin::ReplicationChange;
use super::api;
use super::blob::Blob;
use super::clock::{http_date, wall_micros};
use super::failure::Failure;
use super::http::call::Call;
use super::http::send;
use super::site::Current;
use super::world::{Received, World};
use super::{BUCKETS, configure};
use crate::object::Site;

/// An answer, ready to be put on some wire.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Two buckets, configured for replication both ways.
#[derive(Debug)]
pub struct Inside {
    world: World,
}

/// What a version on a shelf is, for checkers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shelved {
    /// `None`: a delete marker.
    pub content: Option<Bytes>,
    pub version_id: String,
    pub replica: bool,
}

impl Inside {
    /// `seed`: of the order in which reordered replicas arrive.
    pub fn new(lag: Duration, seed: u64) -> Result<Inside, String> {
        let world = World::new(BUCKETS, lag, seed, None);
        configure(&world).map_err(|failure| failure.to_string())?;
        Ok(Inside { world })
    }

    pub fn set_current(&self, current: Current) {
        self.world.set_current(current);
    }

    pub fn change_replication(&self, change: ReplicationChange) {
        self.world.direction(Site::A).change(change.a_to_b);
        self.world.direction(Site::B).change(change.b_to_a);
        if let Some(current) = change.current {
            self.world.set_current(current);
        }
    }

    /// A simulation goes on in another runtime, whose instants are later by this much for the same moments.
    pub fn moved(&self, by: Duration) {
        Site::ALL.iter().for_each(|site| self.world.direction(*site).moved(by));
    }

    /// Everything on its way is carried over now; keys that are not wished never will be, as if from before the replication rule.
    pub fn arrive(&self, wished: impl Fn(&str) -> bool) {
        for site in Site::ALL {
            self.world.direction(site).retain(&wished);
            let ever = Instant::now() + Duration::from_secs(365 * 24 * 3600);
            self.world.replicate(site, ever);
        }
    }

    /// Versions on their way from a site.
    pub fn backlog(&self, from: Site) -> usize {
        // Test objects of a mount travel as long as it catches up.
        self.world.direction(from).pending_outside(".cosfs-ha/")
    }

    /// Carries over what is due. Says when something will be.
    pub fn replicate(&self) -> Option<Instant> {
        let now = Instant::now();
        Site::ALL.iter().filter_map(|site| self.world.replicate(*site, now)).min()
    }

    /// One request, from its arrival to its answer. What is asked of a site stays there, whatever host it names.
    pub fn perform(&self, site: Site, request: http::Request<Bytes>) -> Answer {
        let (parts, body) = request.into_parts();
        let outcome = Call::read(&parts, site, &self.world).and_then(|call| {
            let bodyless = call.method == "GET" || call.method == "HEAD" || call.method == "DELETE";
            let received = match bodyless || call.is_copy() || (body.is_empty() && call.param("uploads").is_some()) {
                true => None,
                false => Some(received(&call, body)?),
            };
            api::perform(&self.world, &call, received)
        });
        let id = self.request_id();
        let resource = parts.uri.path();
        let mut reply = outcome.unwrap_or_else(|failure| send::failure(&failure, resource, &id));
        reply.identify(&id, &http_date(wall_micros()));
        finished(reply, parts.method == http::Method::HEAD)
    }

    /// An error answer of COS that a fault gives in place of the operation.
    pub fn refuse(&self, status: u16, code: &'static str, head: bool) -> Answer {
        let id = self.request_id();
        let mut reply = send::failure(&Failure::new(status, code, "Simulated."), "/", &id);
        reply.identify(&id, &http_date(wall_micros()));
        finished(reply, head)
    }

    /// The same from something that is not COS.
    pub fn foreign(&self, status: u16, head: bool) -> Answer {
        let mut reply = send::foreign(status);
        reply.identify("", &http_date(wall_micros()));
        finished(reply, head)
    }

    /// Current version of every key below a prefix.
    pub fn current(&self, site: Site, prefix: &str) -> BTreeMap<String, Shelved> {
        let state = self.world.bucket(site).read();
        let mut found = BTreeMap::new();
        for (key, version) in state.shelf.keys().filter(|(key, _)| key.starts_with(prefix)) {
            let content = version.content.as_ref().map(|content| {
                let mut bytes = Vec::new();
                // From memory: cannot fail.
                let _ = content.blob.for_each(|piece| bytes.extend_from_slice(piece));
                Bytes::from(bytes)
            });
            let shelved = Shelved { content, version_id: version.id_text(), replica: version.replica };
            found.insert(key.clone(), shelved);
        }
        found
    }

    fn request_id(&self) -> String {
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(wall_micros().to_be_bytes())
    }
}

fn received(call: &Call, body: Bytes) -> Result<Received, Failure> {
    let md5: [u8; 16] = Md5::digest(&body).into();
    if let Some(text) = call.header("content-md5")
        && base64::engine::general_purpose::STANDARD.decode(text).is_ok_and(|named| named != md5)
    {
        return Err(Failure::new(400, "BadDigest", "Content-MD5 does not match the body."));
    }
    let crc64 = crc_fast::checksum(Crc64Xz, &body);
    Ok(Received { blob: Blob::memory(vec![body]), md5, crc64 })
}

fn finished(reply: send::Reply, head: bool) -> Answer {
    let (status, mut headers, body) = reply.into_whole();
    if status != 204 {
        headers.push(("content-length".into(), body.len().to_string()));
    }
    let body = if head || matches!(status, 204 | 304) { Bytes::new() } else { body };
    Answer { status, headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, key: &str, body: &'static str) -> http::Request<Bytes> {
        let host = "http://master-1250000000.cos.ap-guangzhou.myqcloud.com";
        http::Request::builder().method(method).uri(format!("{host}/{key}")).body(Bytes::from(body)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_in_one_region_arrives_in_the_other_after_the_lag() {
        let inside = Inside::new(Duration::from_secs(5), 1).unwrap();
        let put = inside.perform(Site::A, request("PUT", "k", "text"));
        assert_eq!(put.status, 200, "{put:?}");
        let get = inside.perform(Site::A, request("GET", "k", ""));
        assert_eq!((get.status, &get.body[..]), (200, &b"text"[..]));
        let head = inside.perform(Site::A, request("HEAD", "k", ""));
        assert!(head.body.is_empty() && head.headers.contains(&("content-length".into(), "4".into())), "{head:?}");
        let due = inside.replicate().unwrap();
        assert_eq!(due, Instant::now() + Duration::from_secs(5));
        assert!(inside.current(Site::B, "").is_empty());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(inside.replicate(), None);
        assert_eq!(inside.current(Site::B, "")["k"].content.as_deref(), Some(&b"text"[..]));
        assert_eq!(inside.perform(Site::A, request("DELETE", "k", "")).status, 204);
        assert_eq!(inside.current(Site::A, "k")["k"].content, None);
        assert_eq!(inside.refuse(503, "SlowDown", false).status, 503);
        assert!(inside.foreign(502, false).headers.iter().all(|(name, _)| name != "x-cos-request-id"));
    }
}
