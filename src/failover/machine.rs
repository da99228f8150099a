//! Which site is the master, and what state the mount is in.
//!
//! The state shown to others is not stored but follows from three things: who is master, whether a move is under way, and whether
//! anything can serve at all. So no combination is forgotten, and the symmetric cases (B was made master by an operator, then dies)
//! need no rules of their own:
//!
//! ```text
//! move under way   graceful, from B to A       FAILBACK
//!                  any other                   SWITCHING
//! a class that no site can serve               LOCAL_OUTAGE if this host reported errors of its own, else BOTH_DOWN
//! master A                                     NORMAL
//! master B         A alive                     CATCH_UP
//!                  A dead                      ON_SLAVE
//! ```
//!
//! A move: `Hold` (graceful only: new writes wait while those in flight finish, `hold_max` at most), then `Opening`: the epoch is asked for by
//! [`Action::OpenEpoch`] and holds once [`Event::EpochOpened`] says so. Today the driver makes it durable and answers; a
//! witness between several mounts would answer in its place, and may also announce epochs nobody here asked for.
//!
//! The master moves as a whole even if only one class of it is dead, because freshness follows the master of writes. It moves by itself only to a
//! site known to serve everything the present one serves and more, and `switches_per_hour` times an hour at most.
//!
//! Owns: master, epoch, moves, latch. Owns not: the health of linkages (`detector`), the wait of writers (store).
//!
//! [`Event::EpochOpened`]: super::Event::EpochOpened

use std::collections::VecDeque;
use std::time::Duration;

use super::detector::{Detector, Notes};
use super::event::{Action, Change, JournalView, SWITCHES_KEPT, State, SwitchRecord};
use super::evidence::{Evidence, secs};
use super::failback;
use super::time::{Time, Timer};
use super::tuning::Tuning;
use crate::object::{Class, Epoch, Site};

const HOUR: Duration = Duration::from_secs(3600);
/// A writer that looked at the view just before the hold may begin one more request: wait for it to show up.
const HOLD_MIN: Duration = Duration::from_millis(100);
/// Doublings of the pause after a failback that was broken off: each of them held writes back for nothing.
const BROKEN_OFF_MAX: u32 = 4;
/// An operator's choice of a site whose health is not known waits this long for the answer of a probe: one overdue write probe
/// (`probe_overdue_max`, 1.2 s) and two good ones fit.
const CHOICE_PROBED: Duration = Duration::from_secs(5);
/// The operator is told after this long in any case; the move itself goes on.
const CHOICE_ANSWERED: Duration = Duration::from_secs(15);
/// Errors of this host older than this say nothing about the present.
const LOCAL_RECENT: Duration = Duration::from_secs(10);

/// Read-only picture of everything around the machine.
pub(super) struct World<'a> {
    pub tuning: &'a Tuning,
    pub detectors: &'a [[Detector; 2]; 2],
    /// Write attempts in flight (probes excluded) by site.
    pub writing: [usize; 2],
    pub journal: Option<(Time, JournalView)>,
    /// When the core began: before that nothing can have answered.
    pub began: Time,
}

impl World<'_> {
    fn of(&self, site: Site, class: Class) -> &Detector {
        &self.detectors[site.index()][class.index()]
    }

    fn both(&self, site: Site) -> impl Iterator<Item = &Detector> {
        self.detectors[site.index()].iter()
    }

    /// A class of the site is dead, or refused for good where that may count.
    fn fallen(&self, site: Site) -> bool {
        self.both(site).any(|d| self.down(d))
    }

    fn down(&self, d: &Detector) -> bool {
        d.is_down() || (self.tuning.admin_failover && d.is_admin_fault())
    }

    /// `to` serves all that `from` serves, and something that is down there.
    fn better(&self, now: Time, from: Site, to: Site) -> bool {
        let keeps =
            Class::ALL.iter().all(|c| self.of(to, *c).is_ready(now, self.tuning) || !self.of(from, *c).serves());
        let gains =
            Class::ALL.iter().any(|c| self.of(to, *c).is_ready(now, self.tuning) && self.down(self.of(from, *c)));
        keeps && gains
    }

    fn ready(&self, now: Time, site: Site) -> bool {
        self.both(site).all(|d| d.is_ready(now, self.tuning))
    }

    fn life(&self, site: Site) -> Time {
        self.both(site).filter_map(Detector::life).max().unwrap_or(self.began)
    }

    fn local_recent(&self, now: Time, site: Site) -> bool {
        self.both(site).filter_map(Detector::local_at).any(|at| now.since(at) <= LOCAL_RECENT)
    }

    /// What the site's fallen linkages died of.
    fn causes(&self, site: Site) -> String {
        let causes: Vec<String> = self.both(site).filter(|d| self.down(d)).map(Detector::cause).collect();
        causes.join("; ")
    }

    /// Why the site is not ready to take over.
    fn doubts(&self, now: Time, site: Site) -> String {
        let silent = |d: &Detector| format!("{}.{} has not answered yet", d.site, d.class);
        let unready = self.both(site).filter(|d| !d.is_ready(now, self.tuning));
        let doubts: Vec<String> = unready.map(|d| if d.is_healthy() { silent(d) } else { d.words(now) }).collect();
        doubts.join(", ")
    }

    fn words(&self, now: Time) -> String {
        let bad: Vec<String> =
            self.detectors.iter().flatten().filter(|d| !d.is_healthy()).map(|d| d.words(now)).collect();
        if bad.is_empty() { "all linkages are up".into() } else { bad.join(", ") }
    }
}

