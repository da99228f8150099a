//! Region A half fails, in ways that no single request proves; and things that look like failure and are none.
//!
//! A grey region answers, too often badly or too late: reads must have left it within 10 s, the master within 60 s. What is only an answer (404,
//! 403, SlowDown, a wrong clock) or only this host's own trouble must move nobody.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cosfs_ha::object::Site;
use serde_json::{Value, json};

use crate::common::probe::{Prober, Report};
use crate::common::{Bench, Emulator, Setup, wait_until};

/// Reads leave a grey region in this time, writes in that one.
const READS_LEAVE: Duration = Duration::from_secs(10);
const WRITES_LEAVE: Duration = Duration::from_secs(60);
const COLD: usize = 600;

fn cold(n: usize) -> String {
    format!("cold/{n}")
}

/// Contents of the uncached files that a region was asked for since a moment (microseconds since 1970).
fn asked_for(bench: &Bench, site: &str, since: u64) -> usize {
    let log = bench.emulator.log(site);
    let cold =
        |entry: &&Value| entry["method"] == "GET" && entry["key"].as_str().is_some_and(|key| key.starts_with("cold/"));
    let late = |entry: &&Value| entry["time"].as_u64().is_some_and(|time| time >= since);
    log.as_array().expect("a list").iter().filter(cold).filter(late).count()
}

/// Reads uncached files for a while; returns how long each took, and how often A and B were asked for them.
fn read_cold(bench: &Bench, from: &mut usize, time: Duration) -> (Vec<Duration>, [usize; 2]) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let one = Instant::now();
        let found = fs::read(bench.path(&cold(*from))).expect("a file in the mount");
        assert_eq!(found, cold(*from).repeat(100).into_bytes());
        took.push(one.elapsed());
        *from += 1;
        std::thread::sleep(Duration::from_millis(30));
    }
    took.sort();
    (took, ["a", "b"].map(|site| asked_for(bench, site, since)))
}

fn turns_grey(fault: Value) {
    // Both regions are twenty milliseconds away, as real ones are.
    let far = json!({"kind": "delay", "delay_ms": 20});
    let emulator = Emulator::start();
    let files = (0..COLD).map(|n| (cold(n), bytes::Bytes::from(cold(n).repeat(100))));
    emulator.bucket(Site::A).put_many(files.collect());
    wait_until("the files are in both", Duration::from_secs(60), || emulator.objects("b").len() == COLD);
    let bench = Bench::on(emulator, Setup::default());
    bench.emulator.faults("a", json!([far]));
    bench.emulator.faults("b", json!([far]));
    let listed = fs::read_dir(bench.path("cold")).expect("a folder").count();
    assert_eq!(listed, COLD);
    let probers: Vec<Prober> = (0..3).map(|n| Prober::start(&bench.path(&format!("p{n}")), n)).collect();
    let mut at = 0;
    // What is usual here, the mount knows after a minute.
    std::thread::sleep(Duration::from_secs(60));
    read_cold(&bench, &mut at, Duration::from_secs(8));
    let fault_at = Instant::now();
    bench.emulator.faults("a", fault);
    let (first, asked) = read_cold(&bench, &mut at, READS_LEAVE);
    println!("first 10 s: {} reads, longest {:?}, GETs to a and b {asked:?}", first.len(), first.last());
    let (then, asked) = read_cold(&bench, &mut at, Duration::from_secs(8));
    println!("then: {} reads, longest {:?}, GETs to a and b {asked:?}", then.len(), then.last());
    assert!(asked[1] > 4 * asked[0], "most reads go to b by now: {asked:?}; log:\n{}", bench.log());
    wait_until("B is the master", WRITES_LEAVE, || bench.status()["master"] == "b");
    println!("master moved {:.1?} after the fault", fault_at.elapsed());
    assert!(fault_at.elapsed() <= WRITES_LEAVE, "{:?}", fault_at.elapsed());
    let reports: Vec<Report> = probers.into_iter().map(Prober::end).collect();
    for report in reports {
        assert_eq!(report.errors(), Vec::<String>::new(), "log:\n{}", bench.log());
        println!("prober: {} steps, longest {:?}", report.steps.len(), report.longest());
    }
}

#[test]
#[ignore = "two minutes; scripts/soak runs it"]
fn a_region_that_fails_three_times_in_ten() {
    turns_grey(json!([{"kind": "status", "probability": 0.3}, {"kind": "delay", "delay_ms": 20}]));
}

#[test]
#[ignore = "two minutes; scripts/soak runs it"]
fn a_region_that_is_fifty_times_slower() {
    turns_grey(json!([{"kind": "delay", "delay_ms": 1000}]));
}

