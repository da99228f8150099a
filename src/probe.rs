//! How good is the way to each bucket, measured over a window?
//!
//! The mount judges its linkages all the time, but only where it runs. The same question is asked before a mount exists, from a host that
//! only watches, or from a cloud function: so this measures by itself, with the requests that the mount's own probes use and that
//! leave no trace. Reads: HEAD of a key that need not exist. Writes: begin and abort a multipart upload. Every fifth request takes a new connection
//! and the other domain, because a pooled connection hides what a new one meets. At the end of the window one body each way shows the throughput:
//! the beginning of the largest object of a listing, and one part of an upload that is aborted.
//!
//! Owns: what is sent, the figures and their judgement. Owns not: who is told (`cli/probe`, `alarm`), the decisions of a mount (`failover`).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::cos::{Attempt, Client, Deadlines, Error, Get, Kind, List, Progress};
use crate::object::{self, Class, Headers, Key, Site};

pub mod judge;
pub mod report;

/// A probe is pointless once it is late (as `linkage/probe`).
const DEADLINES: Deadlines =
    Deadlines { connect: Duration::from_secs(2), first_byte: Duration::from_secs(3), progress: Duration::from_secs(2) };
/// For both bodies of one bucket together.
const BODY_TIME: Duration = Duration::from_secs(20);
/// Smaller bodies measure the latency once more.
const BODY_MIN: u64 = 64 << 10;
/// This share of bad answers is grey failure (failover/tuning: GREY).
const GREY: f64 = 0.25;
/// Below it something is wrong that retries still hide.
const GOOD: f64 = 0.99;
/// The mount calls a request overdue after this time at the latest (failover/tuning: `T_a`).
const OVERDUE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub window: Duration,
    /// Between the starts of two requests of one linkage.
    pub every: Duration,
    /// Size of the bodies; 0: none.
    pub bytes: u64,
    /// Also the ways of writes.
    pub writes: bool,
}

/// Judgement of one linkage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Up,
    /// Works, but too slowly or not always.
    Degraded,
    /// A quarter of all requests or more go wrong: worse than dead, because it is not obvious.
    Grey,
    /// Answers, and refuses.
    Refused,
    Down,
}

impl Health {
    pub const ALL: [Health; 5] = [Health::Up, Health::Degraded, Health::Grey, Health::Refused, Health::Down];

    pub fn name(self) -> &'static str {
        match self {
            Health::Up => "up",
            Health::Degraded => "degraded",
            Health::Grey => "grey",
            Health::Refused => "refused",
            Health::Down => "down",
        }
    }
}

/// Quantiles, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Times {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// What was measured on one linkage.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Measure {
    pub site: Site,
    pub class: Class,
    pub health: Health,
    pub attempts: u64,
    pub success_rate: f64,
    /// Failures by kind.
    pub failures: BTreeMap<&'static str, u64>,
    /// Whole requests, connection included; absent without a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Times>,
    /// From the last byte of the request to the first of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<Times>,
    /// MiB a second; absent where it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_mib_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// All linkages of both buckets, side by side.
pub async fn measure(clients: &[Client; 2], prefix: &str, plan: &Plan) -> Vec<Measure> {
    let Ok(key) = object::own(prefix, "probe") else { return Vec::new() };
    let key = &key;
    let sites = Site::ALL.map(|site| async move {
        let client = &clients[site.index()];
        let classes = Class::ALL.into_iter().filter(|class| plan.writes || *class == Class::Read);
        let runs = classes.clone().map(|class| window(client, class, key, plan));
        let samples = futures::future::join_all(runs).await;
        let mut rates = [None; 2];
        if plan.bytes > 0 {
            for class in classes.clone() {
                let body = async {
                    match class {
                        Class::Read => download(client, prefix, plan.bytes).await,
                        Class::Write => upload(client, key, plan.bytes).await,
                    }
                };
                // A body that does not come is a failure of the window, too; here it is just not measured.
                rates[class.index()] = tokio::time::timeout(BODY_TIME / 2, body).await.ok().flatten();
            }
        }
        let measures = classes.zip(samples).map(|(class, samples)| judge(site, class, samples, rates[class.index()]));
        measures.collect::<Vec<_>>()
    });
    futures::future::join_all(sites).await.concat()
}