/// Nothing can serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outage {
    BothDown,
    Local,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Hold { since: Time },
    Opening { asked: Time },
}

#[derive(Clone, Debug)]
struct Move {
    to: Site,
    automatic: bool,
    reason: String,
    step: Step,
}

/// What an operator asked for and has not been answered yet.
#[derive(Clone, Debug)]
struct Choice {
    to: Site,
    reason: String,
    since: Time,
    /// A move towards it was begun.
    begun: bool,
    /// ... and broken off, because of this.
    failed: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub master: Site,
    pub epoch: Epoch,
    moving: Option<Move>,
    pub outage: Option<Outage>,
    /// An operator chose the present master: no automatic failback.
    pinned: bool,
    pub latched: bool,
    /// Times of automatic switches of the last hour.
    automatic: VecDeque<Time>,
    /// Switches away from A that the mount decided, and the last of them (doubling of the trial period).
    flaps: u32,
    last_flap: Option<Time>,
    /// After a failback that was broken off.
    not_before: Option<Time>,
    /// Failbacks broken off in a row.
    broken_off: u32,
    pub switches: VecDeque<SwitchRecord>,
    choice: Option<Choice>,
    shown: State,
}

impl Machine {
    pub fn new(epoch: Epoch, master: Site) -> Machine {
        Machine {
            master,
            epoch,
            moving: None,
            outage: None,
            pinned: false,
            latched: false,
            automatic: VecDeque::new(),
            flaps: 0,
            last_flap: None,
            not_before: None,
            broken_off: 0,
            switches: VecDeque::new(),
            choice: None,
            shown: if master == Site::A { State::Normal } else { State::CatchUp },
        }
    }

    pub fn shown(&self) -> State {
        self.shown
    }

    pub fn accepting_writes(&self) -> bool {
        self.moving.is_none()
    }

    fn state(&self, world: &World) -> State {
        match (&self.moving, self.outage) {
            (Some(Move { to: Site::A, step: Step::Hold { .. }, .. }), _) if self.master == Site::B => State::Failback,
            (Some(Move { to: Site::A, .. }), _) if self.master == Site::B && self.shown == State::Failback => {
                State::Failback
            }
            (Some(_), _) => State::Switching,
            (None, Some(Outage::BothDown)) => State::BothDown,
            (None, Some(Outage::Local)) => State::LocalOutage,
            (None, None) => match self.master {
                Site::A => State::Normal,
                Site::B if world.both(Site::A).any(|d| d.is_down() || d.is_admin_fault()) => State::OnSlave,
                Site::B => State::CatchUp,
            },
        }
    }

    // ---- what comes in

    /// Takes an operator's choice. It is answered by [`Machine::settle_choice`]: once it is done, or cannot be.
    pub fn handle_switch(&mut self, notes: &mut Notes, to: Site, reason: String) {
        self.drop_choice(notes);
        self.choice = Some(Choice { to, reason, since: notes.now, begun: false, failed: None });
    }

    fn drop_choice(&mut self, notes: &mut Notes) {
        if self.choice.take().is_some() {
            notes.out.push(Action::Reply(Err("another command came in between".into())));
        }
    }

    /// The site an operator wants and nobody knows enough about: it must be probed now.
    pub fn wants(&self) -> Option<Site> {
        self.choice.as_ref().filter(|_| self.moving.is_none()).map(|c| c.to)
    }

