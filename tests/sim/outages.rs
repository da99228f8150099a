//! What the mount does in each kind of trouble, over many seeds.

use std::time::Duration;

use cosfs_ha::failover::{Command, Defences, FailbackMode, Health, JournalView, Outcome, State, Tuning};
use cosfs_ha::object::{Class, Site};

use crate::world::{Fault, Rng, Sim, Trouble, fault, quantile};

const FOREVER: f64 = 1e9;

/// Seeds of one scenario; `SEED=n` replays one of them and prints its log.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

fn shown(sim: &Sim) -> &str {
    if std::env::var("SEED").is_ok() { &sim.log } else { "(run with SEED=n for the log)" }
}

/// Seconds from the fault to the new master, for many seeds.
fn detection(rate: f64, count: u64, trouble: Trouble, tuning: &Tuning) -> Vec<f64> {
    seeds(count)
        .into_iter()
        .map(|seed| {
            let at = 90.0 + Rng(seed ^ 0xFA17).unit();
            let mut sim = Sim::new(seed, tuning.clone(), rate, vec![fault(Site::A, at, FOREVER, trouble)]);
            sim.run(at + 120.0);
            let (when, to, automatic) =
                *sim.switches.first().unwrap_or_else(|| panic!("seed {seed}: no switch {}", shown(&sim)));
            assert!(to == Site::B && automatic && sim.switches.len() == 1, "seed {seed}: {:?}", sim.switches);
            // A grey site recovers now and then, so it may be seen catching up.
            let states = [State::OnSlave, State::CatchUp];
            assert!(states.contains(&sim.view().state), "seed {seed}: {}", sim.view().explain);
            let seconds = when.as_nanos() as f64 / 1e9 - at;
            assert!(seconds > 0.0, "seed {seed}: switched before the fault {}", shown(&sim));
            seconds
        })
        .collect()
}

#[test]
fn black_hole_is_found_in_time() {
    for (rate, count) in [(0.0, 200), (0.2, 200), (5.0, 100), (50.0, 10)] {
        let mut times = detection(rate, count, Trouble::Silent, &Tuning::default());
        let (p50, p99, max) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99), quantile(&mut times, 1.0));
        println!("black hole at {rate} req/s: p50 {p50:.2} p99 {p99:.2} max {max:.2}");
        assert!(p99 <= 4.6 && max <= 5.0, "rate {rate}: p50 {p50:.2} p99 {p99:.2} max {max:.2}");
    }
}

#[test]
fn refused_connections_are_found_in_time() {
    for rate in [0.0, 0.2, 5.0] {
        let mut times = detection(rate, 100, Trouble::Refused, &Tuning::default());
        let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        println!("refused at {rate} req/s: p50 {p50:.2} p99 {p99:.2}");
        assert!(p99 <= 4.6, "rate {rate}: p50 {p50:.2} p99 {p99:.2}");
    }
}

#[test]
fn server_errors_from_everything_are_found_in_time() {
    let mut times = detection(5.0, 50, Trouble::Says(Outcome::Server), &Tuning::default());
    assert!(quantile(&mut times, 0.99) <= 4.6);
}

#[test]
fn limits_at_their_maximum_still_keep_the_bound() {
    // The slowest network the clamps allow for: every limit is at its upper end.
    let tuning = Tuning {
        read_overdue_initial: Duration::from_secs(2),
        write_overdue_initial: Duration::from_secs(4),
        ..Tuning::default()
    };
    for rate in [0.0, 5.0] {
        let mut times = detection(rate, 100, Trouble::Silent, &tuning);
        let p99 = quantile(&mut times, 0.99);
        assert!(p99 <= 4.6, "rate {rate}: p99 {p99:.2}");
    }
}

