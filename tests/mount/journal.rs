//! What the journal costs, when it is full, and what `close` and `fsync` say.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;
use serde_json::json;

use crate::common::{Bench, Emulator, Setup, bytes, cosfs, detach, wait_until};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn mode(commit: &str, more: &str) -> Setup {
    Setup { config: format!("[mount]\ncommit = \"{commit}\"\n{more}"), ..Setup::default() }
}

fn bytes_in(bench: &Bench, site: &str) -> u64 {
    bench.emulator.state()["sites"][site]["bytes_in"].as_u64().unwrap()
}

/// `COSFS_HA_PATCH_MIB=1024` for the full size.
#[test]
fn a_small_change_and_an_append_of_a_large_file_send_little() {
    let mib = number("COSFS_HA_PATCH_MIB", 96);
    let appends = mib.min(100);
    let mut bench = Bench::with(mode("one-region", ""));
    let block = bytes(8, 1 << 20);
    let mut file = File::create(bench.path("large")).unwrap();
    for n in 0..mib {
        file.write_all(&n.to_le_bytes()).unwrap();
        file.write_all(&block[8..]).unwrap();
    }
    drop(file);
    bench.settle();
    let before = bytes_in(&bench, "a");
    let file = File::options().write(true).open(bench.path("large")).unwrap();
    file.write_all_at(&[0xab; 4096], (mib / 2) << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let change = bytes_in(&bench, "a") - before;
    let began = Instant::now();
    for n in 0..appends {
        let mut file = File::options().append(true).open(bench.path("large")).unwrap();
        file.write_all(&(1000 + n).to_le_bytes()).unwrap();
        // The full size appends 1 MiB each time, the short test less: the emulator copies the rest each time.
        file.write_all(&block[8..if mib >= 1024 { 1 << 20 } else { 4096 }]).unwrap();
        drop(file);
        if mib < 1024 && n == 9 {
            break;
        }
    }
    let append = bytes_in(&bench, "a") - before - change;
    println!("4 KiB changed: {change} bytes sent; appends: {append} bytes sent in {:?}", began.elapsed());
    assert!(change < 32 << 20, "{change} bytes for 4 KiB");
    assert!(append < mib << 20, "{append} bytes for the appends");
    bench.settle();
    // Again from nothing: another process, an empty cache.
    assert_eq!(bench.umount().status.code(), Some(0));
    fs::remove_dir_all(bench.dir().join("cache")).unwrap();
    bench.mount();
    let mut file = File::open(bench.path("large")).unwrap();
    let mut found = vec![0; 1 << 20];
    for n in 0..mib {
        file.read_exact(&mut found).unwrap();
        if n == mib / 2 {
            assert!(found[..4096] == [0xab; 4096] && found[4096..] == block[4096..], "the changed block");
        } else {
            assert!(found[..8] == n.to_le_bytes() && found[8..] == block[8..], "block {n}");
        }
    }
    let piece = if mib >= 1024 { 1 << 20 } else { 4096 };
    for n in 0..if mib >= 1024 { appends } else { 10 } {
        file.read_exact(&mut found[..piece]).unwrap();
        assert!(found[..8] == (1000 + n).to_le_bytes() && found[8..piece] == block[8..piece], "append {n}");
    }
    assert_eq!(file.read(&mut found).unwrap(), 0);
}

const CLOSER: &str = r#"
import os, sys, time
os.chdir(sys.argv[1])
def close(fd):
    began = time.time()
    try: os.close(fd)
    except OSError as e: return f"{e.errno} {time.time() - began:.1f}"
    return "0"
fd = os.open("dirty", os.O_CREAT | os.O_WRONLY)
os.write(fd, b"kept")
print(close(fd))
for name, flags in [("clean", os.O_RDONLY), ("dirty", os.O_RDONLY), ("dirty", os.O_WRONLY), ("clean", os.O_RDWR)]:
    fd = os.open(name, flags)
    if flags != os.O_WRONLY: os.read(fd, 10)
    print(name, close(fd))
"#;

#[test]
fn an_error_at_close_is_told_once_and_to_the_right_file() {
    let bench = Bench::with(mode("one-region", "max_stall = \"8s\"\nwhen_unreachable = \"error\"\n"));
    fs::write(bench.path("clean"), b"x").unwrap();
    bench.shell("ls; cat clean");
    bench.settle();
    for site in ["a", "b"] {
        bench.emulator.black_hole(site);
    }
    let output = Command::new("python3").args(["-c", CLOSER]).arg(&bench.root).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = said.lines();
    let (errno, took) =
        lines.next().and_then(|line| line.split_once(' ')).unwrap_or_else(|| panic!("no error: {said}"));
    assert_eq!(errno, "5", "EIO");
    assert!(took.parse::<f64>().unwrap() <= 8.5, "within max_stall: {took} s");
    assert_eq!(lines.collect::<Vec<_>>(), ["clean 0", "dirty 0", "dirty 0", "clean 0"]);
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    bench.settle();
    assert_eq!(bench.emulator.bucket(Site::B).get("dirty").as_deref(), Some(&b"kept"[..]), "sent later all the same");
    fs::write(bench.path("another"), b"y").unwrap();
}

#[test]
fn o_sync_is_an_fsync_after_each_write() {
    let bench = Bench::with(mode("two-regions", ""));
    let mut file = File::options().create(true).write(true).custom_flags(libc::O_SYNC).open(bench.path("log")).unwrap();
    file.write_all(b"one").unwrap();
    for site in Site::ALL {
        assert_eq!(bench.emulator.bucket(site).get("log").as_deref(), Some(&b"one"[..]), "bucket {site}");
    }
    file.write_all(b" two").unwrap();
    assert_eq!(bench.emulator.bucket(Site::A).get("log").as_deref(), Some(&b"one two"[..]));
}

#[test]
fn two_regions_degrades_or_blocks() {
    let mut bench = Bench::with(mode("two-regions", "max_stall = \"8s\"\nwhen_unreachable = \"error\"\n"));
    fs::write(bench.path("first"), b"1").unwrap();
    bench.emulator.black_hole("b");
    let close = |bench: &Bench, name: &str| {
        let mut file = File::create(bench.path(name)).unwrap();
        file.write_all(b"content").unwrap();
        file.sync_all()
    };
    close(&bench, "degraded").unwrap();
    assert_eq!(bench.umount().status.code(), Some(0));
    bench.setup = mode("two-regions", "max_stall = \"8s\"\nwhen_unreachable = \"error\"\nsecond_region = \"block\"\n");
    bench.mount();
    let began = Instant::now();
    let error = close(&bench, "blocked").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "after {:?}", began.elapsed());
    bench.emulator.heal("b");
    wait_until("B is well again", Duration::from_secs(40), || close(&bench, "after").is_ok());
    assert_eq!(bench.emulator.bucket(Site::B).get("after").as_deref(), Some(&b"content"[..]));
}

