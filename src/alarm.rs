//! Tells people what they should know, once when it begins and once when it is over.
//!
//! A mount that survives the loss of a region must not do so in silence: the next fault would find nobody prepared. But an alarm that comes
//! a hundred times a night is switched off by the third. So a *condition* (seen once a second by [`watch`]) is turned into a pair of
//! notices by a pure rule ([`desk`]): raised, and much later cleared, however often it came and went in between.
//!
//! ```text
//! view, journal, store --watch--> sightings --desk--> notices --queue--> exec | webhook | mail   (one task each)
//!                                                        \--> log, metrics, status
//! ```
//!
//! Promise: nothing here can hold up the mount. Sightings are taken from memory; queues are bounded ([`QUEUE`]) and a full one drops its newest
//! notice and counts it; every delivery has a deadline. Checked by `tests/mount/alarms` with a real SMTP and a real HTTP server, and
//! by the tests of `desk`.
//!
//! Owns: names of alarms, their rules, delivery. Owns not: what is true (`failover`, `store`), figures (`metrics`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config;

pub use desk::{Active, Desk};
pub use watch::Sight;

mod desk;
mod exec;
mod mail;
pub mod watch;
mod webhook;

/// Notices that may wait for one channel. There are fewer kinds of alarm than this.
pub const QUEUE: usize = 64;
/// Pauses between the tries of one delivery. A notice about a dead network has to outlive it; after the last one it is given up.
const PAUSES: [Duration; 7] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(1800),
];

/// Makes the enum, its names and the table that docs/operations.md is compared with.
macro_rules! events {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $severity:ident, after $seconds:literal;)*) => {
        /// Everything that raises an alarm.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Event { $($(#[doc = $doc])* $variant,)* }

        impl Event {
            pub const ALL: &'static [Event] = &[$(Event::$variant,)*];

            /// As in `exec`'s first argument, metrics and JSON.
            pub fn name(self) -> &'static str {
                match self { $(Event::$variant => $name,)* }
            }

            pub fn severity(self) -> Severity {
                match self { $(Event::$variant => Severity::$severity,)* }
            }

            /// How long it must hold before it is worth telling.
            pub fn raise_after(self) -> Duration {
                match self { $(Event::$variant => Duration::from_secs($seconds),)* }
            }

            /// One sentence for the manual.
            pub fn about(self) -> String {
                match self { $(Event::$variant => [$($doc.trim(),)*].join(" "),)* }
            }
        }
    };
}

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something to look at by day.
    Warning,
    /// Protection is reduced: the next fault could be seen by programs.
    Error,
    /// Programs see it, or will if nobody acts.
    Critical,
}

events! {
    /// A linkage has not been well for 10 s.
    Suspect = "suspect", Warning, after 10;
    /// The second bucket is the master. Over when the first one is again.
    Switch = "switch", Error, after 0;
    /// Too many switches within an hour: the mount stays where it is until the hour is over or somebody moves it.
    Latched = "latched", Error, after 0;
    /// Neither bucket serves.
    BothDown = "both_down", Critical, after 0;
    /// Nothing can be reached, and the errors come from this host.
    LocalOutage = "local_outage", Critical, after 0;
    /// A write of this mount has been in one bucket only for a minute.
    Lag = "lag", Warning, after 0;
    /// The same for a quarter of an hour: replication does not work.
    LagLong = "lag_long", Error, after 0;
    /// The journal is four fifths full. Full means ENOSPC.
    Journal = "journal", Critical, after 0;
    /// It has been unknown for 10 minutes whether a bucket took a write.
    Ambiguous = "ambiguous", Warning, after 0;
    /// Somebody else wrote a file that this mount was writing, too. Nothing is lost: the older content is an older version.
    Conflict = "conflict", Warning, after 0;
    /// Wrong bytes came from a bucket; it is not read from while others can serve.
    Corrupt = "corrupt", Error, after 0;
    /// Objects are missing in one of the buckets: they would be missing after a switch.
    Coverage = "coverage", Warning, after 120;
    /// This host's clock is more than 5 s off.
    Clock = "clock", Warning, after 0;
    /// A bucket refuses the credentials, or they cannot be renewed.
    Auth = "auth", Critical, after 0;
    /// Something that the mount relies on is not set up in a bucket.
    Preflight = "preflight", Warning, after 0;
    /// The external origin does not take copies, or not fast enough.
    Origin = "origin", Warning, after 30;
}

impl Event {
    /// A moment rather than a state: worth one notice for a while, however often it happens.
    fn is_moment(self) -> bool {
        matches!(self, Event::Conflict)
    }
}

/// One condition that holds now.
#[derive(Clone, PartialEq, Debug)]
pub struct Sighting {
    pub event: Event,
    /// One sentence.
    pub summary: String,
    pub evidence: Value,
}