#[test]
fn grey_site_loses_its_master_within_a_minute_or_so() {
    for trouble in [Trouble::Lossy(0.6), Trouble::Slow(100.0)] {
        let mut times = detection(5.0, 50, trouble, &Tuning::default());
        let (p50, max) = (quantile(&mut times, 0.5), quantile(&mut times, 1.0));
        println!("{trouble:?}: p50 {p50:.1} max {max:.1}");
        assert!(max <= 75.0, "{trouble:?}: p50 {p50:.1} max {max:.1}");
    }
}

#[test]
fn grey_reads_prefer_the_other_site_soon() {
    let mut sim = Sim::new(3, Tuning::default(), 5.0, vec![fault(Site::A, 90.0, FOREVER, Trouble::Lossy(0.5))]);
    sim.run(125.0);
    let health = sim.view().linkage(Site::A, Class::Read).health;
    assert!(sim.log.contains("a.read") && sim.log.contains("-> grey"), "{health} {}", sim.log);
}

#[test]
fn reads_leave_a_region_that_fails_three_times_in_ten_within_ten_seconds() {
    for seed in seeds(10) {
        // Good answers of a minute and a half fill the long window.
        let faults = vec![fault(Site::A, 90.0, FOREVER, Trouble::Lossy(0.3))];
        let mut sim = Sim::new(seed, Tuning::default(), 20.0, faults);
        let mut grey = false;
        for tenth in 900..=1000 {
            sim.run(f64::from(tenth) / 10.0);
            grey |= sim.view().linkage(Site::A, Class::Read).health == Health::Grey;
        }
        assert!(grey, "seed {seed}: {}", sim.log);
    }
}

/// Runs and demands that the master never moved.
fn never_moves(seed: u64, rate: f64, faults: Vec<Fault>, tuning: Tuning, until: f64) -> Sim {
    let mut sim = Sim::new(seed, tuning, rate, faults);
    sim.run(until);
    assert!(sim.switches.is_empty(), "seed {seed}: {:?} {}", sim.switches, shown(&sim));
    sim
}

#[test]
fn blackouts_of_two_seconds_each_minute_move_nobody() {
    for seed in seeds(20) {
        for rate in [0.2, 5.0] {
            let faults = (1..30).map(|m| fault(Site::A, m as f64 * 60.0, m as f64 * 60.0 + 2.0, Trouble::Silent));
            never_moves(seed, rate, faults.collect(), Tuning::default(), 1800.0);
        }
    }
}

#[test]
fn an_unplugged_cable_moves_nobody() {
    for seed in seeds(30) {
        // Both sites vanish together, for 0.5 to 120 s, and come back a little apart.
        let mut rng = Rng(seed);
        let mut faults = Vec::new();
        let mut at = 60.0;
        for _ in 0..12 {
            let lasts = 0.5 * (rng.unit() * (240.0f64).ln()).exp();
            faults.push(fault(Site::A, at, at + lasts + 0.3 * rng.unit(), Trouble::Silent));
            faults.push(fault(Site::B, at, at + lasts + 0.3 * rng.unit(), Trouble::Silent));
            at += lasts + 60.0 + 60.0 * rng.unit();
        }
        for rate in [0.2, 5.0] {
            let sim = never_moves(seed, rate, faults.clone(), Tuning::default(), at + 60.0);
            assert_eq!(sim.view().state, State::Normal, "seed {seed}: {}", sim.view().explain);
            assert!(
                sim.states.iter().any(|(_, s)| *s == State::BothDown),
                "seed {seed}: a long silence everywhere was never called an outage"
            );
        }
    }
}

#[test]
fn errors_of_this_host_are_a_local_outage() {
    for seed in seeds(20) {
        let local = |site| fault(site, 100.0, 160.0, Trouble::Says(Outcome::Local));
        let mut sim = Sim::new(seed, Tuning::default(), 1.0, vec![local(Site::A), local(Site::B)]);
        sim.run(110.0);
        assert_eq!(sim.view().state, State::LocalOutage, "{}", sim.view().explain);
        assert!(sim.view().explain.contains("this host"), "{}", sim.view().explain);
        sim.run(170.0);
        assert_eq!(sim.view().state, State::Normal, "{}", sim.view().explain);
        assert!(sim.switches.is_empty());
        // One site unreachable because of this host: not even an outage.
        never_moves(seed, 1.0, vec![local(Site::A)], Tuning::default(), 200.0);
    }
}