/// A small disk of its own for the journal.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(emulator: &Emulator, mib: u64) -> SmallDisk {
        let path = emulator.dir.path().join("journal");
        fs::create_dir(&path).unwrap();
        let size = format!("size={mib}m");
        let made =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "cosfs-ha-test"]).arg(&path).status().unwrap();
        assert!(made.success());
        SmallDisk(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

#[test]
fn a_full_journal_makes_writers_wait_or_tells_them_and_loses_nothing() {
    let emulator = Emulator::start();
    let disk = SmallDisk::new(&emulator, 64);
    let bench = Bench::on(emulator, mode("journal", "max_stall = \"8s\"\n"));
    bench.shell("mkdir d; ls d");
    bench.settle();
    for site in ["a", "b"] {
        bench.emulator.faults(site, json!([{"kind": "refuse"}]));
    }
    let healed = std::sync::atomic::AtomicBool::new(false);
    let fulls = std::sync::atomic::AtomicU64::new(0);
    let write = |name: &str, seed: u64| -> std::io::Result<()> {
        let mut file = File::create(bench.path(name))?;
        file.write_all(&bytes(seed, 3 << 20))?;
        file.sync_all()
    };
    let (full, kept) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (write, healed, fulls) = (&write, &healed, &fulls);
                scope.spawn(move || {
                    let (mut full, mut kept) = (0, Vec::new());
                    let mut after = 0;
                    for n in 0..200 {
                        let name = format!("d/{writer}-{n}");
                        let was_healed = healed.load(std::sync::atomic::Ordering::SeqCst);
                        match write(&name, writer << 32 | n) {
                            Ok(()) => {
                                kept.push((name, writer << 32 | n));
                                after += u64::from(was_healed);
                            }
                            Err(e) if e.kind() == ErrorKind::StorageFull => {
                                full += 1;
                                fulls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                                std::thread::sleep(Duration::from_millis(300));
                            }
                            Err(e) => panic!("{name}: {e}"),
                        }
                        if after >= 5 {
                            break;
                        }
                    }
                    (full, kept)
                })
            })
            .collect();
        wait_until("a writer is told that it is full", Duration::from_secs(60), || {
            fulls.load(std::sync::atomic::Ordering::SeqCst) > 0
        });
        for site in ["a", "b"] {
            bench.emulator.heal(site);
        }
        healed.store(true, std::sync::atomic::Ordering::SeqCst);
        let parts: Vec<(u64, Vec<(String, u64)>)> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        let full: u64 = parts.iter().map(|(full, _)| full).sum();
        (full, parts.into_iter().flat_map(|(_, kept)| kept).collect::<Vec<_>>())
    });
    println!("{} files kept, {full} times full", kept.len());
    assert!(full > 0, "the journal was never full");
    assert!(kept.len() >= 20 + 10, "{} files", kept.len());
    bench.settle();
    for site in Site::ALL {
        let bucket = bench.emulator.bucket(site);
        for (name, seed) in &kept {
            wait_until(&format!("{name} is in bucket {site}"), Duration::from_secs(20), || {
                bucket.get(name).as_deref() == Some(&bytes(*seed, 3 << 20)[..])
            });
        }
    }
    drop(bench);
    drop(disk);
}

