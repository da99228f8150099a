//! What goes wrong in one history, and what must not follow from it. Everything out of one number.

use std::time::Duration;

use cosfs_ha::emulator::replicator::Change;
use cosfs_ha::emulator::{Current, ReplicationChange};
use cosfs_ha::failover::{FailbackMode, Tuning};
use cosfs_ha::object::{Class, Site};
use cosfs_ha::store::{Commit, Options, WhenUnreachable};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::regions::{Fault, Trouble};

#[derive(Clone, Debug)]
pub enum Event {
    Begin(u32, Fault),
    End(u32),
    Replication(ReplicationChange),
    /// The process dies and is started again; with or without what its cache knew.
    Crash {
        lose_cache: bool,
    },
    Switch(Site),
    Auto,
    /// Another program writes, straight into a bucket.
    Foreign(Site),
}

/// The plots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plot {
    Outage,
    Backlog,
    Lost,
    Flapping,
    Grey,
    OneClass,
    Quiet,
    BothDown,
    Slave,
    Operator,
    Ambiguous,
    Foreigners,
}

const PLOTS: [(Plot, u32); 12] = [
    (Plot::Outage, 20),
    (Plot::Backlog, 14),
    (Plot::Lost, 8),
    (Plot::Flapping, 2),
    (Plot::Grey, 7),
    (Plot::OneClass, 8),
    (Plot::Quiet, 4),
    (Plot::BothDown, 6),
    (Plot::Slave, 6),
    (Plot::Operator, 6),
    (Plot::Ambiguous, 12),
    (Plot::Foreigners, 7),
];

/// Stories with a name: what must never move the master, and what the mount must come out of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    SlowDown,
    Skew,
    Denied,
    Corrupt,
    LocalNetwork,
    Blackouts,
    NotFoundStorm,
    LostForGood,
    BackWithBacklog,
    Flapping,
}

impl Scene {
    pub const ALL: [Scene; 10] = [
        Scene::SlowDown,
        Scene::Skew,
        Scene::Denied,
        Scene::Corrupt,
        Scene::LocalNetwork,
        Scene::Blackouts,
        Scene::NotFoundStorm,
        Scene::LostForGood,
        Scene::BackWithBacklog,
        Scene::Flapping,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Scene::SlowDown => "slow-down",
            Scene::Skew => "skew",
            Scene::Denied => "denied",
            Scene::Corrupt => "corrupt",
            Scene::LocalNetwork => "local-network",
            Scene::Blackouts => "blackouts",
            Scene::NotFoundStorm => "not-found-storm",
            Scene::LostForGood => "lost-for-good",
            Scene::BackWithBacklog => "back-with-backlog",
            Scene::Flapping => "flapping",
        }
    }

    pub fn named(name: &str) -> Option<Scene> {
        Scene::ALL.into_iter().find(|scene| scene.name() == name)
    }

    fn plot(self) -> Plot {
        match self {
            Scene::LostForGood => Plot::Lost,
            Scene::BackWithBacklog => Plot::Backlog,
            Scene::Flapping => Plot::Flapping,
            _ => Plot::Quiet,
        }
    }

    /// Of a quiet plot, which kind of quiet.
    fn quiet(self) -> Option<u32> {
        let kind = Scene::ALL.iter().position(|scene| *scene == self).and_then(|at| u32::try_from(at).ok());
        kind.filter(|_| self.plot() == Plot::Quiet)
    }
}

/// What the seed does not decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    Any,
    Plot(Plot),
    Scene(Scene),
}

impl Plot {
    pub fn named(name: &str) -> Option<Plot> {
        PLOTS.iter().map(|(plot, _)| *plot).find(|plot| format!("{plot:?}").eq_ignore_ascii_case(name))
    }
}

#[derive(Clone, Debug)]
pub struct Story {
    pub seed: u64,
    pub plot: Plot,
    pub events: Vec<(Duration, Event)>,
    /// Programs work until then.
    pub busy: Duration,
    /// Mean pause of a program between two operations.
    pub pace: Duration,
    pub programs: u32,
    pub lag: Duration,
    pub current: Current,
    pub tuning: Tuning,
    pub options: Options,
    /// Never comes back.
    pub gone: Option<Site>,
    pub no_switch: bool,
    /// EACCES is the right answer now and then.
    pub denied: bool,
    /// Somebody asks for many names that do not exist.
    pub storm: bool,
    pub scene: Option<Scene>,
}

struct Author {
    dice: StdRng,
    events: Vec<(Duration, Event)>,
    faults: u32,
}