#[test]
fn answers_of_any_kind_move_nobody() {
    let said = [
        Outcome::Answer,
        Outcome::Throttled,
        Outcome::Clock,
        Outcome::Auth,
        Outcome::Admin,
        Outcome::Corrupt,
        Outcome::Local,
    ];
    for outcome in said {
        for seed in seeds(5) {
            for site in Site::ALL {
                let sim = never_moves(
                    seed,
                    5.0,
                    vec![fault(site, 90.0, 690.0, Trouble::Says(outcome))],
                    Tuning::default(),
                    700.0,
                );
                assert_eq!(sim.view().state, State::Normal);
            }
        }
    }
}

#[test]
fn admin_fault_moves_the_master_only_where_allowed() {
    let tuning = Tuning { admin_failover: true, ..Tuning::default() };
    let refused = fault(Site::A, 90.0, FOREVER, Trouble::Says(Outcome::Auth));
    let mut sim = Sim::new(1, tuning, 5.0, vec![refused]);
    sim.run(115.0);
    assert!(sim.switches.is_empty(), "not before 30 s without a success: {}", sim.log);
    sim.run(140.0);
    assert_eq!(sim.view().master, Site::B, "{}", sim.log);
}

#[test]
fn one_dead_class_moves_the_master_as_a_whole() {
    for class in Class::ALL {
        for seed in seeds(30) {
            let dead = Fault { class: Some(class), ..fault(Site::A, 90.0, FOREVER, Trouble::Silent) };
            let mut sim = Sim::new(seed, Tuning::default(), 5.0, vec![dead]);
            sim.run(100.0);
            assert_eq!(sim.view().master, Site::B, "seed {seed} {class}: {}", shown(&sim));
            let other = Class::ALL[1 - class.index()];
            assert!(
                sim.view().linkage(Site::A, other).health.carries_traffic(),
                "seed {seed}: the living class must not share the fate of the dead one: {}",
                shown(&sim)
            );
        }
    }
}

#[test]
fn idle_write_linkage_is_checked_too() {
    let dead = Fault { class: Some(Class::Write), ..fault(Site::A, 90.0, FOREVER, Trouble::Refused) };
    let mut sim = Sim::new(1, Tuning::default(), 0.0, vec![dead]);
    sim.run(90.0 + 10.0 + 5.0);
    assert_eq!(sim.view().master, Site::B, "{}", sim.log);
}

#[test]
fn the_moment_b_proves_healthy_the_master_moves() {
    for seed in seeds(50) {
        let faults =
            vec![fault(Site::A, 100.0, FOREVER, Trouble::Silent), fault(Site::B, 99.0, 130.0, Trouble::Silent)];
        let mut sim = Sim::new(seed, Tuning::default(), 5.0, faults);
        sim.run(130.0);
        assert_eq!(sim.view().state, State::BothDown, "seed {seed}: {}", sim.view().explain);
        assert!(sim.switches.is_empty(), "seed {seed}");
        // B was called dead while A still answered, or not: it may have to prove itself (10 successes), then 2.5 s for A.
        sim.run(145.0);
        assert_eq!(sim.view().master, Site::B, "seed {seed}: {} {}", sim.view().explain, shown(&sim));
    }
}