#[test]
fn a_region_that_takes_no_writes_loses_the_master() {
    let bench = Bench::start();
    let prober = Prober::start(&bench.path("p"), 1);
    std::thread::sleep(Duration::from_secs(2));
    bench.emulator.faults("a", json!([{"kind": "status", "methods": ["PUT", "POST", "DELETE"]}]));
    wait_until("B is the master", Duration::from_secs(10), || bench.status()["master"] == "b");
    let status = bench.status();
    let health = |site: &str, class: &str| {
        let linkages = status["linkages"].as_array().expect("a list");
        let hit = linkages.iter().find(|l| l["site"] == site && l["class"] == class).expect("a linkage");
        hit["health"].clone()
    };
    assert_eq!(health("a", "read"), "up", "{status}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(prober.end().errors(), Vec::<String>::new(), "log:\n{}", bench.log());
}

// ---- what moves nobody

/// Lets programs work under a fault, and afterwards without. Returns what they saw while it lasted.
fn stays_on_a(bench: &Bench, fault: Value, time: Duration) -> Report {
    let prober = Prober::start(&bench.path("p"), 1);
    std::thread::sleep(Duration::from_secs(1));
    bench.emulator.faults("a", fault);
    std::thread::sleep(time);
    bench.emulator.heal("a");
    let report = prober.end();
    let status = bench.status();
    assert_eq!((&status["master"], &status["switches"]), (&json!("a"), &json!([])), "log:\n{}", bench.log());
    report
}

/// How long each lasts here; `COSFS_HA_NEVER_SECONDS=600` for ten minutes.
fn lasts() -> Duration {
    let asked = std::env::var("COSFS_HA_NEVER_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(8))
}

#[test]
fn a_region_that_asks_to_slow_down_stays_master() {
    let bench = Bench::start();
    let report = stays_on_a(&bench, json!([{"kind": "slowdown", "probability": 0.7}]), lasts());
    assert_eq!(report.errors(), Vec::<String>::new(), "log:\n{}", bench.log());
}

#[test]
fn a_region_with_a_wrong_clock_stays_master() {
    let bench = Bench::start();
    let report = stays_on_a(&bench, json!([{"kind": "wrong_clock", "skew_s": 1200}]), lasts());
    assert_eq!(report.errors(), Vec::<String>::new(), "log:\n{}", bench.log());
}

#[test]
fn names_that_are_not_there_and_one_corrupt_answer_move_nobody() {
    let bench = Bench::start();
    bench.emulator.bucket(Site::A).put("whole", crate::common::bytes(3, 300_000));
    let (end, folder) = (Instant::now() + lasts(), bench.path("nowhere"));
    let storm = std::thread::spawn(move || {
        let mut missed = 0;
        while Instant::now() < end {
            assert!(!folder.join(format!("x{missed}")).exists());
            missed += 1;
        }
        missed
    });
    let prober = Prober::start(&bench.path("p"), 1);
    bench.emulator.faults("a", json!([{"kind": "corrupt", "methods": ["GET"], "key_prefix": "whole", "count": 1}]));
    assert!(fs::read(bench.path("whole")).expect("a file") == crate::common::bytes(3, 300_000));
    assert!(storm.join().expect("no panic") > 100);
    assert_eq!(prober.end().errors(), Vec::<String>::new(), "log:\n{}", bench.log());
    let status = bench.status();
    assert_eq!((&status["master"], &status["switches"]), (&json!("a"), &json!([])), "log:\n{}", bench.log());
}

#[test]
fn a_refused_key_moves_nobody_and_works_again_afterwards() {
    let bench = Bench::start();
    fs::write(bench.path("before"), "x").expect("a file");
    bench.emulator.faults("a", json!([{"kind": "status", "status": 403}]));
    let end = Instant::now() + lasts();
    let mut refused = 0;
    while Instant::now() < end {
        refused += u32::from(fs::write(bench.path("during"), "y").is_err());
        std::thread::sleep(Duration::from_millis(200));
    }
    bench.emulator.heal("a");
    assert!(refused > 0, "a refusal is told");
    let status = bench.status();
    assert_eq!((&status["master"], &status["switches"]), (&json!("a"), &json!([])), "log:\n{}", bench.log());
    wait_until("it works again", Duration::from_secs(20), || fs::write(bench.path("after"), "z").is_ok());
}

/// A network of its own for emulator and mount; its only cable can be pulled.
struct Island {
    keeper: std::process::Child,
}

impl Island {
    fn new() -> Island {
        let keeper = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("unshare of util-linux");
        let island = Island { keeper };
        wait_until("a network of its own (needs root)", Duration::from_secs(5), || island.link("up"));
        island
    }

    fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), "-t".into(), self.keeper.id().to_string(), "--net".into()]
    }

    fn link(&self, state: &str) -> bool {
        let own = |path: &str| fs::read_link(format!("/proc/{path}/ns/net")).ok();
        // Until `unshare` has done its work, the keeper is in our network.
        if own("self") == own(&self.keeper.id().to_string()) {
            return false;
        }
        let enter = self.enter();
        let done = Command::new(&enter[0]).args(&enter[1..]).args(["ip", "link", "set", "lo", state]).status();
        done.is_ok_and(|status| status.success())
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

#[test]
fn a_host_without_its_network_moves_nobody() {
    let island = Island::new();
    let emulator = Emulator::start_by(&island.enter(), &[]);
    let through = island.enter();
    let bench = Bench::on(emulator, Setup { through, ..Setup::default() });
    fs::write(bench.path("f"), "known").expect("a file");
    assert!(island.link("down"));
    wait_until("the mount knows", Duration::from_secs(20), || {
        ["both_down", "local_outage"].contains(&bench.status()["state"].as_str().unwrap_or_default())
    });
    println!("{}", bench.status()["explain"]);
    assert_eq!(fs::read_to_string(bench.path("f")).expect("what is known"), "known");
    assert!(island.link("up"));
    bench.wait_state("normal", Duration::from_secs(30));
    fs::write(bench.path("g"), "after").expect("a file");
    let status = bench.status();
    assert_eq!((&status["master"], &status["switches"]), (&json!("a"), &json!([])), "log:\n{}", bench.log());
}