/// `COSFS_HA_DARK_FILES=10000 COSFS_HA_DARK_MIB=1024 COSFS_HA_DARK_SECONDS=120` for the full size.
#[test]
fn what_is_written_while_both_regions_are_dead_arrives_in_both() {
    let files = number("COSFS_HA_DARK_FILES", 500);
    let mib = number("COSFS_HA_DARK_MIB", 64);
    let bench = Bench::with(mode("journal", ""));
    bench.shell("mkdir d; ls d; ls");
    bench.settle();
    for site in ["a", "b"] {
        bench.emulator.black_hole(site);
    }
    let began = Instant::now();
    for n in 0..files {
        fs::write(bench.path(&format!("d/{n}")), bytes(n, 700)).unwrap();
    }
    let block = bytes(77, 1 << 20);
    let mut large = File::create(bench.path("large")).unwrap();
    for n in 0..mib {
        large.write_all(&n.to_le_bytes()).unwrap();
        large.write_all(&block[8..]).unwrap();
    }
    large.seek(SeekFrom::Start(0)).unwrap();
    large.sync_all().unwrap();
    drop(large);
    println!("{files} files and {mib} MiB written in {:?}", began.elapsed());
    let dark = Duration::from_secs(number("COSFS_HA_DARK_SECONDS", 6));
    std::thread::sleep(dark.saturating_sub(began.elapsed()));
    let lists = || bench.emulator.state()["sites"]["b"]["requests"].clone();
    let before = lists();
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    let healed = Instant::now();
    let patience = Duration::from_secs(number("COSFS_HA_DARK_SECONDS", 6) * 5 + 90);
    wait_until("the journal is empty", patience, || bench.status()["journal"]["records"] == 0);
    println!(
        "in both buckets {:?} after the end of the outage; requests to b: {before} -> {}",
        healed.elapsed(),
        lists()
    );
    let expect = bench.emulator.objects("a");
    assert!(expect == bench.emulator.objects("b"), "both buckets are equal");
    assert_eq!(expect.keys().filter(|key| key.starts_with("d/") && *key != "d/").count() as u64, files);
    assert_eq!(expect["large"].0, mib << 20);
    let bucket = bench.emulator.bucket(Site::B);
    for n in (0..files).step_by(97) {
        assert_eq!(bucket.get(&format!("d/{n}")).as_deref(), Some(&bytes(n, 700)[..]));
    }
}