/// What a window gave, before it is judged.
#[derive(Debug, Default)]
struct Samples {
    latency: Vec<Duration>,
    first_byte: Vec<Duration>,
    failures: BTreeMap<&'static str, u64>,
    last_error: Option<String>,
}

async fn window(client: &Client, class: Class, key: &Key, plan: &Plan) -> Samples {
    let end = Instant::now() + plan.window;
    let mut samples = Samples::default();
    for number in 0u64.. {
        let began = Instant::now();
        let fresh = number % 5 == 4;
        let progress = Progress::new();
        let at = Attempt {
            deadlines: DEADLINES,
            progress: &progress,
            fresh_connection: fresh,
            alternate_domain: fresh && number % 2 == 0,
        };
        let outcome = match class {
            Class::Read => client.head(key, None, &at).await.map(|_| None),
            Class::Write => client.initiate(key, &Headers::default(), None, &at).await.map(Some),
        };
        let took = began.elapsed();
        match outcome {
            Ok(begun) => {
                samples.good(took, &progress);
                if let Some(upload) = begun {
                    let progress = Progress::new();
                    let at = Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) };
                    // An unfinished upload without parts costs nothing, and the lifecycle rule removes it.
                    let _ = client.abort(key, &upload, &at).await;
                }
            }
            // COS knows that the key is not there, so the way is good.
            Err(error) if error.kind == Kind::NoSuchKey => samples.good(took, &progress),
            Err(error) => {
                *samples.failures.entry(kind_name(&error)).or_default() += 1;
                samples.last_error = Some(error.to_string());
            }
        }
        let next = began + plan.every;
        if next >= end || Instant::now() >= end {
            break;
        }
        tokio::time::sleep_until(next).await;
    }
    samples
}

impl Samples {
    fn good(&mut self, took: Duration, progress: &Progress) {
        self.latency.push(took);
        self.first_byte.extend(progress.waited());
    }
}

fn kind_name(error: &Error) -> &'static str {
    match error.kind {
        Kind::Unreachable => "unreachable",
        Kind::FirstByteTimeout => "timeout",
        Kind::Stalled => "stalled",
        Kind::Server => "server",
        Kind::Middlebox => "middlebox",
        Kind::Throttled { .. } => "throttled",
        Kind::ClockSkew => "clock",
        Kind::Auth => "auth",
        Kind::Admin | Kind::NoSuchBucket => "admin",
        Kind::Corrupt => "corrupt",
        Kind::Local => "local",
        _ => "other",
    }
}

/// Failures that say "no" rather than nothing.
const REFUSALS: [&str; 3] = ["auth", "admin", "clock"];

fn judge(site: Site, class: Class, samples: Samples, throughput: Option<f64>) -> Measure {
    let good = samples.latency.len() as u64;
    let bad: u64 = samples.failures.values().sum();
    let refused: u64 = REFUSALS.iter().filter_map(|kind| samples.failures.get(kind)).sum();
    let rate = if good + bad == 0 { 0.0 } else { good as f64 / (good + bad) as f64 };
    let (latency, first_byte) = (times(samples.latency), times(samples.first_byte));
    let slow = first_byte.is_some_and(|times| times.p99 > OVERDUE[class.index()].as_secs_f64() * 1000.0);
    let health = match () {
        () if good == 0 && refused > 0 => Health::Refused,
        () if good == 0 => Health::Down,
        () if 1.0 - rate >= GREY => Health::Grey,
        () if rate < GOOD || slow => Health::Degraded,
        () => Health::Up,
    };
    Measure {
        site,
        class,
        health,
        attempts: good + bad,
        success_rate: rate,
        failures: samples.failures,
        latency_ms: latency,
        first_byte_ms: first_byte,
        throughput_mib_s: throughput,
        last_error: samples.last_error,
    }
}