impl Sighting {
    pub fn new(event: Event, summary: impl Into<String>, evidence: Value) -> Sighting {
        Sighting { event, summary: summary.into(), evidence }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Raised,
    Cleared,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Raised => "raised",
            Phase::Cleared => "cleared",
        }
    }
}

/// What channels get, and what the JSON object holds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Notice {
    pub event: &'static str,
    pub phase: Phase,
    pub severity: Severity,
    /// The same for the two notices of one alarm.
    pub id: String,
    /// RFC 3339.
    pub time: String,
    /// When the alarm was raised.
    pub since: String,
    /// How often the cause appeared while the alarm stood.
    pub times: u64,
    pub summary: String,
    pub host: String,
    pub mountpoint: String,
    pub evidence: Value,
}

impl Notice {
    pub fn json(&self) -> String {
        // Strings, numbers and a JSON value: nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// How deliveries ended, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub delivered: u64,
    pub failed: u64,
    /// The queue was full.
    pub dropped: u64,
}

#[derive(Default)]
struct Books {
    raised: BTreeMap<Event, u64>,
    channels: BTreeMap<&'static str, Tally>,
}

/// Why a delivery did not work.
#[derive(Debug)]
enum Trouble {
    /// May work later.
    Passing(String),
    /// Will not work this way.
    Final(String),
}

/// One way to a person.
enum Channel {
    Exec(exec::Exec),
    Webhook(webhook::Webhook),
    Mail(Box<mail::Mailer>),
}

impl Channel {
    fn name(&self) -> &'static str {
        match self {
            Channel::Exec(_) => "exec",
            Channel::Webhook(_) => "webhook",
            Channel::Mail(_) => "mail",
        }
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), Trouble> {
        match self {
            Channel::Exec(exec) => exec.run(notice).await,
            Channel::Webhook(webhook) => webhook.post(notice).await,
            Channel::Mail(mailer) => mailer.send(notice).await,
        }
    }
}

/// The alarms of one mount. Cheap to clone.
#[derive(Clone)]
pub struct Alarms {
    inner: Arc<Inner>,
}

