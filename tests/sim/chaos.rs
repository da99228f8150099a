//! Arbitrary events in arbitrary order: the core must answer each, keep its promises, and recover when the world does.

use std::collections::VecDeque;
use std::time::Duration;

use cosfs_ha::failover::{
    Action, Change, Command, Core, Event, FailbackMode, Health, JournalView, Outcome, Start, State, Time, Tuning,
};
use cosfs_ha::object::{Class, Epoch, Site};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Start(Site, Class, u64),
    Overdue(usize),
    End(usize, Outcome),
    /// Ends this many of the oldest probes.
    Probes(usize, Site, Outcome),
    Crowd(Site, Class, u32, u32),
    Switch(Site),
    Journal(u64, u64),
    /// Answers the oldest request for an epoch.
    Open(bool),
    Adopt(u64, Site),
    Jump,
    Wait(u64),
}

fn site() -> impl Strategy<Value = Site> {
    prop_oneof![Just(Site::A), Just(Site::B)]
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Read), Just(Class::Write)]
}

fn op(harmless: bool) -> BoxedStrategy<Op> {
    let outcomes: Vec<Outcome> = Outcome::ALL.into_iter().filter(|o| !harmless || !o.is_bad()).collect();
    let outcome = || proptest::sample::select(outcomes.clone());
    let calm = prop_oneof![
        4 => (site(), class(), 0..4u64).prop_map(|(s, c, n)| Op::Start(s, c, n)),
        4 => (any::<usize>(), outcome()).prop_map(|(n, o)| Op::End(n, o)),
        6 => (1..8usize, site(), outcome()).prop_map(|(n, s, o)| Op::Probes(n, s, o)),
        1 => (0..3u64, 0..3u64).prop_map(|(a, b)| Op::Journal(a, b)),
        1 => Just(Op::Jump),
        8 => prop_oneof![1..300u64, 300..3000u64, 3000..60_000u64].prop_map(Op::Wait),
    ];
    if harmless {
        return calm.boxed();
    }
    prop_oneof![
        6 => calm,
        3 => any::<usize>().prop_map(Op::Overdue),
        1 => (site(), class(), 0..50u32, 0..50u32).prop_map(|(s, c, g, b)| Op::Crowd(s, c, g, b)),
        1 => site().prop_map(Op::Switch),
        2 => any::<bool>().prop_map(Op::Open),
        1 => (0..20u64, site()).prop_map(|(e, s)| Op::Adopt(e, s)),
    ]
    .boxed()
}

struct Rig {
    core: Core,
    now: Time,
    ids: u64,
    flights: Vec<u64>,
    probes: VecDeque<(u64, Site)>,
    asked: VecDeque<(Epoch, Site)>,
    automatic: Vec<Time>,
    moves: u32,
    /// Commands without an answer.
    unanswered: VecDeque<Time>,
    log: String,
}

impl Rig {
    fn new(master: Site, auto: bool) -> Rig {
        let failback = if auto { FailbackMode::Auto } else { FailbackMode::Manual };
        let tuning = Tuning {
            failback,
            failback_hold: Duration::from_secs(10),
            failback_hold_max: Duration::from_secs(10),
            ..Tuning::default()
        };
        Rig {
            core: Core::new(tuning, Time::ZERO, Start { epoch: Epoch(1), master }),
            now: Time::ZERO,
            ids: 0,
            flights: Vec::new(),
            probes: VecDeque::new(),
            asked: VecDeque::new(),
            automatic: Vec::new(),
            moves: 0,
            unanswered: VecDeque::new(),
            log: String::new(),
        }
    }

    fn step(&mut self, event: Event) {
        let before = self.core.view();
        if matches!(event, Event::Operator(_)) {
            self.unanswered.push_back(self.now);
        }
        let mut moved = false;
        for action in self.core.step(self.now, event) {
            match action {
                Action::Probe { id, site, .. } => self.probes.push_back((id, site)),
                Action::OpenEpoch { epoch, master } => {
                    assert!(epoch > before.epoch);
                    self.asked.push_back((epoch, master));
                }
                Action::Note(note) => {
                    self.log += &format!("{} {note}\n", note.at);
                    if let Change::Master { epoch, .. } = note.change {
                        moved = true;
                        self.moves += 1;
                        let record = self.core.view().switches.last().cloned().expect("recorded");
                        assert_eq!(record.epoch, epoch);
                        if record.automatic {
                            self.automatic.push(self.now);
                        }
                    }
                }
                Action::Reply(_) => assert!(self.unanswered.pop_front().is_some(), "an answer to nobody"),
            }
        }
        let waits = self.unanswered.front().map(|asked| self.now.since(*asked));
        assert!(self.unanswered.len() <= 1 && waits.is_none_or(|w| w < Duration::from_secs(15)), "{waits:?}");
        assert!(self.probes.len() <= 64 && self.asked.len() < 10_000);
        let view = self.core.view();
        assert!(view.epoch >= before.epoch, "the epoch only grows");
        assert_eq!(view.master != before.master, moved, "a new master is always told");
        assert!(view.master == before.master || view.epoch > before.epoch, "a new master has a new epoch");
        let moving = matches!(view.state, State::Switching | State::Failback);
        assert_eq!(view.accepting_writes, !moving);
        match view.state {
            State::Normal => assert_eq!(view.master, Site::A),
            State::OnSlave | State::CatchUp | State::Failback => assert_eq!(view.master, Site::B),
            State::Switching | State::BothDown | State::LocalOutage => {}
        }
        assert!(!view.explain.is_empty());
        if let Some((at, timer)) = self.core.next_deadline() {
            assert!(at > self.now, "{timer:?} is not in the future");
        }
        for w in self.automatic.windows(4) {
            assert!(
                w[3].since(w[0]) >= Duration::from_secs(3600),
                "four automatic switches within an hour\n{}",
                self.log
            );
        }
    }