    pub fn handle_auto(&mut self, notes: &mut Notes) {
        self.pinned = false;
        self.automatic.clear();
        self.set_latch(notes, false, "an operator returned to automatic");
        self.drop_choice(notes);
        notes.out.push(Action::Reply(Ok(())));
    }

    pub fn handle_opened(&mut self, notes: &mut Notes, epoch: Epoch, master: Site) {
        if epoch <= self.epoch {
            return;
        }
        let asked = self.moving.take();
        let own = asked.filter(|m| m.to == master);
        let chosen = own.as_ref().is_some_and(|m| !m.automatic);
        let (automatic, reason) =
            own.map_or((false, "decided by another mount".to_string()), |m| (m.automatic, m.reason));
        let from = self.master;
        self.epoch = epoch;
        self.master = master;
        if from == master {
            return;
        }
        let at = notes.now;
        if automatic {
            self.automatic.push_back(at);
            if master == Site::B {
                self.flaps = self.flaps.saturating_add(1);
                self.last_flap = Some(at);
            }
        }
        self.not_before = None;
        self.broken_off = 0;
        self.pinned |= chosen;
        self.switches.push_back(SwitchRecord { at, from, to: master, epoch, automatic, reason: reason.clone() });
        if self.switches.len() > SWITCHES_KEPT {
            self.switches.pop_front();
        }
        notes.note(Change::Master { from, to: master, epoch }, Evidence::words(reason));
    }

    pub fn handle_refused(&mut self, notes: &mut Notes, epoch: Epoch, reason: &str) {
        if let Some(Move { step: Step::Opening { asked }, .. }) = &mut self.moving
            && epoch > self.epoch
        {
            *asked = notes.now;
            let text = format!("epoch {epoch} could not be opened ({reason}); asking again");
            notes.note(Change::Alarm { site: None }, Evidence::words(text));
        }
    }

    pub fn handle_jump(&mut self, notes: &mut Notes) {
        if let Some(Move { step: Step::Hold { since }, .. }) = &mut self.moving {
            *since = notes.now;
        }
    }

    // ---- judgement

    /// Brings everything up to date. Called after every event.
    pub fn settle(&mut self, notes: &mut Notes, world: &World) {
        let now = notes.now;
        while self.automatic.front().is_some_and(|at| now.since(*at) >= HOUR) {
            self.automatic.pop_front();
        }
        if self.latched && self.allowance(world.tuning) {
            self.set_latch(notes, false, "the oldest automatic switch is an hour ago");
        }
        self.settle_move(notes, world);
        self.settle_choice(notes, world);
        if self.moving.is_none() {
            self.settle_outage(notes.now, world);
            self.settle_master(notes, world);
        }
        let state = self.state(world);
        if state != self.shown {
            let evidence = match &self.moving {
                Some(m) => m.reason.clone(),
                None => world.words(now),
            };
            let from = std::mem::replace(&mut self.shown, state);
            notes.note(Change::System { from, to: state }, Evidence::words(evidence));
        }
    }

    fn settle_move(&mut self, notes: &mut Notes, world: &World) {
        let now = notes.now;
        let Some(m) = &mut self.moving else { return };
        match m.step {
            Step::Opening { asked } => {
                if now.since(asked) >= world.tuning.epoch_retry {
                    m.step = Step::Opening { asked: now };
                    notes.out.push(Action::OpenEpoch { epoch: Epoch(self.epoch.0 + 1), master: m.to });
                }
            }
            Step::Hold { since } => {
                let held = now.since(since);
                let (to, automatic) = (m.to, m.automatic);
                let doubt = world.both(to).find(|d| !d.serves()).map(|d| d.words(now));
                if let Some(doubt) = doubt {
                    self.moving = None;
                    self.not_before = Some(now + world.tuning.failback_retry);
                    let text = format!("the move to {to} was broken off: {doubt}");
                    if let Some(choice) = &mut self.choice {
                        choice.failed = Some(text.clone());
                    }
                    notes.note(Change::Alarm { site: Some(to) }, Evidence::words(text));
                    return;
                }
                let fallen = world.fallen(self.master);
                let in_flight = world.writing[self.master.index()];
                let facts = self.failback_facts(now, world);
                // What was reported before the last writer stopped says nothing about what it wrote.
                let reported = world.journal.is_some_and(|(at, _)| at >= since + HOLD_MIN);
                let undrained = match automatic {
                    true if !reported => Some("the journal has not reported yet".into()),
                    true => failback::drained(&facts, true).err(),
                    false => None,
                };
                let quiet = held >= HOLD_MIN && in_flight == 0 && undrained.is_none();
                let over = held >= world.tuning.hold_max;
                if over && !quiet && automatic && !fallen {
                    self.moving = None;
                    self.not_before = Some(now + world.tuning.failback_retry * (1 << self.broken_off));
                    self.broken_off = (self.broken_off + 1).min(BROKEN_OFF_MAX);
                    let why = undrained.unwrap_or_else(|| format!("{in_flight} writes still in flight"));
                    let text = format!("the failback to {to} was broken off after {}: {why}", secs(held));
                    notes.note(Change::Alarm { site: None }, Evidence::words(text));
                } else if quiet || over || fallen {
                    if let Some(m) = &mut self.moving {
                        m.step = Step::Opening { asked: now };
                    }
                    notes.out.push(Action::OpenEpoch { epoch: Epoch(self.epoch.0 + 1), master: to });
                }
            }
        }
    }

