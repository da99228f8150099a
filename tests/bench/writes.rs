//! What writing many small files costs: `cargo bench --bench writes [-- tar parallel]`.
//!
//! `tar`: an archive of 20 000 small files is unpacked on the local disk and, in mode `journal`, on a mount whose journal lies on the same disk;
//! once with both regions reachable, when the uploads take their share of the machine, and once with both silent, when nothing
//! but the journal works. Emulator, daemon and `tar` share the processors, which no real region does. The row before them is what the way
//! through the kernel costs by itself: the same file system over a bucket in memory, without journal, cache and network.
//!
//! `parallel`: in mode `one-region`, with 10 ms added to each request, files of one writer a second and of sixteen.
//!
//! | row | target |
//! |---|---|
//! | journal, per local disk | 2 |
//! | sixteen writers, per one writer | 8 |

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cosfs_ha::fuse::{self, MountOptions};
use cosfs_ha::vfs::{Vfs, VfsOptions};
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../vfs/fake.rs"]
mod fake;

use common::{Bench, Setup};

/// Asks this program to be the mount with nothing behind it.
const NOTHING: &str = "COSFS_HA_BENCH_NOTHING";
/// Says that temporary folders lie on the fresh disk.
const DISK: &str = "COSFS_HA_BENCH_DISK";
const FILES: usize = 20_000;
const PER_DIR: usize = 100;
const ROUNDS: usize = 3;

fn main() {
    if let Some(point) = std::env::var_os(NOTHING) {
        return serve_nothing(point.into());
    }
    if std::env::var_os(DISK).is_none() {
        return on_a_fresh_disk();
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let asked = |what: &str| wanted.is_empty() || wanted.iter().any(|name| name == what);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load at the start {}", load.trim());
    if asked("tar") {
        tar();
    }
    if asked("parallel") {
        parallel();
    }
}

/// Runs this program again with its temporary folders on an empty ext4. On a disk where many files were deleted a moment ago, ext4 looks long
/// for an inode that was not in use lately, and everything else is lost in that.
fn on_a_fresh_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
    fs::create_dir(&disk).expect("a folder");
    fs::File::create(&image).and_then(|file| file.set_len(8 << 30)).expect("room");
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk));
    let me = std::env::current_exe().expect("a path");
    let ended = Command::new(me).args(std::env::args_os().skip(1)).env("TMPDIR", &disk).env(DISK, &disk).status();
    run(Command::new("umount").arg("-l").arg(&disk));
    assert!(ended.expect("a program").success());
}

fn tar() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, archive) = (folder.path().join("tree"), folder.path().join("tree.tar"));
    for n in 0..FILES {
        let dir = source.join(format!("d{}", n / PER_DIR));
        if n % PER_DIR == 0 {
            fs::create_dir_all(&dir).expect("a folder");
        }
        fs::write(dir.join(format!("f{n}")), common::bytes(n as u64, 200 + n * 7 % 3000)).expect("a file");
    }
    run(Command::new("tar").arg("cf").arg(&archive).arg("-C").arg(&source).arg("."));
    let local =
        (0..ROUNDS).map(|n| unpack(&archive, &folder.path().join(format!("local{n}")))).min().unwrap_or_default();
    println!("tar x of {FILES} files: local disk {:.2} s", local.as_secs_f64());
    for _ in 0..ROUNDS {
        let point = folder.path().join("nothing");
        fs::create_dir_all(&point).expect("a folder");
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .env(NOTHING, &point)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        said.read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "mounted");
        let took = unpack(&archive, &point.join("tree"));
        println!(
            "  nothing behind it: {:.2} s, {:.1} times",
            took.as_secs_f64(),
            took.as_secs_f64() / local.as_secs_f64()
        );
        run(Command::new("fusermount3").arg("-u").arg(&point));
        child.wait().expect("it ends");
    }
    for silent in [false, true] {
        for _ in 0..ROUNDS {
            let config = "[mount]\ncommit = \"journal\"\n".to_string();
            let mut bench = Bench::with(Setup { config, ..Setup::default() });
            // Known to be empty, whoever answers.
            fs::create_dir(bench.path("tree")).expect("a folder");
            if silent {
                bench.emulator.black_hole("a");
                bench.emulator.black_hole("b");
                std::thread::sleep(Duration::from_secs(8));
            }
            let before = cpu(bench.pid());
            let took = unpack(&archive, &bench.path("tree"));
            let cpu = cpu(bench.pid()) - before;
            println!(
                "  journal{}: {:.2} s, {:.1} times the local disk; {:.0} us of processor time of the daemon a file",
                if silent { ", both regions silent" } else { "" },
                took.as_secs_f64(),
                took.as_secs_f64() / local.as_secs_f64(),
                cpu / FILES as f64 * 1e6,
            );
            if silent {
                for site in ["a", "b"] {
                    bench.emulator.heal(site);
                }
            }
            bench.settle();
            assert_eq!(bench.emulator.objects("b").len(), FILES + FILES / PER_DIR + 1, "everything arrived");
            assert_eq!(bench.umount().status.code(), Some(0));
        }
    }
}

/// A mount with nothing behind it, until somebody unmounts it.
fn serve_nothing(point: PathBuf) {
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let vfs = Vfs::new(fake::Fake::new(), VfsOptions { default_uid: 0, ..VfsOptions::default() }, rt.handle().clone());
    let options = MountOptions { mountpoint: point, ..MountOptions::default() };
    let mounted = fuse::mount(vfs, options, rt.handle().clone()).expect("a mount");
    println!("mounted");
    let _ = rt.block_on(mounted.wait());
}

fn unpack(archive: &Path, into: &Path) -> Duration {
    fs::create_dir_all(into).expect("a folder");
    let begin = Instant::now();
    run(Command::new("tar").arg("xf").arg(archive).arg("-C").arg(into));
    begin.elapsed()
}

fn run(command: &mut Command) {
    assert!(command.status().expect("a program").success(), "{command:?}");
}

/// Seconds of processor time of a process so far.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap_or_default()).sum();
    // Ticks are 1/100 s to user space on every Linux of ours.
    ticks / 100.0
}

fn parallel() {
    let config = "[mount]\ncommit = \"one-region\"\n".to_string();
    let bench = Bench::with(Setup { config, ..Setup::default() });
    for site in ["a", "b"] {
        bench.emulator.faults(site, json!([{"kind": "delay", "delay_ms": 10}]));
    }
    let mut rates = Vec::new();
    for writers in [1, 16] {
        let span = Duration::from_secs(10);
        let programs: Vec<_> = (0..writers)
            .map(|me| {
                let dir = bench.path(&format!("w{writers}-{me}"));
                fs::create_dir(&dir).expect("a folder");
                std::thread::spawn(move || {
                    let begin = Instant::now();
                    let mut files = 0;
                    while begin.elapsed() < span {
                        fs::write(dir.join(format!("f{files}")), common::bytes(files, 2000)).expect("a file");
                        files += 1;
                    }
                    files
                })
            })
            .collect();
        let files: u64 = programs.into_iter().map(|program| program.join().expect("no panic")).sum();
        rates.push(files as f64 / span.as_secs_f64());
        println!(
            "one-region, 10 ms a request, {writers} writers: {:.0} files a second",
            files as f64 / span.as_secs_f64()
        );
    }
    println!("  sixteen writers: {:.1} times one", rates[1] / rates[0]);
}