/// Name of a channel and the way to its task.
type Queue = (&'static str, mpsc::Sender<Arc<Notice>>);

/// Where the desk's time begins: `before` the process, if it goes on for another one.
struct Epoch {
    began: std::time::Instant,
    before: Duration,
}

struct Inner {
    desk: Mutex<Desk>,
    /// The desk's time zero.
    epoch: Mutex<Epoch>,
    /// Notices handed to channels.
    sent: AtomicU64,
    host: String,
    mountpoint: String,
    channels: Mutex<Vec<Queue>>,
    books: Arc<Mutex<Books>>,
    rt: Handle,
}

impl Alarms {
    /// Fails where the configuration cannot be used; nothing is contacted yet.
    pub fn new(config: &config::Alarm, mountpoint: &str, rt: &Handle) -> Result<Alarms, String> {
        let inner = Inner {
            desk: Mutex::new(Desk::new(config.clear_after)),
            epoch: Mutex::new(Epoch { began: std::time::Instant::now(), before: Duration::ZERO }),
            sent: AtomicU64::new(0),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            mountpoint: mountpoint.into(),
            channels: Mutex::default(),
            books: Arc::default(),
            rt: rt.clone(),
        };
        let alarms = Alarms { inner: Arc::new(inner) };
        alarms.configure(config)?;
        Ok(alarms)
    }

    /// Takes another configuration from now on. Notices that wait for the old channels are still delivered.
    pub fn configure(&self, config: &config::Alarm) -> Result<(), String> {
        let mut made = Vec::new();
        if let Some(program) = &config.exec {
            made.push(Channel::Exec(exec::Exec::new(program)));
        }
        if let Some(url) = &config.webhook {
            made.push(Channel::Webhook(webhook::Webhook::new(url)?));
        }
        if let Some(mail) = &config.mail {
            made.push(Channel::Mail(Box::new(mail::Mailer::new(mail, &self.inner.host)?)));
        }
        self.inner.desk.lock().clear_after(config.clear_after);
        let mut channels = Vec::new();
        for channel in made {
            let (send, receive) = mpsc::channel(QUEUE);
            channels.push((channel.name(), send));
            self.inner.rt.spawn(serve(channel, receive, self.inner.books.clone()));
        }
        *self.inner.channels.lock() = channels;
        Ok(())
    }

    /// All conditions that hold now. Called about once a second; never waits.
    pub fn see(&self, sightings: &[Sighting]) {
        let now = self.now();
        let told = self.inner.desk.lock().step(now, sightings);
        for told in told {
            self.tell(told);
        }
    }

    fn tell(&self, told: desk::Told) {
        let Inner { host, mountpoint, channels, books, .. } = &*self.inner;
        let began = SystemTime::now() - self.now();
        let moment = |at: Duration| humantime::format_rfc3339_millis(began + at).to_string();
        let notice = Arc::new(Notice {
            event: told.event.name(),
            phase: told.phase,
            severity: told.event.severity(),
            id: format!("{:x}-{}-{}", std::process::id(), told.event.name(), told.number),
            time: moment(told.at),
            since: moment(told.since),
            times: told.times,
            summary: told.summary,
            host: host.clone(),
            mountpoint: mountpoint.clone(),
            evidence: told.evidence,
        });
        let level = match (notice.phase, notice.severity) {
            (Phase::Cleared, _) => log::Level::Info,
            (_, Severity::Warning) => log::Level::Warn,
            _ => log::Level::Error,
        };
        log::log!(level, "alarm: {} {}: {}", notice.event, notice.phase.as_str(), notice.summary);
        if notice.phase == Phase::Raised {
            *books.lock().raised.entry(told.event).or_default() += 1;
        }
        for (name, channel) in channels.lock().iter() {
            self.inner.sent.fetch_add(1, Ordering::Relaxed);
            if channel.try_send(notice.clone()).is_err() {
                log::error!(
                    "alarm: {name} takes no more notices; {} {} is not told",
                    notice.event,
                    notice.phase.as_str()
                );
                books.lock().channels.entry(name).or_default().dropped += 1;
            }
        }
    }

    /// What stands now, oldest first.
    pub fn active(&self) -> Vec<Active> {
        self.inner.desk.lock().active(self.now())
    }

    fn now(&self) -> Duration {
        let epoch = self.inner.epoch.lock();
        epoch.before + epoch.began.elapsed()
    }

    /// What stands, for the next process that watches the same thing for a moment only.
    pub fn save(&self) -> Value {
        let began = (SystemTime::now() - self.now()).duration_since(UNIX_EPOCH).unwrap_or_default();
        serde_json::json!({ "began": began.as_secs_f64(), "alarms": self.inner.desk.lock().save() })
    }

    /// Goes on where another process ended: what it has told is not told again, and what is over is told as over.
    pub fn resume(&self, saved: &Value) -> Result<(), String> {
        let began = saved["began"].as_f64().filter(|began| (0.0..1e11).contains(began)).ok_or("no time in it")?;
        let began = UNIX_EPOCH + Duration::from_secs_f64(began);
        self.inner.desk.lock().resume(saved["alarms"].clone())?;
        // A clock that was put back: nothing has passed.
        self.inner.epoch.lock().before = SystemTime::now().duration_since(began).unwrap_or_default();
        Ok(())
    }

    /// Waits until every notice has been delivered or given up, at most so long. True if all of them reached somebody.
    pub async fn delivered(&self, limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        loop {
            let (mut good, mut bad) = (0, 0);
            for tally in self.inner.books.lock().channels.values() {
                good += tally.delivered;
                bad += tally.failed + tally.dropped;
            }
            let sent = self.inner.sent.load(Ordering::Relaxed);
            if good + bad >= sent || std::time::Instant::now() >= end {
                return good >= sent;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How often each alarm was raised, and how each channel fared.
    pub fn tally(&self) -> (BTreeMap<Event, u64>, BTreeMap<&'static str, Tally>) {
        let books = self.inner.books.lock();
        (books.raised.clone(), books.channels.clone())
    }
}

/// Delivers one notice after the other. Ends when nobody can send any more.
async fn serve(channel: Channel, mut queue: mpsc::Receiver<Arc<Notice>>, books: Arc<Mutex<Books>>) {
    while let Some(notice) = queue.recv().await {
        let mut pauses = PAUSES.iter();
        let delivered = loop {
            match channel.deliver(&notice).await {
                Ok(()) => break true,
                Err(Trouble::Final(why)) => {
                    log::error!(
                        "alarm: {} of {} by {} failed: {why}",
                        notice.event,
                        notice.phase.as_str(),
                        channel.name()
                    );
                    break false;
                }
                Err(Trouble::Passing(why)) => {
                    log::warn!("alarm: {} {} by {}: {why}", notice.event, notice.phase.as_str(), channel.name());
                    match pauses.next() {
                        Some(pause) => tokio::time::sleep(*pause).await,
                        None => break false,
                    }
                }
            }
        };
        let mut books = books.lock();
        let tally = books.channels.entry(channel.name()).or_default();
        if delivered { tally.delivered += 1 } else { tally.failed += 1 }
    }
}

#[cfg(test)]
mod tests;
