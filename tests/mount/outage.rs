//! Both regions are gone: what is here stays readable, nothing hangs for ever, and nothing is taken for missing.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;

use serde_json::json;

use crate::common::{Bench, Emulator, Setup, bytes, wait_until};

const STALL_MAX: Duration = Duration::from_secs(8);
/// Scheduling on a busy machine, on top of what the mount promises.
const SLACK: Duration = Duration::from_secs(2);

fn bench() -> Bench {
    Bench::with(Setup { config: "[mount]\nmax_stall = \"8s\"\n".into(), ..Setup::default() })
}

fn both_down(bench: &Bench) {
    bench.emulator.black_hole("a");
    bench.emulator.black_hole("b");
    wait_until("the mount knows", Duration::from_secs(30), || {
        let state = bench.status()["state"].clone();
        state == "both_down" || state == "local_outage"
    });
}

#[test]
fn cached_things_answer_at_once_and_others_end_in_time() {
    let bench = bench();
    let bucket = bench.emulator.bucket(Site::A);
    bucket.put("d/uncached", bytes(7, 4 << 20));
    fs::write(bench.path("d/cached"), bytes(8, 500_000)).unwrap();
    bench.shell("ls -l d; cat d/cached > /dev/null; stat d/uncached");
    let open = File::open(bench.path("d/uncached")).unwrap();
    both_down(&bench);
    for script in ["ls d", "ls -l d", "cat d/cached | wc -c", "df ."] {
        let began = Instant::now();
        let said = bench.shell(script);
        assert!(began.elapsed() < Duration::from_secs(1), "{script} took {:?}", began.elapsed());
        assert!(script != "cat d/cached | wc -c" || said.trim() == "500000");
    }

    let began = Instant::now();
    let error = open.read_at(&mut [0; 4096], 0).unwrap_err();
    assert!(began.elapsed() < STALL_MAX + SLACK, "{:?}", began.elapsed());
    assert_ne!(error.raw_os_error(), Some(libc::ENOENT));
    let began = Instant::now();
    let error = fs::metadata(bench.path("never seen")).unwrap_err();
    assert!(began.elapsed() < STALL_MAX + SLACK, "{:?}", began.elapsed());
    assert_ne!(error.raw_os_error(), Some(libc::ENOENT), "not knowing is not absence");

    bench.emulator.heal("a");
    bench.emulator.heal("b");
    wait_until("the open file reads again", Duration::from_secs(40), || {
        let mut found = vec![0; 4096];
        open.read_exact_at(&mut found, 100).is_ok_and(|()| found == bytes(7, 4 << 20)[100..4196])
    });
    let mut all = Vec::new();
    (&open).read_to_end(&mut all).unwrap();
    assert!(all == bytes(7, 4 << 20));
}

#[test]
fn a_reader_can_be_killed() {
    let bench = bench();
    bench.emulator.bucket(Site::A).put("uncached", bytes(9, 1 << 20));
    bench.shell("stat uncached");
    both_down(&bench);
    let mut reader =
        Command::new("cat").arg(bench.path("uncached")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    reader.kill().unwrap();
    wait_until("the killed reader ends", STALL_MAX + SLACK, || reader.try_wait().unwrap().is_some());
}

#[test]
fn writes_go_to_the_journal_and_arrive_later() {
    let mut bench = bench();
    // What a folder holds must be known before the outage, or a new name could hide an old file.
    bench.shell("ls");
    both_down(&bench);
    let began = Instant::now();
    fs::write(bench.path("during"), b"written in the dark").unwrap();
    assert!(began.elapsed() < STALL_MAX + SLACK, "{:?}", began.elapsed());
    assert_eq!(fs::read(bench.path("during")).unwrap(), b"written in the dark");
    assert!(bench.status()["journal"]["unsent"].as_u64().unwrap() >= 1);
    bench.emulator.heal("a");
    bench.emulator.heal("b");
    bench.settle();
    assert_eq!(bench.emulator.bucket(Site::B).get("during").as_deref(), Some(&b"written in the dark"[..]));
    assert_eq!(bench.umount().status.code(), Some(0));
}

/// A new host in the middle of an outage: region A is dead, and nothing here remembers it.
#[test]
fn a_new_host_waits_or_trusts_the_region_that_is_left() {
    let emulator = Emulator::start();
    let a = emulator.bucket(Site::A);
    a.put("d/old", "in both");
    wait_until("it is in both", Duration::from_secs(10), || emulator.objects("b").len() == 1);
    emulator.replication(json!({"a_to_b": {"stalled": true}}));
    a.put("d/late", "of A");
    a.put("d/taken", "of A");
    emulator.black_hole("a");
    let config = |more: &str| Setup { config: format!("[mount]\nmax_stall = \"6s\"\n{more}"), ..Setup::default() };
    let mut bench = Bench::on(emulator, config(""));
    bench.wait_state("on_slave", Duration::from_secs(20));
    assert_eq!(fs::read(bench.path("d/old")).unwrap(), b"in both");
    let listed = fs::read_dir(bench.path("d")).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let written = fs::write(bench.path("d/new"), "x");
    for error in [listed.map(drop).unwrap_err(), written.unwrap_err()] {
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    }
    assert!(bench.log().contains("unaudited = \"trust\" would take"), "the way out is named");
    assert_eq!(bench.umount().status.code(), Some(0));
    fs::remove_dir_all(bench.dir().join("cache")).unwrap();
    fs::remove_dir_all(bench.dir().join("journal")).unwrap();

    bench.setup = config("unaudited = \"trust\"\n");
    bench.mount();
    bench.wait_state("on_slave", Duration::from_secs(20));
    let began = Instant::now();
    assert_eq!(bench.shell("ls d").trim(), "old");
    fs::write(bench.path("d/new"), "of B").unwrap();
    fs::write(bench.path("d/taken"), "of B").unwrap();
    assert_eq!(bench.shell("ls d").split_whitespace().collect::<Vec<_>>(), ["new", "old", "taken"]);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(bench.log().matches("is taken as not there").count(), 1);

    // A comes back with what it had not told: all of it is there, and of two writers of one file the later one is current.
    bench.emulator.heal("a");
    bench.emulator.replication(json!({"a_to_b": {"stalled": false}}));
    wait_until("A's own file shows", Duration::from_secs(40), || {
        bench.shell("ls d").split_whitespace().collect::<Vec<_>>() == ["late", "new", "old", "taken"]
    });
    assert_eq!(fs::read(bench.path("d/late")).unwrap(), b"of A");
    bench.settle();
    for site in Site::ALL {
        assert!(bench.emulator.bucket(site).get("d/taken").is_some_and(|content| content == "of B"), "bucket {site}");
        assert!(bench.emulator.bucket(site).get("d/new").is_some_and(|content| content == "of B"), "bucket {site}");
    }
}

#[test]
fn a_mount_with_a_cache_starts_in_the_dark() {
    let mut bench = bench();
    fs::create_dir(bench.path("d")).unwrap();
    fs::write(bench.path("d/f"), b"known").unwrap();
    bench.shell("ls -l d; cat d/f");
    bench.settle();
    assert_eq!(bench.umount().status.code(), Some(0));
    bench.emulator.black_hole("a");
    bench.emulator.black_hole("b");
    bench.mount();
    let text = fs::read(bench.path("d/f"));
    assert!(text.as_ref().is_ok_and(|text| text == b"known"), "{text:?}");
}