fn secs(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

impl Author {
    fn between(&mut self, from: f64, to: f64) -> f64 {
        self.dice.random_range(from..to)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.dice.random_range(0..n) == 0
    }

    fn at(&mut self, at: f64, event: Event) {
        self.events.push((secs(at), event));
    }

    fn fault(&mut self, from: f64, to: f64, fault: Fault) {
        self.faults += 1;
        let id = self.faults;
        self.at(from, Event::Begin(id, fault));
        self.at(to, Event::End(id));
    }

    /// A trouble that makes a site useless.
    fn death(&mut self) -> Trouble {
        match self.dice.random_range(0..8) {
            0 | 1 => Trouble::Silent,
            2 => Trouble::Refuse,
            3 => Trouble::Hang,
            4 => Trouble::Reset,
            5 => Trouble::Status(500, "InternalError"),
            6 => Trouble::Foreign(502),
            _ => Trouble::Silent,
        }
    }

    fn lag(&mut self) -> u64 {
        // Lognormal around 3 s, now and then a minute.
        let (u, v) = (self.between(1e-9, 1.0), self.between(0.0, 1.0));
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        (3000.0 * (0.9 * normal).exp()).min(60_000.0) as u64
    }

    fn replication(&mut self, at: f64, from: Option<Site>, change: Change) {
        let mut both = ReplicationChange::default();
        if from != Some(Site::B) {
            both.a_to_b = change;
        }
        if from != Some(Site::A) {
            both.b_to_a = change;
        }
        self.at(at, Event::Replication(both));
    }

    fn stall(&mut self, from: f64, to: f64, side: Option<Site>) {
        self.replication(from, side, Change { stalled: Some(true), ..Change::default() });
        self.replication(to, side, Change { stalled: Some(false), ..Change::default() });
    }
}

impl Story {
    pub fn of(seed: u64, choice: Choice) -> Story {
        let (only, scene) = match choice {
            Choice::Any => (None, None),
            Choice::Plot(plot) => (Some(plot), None),
            Choice::Scene(scene) => (Some(scene.plot()), Some(scene)),
        };
        let mut a = Author { dice: StdRng::seed_from_u64(seed), events: Vec::new(), faults: 0 };
        let plot = {
            let total: u32 = PLOTS.iter().map(|(_, weight)| weight).sum();
            let mut throw = a.dice.random_range(0..total);
            let drawn = PLOTS.iter().find(|(_, weight)| {
                let here = throw < *weight;
                throw = throw.saturating_sub(*weight);
                here
            });
            only.or(drawn.map(|(plot, _)| *plot)).unwrap_or(Plot::Outage)
        };
        let lag = a.lag();
        let hold = a.between(10.0, 40.0);
        let tuning = Tuning {
            failback: if a.one_in(3) { FailbackMode::Manual } else { FailbackMode::Auto },
            failback_hold: secs(hold),
            ..Tuning::default()
        };
        let commit = match a.dice.random_range(0..10) {
            0..=5 => Commit::OneRegion,
            6..=7 => Commit::Journal,
            _ => Commit::TwoRegions,
        };
        let options = Options {
            commit,
            when_unreachable: WhenUnreachable::Journal,
            lag_max: Duration::from_secs(120),
            ..Options::default()
        };
        let current = if a.one_in(3) { Current::LastArrival } else { Current::NewestVersion };
        let mut story = Story {
            seed,
            plot,
            events: Vec::new(),
            busy: secs(100.0),
            pace: secs(1.2),
            programs: 3,
            lag: Duration::from_millis(lag),
            current,
            tuning,
            options,
            gone: None,
            no_switch: false,
            denied: false,
            storm: false,
            scene,
        };
        story.plot_out(&mut a);
        if scene == Some(Scene::BackWithBacklog) {
            story.tuning.failback = FailbackMode::Auto;
            story.current = if seed.is_multiple_of(2) { Current::NewestVersion } else { Current::LastArrival };
        }
        if !story.no_switch && plot != Plot::Foreigners && scene.is_none() && a.one_in(3) {
            let at = a.between(5.0, story.busy.as_secs_f64());
            let lose_cache = a.one_in(2);
            a.at(at, Event::Crash { lose_cache });
        }
        if a.one_in(3) {
            let at = a.between(0.0, story.busy.as_secs_f64());
            let lag_ms = a.lag();
            let reorder = a.one_in(2);
            a.replication(at, None, Change { lag_ms: Some(lag_ms), reorder: Some(reorder), ..Change::default() });
        }
        a.events.sort_by_key(|(at, _)| *at);
        story.events = a.events;
        story
    }

    fn plot_out(&mut self, a: &mut Author) {
        let from = a.between(5.0, 30.0);
        match self.plot {
            Plot::Outage => {
                let (trouble, length) = (a.death(), a.between(4.0, 50.0));
                a.fault(from, from + length, Fault::on(Site::A, trouble));
                if a.one_in(2) {
                    let longer = a.between(0.0, 20.0);
                    a.stall(from, from + length + longer, None);
                }
                if a.one_in(3) {
                    let (again, trouble) = (from + length + a.between(1.0, 40.0), a.death());
                    let length = a.between(4.0, 30.0);
                    a.fault(again, again + length, Fault::on(Site::A, trouble));
                }
            }
            Plot::Backlog => {
                let before = a.between(1.0, 15.0);
                let length = a.between(30.0, 70.0);
                let after = a.between(0.0, 40.0);
                a.stall((from - before).max(0.0), from + length + after, Some(Site::A));
                let trouble = a.death();
                a.fault(from, from + length, Fault::on(Site::A, trouble));
                if a.one_in(2) || self.scene == Some(Scene::BackWithBacklog) {
                    a.fault(
                        from - 2.0,
                        from,
                        Fault { class: Some(Class::Write), share: 0.5, ..Fault::on(Site::A, Trouble::LateCommit) },
                    );
                }
                self.busy = secs(from + length + after + 30.0);
            }
            Plot::Lost => {
                let before = a.between(1.0, 15.0);
                a.replication((from - before).max(0.0), None, Change { stalled: Some(true), ..Change::default() });
                let trouble = if a.one_in(2) { Trouble::Silent } else { Trouble::Refuse };
                a.faults += 1;
                let id = a.faults;
                a.at(from, Event::Begin(id, Fault::on(Site::A, trouble)));
                self.gone = Some(Site::A);
                self.busy = secs(70.0);
            }
            Plot::Flapping => {
                let period = a.between(1.0, 60.0);
                let trouble = a.death();
                let mut at = from;
                while at < 1800.0 {
                    a.fault(at, at + period / 2.0, Fault::on(Site::A, trouble));
                    at += period;
                }
                self.tuning.failback = FailbackMode::Auto;
                self.busy = secs(1800.0);
                self.pace = secs(20.0);
            }
            Plot::Grey => {
                let fault = match a.dice.random_range(0..3) {
                    0 => Fault { share: 0.3, ..Fault::on(Site::A, Trouble::Status(500, "InternalError")) },
                    1 => Fault { share: 0.3, ..Fault::on(Site::A, Trouble::Hang) },
                    _ => Fault::on(Site::A, Trouble::Slow(50.0)),
                };
                a.fault(from, from + 80.0, fault);
                self.busy = secs(130.0);
            }
            Plot::OneClass => {
                let class = if a.one_in(2) { Class::Write } else { Class::Read };
                let (trouble, length) = (a.death(), a.between(8.0, 50.0));
                a.fault(from, from + length, Fault { class: Some(class), ..Fault::on(Site::A, trouble) });
            }
            Plot::Quiet => {
                self.no_switch = true;
                let on = |trouble, share| Fault { share, ..Fault::on(Site::A, trouble) };
                let kind = a.dice.random_range(0..7);
                match self.scene.and_then(Scene::quiet).unwrap_or(kind) {
                    0 => {
                        a.fault(from, from + 600.0, on(Trouble::Throttle, 0.6));
                        (self.busy, self.pace) = (secs(640.0), secs(8.0));
                    }
                    1 => {
                        let seconds = if a.one_in(2) { 1200 } else { -1200 };
                        a.fault(from, from + 60.0, on(Trouble::Skew(seconds), 1.0));
                    }
                    2 => {
                        self.denied = true;
                        a.fault(from, from + 60.0, on(Trouble::Deny, 1.0));
                    }
                    3 => {
                        let trouble =
                            [Trouble::Corrupt, Trouble::Truncate, Trouble::HangBody][a.dice.random_range(0..3)];
                        a.fault(from, from + 60.0, on(trouble, 0.1));
                    }
                    4 => {
                        let length = a.between(5.0, 40.0);
                        a.fault(from, from + length, Fault { site: None, ..Fault::on(Site::A, Trouble::NoRoute) });
                    }
                    5 => {
                        let both = a.one_in(2);
                        for minute in 0..30 {
                            let at = from + 60.0 * f64::from(minute);
                            let fault =
                                Fault { site: (!both).then_some(Site::A), ..Fault::on(Site::A, Trouble::Silent) };
                            a.fault(at, at + 2.0, fault);
                        }
                        (self.busy, self.pace) = (secs(1800.0), secs(20.0));
                    }
                    _ => self.storm = true,
                }
            }
            Plot::BothDown => {
                let (trouble, other) = (a.death(), a.death());
                let (length, apart) = (a.between(10.0, 50.0), a.between(0.0, 30.0));
                a.fault(from, from + length, Fault::on(Site::A, trouble));
                let second = a.between(5.0, 60.0);
                a.fault(from + apart, from + apart + second, Fault::on(Site::B, other));
                self.busy = secs(130.0);
            }
            Plot::Slave => {
                let (trouble, length) = (a.death(), a.between(8.0, 50.0));
                a.fault(from, from + length, Fault::on(Site::B, trouble));
                if a.one_in(2) {
                    let at = from + length + a.between(1.0, 20.0);
                    let (trouble, length) = (a.death(), a.between(8.0, 30.0));
                    a.fault(at, at + length, Fault::on(Site::A, trouble));
                }
            }
            Plot::Operator => {
                a.at(from, Event::Switch(Site::B));
                let length = a.between(10.0, 40.0);
                if a.one_in(2) {
                    a.stall((from - 5.0).max(0.0), from + length, None);
                }
                if a.one_in(2) {
                    a.at(from + length, Event::Auto);
                } else {
                    a.at(from + length, Event::Switch(Site::A));
                }
                if a.one_in(2) {
                    let trouble = a.death();
                    let at = from + a.between(2.0, 30.0);
                    a.fault(at, at + 15.0, Fault::on(Site::B, trouble));
                }
            }
            Plot::Ambiguous => {
                let share = a.between(0.2, 0.6);
                // Late commits are what nothing but the watch of lost answers defends against.
                let kind = match a.dice.random_range(0..4) {
                    0 => Trouble::LoseAnswer,
                    1 => Trouble::Hang,
                    _ => Trouble::LateCommit,
                };
                let length = a.between(5.0, 20.0);
                a.fault(from, from + length, Fault { class: Some(Class::Write), share, ..Fault::on(Site::A, kind) });
                let trouble = a.death();
                let dead = a.between(5.0, 40.0);
                a.fault(from + length, from + length + dead, Fault::on(Site::A, trouble));
                if a.one_in(3) {
                    a.stall(from, from + length + dead, None);
                }
                // What comes late harms where the same file was written again meanwhile.
                self.pace = secs(0.3);
            }
            Plot::Foreigners => {
                let before = a.between(1.0, 10.0);
                let length = a.between(15.0, 40.0);
                a.stall((from - before).max(0.0), from + length, Some(Site::A));
                let trouble = a.death();
                a.fault(from, from + length, Fault::on(Site::A, trouble));
                for _ in 0..4 {
                    let at = from + a.between(0.0, 6.0);
                    a.at(at, Event::Foreign(Site::B));
                    let at = (from - a.between(0.1, before)).max(0.0);
                    a.at(at, Event::Foreign(Site::A));
                }
                self.pace = secs(0.6);
                self.busy = secs(70.0);
            }
        }
    }

    /// When is a site of no use, or perhaps not yet trusted again?
    pub fn bad(&self, site: Site) -> Vec<(Duration, Duration)> {
        let mut windows = Vec::new();
        for (from, event) in &self.events {
            let Event::Begin(id, fault) = event else { continue };
            if fault.site.is_some_and(|s| s != site) {
                continue;
            }
            let end = self.events.iter().find(|(_, e)| matches!(e, Event::End(other) if other == id));
            let end = end.map_or(Duration::MAX, |(at, _)| *at + TRUSTED_AFTER);
            windows.push((*from, end));
        }
        windows
    }

    /// Is there a moment in this time at which no region was well?
    pub fn nobody_well(&self, from: Duration, to: Duration) -> bool {
        let (a, b) = (self.bad(Site::A), self.bad(Site::B));
        let overlap = |x: &(Duration, Duration), y: &(Duration, Duration)| {
            let (begin, end) = (x.0.max(y.0).max(from), x.1.min(y.1).min(to));
            begin <= end
        };
        a.iter().any(|x| b.iter().any(|y| overlap(x, y)))
    }

    pub fn was_bad(&self, site: Site, from: Duration, to: Duration) -> bool {
        self.bad(site).iter().any(|(begin, end)| *begin <= to && *end >= from)
    }
}

/// A region that is well again is used again after at most this long.
const TRUSTED_AFTER: Duration = Duration::from_secs(30);
