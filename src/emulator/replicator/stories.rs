//! The rules of replication told a second time, and held against the emulator by random stories.
//!
//! A story is a list of requests on both sides (put, copy, multipart, delete, delete by version, versioning and rules on and off) mixed
//! with what befalls a cloud: lag, stalls, reordering, lost delete markers, an outage, kill -9. Requests go through the same
//! parser and operations as those from a socket; time is virtual, so a story is the same each time it is told. After each step that
//! moves replicas, and at the end when nothing is on its way any more, every version of every key on both sides must be what the
//! [`model`] says, which shares no code with the emulator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;
use tokio::time::Instant;

use super::Change;
use super::model::*;
use crate::emulator::api;
use crate::emulator::blob::Blob;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::{self, Reply};
use crate::emulator::line::Line;
use crate::emulator::site::Current;
use crate::emulator::world::{Received, World};
use crate::emulator::{BUCKETS, Options, open_world};
use crate::object::Site;

const KEYS: [&str; 4] = ["a/x", "a/y", "b/x", "b"];
/// First part of the larger multipart uploads; every part but the last needs that much.
const LARGE: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(usize, usize),
    Delete(usize, usize),
    /// Site, key, which of the versions known there (one more: an id that nobody has).
    DeleteVersion(usize, usize, usize),
    /// To site and key, from site and key, with new headers.
    Copy(usize, usize, usize, usize, bool),
    Begin(usize, usize, bool),
    /// Completes the oldest upload of the site.
    Complete(usize),
    Versioning(usize, bool),
    Rules(usize, Rules),
    Lag(usize, u64),
    Stall(usize, bool),
    Reorder(usize, bool),
    LoseMarkers(usize, bool),
    Outage(usize, bool),
    Pass(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (site, key) = (0..2usize, 0..KEYS.len());
    let rules = prop_oneof![
        2 => Just(Rules::None), 6 => Just(Rules::All), 1 => Just(Rules::WithoutMarkers),
        1 => Just(Rules::Disabled), 1 => Just(Rules::Prefix), 1 => Just(Rules::Two),
    ];
    let flag = any::<bool>();
    prop_oneof![
        14 => (site.clone(), key.clone()).prop_map(|(s, k)| Step::Put(s, k)),
        6 => (site.clone(), key.clone()).prop_map(|(s, k)| Step::Delete(s, k)),
        4 => (site.clone(), key.clone(), 0..5usize).prop_map(|(s, k, n)| Step::DeleteVersion(s, k, n)),
        3 => (site.clone(), key.clone(), site.clone(), key.clone(), flag)
            .prop_map(|(s, k, from, l, new)| Step::Copy(s, k, from, l, new)),
        2 => (site.clone(), key.clone(), prop::bool::weighted(0.1)).prop_map(|(s, k, large)| Step::Begin(s, k, large)),
        2 => site.clone().prop_map(Step::Complete),
        2 => (site.clone(), prop::bool::weighted(0.6)).prop_map(|(s, on)| Step::Versioning(s, on)),
        3 => (site.clone(), rules).prop_map(|(s, rules)| Step::Rules(s, rules)),
        1 => (site.clone(), 0..200u64).prop_map(|(s, ms)| Step::Lag(s, ms)),
        2 => (site.clone(), flag).prop_map(|(s, on)| Step::Stall(s, on)),
        1 => (site.clone(), flag).prop_map(|(s, on)| Step::Reorder(s, on)),
        1 => (site.clone(), flag).prop_map(|(s, on)| Step::LoseMarkers(s, on)),
        1 => (site, prop::bool::weighted(0.4)).prop_map(|(s, on)| Step::Outage(s, on)),
        10 => (0..150u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

// ---- the emulator, asked as by a client

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| value.to_str().expect("text").to_owned())
    }

    fn element(&self, name: &str) -> Option<String> {
        inner(&self.text, name)
    }
}

fn inner(text: &str, name: &str) -> Option<String> {
    let from = text.find(&format!("<{name}>"))? + name.len() + 2;
    let to = text[from..].find(&format!("</{name}>"))? + from;
    Some(text[from..to].replace("&quot;", "\""))
}

fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes)
}

struct Story {
    world: World,
    data: Option<TempDir>,
    current: Current,
    sides: [Side; 2],
    /// Counts writes; also what is written.
    moment: u64,
    ids: BTreeSet<String>,
    /// Nothing happened that makes the two sides differ for good.
    tame: bool,
}

fn site(index: usize) -> Site {
    Site::ALL[index]
}

impl Story {
    fn open(start: Start, data: Option<&TempDir>) -> World {
        let data = data.map(|dir| dir.path().to_path_buf());
        let lag = Duration::from_millis(START_LAG_MS);
        open_world(&Options { data, lag, seed: 7, unconfigured: start == Start::Unconfigured, ..Options::default() })
            .expect("a world")
    }

    fn new(current: Current, start: Start) -> Story {
        let data = (start == Start::OnDisk).then(|| tempfile::tempdir().expect("a folder"));
        let world = Story::open(start, data.as_ref());
        world.set_current(current);
        let sides = [Side::new(start), Side::new(start)];
        let tame = start != Start::Unconfigured;
        Story { world, data, current, sides, moment: 0, ids: BTreeSet::new(), tame }
    }

    async fn ask(
        &self,
        at: usize,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        let (bucket, region) = BUCKETS[at];
        let mut request = http::Request::builder().method(method).uri(target);
        request = request.header("host", format!("{bucket}.cos.{region}.myqcloud.com"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let received = body.map(|bytes| {
            let md5 = Md5::digest(bytes).into();
            let blob = match self.world.shelter().filter(|_| method == "PUT" && !target.starts_with("/?")) {
                Some(shelter) => {
                    let (file, body) = shelter.create().expect("a file");
                    std::io::Write::write_all(&mut &file, bytes).expect("room");
                    Blob::file(body, bytes.len() as u64)
                }
                None => Blob::memory(vec![bytes::Bytes::copy_from_slice(bytes)]),
            };
            Received { blob, md5, crc64: crc64(bytes) }
        });
        let answered =
            Call::read(&parts, site(at), &self.world).and_then(|call| api::perform(&self.world, &call, received));
        let reply: Reply = answered.unwrap_or_else(|failure| send::failure(&failure, target, "id"));
        let response = send::response(reply, method == "HEAD", Vec::new(), &Line::new()).expect("an answer");
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// The id of a new version: there exactly where versioning is on, and never one that was there before.
    fn new_id(&mut self, at: usize, answer: &Answer) -> Option<String> {
        let id = answer.header("x-cos-version-id").filter(|id| id != "null");
        assert_eq!(id.is_some(), self.sides[at].enabled(), "{:?}", answer.headers);
        if let Some(id) = &id {
            assert!(self.ids.insert(id.clone()), "{id} was given twice");
        }
        id
    }

    fn next_moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    async fn put(&mut self, at: usize, key: &'static str) {
        let n = self.next_moment();
        let (body, meta) = (format!("content {n}"), format!("meta {n}"));
        let headers = [("x-cos-meta-n", meta.as_str()), ("content-type", "text/x-story")];
        let answer = self.ask(at, "PUT", &format!("/{key}"), &headers, Some(body.as_bytes())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let id = self.new_id(at, &answer);
        let etag = answer.header("etag").expect("an ETag");
        let headers = [meta, "text/x-story".into()];
        let thing = Thing { crc64: crc64(body.as_bytes()), size: body.len(), etag, headers };
        self.sides[at].write(key, id, n, Some(thing));
    }

    async fn delete(&mut self, at: usize, key: &'static str) {
        let n = self.next_moment();
        let answer = self.ask(at, "DELETE", &format!("/{key}"), &[], None).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        let id = self.new_id(at, &answer);
        match self.sides[at].versioning {
            Some(_) => self.sides[at].write(key, id, n, None),
            None => drop(self.sides[at].take(key, "null")),
        }
    }

    async fn delete_version(&mut self, at: usize, key: &'static str, nth: usize) {
        let known = self.sides.iter().flat_map(|side| side.keys.get(key).into_iter().flatten());
        let id = known.map(|held| held.id.clone()).nth(nth).unwrap_or_else(|| "MTg0NDUxNTc1NjIzMTQ1MDAwODg".into());
        let answer = self.ask(at, "DELETE", &format!("/{key}?versionId={id}"), &[], None).await;
        if self.sides[at].versioning.is_none() {
            assert_eq!((answer.status, answer.element("Code").as_deref()), (400, Some("BucketVersionNotOpen")));
            return;
        }
        assert_eq!(answer.status, 204, "{}", answer.text);
        // Stays on its side; what is still on its way from here is not read any more, and so never arrives.
        if self.sides[at].take(key, &id).is_some() {
            self.tame = false;
        }
    }

    async fn copy(&mut self, at: usize, key: &'static str, from: usize, source: &'static str, renew: bool) {
        let (bucket, region) = BUCKETS[from];
        let path = format!("{bucket}.cos.{region}.myqcloud.com/{source}");
        let n = self.moment + 1;
        let meta = format!("copied {n}");
        let mut headers = vec![("x-cos-copy-source", path.as_str())];
        if renew {
            let new =
                [("x-cos-metadata-directive", "Replaced"), ("x-cos-meta-n", &meta), ("content-type", "text/copy")];
            headers.extend(new);
        }
        let answer = self.ask(at, "PUT", &format!("/{key}"), &headers, None).await;
        let newest = self.sides[from].newest_first(source, self.current).into_iter().next();
        let Some(thing) = newest.and_then(|held| held.thing) else {
            assert_eq!(answer.status, 404, "{}", answer.text);
            return;
        };
        if !renew && at == from && key == source {
            assert_eq!(answer.status, 400, "{}", answer.text);
            return;
        }
        assert!(answer.status == 200 && answer.text.contains("<CopyObjectResult>"), "{}", answer.text);
        let n = self.next_moment();
        let id = self.new_id(at, &answer);
        let headers = if renew { [meta, "text/copy".into()] } else { thing.headers };
        self.sides[at].write(key, id, n, Some(Thing { headers, ..thing }));
    }

    async fn begin(&mut self, at: usize, key: &'static str, large: bool) {
        let n = self.next_moment();
        let headers = [format!("multipart {n}"), "text/parts".into()];
        let given = [("x-cos-meta-n", headers[0].as_str()), ("content-type", headers[1].as_str())];
        let answer = self.ask(at, "POST", &format!("/{key}?uploads"), &given, None).await;
        let id = answer.element("UploadId").expect("an upload");
        let mut first = format!("part {n}").into_bytes();
        if large {
            first.resize(LARGE, b'.');
        }
        let mut all = first.clone();
        let part = |number: u32| format!("/{key}?partNumber={number}&uploadId={id}");
        let part_etag = self.ask(at, "PUT", &part(1), &[], Some(&first)).await.header("etag").expect("an ETag");
        let mut last_etag = None;
        if large {
            all.extend_from_slice(b"the end");
            last_etag = self.ask(at, "PUT", &part(2), &[], Some(b"the end")).await.header("etag");
        }
        let thing = Thing { crc64: crc64(&all), size: all.len(), etag: String::new(), headers };
        self.sides[at].uploads.push(Uploading { key, id, part_etag, last_etag, thing });
    }

    async fn complete(&mut self, at: usize) {
        if self.sides[at].uploads.is_empty() {
            return;
        }
        let Uploading { key, id, part_etag, last_etag, thing } = self.sides[at].uploads.remove(0);
        let part =
            |number: u32, etag: &str| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
        let parts = part(1, &part_etag) + &last_etag.map_or(String::new(), |etag| part(2, &etag));
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let answer = self.ask(at, "POST", &format!("/{key}?uploadId={id}"), &[], Some(body.as_bytes())).await;
        assert!(answer.status == 200 && !answer.text.contains("<Error>"), "{}", answer.text);
        // No version exists before this: it is as if the object were put now.
        let n = self.next_moment();
        let id = self.new_id(at, &answer);
        let etag = answer.element("ETag").expect("an ETag");
        self.sides[at].write(key, id, n, Some(Thing { etag, ..thing }));
    }

    async fn versioning(&mut self, at: usize, on: bool) {
        let status = if on { "Enabled" } else { "Suspended" };
        let body = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        let answer = self.ask(at, "PUT", "/?versioning", &[], Some(body.as_bytes())).await;
        if !on && self.sides[at].rules != Rules::None {
            assert_eq!((answer.status, answer.element("Code").as_deref()), (409, Some("InvalidBucketState")));
            return;
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
        self.sides[at].versioning = Some(on);
        self.tame &= on;
    }

    async fn rules(&mut self, at: usize, rules: Rules) {
        let (bucket, region) = BUCKETS[1 - at];
        let rule = |status: &str, prefix: &str, markers: &str| {
            format!(
                "<Rule><Status>{status}</Status><ID>r{prefix}</ID><Prefix>{prefix}</Prefix><DeleteMarkerReplication>\
                 <Status>{markers}</Status></DeleteMarkerReplication><Destination><Bucket>qcs::cos:{region}::{bucket}</Bucket>\
                 </Destination></Rule>"
            )
        };
        let (on, off) = ("Enabled", "Disabled");
        let text = match rules {
            Rules::None => {
                assert_eq!(self.ask(at, "DELETE", "/?replication", &[], None).await.status, 204);
                String::new()
            }
            Rules::All => rule(on, "", on),
            Rules::WithoutMarkers => rule(on, "", off),
            Rules::Disabled => rule(off, "", on),
            Rules::Prefix => rule(on, "a/", on),
            Rules::Two => rule(on, "a/", on) + &rule(off, "b/", on),
        };
        if !text.is_empty() {
            let body = format!("<ReplicationConfiguration><Role>r</Role>{text}</ReplicationConfiguration>");
            let md5 = base64::engine::general_purpose::STANDARD.encode(Md5::digest(&body));
            let answer = self.ask(at, "PUT", "/?replication", &[("content-md5", &md5)], Some(body.as_bytes())).await;
            if !self.sides.iter().all(Side::enabled) {
                assert_eq!((answer.status, answer.element("Code").as_deref()), (409, Some("InvalidBucketState")));
                return;
            }
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        self.tame = false;
        let side = &mut self.sides[at];
        side.rules = rules;
        let mut outgoing = std::mem::take(&mut side.outgoing);
        // Nothing was written while rules were off that could be in here; what a rule let go goes no further without it.
        outgoing.retain(|travelling| side.rule_for(travelling.key));
        side.outgoing = outgoing;
    }

    fn steer(&mut self, at: usize, change: Change) {
        self.world.direction(site(at)).change(change);
    }

    /// Time goes by, and replicas arrive.
    async fn pass(&mut self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        let now = Instant::now();
        let fresh: Vec<BTreeMap<&'static str, usize>> = (0..2).map(|from| self.arrive(from, now)).collect();
        for from in Site::ALL {
            let next = self.world.replicate(from, now);
            assert!(next.is_none_or(|next| next > now), "there were never as many as a turn takes");
        }
        for (from, fresh) in fresh.iter().enumerate() {
            if self.sides[from].reorder && self.current == Current::LastArrival {
                self.believe_order(1 - from, fresh).await;
            }
        }
        self.check().await;
    }

    /// The model's own replication. Says how many versions of which key arrived on the other side.
    fn arrive(&mut self, from: usize, now: Instant) -> BTreeMap<&'static str, usize> {
        let mut fresh = BTreeMap::new();
        if self.sides.iter().any(|side| side.outage) || self.sides[from].stalled {
            return fresh;
        }
        let lag = Duration::from_millis(self.sides[from].lag);
        while let Some(first) = self.sides[from].outgoing.first().filter(|first| first.since + lag <= now).cloned() {
            self.sides[from].outgoing.remove(0);
            let Travelling { key, held, .. } = first;
            let source = &self.sides[from];
            let lost = held.thing.is_none() && source.lose_markers;
            let gone = !source.keys.get(key).is_some_and(|all| all.iter().any(|h| h.id == held.id));
            let target = &mut self.sides[1 - from];
            self.tame &= !lost;
            if !lost && !gone && target.enabled() {
                target.keep(key, Held { replica: true, ..held });
                *fresh.entry(key).or_default() += 1;
            }
        }
        fresh
    }

    /// With reordering, which of several came last is chance: any order of those that came is right, and the emulator knows it.
    async fn believe_order(&mut self, at: usize, fresh: &BTreeMap<&'static str, usize>) {
        let listed = self.listed(at).await;
        for (key, count) in fresh.iter().filter(|(_, count)| **count > 1) {
            let mut order: Vec<&str> = listed.iter().filter(|row| row.key == *key).map(|row| row.id.as_str()).collect();
            order.truncate(*count);
            order.reverse();
            let all = self.sides[at].keys.get_mut(key).expect("arrived");
            let newest = all.len() - count;
            let mut places: Vec<u64> = all[newest..].iter().map(|held| held.arrival).collect();
            places.sort();
            for held in &mut all[newest..] {
                let place = order.iter().position(|id| *id == held.id).expect("what came is above what was there");
                held.arrival = places[place];
            }
        }
    }

    /// kill -9 and a new start on the same folder: nothing but the settings of the cloud is forgotten.
    fn restart(&mut self) {
        let Some(data) = &self.data else { return };
        self.world.close();
        self.world = Story::open(Start::OnDisk, Some(data));
        self.world.set_current(self.current);
        for side in &mut self.sides {
            (side.lag, side.stalled, side.reorder) = (START_LAG_MS, false, false);
            (side.lose_markers, side.outage) = (false, false);
            side.outgoing.iter_mut().for_each(|travelling| travelling.since = Instant::now());
        }
    }

    async fn step(&mut self, step: Step) {
        let none = Change::default();
        match step {
            Step::Put(at, key) => self.put(at, KEYS[key]).await,
            Step::Delete(at, key) => self.delete(at, KEYS[key]).await,
            Step::DeleteVersion(at, key, nth) => self.delete_version(at, KEYS[key], nth).await,
            Step::Copy(at, key, from, source, renew) => self.copy(at, KEYS[key], from, KEYS[source], renew).await,
            Step::Begin(at, key, large) => self.begin(at, KEYS[key], large).await,
            Step::Complete(at) => self.complete(at).await,
            Step::Versioning(at, on) => self.versioning(at, on).await,
            Step::Rules(at, rules) => self.rules(at, rules).await,
            Step::Lag(at, ms) => {
                self.sides[at].lag = ms;
                self.steer(at, Change { lag_ms: Some(ms), ..none });
            }
            Step::Stall(at, on) => {
                self.sides[at].stalled = on;
                self.steer(at, Change { stalled: Some(on), ..none });
            }
            Step::Reorder(at, on) => {
                self.sides[at].reorder = on;
                self.steer(at, Change { reorder: Some(on), ..none });
            }
            Step::LoseMarkers(at, on) => {
                self.sides[at].lose_markers = on;
                self.steer(at, Change { lose_delete_markers: Some(on), ..none });
            }
            Step::Outage(at, on) => {
                self.sides[at].outage = on;
                self.world.isolate(site(at), on);
            }
            Step::Pass(ms) => self.pass(ms).await,
            Step::Restart => self.restart(),
        }
    }

    /// Everything heals, and what is on its way arrives.
    async fn settle(&mut self) {
        for at in 0..2 {
            self.step(Step::Outage(at, false)).await;
            self.step(Step::Stall(at, false)).await;
        }
        self.pass(1000).await;
        for from in Site::ALL {
            assert_eq!(self.world.direction(from).pending(), 0, "nothing is on its way any more");
        }
    }

    async fn listed(&self, at: usize) -> Vec<Row> {
        let text = self.ask(at, "GET", "/?versions", &[], None).await.text;
        let mut rows = Vec::new();
        let mut rest = text.as_str();
        while let Some(from) = [rest.find("<Version>"), rest.find("<DeleteMarker>")].into_iter().flatten().min() {
            let marker = rest[from..].starts_with("<DeleteMarker>");
            let end = if marker { "</DeleteMarker>" } else { "</Version>" };
            let to = from + rest[from..].find(end).expect("an end");
            let row = &rest[from..to];
            let text = |name: &str| inner(row, name).unwrap_or_default();
            let latest = text("IsLatest") == "true";
            rows.push(Row { key: text("Key"), id: text("VersionId"), marker, latest, etag: text("ETag") });
            rest = &rest[to..];
        }
        rows
    }

    /// Both sides are what the model says.
    async fn check(&self) {
        for (at, side) in self.sides.iter().enumerate() {
            let mut expected = Vec::new();
            for key in side.keys.keys() {
                for (n, held) in side.newest_first(key, self.current).into_iter().enumerate() {
                    let id = if side.versioning.is_none() { String::new() } else { held.id.clone() };
                    let etag = held.thing.as_ref().map_or(String::new(), |thing| thing.etag.clone());
                    let row = Row { key: (*key).into(), id, marker: held.thing.is_none(), latest: n == 0, etag };
                    expected.push((row, held));
                }
            }
            let listed = self.listed(at).await;
            let rows: Vec<&Row> = expected.iter().map(|(row, _)| row).collect();
            assert_eq!(listed.iter().collect::<Vec<_>>(), rows, "versions on side {at}");
            for (row, held) in &expected {
                let target = match row.id.as_str() {
                    "" => format!("/{}", row.key),
                    id => format!("/{}?versionId={id}", row.key),
                };
                let answer = self.ask(at, "HEAD", &target, &[], None).await;
                let Some(thing) = &held.thing else {
                    assert_eq!(answer.status, 404, "{target} on side {at} is a marker");
                    continue;
                };
                let found = Thing {
                    crc64: answer.header("x-cos-hash-crc64ecma").expect("a checksum").parse().expect("a number"),
                    size: answer.header("content-length").expect("a length").parse().expect("a number"),
                    etag: answer.header("etag").expect("an ETag"),
                    headers: ["x-cos-meta-n", "content-type"].map(|name| answer.header(name).unwrap_or_default()),
                };
                assert_eq!((answer.status, &found), (200, thing), "{target} on side {at}");
                let replica = answer.header("x-cos-replication-status").as_deref() == Some("Replica");
                assert_eq!(replica, held.replica, "{target} on side {at}: whether it is a replica");
            }
            for key in KEYS {
                let answer = self.ask(at, "GET", &format!("/{key}"), &[], None).await;
                let newest = side.newest_first(key, self.current).into_iter().next();
                match newest.and_then(|held| held.thing) {
                    Some(thing) => {
                        assert_eq!((answer.status, crc64(answer.text.as_bytes())), (200, thing.crc64), "{key} on {at}");
                    }
                    None => assert_eq!(answer.status, 404, "{key} on {at}"),
                }
            }
        }
    }

    /// What a reader of the documentation may conclude without any model: both regions end up the same.
    async fn check_alike(&self) {
        if self.tame && self.current == Current::NewestVersion {
            assert_eq!(self.listed(0).await, self.listed(1).await);
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
struct Row {
    key: String,
    id: String,
    marker: bool,
    latest: bool,
    etag: String,
}

fn tell(current: Current, start: Start, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let mut story = Story::new(current, start);
        for step in steps {
            story.step(step).await;
        }
        story.settle().await;
        story.check_alike().await;
    });
}

/// Stories that once broke a rule stand beside this file and are told first.
fn cases(cases: u32) -> ProptestConfig {
    let stories = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(stories)), ..ProptestConfig::default() }
}

fn current() -> impl Strategy<Value = Current> {
    prop_oneof![Just(Current::NewestVersion), Just(Current::LastArrival)]
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn the_rules_hold_for_every_key(current in current(), steps in prop::collection::vec(step(), 1..60)) {
        tell(current, Start::Configured, steps);
    }

    #[test]
    fn the_rules_hold_for_buckets_that_were_new(current in current(), steps in prop::collection::vec(step(), 1..60)) {
        tell(current, Start::Unconfigured, steps);
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn the_rules_hold_over_kills_and_starts(current in current(), steps in prop::collection::vec(step(), 1..60)) {
        tell(current, Start::OnDisk, steps);
    }
}
