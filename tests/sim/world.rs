//! A network of two sites, some traffic, and a driver, all in virtual time.
//!
//! Latency is lognormal (median 30 ms, p99 150 ms), 0.1 % of requests fail by themselves. A silent site loses packets; what was sent comes
//! through with the first TCP retransmission after the silence, as in reality (kept connections: 0.2, 0.6, 1.4, 3.0, 6.2 s; new ones: 1, 3, 7 s).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::time::Duration;

use cosfs_ha::failover::{Action, Change, Core, Event, Health, JournalView, Outcome, Start, State, Time, Tuning, View};
use cosfs_ha::object::{Class, Epoch, Site};

pub fn s(seconds: f64) -> Time {
    Time::ZERO + Duration::from_secs_f64(seconds)
}

/// SplitMix64: small, seeded, the same on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit().max(1e-12), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn latency(&mut self) -> f64 {
        0.030 * (0.692 * self.normal()).exp()
    }
}

/// What is wrong with a linkage for a while.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Packets vanish.
    Silent,
    /// Connections are refused at once.
    Refused,
    /// This part of the requests fails, half at once and half by silence.
    Lossy(f64),
    /// Answers take this many times as long.
    Slow(f64),
    /// Every answer is this.
    Says(Outcome),
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub from: f64,
    pub to: f64,
    pub site: Site,
    /// `None`: both.
    pub class: Option<Class>,
    pub trouble: Trouble,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Happening {
    Arrival,
    Overdue(u64),
    End(u64, Outcome, Option<Duration>),
    Opened(Epoch, Site),
    JournalReport,
    Operator(usize),
}

pub struct Sim {
    pub core: Core,
    pub rng: Rng,
    pub faults: Vec<Fault>,
    pub rate: f64,
    pub journal: JournalView,
    pub commands: Vec<(f64, cosfs_ha::failover::Command)>,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    queued: u64,
    ids: u64,
    flights: BTreeMap<u64, (Site, Class)>,
    pub log: String,
    /// (when, to, automatic)
    pub switches: Vec<(Time, Site, bool)>,
    pub states: Vec<(Time, State)>,
    pub latches: u32,
    pub replies: Vec<Result<(), String>>,
    pub probes: u64,
}

impl Sim {
    pub fn new(seed: u64, tuning: Tuning, rate: f64, faults: Vec<Fault>) -> Sim {
        let core = Core::new(tuning, Time::ZERO, Start { epoch: Epoch(1), master: Site::A });
        let mut sim = Sim {
            core,
            rng: Rng(seed),
            faults,
            rate,
            journal: JournalView { canaries: 10, reconciled: true, ..JournalView::default() },
            commands: Vec::new(),
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            queued: 0,
            ids: 0,
            flights: BTreeMap::new(),
            log: String::new(),
            switches: Vec::new(),
            states: Vec::new(),
            latches: 0,
            replies: Vec::new(),
            probes: 0,
        };
        sim.step(Event::Tick);
        if rate > 0.0 {
            sim.push(0.0, Happening::Arrival);
        }
        sim.push(0.5, Happening::JournalReport);
        sim
    }

    pub fn command(mut self, at: f64, command: cosfs_ha::failover::Command) -> Sim {
        self.commands.push((at, command));
        let n = self.commands.len() - 1;
        self.push(at, Happening::Operator(n));
        self
    }

    pub fn view(&self) -> View {
        self.core.view()
    }

    fn push(&mut self, after: f64, what: Happening) {
        self.queued += 1;
        self.queue.push(Reverse((self.now + Duration::from_secs_f64(after), self.queued, what)));
    }