    /// Brings what an operator asked for one step further, and answers when it is done or cannot be.
    fn settle_choice(&mut self, notes: &mut Notes, world: &World) {
        let now = notes.now;
        let Some(choice) = &mut self.choice else { return };
        let (to, waited) = (choice.to, now.since(choice.since));
        let answer = if let Some(m) = &self.moving {
            choice.begun |= m.to == to;
            if m.to != to {
                Some(Err(format!("a move to {} is under way ({})", m.to, m.reason)))
            } else if waited >= CHOICE_ANSWERED {
                let epoch = self.epoch.0 + 1;
                Some(Err(format!("not done after {}: epoch {epoch} could not be made durable yet", secs(waited))))
            } else {
                None
            }
        } else if to == self.master {
            self.pinned = true;
            Some(Ok(()))
        } else if let Some(why) = choice.failed.take() {
            Some(Err(why))
        } else {
            let forced = world.fallen(self.master);
            if world.ready(now, to) || forced && world.better(now, self.master, to) {
                choice.begun = true;
                let reason = format!("operator: {}", choice.reason);
                let step = if forced { Step::Opening { asked: now } } else { Step::Hold { since: now } };
                self.begin(notes, Move { to, automatic: false, reason, step });
                None
            } else if waited >= CHOICE_PROBED || choice.begun || world.both(to).any(|d| d.is_down() || d.is_lost()) {
                let master = self.master;
                Some(Err(format!("{to} cannot take over, so {master} stays master: {}", world.doubts(now, to))))
            } else {
                None
            }
        };
        if let Some(answer) = answer {
            self.choice = None;
            notes.out.push(Action::Reply(answer));
        }
    }

    fn settle_outage(&mut self, now: Time, world: &World) {
        let gone = |d: &Detector| world.down(d) || d.is_confirmed(now, world.tuning);
        let nobody = Class::ALL.iter().any(|c| Site::ALL.iter().all(|s| gone(world.of(*s, *c))));
        let silent = Site::ALL.iter().all(|s| now.since(world.life(*s)) >= world.tuning.confirm);
        let local = |all: bool| {
            let mut sites = Site::ALL.iter().map(|s| world.local_recent(now, *s));
            if all { sites.all(|l| l) } else { sites.any(|l| l) }
        };
        self.outage = if silent && (local(true) || nobody && local(false)) {
            Some(Outage::Local)
        } else if nobody {
            Some(Outage::BothDown)
        } else {
            None
        };
    }

    fn settle_master(&mut self, notes: &mut Notes, world: &World) {
        let now = notes.now;
        let (from, to) = (self.master, self.master.other());
        if world.better(now, from, to) {
            if !self.allowance(world.tuning) {
                let text = format!(
                    "{} automatic switches within the hour: {from} stays master although {}",
                    self.automatic.len(),
                    world.words(now)
                );
                self.set_latch(notes, true, &text);
                return;
            }
            let mut reason = world.causes(from);
            if let Some((_, journal)) = world.journal
                && journal.unverified_on[to.index()] > 0
            {
                reason += &format!(
                    "; {} writes not yet verified on {to} are served and sent again from the journal",
                    journal.unverified_on[to.index()]
                );
            }
            self.begin(notes, Move { to, automatic: true, reason, step: Step::Opening { asked: now } });
        } else if from == Site::B {
            let facts = self.failback_facts(now, world);
            let hold = failback::hold(now, world.tuning, self.flaps, self.last_flap);
            if self.allowance(world.tuning) && failback::may_begin(&facts, hold, world.tuning).is_ok() {
                let reason = format!("failback: a has been good for {}, the journal is drained", secs(hold));
                self.begin(notes, Move { to, automatic: true, reason, step: Step::Hold { since: now } });
            }
        }
    }

