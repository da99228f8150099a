//! A small object in each bucket, watched until it has come, and gone, in the other one.
//!
//! Settings say what should happen; only a write shows what does: whether the key may do all that the mount needs, whether version ids
//! tell the time of the write (the mount orders versions by it), whether replication carries objects and deletions, and how long that takes.
//!
//! The object is `.cosfs-ha/canary-a` (or `-b`) below the mounted folder, 64 bytes. Afterwards its versions and delete markers are removed
//! from both buckets by version id. Where something did not arrive in time, a delete marker is left, which the lifecycle rule removes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Check, Finding, Severity};
use crate::cos::{Attempt, Client, Deadlines, Error, Get, Kind, ListVersions, Progress};
use crate::object::{self, Headers, Key, Site, Token, VersionId};

const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(15),
    progress: Duration::from_secs(10),
};

/// A version id that is further away from the clock than this tells something else.
const ID_OFF_MAX: Duration = Duration::from_secs(60);

/// First and longest pause between two looks at the other bucket.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What to expect in one direction, from the settings.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    pub objects: bool,
    pub markers: bool,
}

/// Sends a canary from one bucket to the other.
pub async fn fly(clients: &[Client; 2], from: Site, prefix: &str, expect: Expect, wait: Duration) -> Vec<Finding> {
    let Ok(key) = object::own(prefix, &format!("canary-{from}")) else { return Vec::new() };
    let (source, target) = (&clients[from.index()], &clients[from.other().index()]);
    let mut findings = Vec::new();
    let token = match rights(source, from, &key).await {
        (Some(token), finding) => {
            findings.push(finding);
            token
        }
        (None, finding) => return vec![finding],
    };
    let Some(version) = token.version.clone() else {
        // The settings say so already; without versions there is nothing to follow, and nothing to remove but the object.
        let _ = request(async |at| source.delete(&key, None, &at).await).await;
        return findings;
    };
    findings.push(version_ids(from, source, &version));
    let mut traces = vec![version.clone()];
    let mut arrived = !expect.objects;
    if expect.objects {
        let end = Instant::now() + wait;
        let there = watch(end, async || found(target, &key, Some(&version)).await == Some(true)).await;
        arrived = there.is_some();
        let deleted = request(async |at| source.delete(&key, None, &at).await).await;
        let marker = deleted.ok().and_then(|deleted| deleted.version);
        traces.extend(marker.clone());
        let gone = match (there, &marker) {
            (Some(_), Some(_)) if expect.markers => {
                watch(end, async || found(target, &key, None).await == Some(false)).await
            }
            _ => None,
        };
        arrived &= gone.is_some() || !expect.markers;
        findings.push(arrival(from, there, gone, expect, wait));
    }
    // What is still on its way would come back without its delete marker.
    if arrived {
        for client in [source, target] {
            for version in &traces {
                let _ = request(async |at| client.delete(&key, Some(version), &at).await).await;
            }
        }
    }
    findings
}

pub(super) async fn request<T>(send: impl AsyncFn(Attempt<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let progress = Progress::new();
    send(Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) }).await
}

/// Does the bucket have it? `None`: it did not say.
pub(super) async fn found(client: &Client, key: &Key, version: Option<&VersionId>) -> Option<bool> {
    match request(async |at| client.head(key, version, &at).await).await {
        Ok(_) => Some(true),
        Err(error) if matches!(error.kind, Kind::NoSuchKey | Kind::NoSuchVersion) => Some(false),
        Err(_) => None,
    }
}

/// How long it took to hold; `None` if it does not by then.
pub(super) async fn watch(end: Instant, holds: impl AsyncFn() -> bool) -> Option<Duration> {
    let (began, mut pause) = (Instant::now(), LOOK.0);
    loop {
        if holds().await {
            return Some(began.elapsed());
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LOOK.1);
    }
}

