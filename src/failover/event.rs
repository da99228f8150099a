//! The whole vocabulary of the core: what it is told, what it asks for, what it shows.
//!
//! Everything that ever influences a decision is an [`Event`]; everything the core wants done is an [`Action`]; everything others may
//! know is in the [`View`]. Nothing else crosses the border.
//!
//! Owns: these words and their spelling in `status --json`. Owns not: any rule.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::evidence::Evidence;
use super::time::Time;
use crate::object::{Class, Epoch, Site};

/// How one attempt ended, as far as the health of the linkage is concerned (`linkage/outcome` decides it once).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The request succeeded.
    Good,
    /// 404, 409, 412, 416: COS answered, so the linkage lives. What the answer means is the caller's business.
    Answer,
    /// Refused, reset, silent, stalled, or answered by something that is not COS.
    Hard,
    /// 5xx from COS itself.
    Server,
    /// 503 SlowDown or 429.
    Throttled,
    /// Our clock is off in the eyes of COS.
    Clock,
    /// 403: identity or permission.
    Auth,
    /// No such bucket, arrears, 451: somebody has to act on the account.
    Admin,
    /// Wrong bytes under a right answer.
    Corrupt,
    /// This host failed: no file descriptors, no route, no disk.
    Local,
    /// The caller lost interest.
    Cancelled,
}

impl Outcome {
    pub const ALL: [Outcome; 11] = [
        Outcome::Good,
        Outcome::Answer,
        Outcome::Hard,
        Outcome::Server,
        Outcome::Throttled,
        Outcome::Clock,
        Outcome::Auth,
        Outcome::Admin,
        Outcome::Corrupt,
        Outcome::Local,
        Outcome::Cancelled,
    ];

    /// Speaks against the linkage (as does being overdue).
    pub fn is_bad(self) -> bool {
        matches!(self, Outcome::Hard | Outcome::Server)
    }

    /// The request was served: clears a suspicion and counts towards recovery.
    pub fn is_success(self) -> bool {
        matches!(self, Outcome::Good | Outcome::Answer)
    }

    /// COS itself spoke, whatever it said: the linkage carries requests there and back.
    pub fn proves_life(self) -> bool {
        matches!(
            self,
            Outcome::Good | Outcome::Answer | Outcome::Throttled | Outcome::Clock | Outcome::Auth | Outcome::Admin
        )
    }
}

/// What an operator can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Make `to` the master: gracefully if the present master lives, at once if it does not. A site of unknown health is probed first.
    /// Answered when it is done. Automatic failback rests until [`Command::Auto`].
    Switch { to: Site, reason: String },
    /// Decide alone again, with a fresh allowance of automatic switches.
    Auto,
}

/// What the journal still has to do, reported from outside at least every few seconds and on each change that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct JournalView {
    /// Records that no site acknowledged yet.
    pub unsent: u64,
    /// Records not yet verified on each site, by [`Site::index`].
    pub unverified_on: [u64; 2],
    /// Age of the oldest record that a site is not known to hold.
    pub oldest: Duration,
    /// Records whose request was sent completely and never answered.
    pub ambiguous: u64,
    /// Records that were sent to the other site and are not known to be on this one, by [`Site::index`]. Unlike a record that was sent
    /// nowhere, which simply goes to the next master.
    pub owed: [u64; 2],
    /// Test objects in a row that got through, unharmed, in both directions (`store/canary`).
    pub canaries: u32,
    /// How long the slowest of the last of them took from B to A.
    pub lag_to_a: Duration,
    /// Both buckets were compared since A is well again, and A lacks nothing but what the journal has.
    pub reconciled: bool,
}

/// One fact from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// `connection` differs between attempts that certainly use different connections; attempts on pooled ones share a number.
    AttemptStarted {
        id: u64,
        site: Site,
        class: Class,
        connection: u64,
        probe: bool,
    },
    /// `overdue_after` of the linkage passed since the last byte was sent, and nothing came back. At most once for an attempt.
    AttemptOverdue {
        id: u64,
    },
    /// `first_byte`: from the last byte sent to the first one received.
    AttemptEnded {
        id: u64,
        outcome: Outcome,
        first_byte: Option<Duration>,
    },
    /// Attempts that were too many to report one by one. `bad` includes the overdue ones.
    Crowd {
        site: Site,
        class: Class,
        good: u32,
        bad: u32,
    },
    Operator(Command),
    Journal(JournalView),
    /// Whoever decides about epochs (this mount alone, later a witness) says: this one is durable and holds. Adopted even if not asked for.
    EpochOpened {
        epoch: Epoch,
        master: Site,
    },
    /// The epoch that was asked for could not be opened.
    EpochRefused {
        epoch: Epoch,
        reason: String,
    },
    /// The host or this process was stopped for `by` (suspend, paused machine, SIGSTOP): silence during that time means nothing.
    ClockJump {
        by: Duration,
    },
    /// Time passed. Superfluous ticks are harmless.
    Tick,
}

/// What the core wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Check a linkage. Overdue counts after `overdue_after`; report [`Event::AttemptOverdue`] and [`Event::AttemptEnded`] under this id.
    Probe { id: u64, site: Site, class: Class, fresh_connection: bool, alternate_domain: bool, overdue_after: Duration },
    /// Make this epoch durable, then answer [`Event::EpochOpened`] or [`Event::EpochRefused`].
    OpenEpoch { epoch: Epoch, master: Site },
    /// Log it, show it, perhaps raise an alarm.
    Note(Transition),
    /// The answer to the oldest [`Event::Operator`] without one: at once, or in a later step (15 s later at most) if it takes a move or a probe.
    Reply(Result<(), String>),
}

