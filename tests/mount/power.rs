//! A power cut: what the kernel had not brought to the disk is gone.
//!
//! The journal lies on an ext4 of its own on a loop device. The daemon is killed, and the *block device* is copied as it is at that moment,
//! with everything that ext4 still holds in memory missing from it; the next start gets the copy, and a boot id of another boot. What a
//! program had synced must be there; what it had only closed is there as a whole, in its older version, or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;
use serde_json::json;

use crate::common::{Bench, Emulator, Setup, bytes, detach};

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An ext4 in a file, under the journal's folder.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn new(dir: &Path) -> Disk {
        let disk = Disk { image: dir.join("disk-0"), folder: dir.join("journal") };
        fs::create_dir(&disk.folder).unwrap();
        File::create(&disk.image).unwrap().set_len(512 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", disk.image.to_str().unwrap()]);
        disk.mount();
        disk
    }

    fn mount(&self) {
        // ext4 must not commit by itself while the test runs.
        let options = "loop,commit=600,noatime";
        run("mount", &["-t", "ext4", "-o", options, self.image.to_str().unwrap(), self.folder.to_str().unwrap()]);
    }

    /// The power fails: only what reached the device is left.
    fn cut(&mut self, round: u64) {
        let copy = self.image.with_file_name(format!("disk-{round}"));
        run("cp", &["--sparse=always", self.image.to_str().unwrap(), copy.to_str().unwrap()]);
        run("umount", &[self.folder.to_str().unwrap()]);
        fs::remove_file(&self.image).unwrap();
        self.image = copy;
        self.mount();
        for mount in fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()) {
            let identity = mount.join("identity");
            if let Ok(text) = fs::read_to_string(&identity) {
                let mut said: serde_json::Value = serde_json::from_str(&text).unwrap();
                said["boot"] = json!("of another boot");
                fs::write(&identity, said.to_string()).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.folder);
    }
}

/// What one program was told about one of its files.
struct Told {
    name: String,
    /// Content synced last; `None`: its absence was synced.
    synced: Option<Vec<u8>>,
    /// Content closed after that, not synced.
    closed: Vec<Vec<u8>>,
    /// Nothing about this name was synced, not even that it is gone.
    open: bool,
}

/// What was found: synced files, and files only closed that are gone.
#[derive(Default)]
struct Count {
    synced: u64,
    lost: u64,
}

/// Looks at one file, and notes what it is from now on.
fn check(bench: &Bench, one: Told, count: &mut Count) -> Told {
    let began = Instant::now();
    let found = match fs::read(bench.path(&one.name)) {
        Ok(found) => Some(found),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => panic!("{} after {:?}: {e}", one.name, began.elapsed()),
    };
    let fine = found == one.synced || found.as_ref().is_some_and(|found| one.closed.contains(found));
    let len = |content: &Option<Vec<u8>>| content.as_ref().map(Vec::len);
    assert!(fine, "{}: {:?} bytes found, {:?} synced", one.name, len(&found), len(&one.synced));
    assert!(began.elapsed() < Duration::from_secs(5), "{} took {:?}", one.name, began.elapsed());
    count.synced += u64::from(one.synced.is_some());
    count.lost += u64::from(!one.closed.is_empty() && found == one.synced);
    Told { synced: found, closed: Vec::new(), ..one }
}