/// Does once what the mount does all the time.
async fn rights(client: &Client, site: Site, key: &Key) -> (Option<Token>, Finding) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let text = format!("{:<63}\n", format!("cosfs-ha doctor was here, {now}"));
    let (body, headers) = (Bytes::from(text.clone()), Headers::default());
    let mut refused: Vec<&str> = Vec::new();
    let mut failed: Option<String> = None;
    let mut note = |action, error: &Error| match error.kind {
        Kind::Auth => refused.push(action),
        _ => failed = Some(error.to_string()),
    };
    let put = request(async |at| client.put(key, body.clone().into(), &headers, None, &at).await).await;
    let token = match put {
        Ok(token) => Some(token),
        Err(error) => {
            note("cos:PutObject", &error);
            None
        }
    };
    if let Some(version) = token.as_ref().map(|token| token.version.clone()) {
        let get = Get { version, ..Get::default() };
        let got = request(async |at| client.get(key, &get, &at).await.map(drop)).await;
        got.unwrap_or_else(|error| note("cos:GetObject", &error));
        let head = request(async |at| client.head(key, None, &at).await).await;
        head.map(drop).unwrap_or_else(|error| note("cos:HeadObject", &error));
    }
    let query = ListVersions { prefix: key.to_string(), max_keys: 10, ..ListVersions::default() };
    let listed = request(async |at| client.list_versions(&query, &at).await).await;
    listed.map(drop).unwrap_or_else(|error| note("cos:GetBucketObjectVersions", &error));
    match request(async |at| client.initiate(key, &headers, None, &at).await).await {
        Err(error) => note("cos:InitiateMultipartUpload", &error),
        Ok(upload) => {
            let aborted = request(async |at| client.abort(key, &upload, &at).await).await;
            aborted.unwrap_or_else(|error| note("cos:AbortMultipartUpload", &error));
        }
    }
    let bucket = &client.address().bucket;
    let finding = match (refused.is_empty(), failed) {
        (true, None) => {
            Finding::ok(Check::Rights, Some(site), format!("the key may do in {bucket} what the mount needs"))
        }
        (false, _) => {
            let list = refused.join(", ");
            let state = format!("bucket {bucket} ([{site}]) does not allow the key {list}");
            Finding::bad(Check::Rights, Some(site), Severity::Error, state)
                .then("programs get EACCES, and what was written stays in the journal of this host")
                .mend(format!("allow {list} on {bucket} in CAM"))
        }
        (true, Some(error)) => Finding::bad(Check::Rights, Some(site), Severity::Unknown, error)
            .then("whether the key has all rights is not known")
            .mend("ask again"),
    };
    (token, finding)
}

fn version_ids(site: Site, client: &Client, version: &VersionId) -> Finding {
    let now = client.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let bucket = &client.address().bucket;
    let off = version.commit_micros().map(|micros| Duration::from_micros(micros).abs_diff(now));
    let state = match off {
        Some(off) if off <= ID_OFF_MAX => {
            let text = format!("version ids of {bucket} tell the time of the write");
            return Finding::ok(Check::VersionIds, Some(site), text);
        }
        Some(off) => format!("version ids of {bucket} ([{site}]) are {:.0} s away from the clock", off.as_secs_f64()),
        None => format!("version ids of {bucket} ([{site}]) have a form that this program does not know"),
    };
    Finding::bad(Check::VersionIds, Some(site), Severity::Warning, state)
        .then("versions of other writers are ordered by Last-Modified, which has a resolution of a second; own writes by their stamp")
        .mend("set the clock if that is wrong (timedatectl set-ntp true); else please report it, with one version id")
}

fn arrival(from: Site, there: Option<Duration>, gone: Option<Duration>, expect: Expect, wait: Duration) -> Finding {
    let to = from.other();
    let late = |what: &str| {
        let state = format!("{what} in bucket {from} did not arrive in bucket {to} within {} s", wait.as_secs());
        Finding::bad(Check::Arrival, Some(from), Severity::Warning, state)
            .then("replication is slow or stands still: after a switch, what was written last is known to this host's journal only")
            .mend("ask again with a longer --wait; if it never arrives, see the replication page of the console")
    };
    match (there, gone) {
        (None, _) => late("a write"),
        (Some(_), None) if expect.markers => late("a deletion"),
        (Some(there), gone) => {
            let gone = gone.map_or(String::new(), |gone| format!(", its deletion {:.1} s", gone.as_secs_f64()));
            let text = format!("a write took {:.1} s from {from} to {to}{gone}", there.as_secs_f64());
            Finding::ok(Check::Arrival, Some(from), text)
        }
    }
}