    fn failback_facts(&self, now: Time, world: &World) -> failback::Facts {
        let healthy = world.both(Site::A).all(|d| d.is_healthy() || d.is_suspect());
        failback::Facts {
            now,
            a_good_since: healthy.then(|| world.both(Site::A).map(Detector::good_since).max()).flatten(),
            b_ready: world.both(Site::B).all(Detector::serves),
            journal: world.journal,
            pinned: self.pinned,
            latched: self.latched,
            not_before: self.not_before,
        }
    }

    fn begin(&mut self, notes: &mut Notes, m: Move) {
        if let Step::Opening { .. } = m.step {
            notes.out.push(Action::OpenEpoch { epoch: Epoch(self.epoch.0 + 1), master: m.to });
        }
        self.outage = None;
        self.moving = Some(m);
    }

    fn allowance(&self, tuning: &Tuning) -> bool {
        !tuning.defences.latch || self.automatic.len() < tuning.switches_per_hour as usize
    }

    fn set_latch(&mut self, notes: &mut Notes, on: bool, why: &str) {
        if self.latched != on {
            self.latched = on;
            notes.note(Change::Latch { on }, Evidence::words(why));
        }
    }

    // ---- deadlines and words

    pub fn deadline(&self, now: Time, world: &World) -> Option<(Time, Timer)> {
        let mut all: Vec<(Time, Timer)> = Vec::with_capacity(6);
        match &self.moving {
            Some(Move { step: Step::Hold { since }, .. }) => {
                all.push((*since + HOLD_MIN, Timer::HoldOver));
                all.push((*since + world.tuning.hold_max, Timer::HoldOver));
            }
            Some(Move { step: Step::Opening { asked }, .. }) => {
                all.push((*asked + world.tuning.epoch_retry, Timer::EpochAgain));
            }
            None => {
                if self.master == Site::B {
                    let hold = failback::hold(now, world.tuning, self.flaps, self.last_flap);
                    let due = failback::due(&self.failback_facts(now, world), hold, world.tuning);
                    all.extend(due.map(|at| (at, Timer::FailbackDue)));
                }
            }
        }
        if let Some(choice) = &self.choice {
            all.push((choice.since + CHOICE_PROBED, Timer::ChoiceOver));
            all.push((choice.since + CHOICE_ANSWERED, Timer::ChoiceOver));
        }
        if self.latched {
            all.extend(self.automatic.front().map(|at| (*at + HOUR, Timer::LatchOver)));
        }
        for site in Site::ALL {
            all.push((world.life(site) + world.tuning.confirm, Timer::Outage));
            let local = world.both(site).filter_map(Detector::local_at).max();
            // One nanosecond later it is not recent any more.
            all.extend(local.map(|at| (at + LOCAL_RECENT + Duration::from_nanos(1), Timer::Outage)));
        }
        all.into_iter().filter(|(at, _)| *at > now).min()
    }

    /// Why the system is where it is, in one sentence.
    pub fn explain(&self, now: Time, world: &World) -> String {
        let words = world.words(now);
        let master = self.master;
        let came = match self.switches.back() {
            Some(last) => format!("{master} became master {} ago ({})", secs(now.since(last.at)), last.reason),
            None => format!("{master} has been master since this mount began"),
        };
        let latch = if self.latched { "; automatic switching is latched" } else { "" };
        match (&self.moving, self.shown) {
            (Some(Move { to, reason, step: Step::Hold { .. }, .. }), _) => format!(
                "writes are held back while those in flight on {master} finish, then {to} becomes master: {reason}"
            ),
            (Some(Move { to, reason, .. }), _) => {
                format!("{to} becomes master as soon as epoch {} is durable: {reason}", self.epoch.0 + 1)
            }
            (None, State::LocalOutage) => format!(
                "nothing can be reached and this host reports errors of its own, so nobody is switched and {master} stays master: {words}"
            ),
            (None, State::BothDown) => format!(
                "no site can serve, and silence on both sides cannot tell two dead regions from a dead uplink of this host, so {master} stays master: {words}"
            ),
            (None, State::OnSlave | State::CatchUp) => {
                let facts = self.failback_facts(now, world);
                let hold = failback::hold(now, world.tuning, self.flaps, self.last_flap);
                let back = failback::may_begin(&facts, hold, world.tuning).err();
                let back = back.map_or_else(String::new, |why| format!("; stays there because {why}"));
                format!("{came}; {words}{back}{latch}")
            }
            _ => format!("{came}; {words}{latch}"),
        }
    }
}
