//! Decides whether one linkage, for one class of request, is alive.
//!
//! A black hole answers nothing, so counting failures never finds it: silence must count as well. Each attempt is therefore judged when it
//! ends *and* when it is overdue. The first bad attempt makes the linkage SUSPECT and starts a burst of probes on fresh connections; one
//! success clears it. DEAD = 3 bad attempts on 2 connections, 2.5 s without success, and the other site known to answer, because
//! two silent sites say more about this host than about either of them. A linkage that answers, but too often badly, is found by a
//! ratio instead (GREY). After DEAD it has to earn its way back: rest, one answer, ten in a row.
//!
//! What never counts: 404 and its kind (answers), 403, throttling, clock complaints (COS spoke), errors of this host, cancelled attempts.
//!
//! Owns: counters, suspicion times, the plan of probes. Owns not: sending them (`linkage/probe`), the switch (`machine`), the clock.
//! Promise: one success clears SUSPECT; nothing but silence, broken connections and 5xx ever leads to DEAD.
//! Checked by the table below and `tests/sim` (mutants `overdue`, `confirm`, `other_alive`, `common_mode`).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::event::{Action, Change, Health, LinkageView, Outcome, Transition};
use super::evidence::Evidence;
use super::latency::Latency;
use super::time::Time;
use super::tuning::Tuning;
use crate::object::{Class, Site};

mod plan;

/// Length of the ratio's window. With 12 samples needed, probes alone (one a second) fill it.
const WINDOW: Duration = Duration::from_secs(20);
/// Reads are let go sooner than the master is moved: a window that full of good answers from before would hide a fault of three in ten for
/// longer than the ten seconds in which reads are to leave.
const RECENT: Duration = Duration::from_secs(5);
/// Connections remembered of one suspicion; more prove nothing more.
const CONNECTIONS_KEPT: usize = 8;
/// Refusals and clock complaints are told to a human this often at most.
const ALARM_EVERY: Duration = Duration::from_secs(600);

/// Where the linkage stands. Each variant holds only what is valid in it.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Up,
    Suspect(Suspicion),
    Dead { since: Time },
    Probing { since: Time },
    Recovering { successes: u32, connections: BTreeSet<u64> },
}

#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    /// When the suspicion was raised; the burst of probes is counted from here.
    raised: Time,
    /// Start of the silence: of the first bad attempt, but never before the last success.
    since: Time,
    overdue: u32,
    failed: u32,
    connections: BTreeSet<u64>,
    /// Begun again because the sibling class came back. Once: a sibling that is half broken must not put the conclusion off for ever.
    renewed: bool,
}

impl Suspicion {
    /// With nothing gathered yet.
    fn begun(now: Time, since: Time) -> Suspicion {
        Suspicion { raised: now, since, overdue: 0, failed: 0, connections: BTreeSet::new(), renewed: false }
    }
}

/// Good and bad attempts of the last 20 s, in buckets of a second, with their sums: each event asks for them several times.
#[derive(Clone, Debug, Default)]
struct Window {
    seconds: VecDeque<(u64, u32, u32)>,
    good: u64,
    bad: u64,
}

impl Window {
    fn add(&mut self, now: Time, good: u32, bad: u32) {
        let second = now.as_nanos() / 1_000_000_000;
        self.expire(now);
        self.good += u64::from(good);
        self.bad += u64::from(bad);
        match self.seconds.back_mut() {
            Some(last)
                if last.0 == second && last.1.checked_add(good).is_some() && last.2.checked_add(bad).is_some() =>
            {
                last.1 += good;
                last.2 += bad;
            }
            _ => self.seconds.push_back((second, good, bad)),
        }
    }

    fn expire(&mut self, now: Time) {
        let oldest = (now - WINDOW).as_nanos() / 1_000_000_000;
        while let Some((second, good, bad)) = self.seconds.front().copied()
            && second < oldest
        {
            self.good -= u64::from(good);
            self.bad -= u64::from(bad);
            self.seconds.pop_front();
        }
    }

    /// (bad, all) of the last [`RECENT`].
    fn recent(&self, now: Time) -> (u32, u32) {
        let oldest = (now - RECENT).as_nanos() / 1_000_000_000;
        let late = self.seconds.iter().rev().take_while(|(second, ..)| *second >= oldest);
        late.fold((0, 0), |(bad, of), (_, good, more)| (bad + more, of + good + more))
    }

