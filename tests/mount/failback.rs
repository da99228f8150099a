//! A comes back, and the mount goes back to it by itself, under programs that never stop writing.
//!
//! The promise: no operation fails, no write is held up for more than two seconds by the move, and afterwards both buckets hold what the
//! programs left, whichever of two versions that cross in replication the cloud takes for the newer one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;
use serde_json::json;

use crate::common::{Bench, Setup, bytes, wait_until};

/// Of a write while the master moves back, by `hold_max`.
const HOLD_MAX: Duration = Duration::from_secs(2);
/// The write itself, and the disk's sync of the new epoch, on a machine that has other things to do. Together with [`HOLD_MAX`] the bound of a stall
/// in an outage; what the move usually costs is in docs/failover.md.
const SLACK: Duration = Duration::from_secs(3);
const WRITERS: u64 = 4;
/// Names that one writer uses in turn. One of them is written every time.
const NAMES: u64 = 30;

struct Wrote {
    began: Instant,
    took: Duration,
    error: Option<String>,
}

/// What a writer did, and what its files hold at the end.
type Done = (Vec<Wrote>, BTreeMap<String, Vec<u8>>);

struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Done>,
}

impl Writer {
    /// Writes, rewrites and removes in a folder of its own, and reads back what it wrote last.
    fn start(folder: PathBuf, me: u64) -> Writer {
        fs::create_dir(&folder).expect("a folder in the mount");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut steps, mut left) = (Vec::new(), BTreeMap::new());
            for n in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                for name in ["hot".to_string(), format!("f{}", n % NAMES)] {
                    let content = bytes(me << 40 | n << 1 | u64::from(name == "hot"), 500 + (n as usize * 977) % 9000);
                    let gone = name != "hot" && n % 7 == 3;
                    let began = Instant::now();
                    let error = turn(&folder.join(&name), &content, gone).err();
                    steps.push(Wrote { began, took: began.elapsed(), error: error.map(|e| format!("{name}: {e}")) });
                    match gone {
                        true => left.remove(&name),
                        false => left.insert(name, content),
                    };
                }
            }
            (steps, left)
        });
        Writer { stop, thread }
    }

    fn end(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer does not panic")
    }
}

fn turn(path: &Path, content: &[u8], gone: bool) -> std::io::Result<()> {
    fs::write(path, content)?;
    let found = fs::read(path)?;
    if found != content {
        let (has, wrote) = (found.len(), content.len());
        let from = found.iter().zip(content).position(|(a, b)| a != b);
        return Err(std::io::Error::other(format!(
            "not what was written: {has} bytes for {wrote}, other from {from:?}"
        )));
    }
    match gone {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// Outage and return of A under writers; `replication` is how the cloud behaves meanwhile.
fn goes_back_under_writing(replication: serde_json::Value) {
    let failover = "failback = \"auto\"\nfailback_hold = \"4s\"\nfailback_retry = \"3s\"\n".to_string();
    let mut bench = Bench::with(Setup { failover, ..Setup::default() });
    bench.emulator.replication(replication);
    let writers: Vec<Writer> = (0..WRITERS).map(|me| Writer::start(bench.path(&format!("w{me}")), me)).collect();
    std::thread::sleep(Duration::from_secs(3));
    bench.emulator.faults("a", json!([{"kind": "blackhole", "stops_replication": true}]));
    wait_until("B is the master", Duration::from_secs(20), || bench.status()["master"] == "b");
    std::thread::sleep(Duration::from_secs(4));
    bench.emulator.heal("a");
    let healed = Instant::now();
    wait_until("A is the master again", Duration::from_secs(60), || {
        let status = bench.status();
        if healed.elapsed() > Duration::from_secs(50) {
            eprintln!("{} {}", status["explain"], status["journal"]);
        }
        status["master"] == "a"
    });
    let back = healed.elapsed();
    std::thread::sleep(Duration::from_secs(3));

    let mut expect = BTreeMap::new();
    let (mut steps, mut longest) = (0, Duration::ZERO);
    for (me, writer) in writers.into_iter().enumerate() {
        let (wrote, left) = writer.end();
        let errors: Vec<&String> = wrote.iter().filter_map(|step| step.error.as_ref()).collect();
        assert!(errors.is_empty(), "writer {me}: {errors:?}; log:\n{}", bench.log());
        steps += wrote.len();
        // Everything since A answered again: catching up, the move, and A.
        longest = wrote
            .iter()
            .filter(|step| step.began >= healed)
            .map(|step| step.took)
            .max()
            .unwrap_or_default()
            .max(longest);
        expect.extend(left.into_iter().map(|(name, content)| (format!("w{me}/{name}"), content)));
    }
    println!("{steps} writes; back after {back:.1?}; longest write on the way back {longest:.2?}");
    assert!(longest <= HOLD_MAX + SLACK, "{longest:?}; log:\n{}", bench.log());
    let status = bench.status();
    assert_eq!(status["switches"].as_array().map(Vec::len), Some(2), "{status}");

    bench.settle();
    wait_until("both buckets are equal", Duration::from_secs(60), || {
        bench.emulator.objects("a") == bench.emulator.objects("b")
    });
    for site in Site::ALL {
        let bucket = bench.emulator.bucket(site);
        for (key, content) in &expect {
            assert!(bucket.get(key).as_deref() == Some(&content[..]), "{key} in bucket {site}; log:\n{}", bench.log());
        }
        let files = bench.emulator.objects(&site.to_string()).into_keys().filter(|key| !key.ends_with('/'));
        assert_eq!(files.collect::<Vec<_>>(), expect.keys().cloned().collect::<Vec<_>>(), "bucket {site}");
    }
    assert_eq!(bench.umount().status.code(), Some(0));
    assert!(!bench.log().contains("panicked"), "{}", bench.log());
}

#[test]
fn back_to_a_while_the_newest_version_is_current() {
    goes_back_under_writing(json!({"current": "newest_version", "a_to_b": {"lag_ms": 400}, "b_to_a": {"lag_ms": 400}}));
}

#[test]
fn back_to_a_while_the_last_arrival_is_current() {
    goes_back_under_writing(json!({"current": "last_arrival", "a_to_b": {"lag_ms": 400}, "b_to_a": {"lag_ms": 400}}));
}