fn times(mut samples: Vec<Duration>) -> Option<Times> {
    samples.sort_unstable();
    // The nearest rank: of few samples, the highest quantiles are the largest one.
    let at = |share: f64| {
        let rank = (share * samples.len() as f64).ceil() as usize;
        samples.get(rank.clamp(1, samples.len().max(1)) - 1).map(|d| d.as_secs_f64() * 1000.0)
    };
    Some(Times { p50: at(0.5)?, p95: at(0.95)?, p99: at(0.99)?, max: at(1.0)? })
}

/// The beginning of the largest object that a listing shows; `None` if there is none worth measuring.
async fn download(client: &Client, prefix: &str, bytes: u64) -> Option<f64> {
    let progress = Progress::new();
    let at = Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) };
    let query = List { prefix: prefix.into(), max_keys: 1000, ..List::default() };
    let page = client.list(&query, &at).await.ok()?;
    let largest = page.objects.into_iter().max_by_key(|listed| listed.token.size)?;
    let length = largest.token.size.min(bytes);
    if length < BODY_MIN {
        return None;
    }
    let key = Key::new(largest.key).ok()?;
    let progress = Progress::new();
    let at = Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) };
    let get = Get { range: Some(0..length), ..Get::default() };
    let answer = client.get(&key, &get, &at).await.ok()?;
    let began = Instant::now();
    answer.body.collect().await.ok()?;
    Some(rate(length, began.elapsed()))
}

/// One part of an upload that is aborted: the way of a write, without a trace.
async fn upload(client: &Client, key: &Key, bytes: u64) -> Option<f64> {
    let progress = Progress::new();
    let at = Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) };
    let upload = client.initiate(key, &Headers::default(), None, &at).await.ok()?;
    let body = Bytes::from(vec![0x5a; usize::try_from(bytes).ok()?]);
    let progress = Progress::new();
    let sending = Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) };
    let began = Instant::now();
    let sent = client.upload_part(key, &upload, 1, body.into(), &sending).await;
    let took = began.elapsed();
    let progress = Progress::new();
    let _ = client.abort(key, &upload, &Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) }).await;
    sent.ok().map(|_| rate(bytes, took))
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / took.as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(good: usize, first_byte_ms: u64, failures: &[(&'static str, u64)]) -> Samples {
        let times = vec![Duration::from_millis(first_byte_ms); good];
        Samples {
            latency: times.clone(),
            first_byte: times,
            failures: failures.iter().copied().collect(),
            last_error: None,
        }
    }

    #[test]
    fn every_health_has_its_figures() {
        let rows = [
            (samples(20, 30, &[]), Health::Up, 1.0),
            (samples(19, 30, &[("timeout", 1)]), Health::Degraded, 0.95),
            (samples(20, 2500, &[]), Health::Degraded, 1.0),
            (samples(3, 30, &[("server", 1)]), Health::Grey, 0.75),
            (samples(0, 0, &[("auth", 4)]), Health::Refused, 0.0),
            (samples(0, 0, &[("timeout", 3)]), Health::Down, 0.0),
            (samples(0, 0, &[]), Health::Down, 0.0),
        ];
        for (samples, health, rate) in rows {
            let said = format!("{samples:?}");
            let measure = judge(Site::A, Class::Read, samples, None);
            assert_eq!((measure.health, measure.success_rate), (health, rate), "{said}");
        }
        assert_eq!(
            judge(Site::B, Class::Write, samples(9, 2500, &[]), None).health,
            Health::Up,
            "writes may take longer"
        );
    }

    #[test]
    fn quantiles_by_nearest_rank() {
        let found = times((1..=100).rev().map(Duration::from_millis).collect()).unwrap();
        assert_eq!((found.p50, found.p95, found.p99, found.max), (50.0, 95.0, 99.0, 100.0));
        let one = times(vec![Duration::from_millis(7)]).unwrap();
        assert_eq!((one.p50, one.max), (7.0, 7.0));
        assert_eq!(times(Vec::new()), None);
    }
}