    /// (bad, all)
    fn ratio(&self) -> (u32, u32) {
        let whole = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        (whole(self.bad), whole(self.good + self.bad))
    }
}

/// What a detector must know about its neighbours to judge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbours {
    /// When the other site last gave a sign of life, over both classes.
    pub other_life: Option<Time>,
    /// Some linkage of the other site is up and answered within `other_fresh`.
    pub other_alive: bool,
    /// (bad, all) of the same class on the other site.
    pub other_ratio: (u32, u32),
    /// The sibling class of this site died of silence, which began then.
    pub sibling_dead: Option<(Class, Time)>,
    /// A linkage of this site or of the other one is suspect, or an operator wants to move here: this one's health must be known.
    pub urgent: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Detector {
    pub site: Site,
    pub class: Class,
    phase: Phase,
    latency: Latency,
    window: Window,
    last_life: Option<Time>,
    last_success: Option<Time>,
    /// Last serious evidence against, or the end of the last recovery: the linkage has been good since.
    good_since: Time,
    local_at: Option<Time>,
    /// Everything is silent, this linkage too, so none of them can be called dead by itself (`machine` decides).
    lost: bool,
    /// The silence before the last death began here; `None` if it did not die of silence.
    silent_since: Option<Time>,
    died_of: Option<Evidence>,
    ratio_since: Option<Time>,
    /// Since when the last few seconds were bad.
    recent_since: Option<Time>,
    grey: bool,
    grey_since: Time,
    throttled_at: Option<Time>,
    refused_since: Option<(Time, Outcome)>,
    admin: bool,
    corrupt: VecDeque<Time>,
    quarantined_until: Option<Time>,
    alarmed_at: Option<Time>,
    last_probe: Option<Time>,
    probes: u64,
    pub probes_in_flight: u32,
}

/// An attempt that spoke against the linkage (or `count` of them alike).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad {
    pub started: Time,
    pub connection: u64,
    pub probe: bool,
    /// `None`: overdue.
    pub outcome: Option<Outcome>,
    pub count: u32,
}

/// Collects notes of one step.
pub(super) struct Notes<'a> {
    pub now: Time,
    pub out: &'a mut Vec<Action>,
}

impl Notes<'_> {
    pub fn note(&mut self, change: Change, evidence: Evidence) {
        self.out.push(Action::Note(Transition { at: self.now, change, evidence }));
    }
}

impl Detector {
    pub fn new(site: Site, class: Class, now: Time, tuning: &Tuning) -> Detector {
        Detector {
            site,
            class,
            phase: Phase::Up,
            latency: Latency::new(class, now, tuning),
            window: Window::default(),
            last_life: None,
            last_success: None,
            good_since: now,
            local_at: None,
            lost: false,
            silent_since: None,
            died_of: None,
            ratio_since: None,
            recent_since: None,
            grey: false,
            grey_since: now,
            throttled_at: None,
            refused_since: None,
            admin: false,
            corrupt: VecDeque::new(),
            quarantined_until: None,
            alarmed_at: None,
            last_probe: None,
            probes: 0,
            probes_in_flight: 0,
        }
    }

    // ---- what others may ask

    pub fn health(&self) -> Health {
        match self.phase {
            Phase::Dead { .. } => Health::Dead,
            _ if self.lost => Health::Dead,
            Phase::Probing { .. } => Health::Probing,
            Phase::Recovering { .. } => Health::Recovering,
            _ if self.admin => Health::AdminFault,
            _ if self.grey => Health::Grey,
            Phase::Suspect(_) => Health::Suspect,
            Phase::Up if self.throttled_at.is_some() => Health::Throttled,
            Phase::Up => Health::Up,
        }
    }

    pub fn view(&self) -> LinkageView {
        LinkageView {
            health: self.health(),
            quarantined: self.quarantined_until.is_some(),
            rtt_p50: self.latency.quantile(0.5),
            rtt_p99: self.latency.quantile(0.99),
            overdue_after: self.overdue_after(),
        }
    }

