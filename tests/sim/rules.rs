//! The tables: what each outcome does to a linkage, and which state the mount is in for each combination of dead linkages.

use std::collections::VecDeque;
use std::time::Duration;

use cosfs_ha::failover::{Action, Command, Core, Event, Health, Outcome, Start, State, Time, Tuning, View};
use cosfs_ha::object::{Class, Epoch, Site};

/// What a linkage answers to every probe: `None` is silence.
type Manners = [[Option<Outcome>; 2]; 2];

const GOOD: Manners = [[Some(Outcome::Good); 2]; 2];

/// A core whose probes are answered by a table, instantly.
struct Desk {
    core: Core,
    now: Time,
    manners: Manners,
    ids: u64,
    switches: usize,
    pending: Vec<(Time, u64)>,
}

impl Desk {
    fn new(master: Site, manners: Manners) -> Desk {
        let core = Core::new(Tuning::default(), Time::ZERO, Start { epoch: Epoch(1), master });
        let mut desk = Desk { core, now: Time::ZERO, manners, ids: 0, switches: 0, pending: Vec::new() };
        desk.step(Event::Tick);
        desk
    }

    fn step(&mut self, event: Event) {
        let mut todo = vec![event];
        while let Some(event) = todo.pop() {
            for action in self.core.step(self.now, event) {
                match action {
                    Action::Probe { id, site, class, overdue_after, .. } => {
                        match self.manners[site.index()][class.index()] {
                            Some(outcome) => todo.push(Event::AttemptEnded { id, outcome, first_byte: None }),
                            None => self.pending.push((self.now + overdue_after, id)),
                        }
                    }
                    Action::OpenEpoch { epoch, master } => todo.push(Event::EpochOpened { epoch, master }),
                    Action::Note(note) => {
                        self.switches += usize::from(matches!(note.change, cosfs_ha::failover::Change::Master { .. }))
                    }
                    Action::Reply(_) => {}
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) -> &mut Desk {
        let until = self.now + Duration::from_millis(ms);
        while self.now < until {
            self.now = self.now + Duration::from_millis(50);
            let now = self.now;
            let due: Vec<u64> = self.pending.iter().filter(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
            self.pending.retain(|(at, _)| *at > now);
            for id in due {
                self.step(Event::AttemptOverdue { id });
                self.step(Event::AttemptEnded { id, outcome: Outcome::Hard, first_byte: None });
            }
            self.step(Event::Tick);
        }
        self
    }

    fn attempt(&mut self, outcome: Outcome) {
        self.attempt_of(Class::Read, outcome);
    }

    fn attempt_of(&mut self, class: Class, outcome: Outcome) {
        self.ids += 1;
        let id = self.ids;
        self.step(Event::AttemptStarted { id, site: Site::A, class, connection: id % 2, probe: false });
        self.step(Event::AttemptEnded { id, outcome, first_byte: None });
    }

    fn view(&self) -> View {
        self.core.view()
    }

    fn health(&self) -> Health {
        self.view().linkage(Site::A, Class::Read).health
    }
}

#[test]
fn after_a_blackout_the_first_answer_of_one_class_gives_the_other_time_for_its_own() {
    // When the writes of A are answered again, ms after the silence began; how often they fall silent once more; is the master moved?
    let rows = [(None, 0, true), (Some(2400), 0, false), (Some(2400), 1, true)];
    for (back, relapses, moves) in rows {
        let mut desk = Desk::new(Site::A, GOOD);
        desk.pass(3000);
        desk.manners[0] = [None; 2];
        Class::ALL.into_iter().for_each(|class| desk.attempt_of(class, Outcome::Hard));
        desk.pass(back.unwrap_or(2400));
        if back.is_some() {
            desk.manners[0][Class::Write.index()] = Some(Outcome::Good);
            desk.attempt_of(Class::Write, Outcome::Good);
        }
        desk.pass(300);
        match relapses {
            // Reads follow half a second after the writes.
            0 => desk.manners[0] = GOOD[0],
            _ => {
                desk.pass(2000);
                for _ in 0..relapses {
                    desk.attempt_of(Class::Write, Outcome::Hard);
                    desk.attempt_of(Class::Write, Outcome::Good);
                }
                desk.pass(600);
            }
        }
        desk.pass(1000);
        assert_eq!(desk.switches > 0, moves, "writes back after {back:?} ms, {relapses} relapses");
    }
}

#[test]
fn what_each_outcome_does() {
    // Outcome; health after one; after four seconds of nothing else; after 31 s; may move the master.
    let rows = [
        (Outcome::Good, Health::Up, Health::Up, Health::Up, false),
        (Outcome::Answer, Health::Up, Health::Up, Health::Up, false),
        (Outcome::Throttled, Health::Throttled, Health::Throttled, Health::Throttled, false),
        (Outcome::Clock, Health::Up, Health::Up, Health::Up, false),
        (Outcome::Auth, Health::Up, Health::Up, Health::AdminFault, false),
        (Outcome::Admin, Health::Up, Health::Up, Health::AdminFault, false),
        (Outcome::Corrupt, Health::Up, Health::Up, Health::Up, false),
        (Outcome::Local, Health::Up, Health::Up, Health::Up, false),
        (Outcome::Cancelled, Health::Up, Health::Up, Health::Up, false),
        (Outcome::Hard, Health::Suspect, Health::Dead, Health::Probing, true),
        (Outcome::Server, Health::Suspect, Health::Dead, Health::Probing, true),
    ];
    assert_eq!(rows.len(), Outcome::ALL.len());
    for (outcome, first, soon, later, moves) in rows {
        let mut desk = Desk::new(Site::A, GOOD);
        desk.pass(3000);
        desk.manners[0][0] = Some(outcome);
        desk.attempt(outcome);
        // An outcome that the burst of probes would repeat at once is looked at before time passes.
        assert_eq!(desk.health(), first, "{outcome:?}: after one");
        for _ in 0..8 {
            desk.pass(500);
            if desk.health().carries_traffic() {
                desk.attempt(outcome);
            }
        }
        assert_eq!(desk.health(), soon, "{outcome:?}: after four seconds");
        assert_eq!(desk.view().linkage(Site::A, Class::Read).quarantined, outcome == Outcome::Corrupt, "{outcome:?}");
        desk.pass(27_000);
        assert_eq!(desk.health(), later, "{outcome:?}: after half a minute");
        assert_eq!(desk.switches > 0, moves, "{outcome:?}: {}", desk.view().explain);
        assert_eq!(desk.view().master, if moves { Site::B } else { Site::A }, "{outcome:?}");
        // Every state leaves when the evidence says so.
        desk.manners = GOOD;
        desk.pass(320_000);
        assert_eq!(desk.health(), Health::Up, "{outcome:?}: healed");
        assert!(!desk.view().linkage(Site::A, Class::Read).quarantined, "{outcome:?}: healed");
    }
}

#[test]
fn one_success_clears_a_suspicion() {
    let mut desk = Desk::new(Site::A, GOOD);
    desk.pass(3000);
    desk.manners[0][0] = None;
    desk.attempt(Outcome::Hard);
    desk.pass(2000);
    assert_eq!(desk.health(), Health::Suspect);
    desk.attempt(Outcome::Answer);
    assert_eq!(desk.health(), Health::Up);
}

#[test]
fn one_connection_is_not_a_region() {
    // Three failures on the same connection, while fresh ones say nothing yet.
    let mut desk = Desk::new(Site::A, GOOD);
    desk.pass(3000);
    desk.manners[0][0] = Some(Outcome::Cancelled);
    for _ in 0..6 {
        desk.pass(1000);
        desk.ids += 1;
        let id = desk.ids;
        desk.step(Event::AttemptStarted { id, site: Site::A, class: Class::Read, connection: 0, probe: false });
        desk.step(Event::AttemptEnded { id, outcome: Outcome::Hard, first_byte: None });
    }
    assert_eq!(desk.health(), Health::Suspect);
    assert_eq!(desk.switches, 0);
}

#[test]
fn states_for_each_combination_of_silent_linkages() {
    use State::*;
    const S: bool = true;
    const O: bool = false;
    // Silent: [a.read, a.write, b.read, b.write], all from the same moment. From master A: state, master. From master B: the same.
    let rows = [
        ([O, O, O, O], (Normal, Site::A), (CatchUp, Site::B)),
        ([S, S, O, O], (OnSlave, Site::B), (OnSlave, Site::B)),
        ([S, O, O, O], (OnSlave, Site::B), (OnSlave, Site::B)),
        ([O, S, O, O], (OnSlave, Site::B), (OnSlave, Site::B)),
        ([O, O, S, S], (Normal, Site::A), (Normal, Site::A)),
        ([O, O, S, O], (Normal, Site::A), (Normal, Site::A)),
        ([O, O, O, S], (Normal, Site::A), (Normal, Site::A)),
        ([S, S, S, S], (BothDown, Site::A), (BothDown, Site::B)),
        // Neither serves more than the other: nobody moves, reads go where they are served.
        ([S, O, O, S], (Normal, Site::A), (OnSlave, Site::B)),
        ([O, S, S, O], (Normal, Site::A), (OnSlave, Site::B)),
        // A class that nobody serves.
        ([S, O, S, O], (BothDown, Site::A), (BothDown, Site::B)),
        ([O, S, O, S], (BothDown, Site::A), (BothDown, Site::B)),
    ];
    for (silent, from_a, from_b) in rows {
        for (master, expect) in [(Site::A, from_a), (Site::B, from_b)] {
            let mut desk = Desk::new(master, GOOD);
            desk.pass(3000);
            for (n, silent) in silent.into_iter().enumerate() {
                if silent {
                    desk.manners[n / 2][n % 2] = None;
                }
            }
            desk.pass(40_000);
            let view = desk.view();
            assert_eq!((view.state, view.master), expect, "{silent:?} from {master}: {}", view.explain);
            assert!(desk.switches <= 1, "{silent:?} from {master}: {} switches", desk.switches);
            desk.manners = GOOD;
            desk.pass(40_000);
            let view = desk.view();
            let healed = if view.master == Site::A { Normal } else { CatchUp };
            assert_eq!(view.state, healed, "{silent:?} from {master}, healed: {}", view.explain);
            assert!(view.linkages.iter().flatten().all(|l| l.health == Health::Up), "{view:#?}");
        }
    }
}

#[test]
fn time_asleep_is_not_silence() {
    let mut desk = Desk::new(Site::A, GOOD);
    desk.pass(3000);
    for id in 1..=20 {
        desk.step(Event::AttemptStarted { id, site: Site::A, class: Class::Read, connection: id, probe: false });
    }
    desk.now = desk.now + Duration::from_secs(3600);
    desk.step(Event::ClockJump { by: Duration::from_secs(3600) });
    for id in 1..=10 {
        desk.step(Event::AttemptOverdue { id });
    }
    for id in 5..=20 {
        desk.step(Event::AttemptEnded { id, outcome: Outcome::Hard, first_byte: None });
    }
    assert_eq!(desk.health(), Health::Up);
    desk.pass(10_000);
    assert_eq!((desk.health(), desk.switches), (Health::Up, 0));
}

#[test]
fn an_epoch_that_cannot_be_opened_is_asked_for_again() {
    let mut core = Core::new(Tuning::default(), Time::ZERO, Start { epoch: Epoch(4), master: Site::A });
    let asked = |actions: &[Action]| {
        actions.iter().any(|a| matches!(a, Action::OpenEpoch { epoch: Epoch(5), master: Site::B }))
    };
    // Another mount's decision is adopted, an old one is not.
    core.step(Time::ZERO, Event::EpochOpened { epoch: Epoch(3), master: Site::B });
    assert_eq!(core.view().master, Site::A);
    let mut now = Time::ZERO;
    let mut seen = 0;
    for _ in 0..400 {
        now = now + Duration::from_millis(50);
        for action in core.step(now, Event::Tick) {
            if asked(std::slice::from_ref(&action)) {
                seen += 1;
                core.step(now, Event::EpochRefused { epoch: Epoch(5), reason: "disk full".into() });
            }
            if let Action::Probe { id, site, .. } = action {
                let outcome = if site == Site::A { Outcome::Hard } else { Outcome::Good };
                core.step(now, Event::AttemptEnded { id, outcome, first_byte: None });
            }
        }
    }
    assert!((5..=12).contains(&seen), "asked {seen} times in 20 s");
    assert_eq!((core.view().state, core.view().accepting_writes), (State::Switching, false));
    core.step(now, Event::EpochOpened { epoch: Epoch(9), master: Site::B });
    assert_eq!((core.view().master, core.view().epoch), (Site::B, Epoch(9)));
}

#[test]
fn an_operator_is_answered_when_it_is_done_or_cannot_be() {
    let mut core = Core::new(Tuning::default(), Time::ZERO, Start { epoch: Epoch(1), master: Site::A });
    let to_b = || Event::Operator(Command::Switch { to: Site::B, reason: "drill".into() });
    let mut now = Time::ZERO;
    let mut events = VecDeque::from([to_b()]);
    let mut replies = Vec::new();
    let mut asked = Vec::new();
    while now < Time::ZERO + Duration::from_secs(20) {
        for action in core.step(now, events.pop_front().unwrap_or(Event::Tick)) {
            match action {
                Action::Probe { id, .. } => {
                    events.push_back(Event::AttemptEnded { id, outcome: Outcome::Good, first_byte: None });
                }
                Action::OpenEpoch { epoch, master } => asked.push((epoch, master)),
                Action::Reply(reply) => replies.push((now, reply)),
                Action::Note(_) => {}
            }
        }
        if events.is_empty() {
            now = now + Duration::from_millis(50);
        }
    }
    // The disk never says that the epoch is durable: the operator is told so, and the move goes on.
    let (at, told) = replies.pop().expect("an answer");
    assert!(at >= Time::ZERO + Duration::from_secs(15) && told.is_err_and(|why| why.contains("epoch 2")), "at {at}");
    let again = core.step(now, to_b());
    assert!(!again.iter().any(|a| matches!(a, Action::Reply(_))), "not done yet: {again:?}");
    let (epoch, master) = asked[0];
    let done = core.step(now, Event::EpochOpened { epoch, master });
    assert!(done.contains(&Action::Reply(Ok(()))), "{done:?}");
    assert_eq!((core.view().master, core.view().accepting_writes, replies.len()), (Site::B, true, 0));
    // Two at once: the older one is told that it lost.
    let back = Event::Operator(Command::Switch { to: Site::A, reason: "drill".into() });
    assert!(!core.step(now, back).iter().any(|a| matches!(a, Action::Reply(_))));
    let both = core.step(now, Event::Operator(Command::Auto));
    let replies: Vec<bool> =
        both.iter().filter_map(|a| if let Action::Reply(r) = a { Some(r.is_ok()) } else { None }).collect();
    assert_eq!(replies, [false, true]);
}
