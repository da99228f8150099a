//! Storage classes, and the way back from the archive.
//!
//! An archived object cannot be read until a restore has made a copy of it, for some days. How long that takes is documented
//! per tier; the emulator takes as long by its calendar, which the admin API can put forward.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document;
use crate::cos::xml::Document;
use crate::emulator::clock::http_date;
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::Reply;
use crate::emulator::site::{Content, RESTORE};
use crate::emulator::world::{Bucket, Received, World};

pub const CLASS: &str = "x-cos-storage-class";
/// The classes of a bucket in one zone. Those of several (`MAZ_`) do not mix with them.
const CLASSES: [&str; 5] = ["STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "ARCHIVE", "DEEP_ARCHIVE"];
const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestoreRequest {
    days: u64,
    #[serde(rename = "CASJobParameters", default)]
    job: Option<Job>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Job {
    tier: String,
}

impl Document for RestoreRequest {
    const ROOT: &'static str = "RestoreRequest";
}

/// A storage class from a request's header, in upper case; the default is left out.
pub fn wanted_class(call: &Call) -> Result<Option<String>, Failure> {
    let Some(class) = call.header(CLASS).map(str::to_uppercase) else { return Ok(None) };
    if !CLASSES.contains(&class.as_str()) {
        return Err(Failure::new(400, "NotSupportedStorageClass", format!("{class} is not a class of this bucket.")));
    }
    Ok((class != "STANDARD").then_some(class))
}

fn class(content: &Content) -> &str {
    content.headers.get(CLASS).map_or("STANDARD", String::as_str)
}

fn is_archived(content: &Content) -> bool {
    matches!(class(content), "ARCHIVE" | "DEEP_ARCHIVE")
}

/// A restore, as kept with the object: when it was asked for, when it is done, when its copy is gone.
#[derive(Debug)]
struct Restore {
    asked: u64,
    ready: u64,
    until: u64,
    tier: String,
}

impl Restore {
    fn of(content: &Content) -> Option<Restore> {
        let text = content.headers.get(RESTORE)?;
        let mut items = text.split(' ');
        let mut number = || items.next()?.parse().ok();
        let (asked, ready, until) = (number()?, number()?, number()?);
        Some(Restore { asked, ready, until, tier: items.next()?.to_owned() })
    }

    fn text(&self) -> String {
        format!("{} {} {} {}", self.asked, self.ready, self.until, self.tier)
    }
}

/// Where an archived object is on its way, at a moment. `None`: in the archive, or never was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Ongoing,
    Done,
}

pub fn progress(content: &Content, now: u64) -> Option<Progress> {
    let restore = Restore::of(content).filter(|r| now < r.until)?;
    Some(if now < restore.ready { Progress::Ongoing } else { Progress::Done })
}

/// Refuses to read what is in the archive.
pub fn readable(content: &Content, now: u64) -> Result<(), Failure> {
    if !is_archived(content) || progress(content, now) == Some(Progress::Done) {
        return Ok(());
    }
    let message = "The operation is not valid for the object's storage class.";
    Err(Failure::new(403, "InvalidObjectState", message).with(CLASS, class(content)))
}

/// What GET and HEAD say about class, tier and restore beyond the stored headers.
pub fn describe(mut reply: Reply, content: &Content, now: u64) -> Reply {
    if class(content) == "INTELLIGENT_TIERING" {
        reply = reply.with("x-cos-storage-tier", "FREQUENT");
    }
    let (Some(restore), Some(progress)) = (Restore::of(content), progress(content, now)) else { return reply };
    let state = match progress {
        Progress::Ongoing => "ongoing-request=\"true\"".to_owned(),
        Progress::Done => format!("ongoing-request=\"false\", expiry-date=\"{}\"", http_date(restore.until)),
    };
    let asked = format!("tier=\"{}\"; request-date=\"{}\"", restore.tier.to_lowercase(), http_date(restore.asked));
    reply.with("x-cos-restore", state).with("x-cos-restore-status", asked)
}

/// How long each tier takes at most.
fn duration(class: &str, tier: &str) -> Option<u64> {
    match (class, tier) {
        ("ARCHIVE", "Expedited") => Some(5 * 60 * SECOND),
        ("ARCHIVE", "Standard") => Some(5 * HOUR),
        ("ARCHIVE", "Bulk") => Some(12 * HOUR),
        ("DEEP_ARCHIVE", "Standard") => Some(24 * HOUR),
        ("DEEP_ARCHIVE", "Bulk") => Some(48 * HOUR),
        _ => None,
    }
}

/// `POST ?restore`. The documentation asks for Content-MD5; the official SDK sends none.
pub fn restore(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let request: RestoreRequest = document(received.as_ref())?;
    let tier = request.job.map_or_else(|| "Standard".to_owned(), |job| job.tier);
    if !(1..=365).contains(&request.days) {
        return Err(Failure::argument("Days must be between 1 and 365."));
    }
    let version = call.param("versionId").filter(|id| !id.is_empty());
    let (_, content) = bucket.read().shelf.get(&call.key, version)?;
    let now = world.now();
    if !is_archived(&content) {
        return Err(Failure::new(405, "RestoreNonArchiveObject", "The object is not archived."));
    }
    if progress(&content, now) == Some(Progress::Ongoing) {
        return Err(Failure::new(409, "RestoreAlreadyInProgress", "The object is being restored already."));
    }
    let takes = duration(class(&content), &tier)
        .ok_or_else(|| Failure::argument(format!("{} has no tier {tier}.", class(&content))))?;
    // A copy that is there already lives on from now.
    let ready = if progress(&content, now) == Some(Progress::Done) { now } else { now + takes };
    let restore = Restore { asked: now, ready, until: ready + request.days * DAY, tier };
    world.amend(bucket, &call.key, version, |headers: &mut BTreeMap<String, String>| {
        headers.insert(RESTORE.into(), restore.text());
        Ok(())
    })?;
    Ok(Reply::new(202))
}
