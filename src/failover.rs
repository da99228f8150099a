//! Decides which site is the master, from evidence alone.
//!
//! Two regions hold the same files, one of them is asked first. When it falls silent, somebody must decide within seconds that
//! it is the region, not a lost packet, a slow minute, a wrong password, or this host's own cable; and must be able to say afterwards why.
//! This is that somebody, as a pure state machine: no clock, no network, no task, no randomness. The same events at the same
//! times always give the same actions, so a year of failures can be replayed in a second.
//!
//! Methods of [`Core`] fall into two groups. *Input*: [`Core::step`], the only one that changes anything; it returns everything that is to
//! be done, and every pair of state and event has an answer. *Questions*: [`Core::next_deadline`] (call `step` with [`Event::Tick`]
//! then, or earlier, or later: superfluous ticks are harmless, late ones only delay) and [`Core::view`].
//!
//! ```text
//! attempts, probes --> detector x4 (site, class) --> machine --> OpenEpoch, View
//!                          ^  neighbours' health         |
//!                          +-----------------------------+
//! ```
//!
//! Owns: the order in which conclusions are drawn, and the table of attempts in flight. Owns not: the rules (`detector`, `machine`,
//! `failback`), their numbers (`tuning`), clocks and sockets (`crate::linkage`).
//! Promise: deterministic; never a switch on 404, 403, throttling, clock skew or local errors; the epoch only grows; at most
//! `switches_per_hour` automatic switches an hour. Checked by `tests/sim` and by the purity test there.

use std::collections::BTreeMap;

use crate::object::{Class, Epoch, Site};

mod detector;
pub mod event;
pub mod evidence;
mod failback;
mod latency;
mod machine;
pub mod time;
pub mod tuning;

pub use event::{
    Action, Change, Command, Event, Health, JournalView, LinkageView, Outcome, State, SwitchRecord, Transition, View,
};
pub use evidence::Evidence;
pub use time::{Time, Timer};
pub use tuning::{Defences, FailbackMode, Tuning};

use detector::{Bad, Detector, Neighbours, Notes};
use machine::{Machine, Outage, World};

/// Attempts remembered at a time. The store's own limits are far below; beyond it the oldest are forgotten, which only loses evidence.
const FLIGHTS_MAX: usize = 65_536;

/// Probes of the core carry ids with this bit, so that they never meet those of the data path.
pub const PROBE_ID: u64 = 1 << 63;

/// Connection number of every attempt on a pooled connection.
pub const POOLED: u64 = 0;

/// Where the mount stood when it last ran; epoch 1 with master A at the very first mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    pub epoch: Epoch,
    pub master: Site,
}

/// One attempt under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    site: Site,
    class: Class,
    connection: u64,
    started: Time,
    probe: bool,
    /// Already counted as evidence: never twice.
    counted: bool,
    /// This host slept meanwhile: neither silence nor a broken connection means anything.
    forgiven: bool,
}

/// The decision core.
#[derive(Clone, Debug)]
pub struct Core {
    tuning: Tuning,
    began: Time,
    now: Time,
    detectors: [[Detector; 2]; 2],
    machine: Machine,
    flights: BTreeMap<u64, Flight>,
    /// Write attempts in flight without probes, by site.
    writing: [usize; 2],
    journal: Option<(Time, JournalView)>,
    probes: u64,
}

impl Core {
    pub fn new(tuning: Tuning, now: Time, start: Start) -> Core {
        let detectors = Site::ALL.map(|site| Class::ALL.map(|class| Detector::new(site, class, now, &tuning)));
        Core {
            tuning,
            began: now,
            now,
            detectors,
            machine: Machine::new(start.epoch, start.master),
            flights: BTreeMap::new(),
            writing: [0; 2],
            journal: None,
            probes: 0,
        }
    }