#[test]
fn a_flapping_site_is_left_alone_after_three_switches_an_hour() {
    for seed in seeds(5) {
        let auto = Tuning {
            failback: FailbackMode::Auto,
            failback_hold: Duration::from_secs(20),
            failback_hold_max: Duration::from_secs(20),
            ..Tuning::default()
        };
        let faults = (1..120).map(|n| fault(Site::A, n as f64 * 90.0, n as f64 * 90.0 + 20.0, Trouble::Silent));
        let mut sim = Sim::new(seed, auto, 5.0, faults.collect());
        sim.run(3.0 * 3600.0);
        let times: Vec<f64> = sim.switches.iter().map(|(at, ..)| at.as_nanos() as f64 / 1e9).collect();
        assert!(times.len() >= 3, "seed {seed}: it did flap: {times:?}");
        assert!(sim.latches >= 1, "seed {seed}");
        for window in times.windows(4) {
            assert!(window[3] - window[0] >= 3600.0, "seed {seed}: four within the hour: {window:?}");
        }
    }
}

#[test]
fn recovery_and_automatic_failback() {
    for seed in seeds(20) {
        let auto = Tuning { failback: FailbackMode::Auto, ..Tuning::default() };
        let mut sim = Sim::new(seed, auto, 5.0, vec![fault(Site::A, 100.0, 200.0, Trouble::Silent)]);
        sim.run(199.0);
        assert_eq!(sim.view().state, State::OnSlave);
        sim.run(230.0);
        assert_eq!(sim.view().state, State::CatchUp, "seed {seed}: {}", sim.view().explain);
        // The journal holds a record that A lacks: no failback, and the reason is told.
        let drained = sim.journal;
        sim.journal = JournalView { unverified_on: [1, 0], owed: [1, 0], oldest: Duration::from_secs(60), ..drained };
        sim.run(700.0);
        assert_eq!(sim.view().state, State::CatchUp);
        assert!(sim.view().explain.contains("not verified on a"), "{}", sim.view().explain);
        sim.journal = drained;
        sim.run(1400.0);
        assert_eq!((sim.view().state, sim.view().master), (State::Normal, Site::A), "seed {seed}: {}", shown(&sim));
        let order: Vec<State> = sim.states.iter().map(|(_, s)| *s).collect();
        assert!(order.contains(&State::Failback), "{order:?}");
    }
}

#[test]
fn failback_is_manual_by_default() {
    let mut sim = Sim::new(1, Tuning::default(), 5.0, vec![fault(Site::A, 100.0, 110.0, Trouble::Silent)]);
    sim.run(3600.0);
    assert_eq!(sim.view().state, State::CatchUp);
    assert!(sim.view().explain.contains("failback is manual"), "{}", sim.view().explain);
    let back = Command::Switch { to: Site::A, reason: "test".into() };
    let mut sim = sim.command(1.0, back);
    sim.run(3610.0);
    assert_eq!((sim.view().state, sim.view().master), (State::Normal, Site::A), "{}", sim.log);
}

#[test]
fn after_an_operators_move_the_roles_are_symmetric() {
    let to_b = Command::Switch { to: Site::B, reason: "maintenance".into() };
    for seed in seeds(20) {
        let faults = vec![fault(Site::B, 300.0, FOREVER, Trouble::Silent)];
        let mut sim = Sim::new(seed, Tuning::default(), 5.0, faults).command(100.0, to_b.clone());
        sim.run(110.0);
        assert_eq!((sim.view().state, sim.view().master), (State::CatchUp, Site::B), "{}", sim.view().explain);
        assert_eq!(sim.replies, [Ok(())]);
        let held = sim.states[1].0.since(sim.states[0].0);
        assert!(held <= Duration::from_millis(2100), "writes were held for {held:?}");
        sim.run(310.0);
        assert_eq!((sim.view().state, sim.view().master), (State::Normal, Site::A), "seed {seed}: {}", shown(&sim));
    }
}