/// State of the whole mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A is the master and serves.
    Normal,
    /// The master is being changed; writes stay in the journal for a moment.
    Switching,
    /// B is the master and A is not healthy.
    OnSlave,
    /// B is the master, A is healthy again and receives what it missed.
    CatchUp,
    /// Going back to A: writes are held for at most two seconds.
    Failback,
    /// No site can serve.
    BothDown,
    /// Nothing can be reached, and the errors come from this host.
    LocalOutage,
}

impl State {
    pub const ALL: [State; 7] = [
        State::Normal,
        State::Switching,
        State::OnSlave,
        State::CatchUp,
        State::Failback,
        State::BothDown,
        State::LocalOutage,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Normal => "normal",
            State::Switching => "switching",
            State::OnSlave => "on_slave",
            State::CatchUp => "catch_up",
            State::Failback => "failback",
            State::BothDown => "both_down",
            State::LocalOutage => "local_outage",
        })
    }
}

/// Health of one linkage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Up,
    /// Something went wrong; being checked four times a second.
    Suspect,
    /// Answers, but too often badly or too late: prefer the other site for reads.
    Grey,
    /// Does not answer. No traffic.
    Dead,
    /// Dead, and checked once a second.
    Probing,
    /// Answers again; must prove itself before it carries traffic.
    Recovering,
    /// Asks us to slow down.
    Throttled,
    /// Answers, but refuses everything: keys, permissions, account.
    AdminFault,
}

impl Health {
    pub const ALL: [Health; 8] = [
        Health::Up,
        Health::Suspect,
        Health::Grey,
        Health::Dead,
        Health::Probing,
        Health::Recovering,
        Health::Throttled,
        Health::AdminFault,
    ];

    /// May carry traffic. A linkage that is down costs nothing: attempts on it end before they begin.
    pub fn carries_traffic(self) -> bool {
        !matches!(self, Health::Dead | Health::Probing | Health::Recovering)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Up => "up",
            Health::Suspect => "suspect",
            Health::Grey => "grey",
            Health::Dead => "dead",
            Health::Probing => "probing",
            Health::Recovering => "recovering",
            Health::Throttled => "throttled",
            Health::AdminFault => "admin_fault",
        })
    }
}

/// What others may know about one linkage.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct LinkageView {
    pub health: Health,
    /// Wrong bytes came from here lately: read elsewhere if anything else can serve.
    pub quarantined: bool,
    /// Time to the first byte, median of the last hour.
    pub rtt_p50: Option<Duration>,
    pub rtt_p99: Option<Duration>,
    /// `T_a`: an attempt without an answer for this long since its last byte went out speaks against the linkage.
    pub overdue_after: Duration,
}

/// One change of master.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SwitchRecord {
    pub at: Time,
    pub from: Site,
    pub to: Site,
    pub epoch: Epoch,
    /// Decided by the mount itself, not by an operator.
    pub automatic: bool,
    pub reason: String,
}

/// The mount's opinion of the world at one moment. Published as a whole, so that no reader sees half a decision.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct View {
    pub state: State,
    pub master: Site,
    pub epoch: Epoch,
    /// Writes may be sent to the master. False only while the master is being changed; they wait in the journal then.
    pub accepting_writes: bool,
    /// By [`Site::index`], then [`Class::index`].
    pub linkages: [[LinkageView; 2]; 2],
    /// Too many automatic switches within the hour: stays where it is until the hour or an operator allows more.
    pub latched: bool,
    /// The last changes of master, newest last, at most [`SWITCHES_KEPT`].
    pub switches: Vec<SwitchRecord>,
    /// Why the system is where it is, in one sentence.
    pub explain: String,
}

/// How many [`SwitchRecord`]s a [`View`] carries.
pub const SWITCHES_KEPT: usize = 16;

impl View {
    pub fn linkage(&self, site: Site, class: Class) -> &LinkageView {
        &self.linkages[site.index()][class.index()]
    }
}

/// What changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    Linkage {
        site: Site,
        class: Class,
        from: Health,
        to: Health,
    },
    System {
        from: State,
        to: State,
    },
    Master {
        from: Site,
        to: Site,
        epoch: Epoch,
    },
    /// The allowance of automatic switches is used up (`on`), or there is some again.
    Latch {
        on: bool,
    },
    Quarantine {
        site: Site,
        class: Class,
        on: bool,
    },
    /// Nothing moved, but a human should know.
    Alarm {
        site: Option<Site>,
    },
}

/// One change with its cause: a log line, a status line, an alarm.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Transition {
    pub at: Time,
    pub change: Change,
    pub evidence: Evidence,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Linkage { site, class, from, to } => write!(f, "{site}.{class} {from} -> {to}")?,
            Change::System { from, to } => write!(f, "{from} -> {to}")?,
            Change::Master { from, to, epoch } => write!(f, "master {from} -> {to} in epoch {epoch}")?,
            Change::Latch { on: true } => f.write_str("automatic switching latched")?,
            Change::Latch { on: false } => f.write_str("automatic switching possible again")?,
            Change::Quarantine { site, class, on: true } => write!(f, "{site}.{class} quarantined")?,
            Change::Quarantine { site, class, on: false } => write!(f, "{site}.{class} out of quarantine")?,
            Change::Alarm { site: Some(site) } => write!(f, "attention, {site}")?,
            Change::Alarm { site: None } => f.write_str("attention")?,
        }
        write!(f, ": {}", self.evidence)
    }
}