    pub fn overdue_after(&self) -> Duration {
        self.latency.limit()
    }

    fn probe_overdue_after(&self, tuning: &Tuning) -> Duration {
        self.latency.limit().min(tuning.probe_overdue_max)
    }

    /// Declared dead on its own account, and not yet answering again.
    pub fn is_down(&self) -> bool {
        matches!(self.phase, Phase::Dead { .. } | Phase::Probing { .. })
    }

    /// Up, and answered within `other_fresh`: proof that this host's way out works.
    pub fn is_alive(&self, now: Time, tuning: &Tuning) -> bool {
        matches!(self.phase, Phase::Up)
            && !self.lost
            && self.last_life.is_some_and(|at| now.since(at) <= tuning.other_fresh)
    }

    pub fn is_lost(&self) -> bool {
        self.lost
    }

    pub fn is_suspect(&self) -> bool {
        matches!(self.phase, Phase::Suspect(_))
    }

    /// Carries requests, perhaps badly.
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Suspect(_)) && !self.lost && !self.admin
    }

    /// Known to be able to take over: up, and answered within `fresh`.
    pub fn is_ready(&self, now: Time, tuning: &Tuning) -> bool {
        let fresh = match self.class {
            Class::Read => tuning.other_fresh,
            Class::Write => tuning.write_probe_idle + tuning.write_overdue_max,
        };
        matches!(self.phase, Phase::Up)
            && !self.lost
            && !self.admin
            && self.last_success.is_some_and(|at| now.since(at) <= fresh)
    }

    /// Nothing speaks against it at the moment.
    pub fn is_healthy(&self) -> bool {
        matches!(self.health(), Health::Up | Health::Throttled)
    }

    pub fn is_admin_fault(&self) -> bool {
        self.admin
    }

    /// Enough evidence by itself; only the proof that the other site lives may be missing.
    pub fn is_confirmed(&self, now: Time, tuning: &Tuning) -> bool {
        match &self.phase {
            Phase::Suspect(s) => {
                s.overdue + s.failed >= tuning.bad_min
                    && s.connections.len() >= tuning.connections_min as usize
                    && (!tuning.defences.confirm || now.since(s.since) >= tuning.confirm)
            }
            _ => false,
        }
    }

    pub fn life(&self) -> Option<Time> {
        self.last_life
    }

    pub fn good_since(&self) -> Time {
        self.good_since
    }

    pub fn local_at(&self) -> Option<Time> {
        self.local_at
    }

    pub fn ratio(&self) -> (u32, u32) {
        self.window.ratio()
    }

    /// If it died of silence and gave no answer since: when the silence began.
    pub fn silent_since(&self) -> Option<Time> {
        if self.is_down() { self.silent_since } else { None }
    }

    /// What there is against it, for the machine's own words.
    pub fn words(&self, now: Time) -> String {
        use super::evidence::secs;
        match &self.phase {
            Phase::Up if self.lost => format!("{}.{} silent like everything else", self.site, self.class),
            Phase::Up => format!("{}.{} up", self.site, self.class),
            Phase::Suspect(s) => format!(
                "{}.{} silent for {} ({} unanswered, {} failed)",
                self.site,
                self.class,
                secs(now.since(s.since)),
                s.overdue,
                s.failed
            ),
            Phase::Dead { since } | Phase::Probing { since } => {
                format!("{}.{} dead for {}", self.site, self.class, secs(now.since(*since)))
            }
            Phase::Recovering { successes, .. } => {
                format!("{}.{} recovering ({successes} good answers)", self.site, self.class)
            }
        }
    }

    /// What it died of, for the reason of a switch.
    pub fn cause(&self) -> String {
        match &self.died_of {
            Some(evidence) if self.is_down() => format!("{}.{} dead: {evidence}", self.site, self.class),
            _ => format!("{}.{} {}", self.site, self.class, self.health()),
        }
    }

    // ---- facts coming in

    fn moved(&mut self, notes: &mut Notes, evidence: Evidence, change: impl FnOnce(&mut Detector)) {
        let from = self.health();
        change(self);
        let to = self.health();
        if from != to {
            notes.note(Change::Linkage { site: self.site, class: self.class, from, to }, evidence);
        }
    }

    /// An attempt spoke against the linkage.
    pub fn handle_bad(&mut self, notes: &mut Notes, bad: Bad, tuning: &Tuning) {
        let Bad { started, connection, probe, outcome, count } = bad;
        let now = notes.now;
        self.window.add(now, 0, count);
        let overdue_after = if probe { self.probe_overdue_after(tuning) } else { self.overdue_after() };
        let last_success = self.last_success;
        match &mut self.phase {
            Phase::Up => {
                // A long upload that fails began long ago, but says nothing about the time before its last wait.
                let mut since = started.max(now - overdue_after);
                if outcome.is_none() {
                    // A blackout may have begun after the region got the request and before we got the answer.
                    since = since + self.latency.slack(tuning);
                }
                if let Some(success) = last_success {
                    since = since.max(success);
                }
                let suspicion = Suspicion::begun(now, since);
                let evidence = Evidence::FirstBad { outcome, overdue_after };
                self.moved(notes, evidence, |d| d.phase = Phase::Suspect(suspicion));
            }
            Phase::Recovering { successes, .. } => {
                let evidence = Evidence::Relapse { successes: *successes };
                self.moved(notes, evidence, |d| d.phase = Phase::Probing { since: now });
            }
            Phase::Suspect(_) | Phase::Dead { .. } | Phase::Probing { .. } => {}
        }
        if let Phase::Suspect(s) = &mut self.phase {
            let counter = if outcome.is_none() { &mut s.overdue } else { &mut s.failed };
            *counter = counter.saturating_add(count);
            if s.connections.len() < CONNECTIONS_KEPT {
                s.connections.insert(connection);
            }
            // One bad attempt in five minutes is what healthy networks do; two before the next success are not.
            if s.overdue + s.failed >= 2 {
                self.good_since = now;
            }
        }
    }

    /// A request was served (`Good` or `Answer`).
    pub fn handle_success(
        &mut self,
        notes: &mut Notes,
        outcome: Outcome,
        fresh_connection: Option<u64>,
        first_byte: Option<Duration>,
        count: u32,
        tuning: &Tuning,
    ) {
        let now = notes.now;
        if count > 0 {
            self.window.add(now, count, 0);
        }
        // A fresh connection's first answer includes its handshakes: not what T_a is about.
        if let (Some(first_byte), None) = (first_byte, fresh_connection) {
            self.latency.add(now, first_byte, tuning);
        }
        self.last_success = Some(now);
        if self.admin || self.refused_since.is_some() {
            self.moved(notes, Evidence::Answered { outcome }, |d| {
                d.admin = false;
                d.refused_since = None;
            });
        }
        self.handle_life(notes, outcome);
        match &mut self.phase {
            Phase::Probing { .. } => {
                self.moved(notes, Evidence::Answered { outcome }, |d| {
                    d.phase = Phase::Recovering { successes: 0, connections: BTreeSet::new() }
                });
            }
            Phase::Up | Phase::Suspect(_) | Phase::Dead { .. } | Phase::Recovering { .. } => {}
        }
        if let Phase::Recovering { successes, connections } = &mut self.phase {
            *successes = successes.saturating_add(1);
            if let Some(connection) = fresh_connection
                && connections.len() < tuning.recovery_connections as usize
            {
                connections.insert(connection);
            }
            if *successes >= tuning.recovery_successes && connections.len() >= tuning.recovery_connections as usize {
                let evidence = Evidence::Proven { successes: *successes, connections: connections.len() as u32 };
                self.moved(notes, evidence, |d| {
                    d.phase = Phase::Up;
                    d.good_since = now;
                });
            }
        }
    }

    /// COS spoke, whatever it said: a suspicion of silence is over.
    fn handle_life(&mut self, notes: &mut Notes, outcome: Outcome) {
        self.last_life = Some(notes.now);
        if self.lost || self.is_suspect() {
            self.moved(notes, Evidence::Answered { outcome }, |d| {
                d.lost = false;
                if d.is_suspect() {
                    d.phase = Phase::Up;
                }
            });
        }
    }

    /// Every outcome that is neither good nor bad.
    pub fn handle_other(&mut self, notes: &mut Notes, outcome: Outcome, tuning: &Tuning) {
        let now = notes.now;
        if outcome.proves_life() {
            self.handle_life(notes, outcome);
        }
        match outcome {
            Outcome::Throttled => self.moved(notes, Evidence::Throttling { quiet: tuning.throttle_quiet }, |d| {
                d.throttled_at = Some(now);
            }),
            Outcome::Clock => self.alarm(notes, Evidence::ClockSkew),
            Outcome::Auth | Outcome::Admin => {
                let (since, _) = *self.refused_since.get_or_insert((now, outcome));
                self.alarm(notes, Evidence::Refused { outcome, lasting: now.since(since) });
            }
            Outcome::Corrupt => {
                self.corrupt.retain(|at| now.since(*at) <= tuning.corrupt_within);
                self.corrupt.push_back(now);
                self.good_since = now;
                if self.corrupt.len() >= tuning.corrupt_count as usize {
                    let times = self.corrupt.len() as u32;
                    self.corrupt.clear();
                    if self.quarantined_until.replace(now + tuning.quarantine).is_none() {
                        notes.note(
                            Change::Quarantine { site: self.site, class: self.class, on: true },
                            Evidence::WrongBytes { times, within: tuning.corrupt_within },
                        );
                    }
                }
            }
            Outcome::Local => self.local_at = Some(now),
            Outcome::Good | Outcome::Answer | Outcome::Hard | Outcome::Server | Outcome::Cancelled => {}
        }
    }

    fn alarm(&mut self, notes: &mut Notes, evidence: Evidence) {
        if self.alarmed_at.is_none_or(|at| notes.now.since(at) >= ALARM_EVERY) {
            self.alarmed_at = Some(notes.now);
            notes.note(Change::Alarm { site: Some(self.site) }, evidence);
        }
    }

    /// Evidence gathered so far is void: this host was stopped, or everything was silent.
    pub fn restart_suspicion(&mut self, now: Time) {
        if let Phase::Suspect(s) = &mut self.phase {
            *s = Suspicion::begun(now, now);
        }
        self.window = Window::default();
        self.ratio_since = None;
        self.recent_since = None;
    }

    /// The other class of this site was silent as well and is answered again: what was silent because of both may be over here, too, and only
    /// what is asked from now on can tell. After a blackout the first answers of the two classes come a moment apart.
    pub fn handle_sibling_back(&mut self, now: Time) {
        if let Phase::Suspect(s) = &mut self.phase
            && !s.renewed
        {
            *s = Suspicion { renewed: true, ..Suspicion::begun(now, now) };
        }
    }

    pub fn handle_jump(&mut self, now: Time) {
        self.restart_suspicion(now);
        self.good_since = now;
    }

    pub fn set_lost(&mut self, notes: &mut Notes, lost: bool, evidence: impl FnOnce() -> Evidence) {
        if self.lost != lost {
            self.moved(notes, evidence(), |d| d.lost = lost);
        }
    }

    // ---- judgement

    /// Draws the conclusions that time and the neighbours allow.
    pub fn judge(&mut self, notes: &mut Notes, neighbours: &Neighbours, other: Site, tuning: &Tuning) {
        let now = notes.now;
        self.window.expire(now);
        self.judge_silence(notes, neighbours, other, tuning);
        self.judge_ratio(notes, neighbours, tuning);
        if let Phase::Dead { since } = self.phase
            && now.since(since) >= tuning.dead_min
        {
            self.moved(notes, Evidence::Rested { after: now.since(since) }, |d| d.phase = Phase::Probing { since });
        }
        if self.throttled_at.is_some_and(|at| now.since(at) >= tuning.throttle_quiet) {
            self.moved(notes, Evidence::Quiet { lasting: tuning.throttle_quiet }, |d| d.throttled_at = None);
        }
        if let Some((since, outcome)) = self.refused_since
            && !self.admin
            && now.since(since) >= tuning.admin_after
        {
            let evidence = Evidence::Refused { outcome, lasting: now.since(since) };
            self.moved(notes, evidence, |d| d.admin = true);
        }
        if self.quarantined_until.is_some_and(|until| now >= until) {
            self.quarantined_until = None;
            notes.note(
                Change::Quarantine { site: self.site, class: self.class, on: false },
                Evidence::Quiet { lasting: tuning.quarantine },
            );
        }
    }

    fn judge_silence(&mut self, notes: &mut Notes, neighbours: &Neighbours, other: Site, tuning: &Tuning) {
        let now = notes.now;
        let other_alive = neighbours.other_alive || !tuning.defences.other_alive;
        if self.is_confirmed(now, tuning)
            && other_alive
            && let Phase::Suspect(s) = &self.phase
        {
            let since = s.since;
            let evidence = Evidence::Silent {
                overdue: s.overdue,
                failed: s.failed,
                connections: s.connections.len() as u32,
                silent: now.since(s.since),
                other,
                other_answered: neighbours.other_life.map(|at| now.since(at)),
            };
            self.die(notes, Some(since), evidence);
        } else if let Some((class, silent_since)) = neighbours.sibling_dead
            && self.is_suspect()
            && self.last_life.is_none_or(|at| at < silent_since)
        {
            let evidence = Evidence::SharedFate { class, silent: now.since(silent_since) };
            self.die(notes, Some(silent_since), evidence);
        }
    }

    fn die(&mut self, notes: &mut Notes, silent_since: Option<Time>, evidence: Evidence) {
        let since = notes.now;
        self.died_of = Some(evidence.clone());
        self.moved(notes, evidence, |d| {
            d.phase = Phase::Dead { since };
            d.lost = false;
            d.silent_since = silent_since;
            d.grey = false;
            d.ratio_since = None;
            d.recent_since = None;
            d.window = Window::default();
        });
    }

    /// Reads leave on the evidence of a few seconds: that costs little, and the master stays.
    fn judge_recent(&mut self, notes: &mut Notes, other_fine: bool, tuning: &Tuning) {
        let now = notes.now;
        let (bad, of) = self.window.recent(now);
        // Three in ten vary a good deal within a few seconds, so it begins a little below the threshold and ends far below it.
        let percent = match self.recent_since {
            None => tuning.grey_percent * 4 / 5,
            Some(_) => tuning.grey_percent.div_ceil(2),
        };
        if self.class != Class::Read || of < tuning.grey_samples || bad * 100 < of * percent || !other_fine {
            self.recent_since = None;
            return;
        }
        let since = *self.recent_since.get_or_insert(now);
        if !self.grey && now.since(since) >= tuning.grey_read_after / 2 {
            let evidence = Evidence::Ratio { bad, of, window: RECENT, lasting: now.since(since) };
            self.moved(notes, evidence, |d| (d.grey, d.grey_since) = (true, now));
        }
    }

    fn judge_ratio(&mut self, notes: &mut Notes, neighbours: &Neighbours, tuning: &Tuning) {
        if !matches!(self.phase, Phase::Up | Phase::Suspect(_)) {
            return;
        }
        let now = notes.now;
        let (bad, of) = self.window.ratio();
        let (other_bad, other_of) = neighbours.other_ratio;
        let other_fine = neighbours.other_alive && other_bad * 100 < (other_of * tuning.grey_other_percent).max(1);
        let half = tuning.grey_percent.div_ceil(2);
        self.judge_recent(notes, other_fine, tuning);
        // Once grey, half the ratio keeps it grey, and it stays so for a while: a linkage at the threshold must not flicker.
        let percent = if self.grey { half } else { tuning.grey_percent };
        if of < tuning.grey_samples || bad * 100 < of * percent || !other_fine {
            self.ratio_since = None;
            let settled = now.since(self.grey_since) >= WINDOW / 2 && self.recent_since.is_none();
            if self.grey && (settled || !other_fine) {
                self.moved(notes, Evidence::RatioFell { bad, of }, |d| d.grey = false);
            }
            return;
        }
        let since = *self.ratio_since.get_or_insert(now);
        let lasting = now.since(since);
        let evidence = Evidence::Ratio { bad, of, window: WINDOW, lasting };
        if !self.grey && lasting >= tuning.grey_read_after {
            self.moved(notes, evidence.clone(), |d| (d.grey, d.grey_since) = (true, now));
        }
        if self.class == Class::Write && lasting >= tuning.grey_write_after {
            self.die(notes, None, evidence);
        }
    }
}
