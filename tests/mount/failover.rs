//! Region A fails under a workload: no operation fails, no byte is wrong, nothing stalls longer than promised.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::probe::{Prober, Report};
use crate::common::{Bench, wait_until};

/// The promise for one dead region.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Runs three probers, breaks A under them, and lets them go on for a while on B.
fn survives(kind: &str) -> Bench {
    let bench = Bench::start();
    let probers: Vec<Prober> = (0..3).map(|n| Prober::start(&bench.path(&format!("p{n}")), n)).collect();
    std::thread::sleep(Duration::from_secs(4));
    let fault = Instant::now();
    bench.emulator.faults("a", json!([{ "kind": kind }]));
    wait_until("B is the master", Duration::from_secs(20), || bench.status()["master"] == "b");
    std::thread::sleep(Duration::from_secs(5));
    let reports: Vec<Report> = probers.into_iter().map(Prober::end).collect();
    for report in &reports {
        assert_eq!(report.errors(), Vec::<String>::new(), "{kind}; log:\n{}", bench.log());
        assert!(report.longest() <= STALL_MAX, "{kind}: {:?} stalled; log:\n{}", report.longest(), bench.log());
        let write = report.first_after("write", fault + Duration::from_millis(1));
        assert!(
            write.is_some_and(|after| after <= STALL_MAX + Duration::from_secs(1)),
            "{kind}: first write after {write:?}"
        );
    }
    let status = bench.status();
    assert_eq!(status["state"], "on_slave");
    let switch = &status["switches"][0];
    assert_eq!((&switch["from"], &switch["to"]), (&json!("a"), &json!("b")));
    assert!(switch["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{switch}");
    bench
}

/// Both buckets hold the same, and it is what the mount shows.
fn converges(bench: &Bench) {
    bench.settle();
    wait_until("both buckets are equal", Duration::from_secs(60), || {
        bench.emulator.objects("a") == bench.emulator.objects("b")
    });
    for (name, content) in crate::common::bucket::tree(&bench.root) {
        for site in cosfs_ha::object::Site::ALL {
            if !name.ends_with('/') {
                let found = bench.emulator.bucket(site).get(&name);
                assert!(found.as_deref() == Some(&content[..]), "{name} in bucket {site}");
            }
        }
    }
}

#[test]
fn a_black_hole_is_survived_and_healed() {
    let mut bench = survives("blackhole");
    bench.emulator.heal("a");
    converges(&bench);
    bench.shell("echo after > after; cat after");
    assert_eq!(bench.umount().status.code(), Some(0));
    assert!(!bench.log().contains("panicked"), "{}", bench.log());
}

#[test]
fn a_refusing_region_is_survived_and_healed() {
    let bench = survives("refuse");
    bench.emulator.heal("a");
    converges(&bench);
}

#[test]
fn a_hanging_region_is_survived() {
    survives("hang");
}

#[test]
fn an_operator_moves_the_master_there_and_back() {
    let bench = Bench::start();
    let prober = Prober::start(&bench.path("p"), 9);
    for (to, master) in [("b", "b"), ("a", "a")] {
        std::thread::sleep(Duration::from_secs(2));
        let run = crate::common::cosfs(&["switch", bench.root.to_str().unwrap(), "--to", to, "--reason", "drill"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        wait_until("the master moved", Duration::from_secs(20), || bench.status()["master"] == master);
    }
    let report = prober.end();
    assert_eq!(report.errors(), Vec::<String>::new(), "log:\n{}", bench.log());
    assert!(report.longest() <= STALL_MAX, "{:?}", report.longest());
    let status = bench.status();
    assert_eq!(status["switches"].as_array().map(Vec::len), Some(2));
    assert!(status["switches"][0]["reason"].as_str().is_some_and(|reason| reason.contains("drill")), "{status}");
    converges(&bench);
}

#[test]
fn files_that_lag_behind_are_not_missing_after_the_switch() {
    let bench = Bench::start();
    bench.emulator.replication(json!({"a_to_b": {"stalled": true}}));
    bench.shell("mkdir d; for i in $(seq 20); do echo content $i > d/$i; done; echo old > changed; rm -f gone");
    bench.shell("echo new > changed");
    bench.emulator.black_hole("a");
    wait_until("B is the master", Duration::from_secs(20), || bench.status()["master"] == "b");
    let said = bench.shell("cat changed; ls d | wc -l; cat d/20; echo more >> changed; cat changed");
    assert_eq!(said, "new\n20\ncontent 20\nnew\nmore\n");
}