    /// Takes one fact in and returns everything that is to be done because of it, in order.
    ///
    /// A `now` before the last one is taken as the last one.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        self.take(&mut out, event);
        self.settle(&mut out);
        out
    }

    /// When something will happen by itself, and what. Always after the last `step`.
    pub fn next_deadline(&self) -> Option<(Time, Timer)> {
        let detectors = self.detectors.iter().flatten();
        let own = detectors.filter_map(|d| d.deadline(self.now, &self.neighbours(d.site, d.class), &self.tuning)).min();
        let machine = self.machine.deadline(self.now, &self.world());
        own.into_iter().chain(machine).min()
    }

    /// Everything others may know.
    pub fn view(&self) -> View {
        View {
            state: self.machine.shown(),
            master: self.machine.master,
            epoch: self.machine.epoch,
            accepting_writes: self.machine.accepting_writes(),
            linkages: [0, 1].map(|site| [0, 1].map(|class| self.detectors[site][class].view())),
            latched: self.machine.latched,
            switches: self.machine.switches.iter().cloned().collect(),
            explain: self.machine.explain(self.now, &self.world()),
        }
    }

    fn take(&mut self, out: &mut Vec<Action>, event: Event) {
        let now = self.now;
        match event {
            Event::AttemptStarted { id, site, class, connection, probe } => {
                self.enter(
                    id,
                    Flight { site, class, connection, started: now, probe, counted: false, forgiven: false },
                );
            }
            Event::AttemptOverdue { id } => {
                if let Some(flight) = self.flights.get_mut(&id)
                    && !flight.counted
                    && !flight.forgiven
                    && self.tuning.defences.overdue
                {
                    flight.counted = true;
                    let flight = *flight;
                    self.bad(out, &flight, None, 1);
                }
            }
            Event::AttemptEnded { id, outcome, first_byte } => {
                if let Some(flight) = self.leave(id) {
                    self.ended(out, &flight, outcome, first_byte);
                }
            }
            Event::Crowd { site, class, good, bad } => {
                let connection = POOLED;
                let flight =
                    Flight { site, class, connection, started: now, probe: false, counted: false, forgiven: false };
                if bad > 0 {
                    self.bad(out, &flight, None, bad);
                }
                if good > 0 {
                    self.good(out, &flight, Outcome::Good, None, good);
                }
            }
            Event::Operator(Command::Switch { to, reason }) => {
                self.machine.handle_switch(&mut Notes { now, out }, to, reason);
            }
            Event::Operator(Command::Auto) => {
                self.machine.handle_auto(&mut Notes { now, out });
            }
            Event::Journal(view) => self.journal = Some((now, view)),
            Event::EpochOpened { epoch, master } => self.machine.handle_opened(&mut Notes { now, out }, epoch, master),
            Event::EpochRefused { epoch, reason } => {
                self.machine.handle_refused(&mut Notes { now, out }, epoch, &reason);
            }
            Event::ClockJump { by } => {
                for flight in self.flights.values_mut() {
                    flight.forgiven = true;
                }
                for detector in self.detectors.iter_mut().flatten() {
                    detector.handle_jump(now);
                }
                let mut notes = Notes { now, out };
                self.machine.handle_jump(&mut notes);
                notes.note(Change::Alarm { site: None }, Evidence::Stopped { by });
            }
            Event::Tick => {}
        }
    }

    fn enter(&mut self, id: u64, flight: Flight) {
        if let Some(known) = self.flights.get_mut(&id) {
            // A probe is known since it was asked for; now it is really on its way.
            known.started = flight.started;
            return;
        }
        if self.flights.len() >= FLIGHTS_MAX
            && let Some((oldest, _)) = self.flights.first_key_value()
        {
            let oldest = *oldest;
            self.leave(oldest);
        }
        if flight.class == Class::Write && !flight.probe {
            self.writing[flight.site.index()] += 1;
        }
        self.flights.insert(id, flight);
    }

    fn leave(&mut self, id: u64) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if flight.probe {
            let detector = &mut self.detectors[flight.site.index()][flight.class.index()];
            detector.probes_in_flight = detector.probes_in_flight.saturating_sub(1);
        } else if flight.class == Class::Write {
            self.writing[flight.site.index()] -= 1;
        }
        Some(flight)
    }

    fn ended(
        &mut self,
        out: &mut Vec<Action>,
        flight: &Flight,
        outcome: Outcome,
        first_byte: Option<std::time::Duration>,
    ) {
        match outcome {
            Outcome::Good | Outcome::Answer => {
                // A late answer was counted as bad already; it proves life, but is no good sample for the ratio.
                self.good(out, flight, outcome, first_byte, u32::from(!flight.counted));
            }
            Outcome::Hard | Outcome::Server => {
                if !flight.counted && !flight.forgiven {
                    self.bad(out, flight, Some(outcome), 1);
                }
            }
            Outcome::Throttled | Outcome::Clock | Outcome::Auth | Outcome::Admin => {
                self.sign_of_life(flight.site);
                self.other(out, flight, outcome);
            }
            Outcome::Corrupt | Outcome::Local | Outcome::Cancelled => self.other(out, flight, outcome),
        }
    }

    fn bad(&mut self, out: &mut Vec<Action>, flight: &Flight, outcome: Option<Outcome>, count: u32) {
        let bad = Bad { started: flight.started, connection: flight.connection, probe: flight.probe, outcome, count };
        let detector = &mut self.detectors[flight.site.index()][flight.class.index()];
        detector.handle_bad(&mut Notes { now: self.now, out }, bad, &self.tuning);
    }

    fn good(
        &mut self,
        out: &mut Vec<Action>,
        flight: &Flight,
        outcome: Outcome,
        first_byte: Option<std::time::Duration>,
        count: u32,
    ) {
        self.sign_of_life(flight.site);
        let fresh = (flight.connection != POOLED).then_some(flight.connection);
        let detector = &mut self.detectors[flight.site.index()][flight.class.index()];
        let mut notes = Notes { now: self.now, out };
        let suspect = detector.is_suspect();
        detector.handle_success(&mut notes, outcome, fresh, first_byte, count, &self.tuning);
        self.tell_sibling(flight, suspect);
    }

    fn other(&mut self, out: &mut Vec<Action>, flight: &Flight, outcome: Outcome) {
        let detector = &mut self.detectors[flight.site.index()][flight.class.index()];
        let suspect = detector.is_suspect();
        detector.handle_other(&mut Notes { now: self.now, out }, outcome, &self.tuning);
        self.tell_sibling(flight, suspect);
    }

    /// A linkage was suspect until this answer came: its sibling may be silent for the same reason, which is over.
    fn tell_sibling(&mut self, flight: &Flight, was_suspect: bool) {
        let [site, class] = [flight.site.index(), flight.class.index()];
        if was_suspect && !self.detectors[site][class].is_suspect() && self.tuning.defences.common_mode {
            self.detectors[site][1 - class].handle_sibling_back(self.now);
        }
    }

    /// A site answers. If it had been silent for long, nobody knows whether the way out of this host worked meanwhile, so what
    /// was gathered against the *other* site during that time is void: it must be found silent while this one answers.
    fn sign_of_life(&mut self, site: Site) {
        let last = self.detectors[site.index()].iter().filter_map(Detector::life).max();
        let silent = last.is_none_or(|at| self.now.since(at) >= self.tuning.other_fresh);
        if silent && self.tuning.defences.common_mode {
            for detector in &mut self.detectors[site.other().index()] {
                detector.restart_suspicion(self.now);
            }
        }
    }

    // ---- conclusions

    fn settle(&mut self, out: &mut Vec<Action>) {
        // Twice, because the death of one class is evidence for its sibling, in either order.
        for _ in 0..2 {
            for (site, class) in linkages() {
                let neighbours = self.neighbours(site, class);
                let mut notes = Notes { now: self.now, out };
                let detector = &mut self.detectors[site.index()][class.index()];
                detector.judge(&mut notes, &neighbours, site.other(), &self.tuning);
            }
        }
        let (machine, world, mut notes) = self.machinery(out);
        machine.settle(&mut notes, &world);
        self.settle_lost(out);
        for (site, class) in linkages() {
            let neighbours = self.neighbours(site, class);
            let id = PROBE_ID | (self.probes + 1);
            let detector = &mut self.detectors[site.index()][class.index()];
            if let Some(probe) = detector.plan_probe(self.now, &neighbours, id, &self.tuning) {
                self.probes += 1;
                let fresh = matches!(probe, Action::Probe { fresh_connection: true, .. });
                let connection = if fresh { id } else { POOLED };
                let started = self.now;
                self.enter(
                    id,
                    Flight { site, class, connection, started, probe: true, counted: false, forgiven: false },
                );
                out.push(probe);
            }
        }
    }

    /// In an outage of everything, linkages that gave no sign of life carry no traffic; the first answer ends that at once.
    fn settle_lost(&mut self, out: &mut Vec<Action>) {
        let outage = self.machine.outage;
        for detector in self.detectors.iter_mut().flatten() {
            let silent = self.now.since(detector.life().unwrap_or(self.began)) >= self.tuning.confirm;
            let lost = match outage {
                None => false,
                Some(Outage::BothDown) => detector.is_lost() || detector.is_confirmed(self.now, &self.tuning),
                Some(Outage::Local) => detector.is_lost() || silent,
            };
            detector.set_lost(&mut Notes { now: self.now, out }, lost, || {
                Evidence::words(if lost { "nothing answers anywhere" } else { "something answers again" })
            });
        }
    }

    fn neighbours(&self, site: Site, class: Class) -> Neighbours {
        let own = &self.detectors[site.index()];
        let other = &self.detectors[site.other().index()];
        let sibling = &own[1 - class.index()];
        Neighbours {
            other_life: other.iter().filter_map(Detector::life).max(),
            other_alive: other.iter().any(|d| d.is_alive(self.now, &self.tuning)),
            other_ratio: other[class.index()].ratio(),
            sibling_dead: sibling.silent_since().map(|at| (sibling.class, at)),
            urgent: sibling.is_suspect()
                || other.iter().any(Detector::is_suspect)
                || self.machine.wants() == Some(site),
        }
    }

    fn world(&self) -> World<'_> {
        World {
            tuning: &self.tuning,
            detectors: &self.detectors,
            writing: self.writing,
            journal: self.journal,
            began: self.began,
        }
    }

    fn machinery<'a, 'n>(&'a mut self, out: &'n mut Vec<Action>) -> (&'a mut Machine, World<'a>, Notes<'n>) {
        let world = World {
            tuning: &self.tuning,
            detectors: &self.detectors,
            writing: self.writing,
            journal: self.journal,
            began: self.began,
        };
        (&mut self.machine, world, Notes { now: self.now, out })
    }
}

fn linkages() -> impl Iterator<Item = (Site, Class)> {
    Site::ALL.into_iter().flat_map(|site| Class::ALL.into_iter().map(move |class| (site, class)))
}
