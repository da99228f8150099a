//! Two writers of one file: nothing is lost, and whoever runs the mount is told.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use cosfs_ha::cos::{Attempt, Get, ListVersions, Progress};
use cosfs_ha::object::{Key, Site};

use crate::common::{Bench, Setup, wait_until};

const TOLD: &str = "somebody else wrote this file while it was changed here";

fn bench(policy: &str, commit: &str) -> Bench {
    let config = format!("[mount]\nconflicts = \"{policy}\"\ncommit = \"{commit}\"\nmetadata_ttl = \"1s\"\n");
    Bench::with(Setup { config, ..Setup::default() })
}

/// The contents of all versions of a key in one bucket.
fn versions(bench: &Bench, site: Site, key: &str) -> Vec<Vec<u8>> {
    let bucket = bench.emulator.bucket(site);
    let query = ListVersions { prefix: key.into(), max_keys: 100, ..ListVersions::default() };
    let (name, progress) = (Key::new(key).unwrap(), Progress::new());
    bucket.runtime.block_on(async {
        let page = bucket.client.list_versions(&query, &Attempt::new(&progress)).await.unwrap();
        let mut contents = Vec::new();
        for entry in page.entries.into_iter().filter(|entry| entry.key == key && !entry.marker) {
            let get = Get { version: Some(entry.version), ..Get::default() };
            let answer = bucket.client.get(&name, &get, &Attempt::new(&progress)).await.unwrap();
            contents.push(answer.body.collect().await.unwrap().to_vec());
        }
        contents
    })
}

#[test]
fn what_somebody_else_stored_between_open_and_close_is_kept_and_told() {
    for (policy, commit) in [("lww", "one-region"), ("copy", "journal"), ("off", "journal")] {
        let mut bench = bench(policy, commit);
        fs::create_dir(bench.path("d")).unwrap();
        fs::write(bench.path("d/f"), "first").unwrap();
        bench.settle();
        let mut file = File::options().append(true).open(bench.path("d/f")).unwrap();
        file.write_all(b", ours").unwrap();
        bench.emulator.bucket(Site::A).put("d/f", "theirs");
        drop(file);
        assert_eq!(fs::read_to_string(bench.path("d/f")).unwrap(), "first, ours", "{policy}");
        bench.settle();
        for site in Site::ALL {
            let contents = versions(&bench, site, "d/f");
            assert_eq!(contents, [&b"first, ours"[..], b"theirs", b"first"], "{policy}: bucket {site}");
        }
        let told =
            || bench.log().lines().filter(|line| line.contains("store::conflict") && line.contains(TOLD)).count();
        let names = || -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(bench.path("d")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        match policy {
            "off" => {
                std::thread::sleep(Duration::from_secs(2));
                assert_eq!((told(), names().len()), (0, 1));
            }
            "lww" => {
                wait_until("it is told", Duration::from_secs(10), || told() == 1);
                assert_eq!(names(), ["f"]);
            }
            _ => {
                wait_until("the copy shows", Duration::from_secs(10), || names().len() == 2);
                let copy = names().pop().unwrap();
                assert!(copy.starts_with("f.conflict-2"), "{copy}");
                assert_eq!(fs::read_to_string(bench.path(&format!("d/{copy}"))).unwrap(), "theirs");
                assert_eq!(told(), 1);
                bench.settle();
                assert_eq!(bench.emulator.bucket(Site::B).get(&format!("d/{copy}")).unwrap(), "theirs");
            }
        }
        assert_eq!(bench.umount().status.code(), Some(0));
    }
}

#[test]
fn our_own_writes_are_no_conflict() {
    for commit in ["journal", "two-regions"] {
        let bench = bench("copy", commit);
        bench.emulator.bucket(Site::A).put("theirs", "before");
        bench.shell(
            "for n in $(seq 30); do echo $n > often; echo $n >> log; done
             echo over > theirs
             for n in $(seq 5); do echo a > again; rm again; echo $n > new; mv new moved; done
             mkdir d; echo x > d/x; mv d e; echo y >> e/x; chmod 600 e/x; echo z >> e/x",
        );
        bench.settle();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(bench.log().matches(TOLD).count(), 0, "{commit}: {}", bench.log());
        assert!(bench.emulator.objects("a").keys().all(|key| !key.contains(".conflict-")));
    }
}

#[test]
fn a_foreign_file_saved_twice_in_an_outage_is_no_conflict() {
    let bench = bench("copy", "journal");
    bench.emulator.bucket(Site::A).put("saved", "theirs");
    bench.emulator.bucket(Site::A).put("replaced", "theirs");
    bench.shell("cat saved replaced; ls");
    for site in ["a", "b"] {
        bench.emulator.black_hole(site);
    }
    bench.wait_state("both_down", Duration::from_secs(30));
    bench.shell("echo one > saved; echo two > saved; rm replaced; echo ours > replaced");
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    bench.settle();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(bench.log().matches(TOLD).count(), 0, "{}", bench.log());
    assert_eq!(fs::read_to_string(bench.path("replaced")).unwrap(), "ours\n");
}