fn work(bench: &Bench, worker: u64, round: u64, stop: &AtomicBool) -> Vec<Told> {
    let mut told = Vec::new();
    for n in 0.. {
        let name = format!("d/{round}-{worker}-{n}");
        let content =
            |version: u64| bytes(round << 40 | worker << 32 | n << 8 | version, 1000 + (n as usize % 7) * 40_000);
        let write = |version: u64, sync: bool| {
            let mut file = File::create(bench.path(&name))?;
            file.write_all(&content(version))?;
            match sync {
                true => file.sync_all(),
                false => Ok(()),
            }
        };
        let mut one = Told { name: name.clone(), synced: None, closed: Vec::new(), open: n % 5 == 1 };
        let mut steps = || -> std::io::Result<()> {
            match n % 5 {
                0 => {
                    one.closed = vec![content(0)];
                    write(0, true)?;
                    (one.synced, one.closed) = (Some(content(0)), Vec::new());
                }
                1 => {
                    one.closed = vec![content(0)];
                    write(0, false)?;
                }
                2 => {
                    one.closed = vec![content(0)];
                    write(0, true)?;
                    (one.synced, one.closed) = (Some(content(0)), vec![content(1)]);
                    write(1, false)?;
                }
                3 => {
                    // As programs replace a file: written aside, synced, renamed, the folder synced.
                    let aside = format!("{name}.new");
                    let mut file = File::create(bench.path(&aside))?;
                    file.write_all(&content(0))?;
                    file.sync_all()?;
                    fs::rename(bench.path(&aside), bench.path(&name))?;
                    File::open(bench.path("d"))?.sync_all()?;
                    one.synced = Some(content(0));
                    told.push(Told { name: aside, synced: None, closed: Vec::new(), open: false });
                }
                _ => {
                    one.closed = vec![content(0)];
                    write(0, true)?;
                    one.synced = Some(content(0));
                    fs::remove_file(bench.path(&name))?;
                    File::open(bench.path("d"))?.sync_all()?;
                    (one.synced, one.closed) = (None, Vec::new());
                }
            }
            Ok(())
        };
        let ended = steps().is_err();
        let unsure = ended && n % 5 >= 3;
        if !unsure {
            told.push(one);
        }
        if ended || stop.load(Ordering::Relaxed) {
            return told;
        }
    }
    told
}

/// `COSFS_HA_CUTS=50` for the long run.
#[test]
fn what_was_synced_survives_a_power_cut() {
    let cuts: u64 = std::env::var("COSFS_HA_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let emulator = Emulator::start();
    let mut disk = Disk::new(emulator.dir.path());
    let config = "[mount]\ncommit = \"journal\"\nsync_interval = \"0s\"\n".to_string();
    // A cut in the middle of a removal leaves an old version in one bucket only, which nobody waits for longer than this.
    let failover = "lag_max = \"20s\"\n".to_string();
    let mut bench = Bench::on(emulator, Setup { config, failover, ..Setup::default() });
    bench.shell("mkdir d");
    let mut count = Count::default();
    let mut all: Vec<Told> = Vec::new();
    for round in 1..=cuts {
        // In the light the journal is emptied, and the names in the folder become known; what is written in the dark is in it alone.
        bench.shell("ls d");
        bench.settle();
        for site in ["a", "b"] {
            bench.emulator.faults(site, json!([{"kind": "refuse"}]));
        }
        let stop = AtomicBool::new(false);
        let told = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|n| {
                    scope.spawn({
                        let (bench, stop) = (&bench, &stop);
                        move || work(bench, n, round, stop)
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(300 + 200 * (round % 4)));
            // Not by `crash` yet: the programs have to end first, since their calls borrow the bench.
            stop.store(true, Ordering::Relaxed);
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        let last = (0..3).map(|n| Told {
            name: format!("d/{round}-last-{n}"),
            synced: None,
            closed: vec![bytes(round << 8 | n, 5000)],
            open: true,
        });
        let last: Vec<Told> = last.collect();
        for one in &last {
            fs::write(bench.path(&one.name), &one.closed[0]).unwrap();
        }
        bench.crash();
        disk.cut(round);
        bench.mount();
        // First the names that something synced speaks of: they are known although nobody can be asked. Of the others only the buckets can say.
        let (known, open): (Vec<_>, Vec<_>) = told.into_iter().chain(last).partition(|one| !one.open);
        for one in known {
            all.push(check(&bench, one, &mut count));
        }
        for site in ["a", "b"] {
            bench.emulator.heal(site);
        }
        for one in open {
            all.push(check(&bench, one, &mut count));
        }
    }
    println!(
        "{cuts} power cuts: {} synced files are all there, {} that were only closed are gone",
        count.synced, count.lost
    );
    assert!(count.synced > 0);
    assert!(count.lost > 0, "the disk lost nothing: the test proves nothing");
    bench.settle();
    for site in Site::ALL {
        let bucket = bench.emulator.bucket(site);
        for one in &all {
            assert!(bucket.get(&one.name).as_deref() == one.synced.as_deref(), "{} in bucket {site}", one.name);
        }
    }
    drop(bench);
    drop(disk);
}
