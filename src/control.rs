//! The door through which a running mount is asked and told: a socket beside the mount, one JSON object a line.
//!
//! `status`, `switch` and `umount` are other processes than the daemon, and must work while the file system itself is stuck on a dead
//! network. So they do not go through the mount but through a Unix socket whose name is derived from the mount point. A request is one
//! line; the answer is one line, preceded by `progress` lines where the work takes long.
//!
//! The server knows the daemon only as [`Daemon`], so the protocol is tested without a mount.
//!
//! Owns: the words on the socket ([`Request`], [`Line`], [`Status`]), where sockets lie, who may connect (the user who mounted, and root).
//! Owns not: what the words do.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::object::{Class, Site};

pub use client::{Client, ClientError};
pub use server::Server;

pub mod client;
pub mod place;
pub mod server;

/// One line from a command to the daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    Status,
    Switch {
        to: Site,
        reason: String,
    },
    Auto,
    /// Wait until the present master has every write, while the mount goes on working.
    Drain {
        timeout_s: f64,
    },
    /// Unmount, then send what is left, then end the daemon. Refused while programs use the mount.
    Shutdown {
        timeout_s: f64,
    },
}

/// One line from the daemon to a command. Every answer ends with a line that is not `progress`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Progress(Progress),
    Status(Box<Status>),
    Done,
    Left(Left),
    /// Nothing was changed: programs use the mount.
    Busy(String),
    Error(String),
}

/// How far sending has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Writes that the present master does not have.
    pub unsent: u64,
    pub bytes: u64,
}

/// What a drained journal still holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Left {
    /// Writes that the present master does not have: lost if this host is lost.
    pub unsent: Vec<Pending>,
    /// Writes that the master has and the other bucket is not yet seen to have.
    pub unverified: u64,
    /// Files whose last bytes could not even be put into the journal, with the reason. They are lost.
    pub lost: Vec<String>,
}

/// One write that the master does not have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pending {
    pub path: String,
    pub bytes: u64,
    /// The write is a deletion.
    pub delete: bool,
    /// The other bucket has it, the present master has not.
    pub elsewhere: bool,
}

/// What `cosfs-ha status --json` prints. Fields are added, never renamed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `normal`, `switching`, `on_slave`, `catch_up`, `failback`, `both_down` or `local_outage`.
    pub state: String,
    pub master: Site,
    pub epoch: u64,
    /// Why the mount is where it is, in one sentence.
    pub explain: String,
    /// Too many automatic switches: an operator has to move it.
    pub latched: bool,
    pub linkages: Vec<Linkage>,
    pub journal: JournalDepth,
    /// The oldest writes that are not yet seen in both buckets, [`PENDING_LISTED`] at the most; before them files with changes that are in
    /// no record yet.
    #[serde(default)]
    pub pending: Vec<PendingWrite>,
    pub replication_lag_s: Lag,
    pub cache: CacheUse,
    /// Newest last.
    pub switches: Vec<Switch>,
    /// What stands now, oldest first.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    pub mount: MountFacts,
}

/// Arbitrary: what a person may want to look through, and a message of about 100 KB.
pub const PENDING_LISTED: usize = 1000;

/// A write that is not in both buckets, as far as is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PendingWrite {
    pub path: String,
    pub bytes: u64,
    /// The write is a deletion.
    pub delete: bool,
    /// `dirty`, `journal`, `sent`, `in-a`, `in-b`; `in-both` while a write with a lost answer is being watched.
    pub state: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Linkage {
    pub site: Site,
    pub class: Class,
    pub health: String,
    pub rtt_ms_p50: Option<f64>,
    pub rtt_ms_p99: Option<f64>,
    pub overdue_after_ms: f64,
}

#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct JournalDepth {
    pub records: u64,
    pub bytes: u64,
    pub limit: u64,
    pub unsent: u64,
    pub unverified: u64,
    pub oldest_s: f64,
}

/// `null` as long as nothing was measured.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Lag {
    pub a_to_b: Option<f64>,
    pub b_to_a: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheUse {
    pub bytes: u64,
    pub limit: u64,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Switch {
    /// Seconds since 1970.
    pub at: f64,
    pub from: Site,
    pub to: Site,
    pub epoch: u64,
    pub automatic: bool,
    pub reason: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alarm {
    pub event: String,
    pub for_s: f64,
    pub summary: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MountFacts {
    pub mountpoint: String,
    pub pid: u32,
    pub version: String,
    /// Seconds since 1970.
    pub since: f64,
    pub commit: String,
    pub read_only: bool,
    /// Host names of the two buckets.
    pub a: String,
    pub b: String,
    /// `null` with `--foreground`.
    pub log: Option<String>,
}

/// Why a shutdown was not begun or not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShutdownError {
    Busy(String),
    Failed(String),
}

/// Called with the newest figures while something long runs.
pub type OnProgress = Box<dyn FnMut(Progress) + Send>;

/// What the server needs of a mounted file system.
pub trait Daemon: Send + Sync + 'static {
    fn status(&self) -> Status;

    fn switch(&self, to: Site, reason: String) -> BoxFuture<'_, Result<(), String>>;

    fn auto(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Ends when the present master has everything, or at the deadline.
    fn drain(&self, until: Instant, progress: OnProgress) -> BoxFuture<'_, Left>;

    /// Unmounts, drains, and makes the daemon end once this answer is out.
    fn shutdown(&self, until: Instant, progress: OnProgress) -> BoxFuture<'_, Result<Left, ShutdownError>>;
}

/// A timeout as a deadline; a nonsensical number means a day.
fn deadline(timeout_s: f64) -> Instant {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let wait = Duration::try_from_secs_f64(timeout_s).map_or(DAY, |wait| wait.min(DAY));
    Instant::now() + wait
}

#[cfg(test)]
pub(crate) mod tests;