/// Where the newest content of a file is, as the attribute says.
fn state_of(bench: &Bench, name: &str) -> String {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(bench.path(name), "user.cosfs-ha.state", &mut value).unwrap();
    String::from_utf8_lossy(&value[..len]).into_owned()
}

#[test]
fn every_pending_file_is_shown_with_where_it_is() {
    let bench = Bench::with(mode("journal", ""));
    fs::write(bench.path("old"), b"x").unwrap();
    bench.shell("mkdir d; ls; ls d");
    bench.settle();
    assert_eq!((state_of(&bench, "old"), state_of(&bench, "d")), ("in-both".into(), "in-both".into()));
    for site in ["a", "b"] {
        bench.emulator.faults(site, json!([{"kind": "refuse"}]));
    }
    // Looked at before another program is started: the start closes its copies of our descriptors, which is a flush.
    let mut open = File::create(bench.path("d/open")).unwrap();
    open.write_all(b"not closed").unwrap();
    fs::write(bench.path("d/closed"), b"closed").unwrap();
    fs::remove_file(bench.path("old")).unwrap();
    let here = ["journal", "sent"];
    assert_eq!(state_of(&bench, "d/open"), "dirty");
    assert!(here.contains(&state_of(&bench, "d/closed").as_str()), "{}", state_of(&bench, "d/closed"));
    let pending = bench.status()["pending"].clone();
    let find = |path: &str| {
        let all = pending.as_array().unwrap();
        all.iter().find(|write| write["path"] == path).unwrap_or_else(|| panic!("{path}: {pending}")).clone()
    };
    let closed = find("d/closed");
    assert!(here.contains(&closed["state"].as_str().unwrap()) && closed["bytes"] == 6, "{pending}");
    assert_eq!(find("old")["delete"], true);
    let text = cosfs(&["status", bench.root.to_str().unwrap()]).stdout;
    assert!(text.contains("d/closed (6 B)") && text.contains("old (deletion)"), "{text}");
    drop(open);
    bench.emulator.replication(json!({"a_to_b": {"stalled": true}}));
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    wait_until("a has it", Duration::from_secs(40), || state_of(&bench, "d/closed") == "in-a");
    bench.emulator.replication(json!({"a_to_b": {"stalled": false}}));
    bench.settle();
    assert_eq!(state_of(&bench, "d/closed"), "in-both");
    assert_eq!(bench.status()["pending"], json!([]));
    let other = rustix::fs::getxattr(bench.path("d/open"), "user.other", &mut [0; 8]);
    assert_eq!(other, Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_journal_on_a_read_only_disk_is_named() {
    let emulator = Emulator::start();
    let disk = SmallDisk::new(&emulator, 16);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().unwrap();
    assert!(remounted.success());
    let point = emulator.dir.path().join("m");
    fs::create_dir(&point).unwrap();
    let config = emulator.config(emulator.dir.path(), "");
    let run = cosfs(&["mount", point.to_str().unwrap(), "--config", config.to_str().unwrap(), "--foreground"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("mounted read-only") && run.stderr.contains("journal.dir"), "{}", run.stderr);
}