    fn wait(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        let mut steps = 0;
        while let Some((at, _)) = self.core.next_deadline().filter(|(at, _)| *at <= until) {
            self.now = at;
            self.step(Event::Tick);
            steps += 1;
            assert!(steps < 2000 + ms, "the core keeps its driver spinning");
        }
        self.now = until;
        self.step(Event::Tick);
    }

    fn apply(&mut self, op: &Op) {
        match op.clone() {
            Op::Start(site, class, connection) => {
                self.ids += 1;
                self.flights.push(self.ids);
                self.step(Event::AttemptStarted { id: self.ids, site, class, connection, probe: false });
            }
            Op::Overdue(n) => {
                if let Some(id) = pick(&self.flights, n) {
                    self.step(Event::AttemptOverdue { id });
                }
            }
            Op::End(n, outcome) => {
                if let Some(id) = pick(&self.flights, n) {
                    self.flights.retain(|f| *f != id);
                    let first_byte = outcome.is_success().then_some(Duration::from_millis(30));
                    self.step(Event::AttemptEnded { id, outcome, first_byte });
                }
            }
            Op::Probes(n, site, outcome) => {
                for _ in 0..n {
                    let Some(at) = self.probes.iter().position(|(_, s)| *s == site) else { break };
                    let (id, _) = self.probes.remove(at).expect("found");
                    self.step(Event::AttemptEnded { id, outcome, first_byte: None });
                }
            }
            Op::Crowd(site, class, good, bad) => self.step(Event::Crowd { site, class, good, bad }),
            Op::Switch(to) => self.step(Event::Operator(Command::Switch { to, reason: "chaos".into() })),
            Op::Journal(a, b) => {
                let (canaries, reconciled) = (10 * u32::from(b.is_multiple_of(2)), a.is_multiple_of(2));
                let view =
                    JournalView { unverified_on: [a, b], owed: [a, b], canaries, reconciled, ..JournalView::default() };
                self.step(Event::Journal(view));
            }
            Op::Open(yes) => {
                if let Some((epoch, master)) = self.asked.pop_front() {
                    match yes {
                        true => self.step(Event::EpochOpened { epoch, master }),
                        false => self.step(Event::EpochRefused { epoch, reason: "chaos".into() }),
                    }
                }
            }
            Op::Adopt(epoch, master) => self.step(Event::EpochOpened { epoch: Epoch(epoch), master }),
            Op::Jump => self.step(Event::ClockJump { by: Duration::from_secs(9) }),
            Op::Wait(ms) => self.wait(ms),
        }
    }

    /// The world is well from now on.
    fn heal(&mut self, seconds: u64) {
        for id in std::mem::take(&mut self.flights) {
            self.step(Event::AttemptEnded { id, outcome: Outcome::Cancelled, first_byte: None });
        }
        for _ in 0..seconds * 20 {
            while let Some((id, _)) = self.probes.pop_front() {
                self.step(Event::AttemptEnded { id, outcome: Outcome::Good, first_byte: None });
            }
            while let Some((epoch, master)) = self.asked.pop_front() {
                self.step(Event::EpochOpened { epoch, master });
            }
            self.wait(50);
        }
    }
}

fn pick(flights: &[u64], n: usize) -> Option<u64> {
    (!flights.is_empty()).then(|| flights[n % flights.len()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_and_the_mount_recovers(
        master in site(), auto in any::<bool>(), ops in prop::collection::vec(op(false), 1..150),
    ) {
        let mut rig = Rig::new(master, auto);
        ops.iter().for_each(|op| rig.apply(op));
        rig.heal(60);
        let view = rig.core.view();
        prop_assert!(matches!(view.state, State::Normal | State::CatchUp), "{}\n{}", view.explain, rig.log);
        for linkage in view.linkages.iter().flatten() {
            prop_assert!(matches!(linkage.health, Health::Up), "{:?}\n{}", view, rig.log);
        }
    }

    #[test]
    fn nothing_but_silence_and_broken_connections_moves_the_master(
        ops in prop::collection::vec(op(true), 1..200),
    ) {
        let mut rig = Rig::new(Site::A, false);
        ops.iter().for_each(|op| rig.apply(op));
        prop_assert_eq!(rig.moves, 0, "{}", rig.log);
        prop_assert_eq!(rig.asked.len(), 0);
    }

    #[test]
    fn the_same_events_give_the_same_actions(ops in prop::collection::vec(op(false), 1..100)) {
        let story = || {
            let mut rig = Rig::new(Site::A, true);
            ops.iter().for_each(|op| rig.apply(op));
            format!("{}{:?}", rig.log, rig.core.view())
        };
        prop_assert_eq!(story(), story());
    }
}