    pub fn run(&mut self, until: f64) -> &mut Sim {
        let until = s(until);
        loop {
            let event = self.queue.peek().map(|Reverse((at, ..))| *at);
            let timer = self.core.next_deadline().map(|(at, _)| at);
            if let (Some(timer), true) = (timer, timer.is_some_and(|t| event.is_none_or(|e| t < e))) {
                if timer > until {
                    break;
                }
                // Not later than now where an event at the very moment of the deadline was none for the core.
                self.now = timer.max(self.now);
                self.step(Event::Tick);
                let next = self.core.next_deadline();
                assert!(next.is_none_or(|(at, _)| at > self.now), "a deadline in the past would make the driver spin");
                continue;
            }
            match event {
                Some(at) if at <= until => {
                    let Some(Reverse((at, _, what))) = self.queue.pop() else { break };
                    self.now = at;
                    self.happen(what);
                }
                _ => break,
            }
        }
        self.now = until;
        self
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrival => {
                let pause = -self.rng.unit().max(1e-9).ln() / self.rate;
                self.push(pause, Happening::Arrival);
                let view = self.core.view();
                let class = if self.rng.unit() < 0.7 { Class::Read } else { Class::Write };
                let open = view.linkage(view.master, class).health.carries_traffic();
                if open && (class == Class::Read || view.accepting_writes) {
                    self.ids += 1;
                    let id = self.ids;
                    let overdue = view.linkage(view.master, class).overdue_after;
                    self.step(Event::AttemptStarted { id, site: view.master, class, connection: 0, probe: false });
                    self.send(id, view.master, class, false, overdue, 10.0);
                }
            }
            Happening::Overdue(id) => {
                if self.flights.contains_key(&id) {
                    self.step(Event::AttemptOverdue { id });
                }
            }
            Happening::End(id, outcome, first_byte) => {
                if self.flights.remove(&id).is_some() {
                    self.step(Event::AttemptEnded { id, outcome, first_byte });
                }
            }
            Happening::Opened(epoch, master) => self.step(Event::EpochOpened { epoch, master }),
            Happening::JournalReport => {
                self.step(Event::Journal(self.journal));
                self.push(1.0, Happening::JournalReport);
            }
            Happening::Operator(n) => {
                let command = self.commands[n].1.clone();
                self.step(Event::Operator(command));
            }
        }
    }

    /// Puts a request on the wire and its fate into the queue.
    fn send(&mut self, id: u64, site: Site, class: Class, fresh: bool, overdue: Duration, give_up: f64) {
        self.flights.insert(id, (site, class));
        let start = self.now;
        let mut latency = self.rng.latency() * if fresh { 3.0 } else { 1.0 };
        let mut outcome = if self.rng.unit() < 0.001 { Outcome::Hard } else { Outcome::Good };
        let mut silent_until: Option<f64> = None;
        let t = start.as_nanos() as f64 / 1e9;
        let active: Vec<Fault> = self
            .faults
            .iter()
            .filter(|f| f.site == site && f.class.is_none_or(|c| c == class) && f.from <= t && t < f.to)
            .copied()
            .collect();
        for fault in active {
            match fault.trouble {
                Trouble::Silent => silent_until = Some(fault.to),
                Trouble::Refused => (latency, outcome) = (0.001, Outcome::Hard),
                Trouble::Says(what) => outcome = what,
                Trouble::Slow(factor) => latency *= factor,
                Trouble::Lossy(part) => {
                    let dice = self.rng.unit();
                    if dice < part / 2.0 {
                        outcome = Outcome::Hard;
                    } else if dice < part {
                        silent_until = Some(f64::INFINITY);
                    }
                }
            }
        }
        let mut answered = latency;
        if let Some(end) = silent_until {
            let retries: &[f64] = if fresh { &[1.0, 3.0, 7.0] } else { &[0.2, 0.6, 1.4, 3.0, 6.2] };
            answered = retries.iter().find(|r| t + **r >= end).map_or(f64::INFINITY, |r| r + latency);
        }
        if answered > overdue.as_secs_f64() {
            self.push(overdue.as_secs_f64(), Happening::Overdue(id));
        }
        if answered > give_up {
            self.push(give_up, Happening::End(id, Outcome::Hard, None));
        } else {
            let first_byte = outcome.is_success().then(|| Duration::from_secs_f64(answered));
            self.push(answered, Happening::End(id, outcome, first_byte));
        }
    }

    fn step(&mut self, event: Event) {
        let actions = self.core.step(self.now, event);
        let mut cut = Vec::new();
        for action in actions {
            match action {
                Action::Probe { id, site, class, fresh_connection, overdue_after, .. } => {
                    self.probes += 1;
                    self.send(id, site, class, fresh_connection, overdue_after, 3.0);
                }
                Action::OpenEpoch { epoch, master } => self.push(0.005, Happening::Opened(epoch, master)),
                Action::Note(note) => {
                    writeln!(self.log, "{} {note}", note.at).expect("memory");
                    match note.change {
                        Change::Linkage { site, class, to: Health::Dead, .. } => cut.push((site, class)),
                        Change::Master { to, epoch, .. } => {
                            let automatic = self.core.view().switches.iter().any(|r| r.epoch == epoch && r.automatic);
                            self.switches.push((self.now, to, automatic));
                        }
                        Change::System { to, .. } => self.states.push((self.now, to)),
                        Change::Latch { on: true } => self.latches += 1,
                        _ => {}
                    }
                }
                Action::Reply(reply) => self.replies.push(reply),
            }
        }
        // What the data path does when a linkage dies: its attempts end at once.
        for (site, class) in cut {
            let ids: Vec<u64> = self
                .flights
                .iter()
                .filter(|(id, f)| **f == (site, class) && **id & cosfs_ha::failover::PROBE_ID == 0)
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                self.push(0.0, Happening::End(id, Outcome::Cancelled, None));
            }
        }
    }
}

pub fn fault(site: Site, from: f64, to: f64, trouble: Trouble) -> Fault {
    Fault { from, to, site, class: None, trouble }
}

/// Smallest value that at least this part of the values does not exceed.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * q).ceil() as usize).clamp(1, values.len()) - 1]
}
