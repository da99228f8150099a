//! kill -9 of the daemon: what was acknowledged arrives after the next start.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;
use serde_json::json;

use crate::common::probe::Prober;
use crate::common::{Bench, Setup, bytes, wait_until};

#[test]
fn unsent_writes_arrive_after_the_next_mount() {
    let config = "[mount]\ncommit = \"journal\"\n".to_string();
    let mut bench = Bench::with(Setup { config, ..Setup::default() });
    fs::write(bench.path("before"), b"before").unwrap();
    fs::write(bench.path("doomed"), b"x").unwrap();
    bench.shell("ls");
    bench.settle();
    for site in ["a", "b"] {
        bench.emulator.faults(site, json!([{"kind": "refuse"}]));
    }
    fs::write(bench.path("small"), b"small").unwrap();
    fs::write(bench.path("large"), bytes(3, 12_000_000)).unwrap();
    fs::write(bench.path("before"), b"changed").unwrap();
    fs::remove_file(bench.path("doomed")).unwrap();
    bench.crash();
    bench.mount();
    assert_eq!(fs::read(bench.path("small")).unwrap(), b"small", "known at once, although both regions are dead");
    assert_eq!(fs::read(bench.path("before")).unwrap(), b"changed");
    assert!(fs::metadata(bench.path("doomed")).is_err());
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    bench.settle();
    for site in Site::ALL {
        let bucket = bench.emulator.bucket(site);
        assert_eq!(bucket.get("small").as_deref(), Some(&b"small"[..]));
        assert!(bucket.get("large").as_deref() == Some(&bytes(3, 12_000_000)[..]));
        assert_eq!(bucket.get("before").as_deref(), Some(&b"changed"[..]));
        assert_eq!(bucket.get("doomed"), None);
    }
}

#[test]
fn every_acknowledged_file_outlives_kills_under_load() {
    let mut bench = Bench::start();
    for round in 0..4_u64 {
        let folder = bench.path(&format!("round-{round}"));
        fs::create_dir_all(&folder).unwrap();
        let worker = {
            let folder = folder.clone();
            std::thread::spawn(move || {
                let mut acknowledged = 0;
                // Not `fs::write`, which does not hear what `close` says.
                let write = |n: u64| {
                    let mut file = fs::File::create(folder.join(n.to_string()))?;
                    file.write_all(&bytes(round << 16 | n, 5000))?;
                    file.sync_all()
                };
                while write(acknowledged).is_ok() {
                    acknowledged += 1;
                }
                acknowledged
            })
        };
        if round % 2 == 1 {
            bench.emulator.black_hole("a");
        }
        std::thread::sleep(Duration::from_millis(700 + 300 * round));
        bench.crash();
        let acknowledged = worker.join().unwrap();
        bench.mount();
        for n in 0..acknowledged {
            let found = fs::read(folder.join(n.to_string()));
            assert!(
                found.as_ref().is_ok_and(|found| *found == bytes(round << 16 | n, 5000)),
                "round {round}, file {n} of {acknowledged}"
            );
        }
        bench.emulator.heal("a");
    }
    bench.settle();
    wait_until("both buckets are equal", Duration::from_secs(60), || {
        bench.emulator.objects("a") == bench.emulator.objects("b")
    });
}

#[test]
fn the_master_is_remembered() {
    let mut bench = Bench::start();
    bench.emulator.black_hole("a");
    let prober = Prober::start(&bench.path("p"), 1);
    wait_until("B is the master", Duration::from_secs(20), || bench.status()["master"] == "b");
    assert_eq!(prober.end().errors(), Vec::<String>::new());
    let epoch = bench.status()["epoch"].as_u64();
    bench.crash();
    let began = Instant::now();
    bench.mount();
    let status = bench.status();
    assert_eq!((&status["master"], status["epoch"].as_u64()), (&json!("b"), epoch), "after {:?}", began.elapsed());
    fs::write(bench.path("on b"), b"at once").unwrap();
    assert_eq!(bench.emulator.bucket(Site::B).get("on b").as_deref(), Some(&b"at once"[..]));
}

#[test]
fn a_directory_that_was_being_moved_arrives_as_a_whole() {
    let mut bench = Bench::start();
    bench.shell("mkdir -p old/sub; for n in $(seq 60); do echo $n > old/$n; echo $n > old/sub/$n; done; ls -R old");
    bench.settle();
    bench.emulator.faults("a", json!([{"kind": "delay", "delay_ms": 200, "methods": ["PUT"]}]));
    let (from, to) = (bench.path("old"), bench.path("new"));
    let mover = std::thread::spawn(move || fs::rename(from, to));
    let moved = |bench: &Bench| bench.emulator.objects("a").keys().filter(|key| key.starts_with("new/")).count();
    wait_until("a part is moved", Duration::from_secs(30), || moved(&bench) >= 20);
    bench.crash();
    assert!(mover.join().unwrap().is_err(), "the move was over before the kill");
    let part = moved(&bench);
    assert!(part < 122, "{part} are moved: nothing left to finish");
    bench.emulator.heal("a");
    bench.mount();
    bench.settle();
    wait_until("everything is moved", Duration::from_secs(30), || moved(&bench) == 122);
    assert!(fs::metadata(bench.path("old")).is_err());
    assert_eq!(fs::read_dir(bench.path("new")).unwrap().count(), 61);
    for n in [1, 30, 60] {
        assert_eq!(fs::read_to_string(bench.path(&format!("new/sub/{n}"))).unwrap(), format!("{n}\n"));
    }
    // What comes under the old name later is not moved after it.
    fs::create_dir(bench.path("old")).unwrap();
    fs::write(bench.path("old/later"), b"stays").unwrap();
    bench.crash();
    bench.mount();
    assert_eq!(fs::read(bench.path("old/later")).unwrap(), b"stays");
    bench.settle();
    let keys: Vec<String> = bench.emulator.objects("b").into_keys().filter(|key| key.starts_with("old")).collect();
    assert_eq!(keys, ["old/", "old/later"]);
}