#[test]
fn an_operators_choice_waits_for_a_probe_and_no_longer() {
    let to_b = || Command::Switch { to: Site::B, reason: "drill".into() };
    for seed in seeds(30) {
        // Right after the start nobody has heard of B; a probe tells.
        let mut sim = Sim::new(seed, Tuning::default(), 5.0, Vec::new()).command(0.0, to_b());
        sim.run(3.0);
        assert_eq!((sim.replies.as_slice(), sim.view().master), ([Ok(())].as_slice(), Site::B), "seed {seed}");
        // Nobody ever hears of it: the operator is told within seconds, and nothing moved.
        let silent = vec![fault(Site::B, 0.0, 60.0, Trouble::Silent)];
        let mut sim = Sim::new(seed, Tuning::default(), 5.0, silent).command(0.0, to_b());
        sim.run(6.0);
        assert_eq!((sim.replies.len(), sim.view().master), (1, Site::A), "seed {seed}");
        let why = sim.replies[0].clone().expect_err("refused");
        assert!(why.starts_with("b cannot take over") && why.contains("b.read"), "{why}");
        assert!(sim.switches.is_empty(), "seed {seed}");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let faults = vec![
            fault(Site::A, 50.0, 90.0, Trouble::Lossy(0.4)),
            fault(Site::A, 120.0, 150.0, Trouble::Silent),
            fault(Site::B, 300.0, 330.0, Trouble::Refused),
        ];
        let mut sim = Sim::new(seed, Tuning::default(), 20.0, faults);
        sim.run(600.0);
        format!("{}{:?}", sim.log, sim.view())
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}

#[test]
fn probing_an_idle_mount_is_cheap() {
    let mut sim = Sim::new(1, Tuning::default(), 0.0, Vec::new());
    sim.run(1000.0);
    // Two sites: a read probe a second each, a write probe every ten seconds each.
    assert!((1900..=2250).contains(&sim.probes), "{} probes in 1000 s", sim.probes);
    let mut busy = Sim::new(1, Tuning::default(), 50.0, Vec::new());
    busy.run(1000.0);
    assert!(busy.probes < 1300, "{} probes in 1000 s: a busy master needs next to none", busy.probes);
}

/// The tests of the tests: with one defence off, one of the scenarios above must go wrong.
#[test]
fn each_defence_is_needed() {
    let without = |change: fn(&mut Defences)| {
        let mut tuning = Tuning::default();
        change(&mut tuning.defences);
        tuning
    };
    // A silent site is not found within the bound.
    let tuning = without(|d| d.overdue = false);
    let late = seeds(10).into_iter().any(|seed| {
        let mut sim = Sim::new(seed, tuning.clone(), 5.0, vec![fault(Site::A, 90.0, FOREVER, Trouble::Silent)]);
        sim.run(95.0);
        sim.switches.is_empty()
    });
    assert!(late, "overdue");

    let moved = |tuning: Tuning, faults: &dyn Fn(u64) -> Vec<Fault>, until: f64| {
        (1..=60).any(|seed| {
            let mut sim = Sim::new(seed, tuning.clone(), 5.0, faults(seed));
            sim.run(until);
            !sim.switches.is_empty()
        })
    };
    let blackout = |_| vec![fault(Site::A, 90.0, 92.0, Trouble::Silent)];
    assert!(moved(without(|d| d.confirm = false), &blackout, 120.0), "confirm");
    let cable = |seed| {
        let mut rng = Rng(seed);
        let end = 90.0 + 3.0 + 20.0 * rng.unit();
        vec![fault(Site::A, 90.0, end + 0.3 * rng.unit(), Trouble::Silent), fault(Site::B, 90.0, end, Trouble::Silent)]
    };
    assert!(moved(without(|d| d.other_alive = false), &cable, 150.0), "other_alive");
    assert!(moved(without(|d| d.common_mode = false), &cable, 150.0), "common_mode");

    let mut tuning = Tuning {
        failback: FailbackMode::Auto,
        failback_hold: Duration::from_secs(20),
        failback_hold_max: Duration::from_secs(20),
        ..Tuning::default()
    };
    tuning.defences.latch = false;
    let faults = (1..40).map(|n| fault(Site::A, n as f64 * 90.0, n as f64 * 90.0 + 20.0, Trouble::Silent));
    let mut sim = Sim::new(1, tuning, 5.0, faults.collect());
    sim.run(3600.0);
    assert!(sim.switches.len() > 4, "latch: {:?}", sim.switches);
}
