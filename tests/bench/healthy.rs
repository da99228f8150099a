//! What failover costs while nothing fails: `cargo bench --bench healthy --features mutants`.
//!
//! The same program is mounted twice on an emulator of its own, as it is and with failover taken away ("always A": no probes, no hedges, no second
//! bucket, no audit), in turns, and does the same work. Both regions are 20 ms away. Compared are the time of each operation and the
//! requests that the buckets were asked. Requests to verify a write in the second bucket are counted by themselves: without
//! them nobody would know what the second bucket has, so they are the price of having one.
//!
//! | what | target |
//! |---|---|
//! | median of each operation | the same within the noise of "always A" against itself |
//! | p99 | at most 3 % more |
//! | requests of probes, hedges and audits | at most 3 % of the rest |

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;
use serde_json::json;

#[path = "../common/mod.rs"]
mod common;

use common::{Bench, Emulator, Setup, wait_until};

/// Turns of each kind; their order alternates.
const ROUNDS: usize = 4;
/// Of each operation in a turn.
const STEPS: usize = 250;
const PROGRAMS: usize = 4;

type Times = BTreeMap<&'static str, Vec<f64>>;

#[derive(Default)]
struct Turn {
    times: Times,
    /// By site and method.
    requests: BTreeMap<(String, String), u64>,
    /// Of the mount, in seconds, until everything is verified.
    cpu: f64,
}

fn main() {
    if !cosfs_ha::mutant::POSSIBLE {
        println!(
            "failover can only be taken away with `--features mutants`: `cargo bench --bench healthy --features mutants`"
        );
        return;
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load at the start {}", load.trim());
    // The third kind is the noise: "always A" once more.
    let mut all: [Vec<Turn>; 3] = Default::default();
    for round in 0..ROUNDS {
        for step in 0..3 {
            let kind = (step + round) % 3;
            all[kind].push(turn(kind != 0));
        }
    }
    println!(
        "{:<8} {:>22} {:>22} {:>22} {:>16} {:>16}",
        "ms", "always A", "always A again", "failover", "median", "p99"
    );
    let what: Vec<&str> = all[0][0].times.keys().copied().collect();
    for what in what {
        let [with, without, again] =
            [0, 1, 2].map(|kind| quantiles(all[kind].iter().flat_map(|turn| &turn.times[what])));
        let text = |(p50, p99): (f64, f64)| format!("{p50:>10.2} {p99:>11.2}");
        let change = |a: f64, b: f64| format!("{:+.1} %", (a / b - 1.0) * 100.0);
        println!(
            "{what:<8} {} {} {} {:>8} ({:>5}) {:>8} ({:>5})",
            text(without),
            text(again),
            text(with),
            change(with.0, without.0),
            change(again.0, without.0),
            change(with.1, without.1),
            change(again.1, without.1),
        );
    }
    // How far apart the turns of one kind are says what a difference means.
    println!("medians of the turns, from the lowest to the highest");
    for what in all[0][0].times.keys() {
        let spread = [1, 2, 0].map(|kind| {
            let medians = all[kind].iter().map(|turn| quantiles(turn.times[what].iter()).0);
            let (low, high) = medians.fold((f64::MAX, 0.0), |(low, high), m| (f64::min(low, m), f64::max(high, m)));
            format!("{low:>8.3} to {high:>7.3}")
        });
        println!("{what:<8} {:>22} {:>22} {:>22}", spread[0], spread[1], spread[2]);
    }
    let cpu = [1, 2, 0].map(|kind| all[kind].iter().map(|turn| turn.cpu).sum::<f64>() / ROUNDS as f64);
    println!("processor time of the mount in a turn, s: {:.2}, {:.2}, {:.2}", cpu[0], cpu[1], cpu[2]);
    let count = |kind: usize| -> BTreeMap<(String, String), u64> {
        let mut sum = BTreeMap::new();
        for turn in &all[kind] {
            for (what, n) in &turn.requests {
                *sum.entry(what.clone()).or_default() += n;
            }
        }
        sum
    };
    let (with, without) = (count(0), count(1));
    println!("requests of {ROUNDS} turns (site, method: failover, always A)");
    for (what, n) in &with {
        println!("  {} {:<7} {n:>7} {:>7}", what.0, what.1, without.get(what).copied().unwrap_or_default());
    }
    let sum = |of: &BTreeMap<(String, String), u64>| of.values().sum::<u64>();
    let verified =
        with.iter().filter(|((site, method), _)| site == "b" && method == "HEAD").map(|(_, n)| n).sum::<u64>();
    let (all_with, all_without) = (sum(&with), sum(&without));
    println!(
        "all requests {:+.1} %; without those to bucket b by HEAD ({verified}, verification and read probes) {:+.1} %",
        (all_with as f64 / all_without as f64 - 1.0) * 100.0,
        ((all_with - verified) as f64 / all_without as f64 - 1.0) * 100.0
    );
}

fn quantiles<'a>(times: impl Iterator<Item = &'a f64>) -> (f64, f64) {
    let mut times: Vec<f64> = times.copied().collect();
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() as f64 * q).ceil() as usize).clamp(1, times.len()) - 1];
    (at(0.5), at(0.99))
}

/// One mount on two fresh regions, and its work.
fn turn(always_a: bool) -> Turn {
    let emulator = Emulator::start();
    let cold =
        (0..PROGRAMS * STEPS).map(|n| (format!("cold/{n}"), bytes::Bytes::from(common::bytes(n as u64, 16_384))));
    emulator.bucket(Site::A).put_many(cold.collect());
    wait_until("the files are in both", Duration::from_secs(60), || emulator.objects("b").len() == PROGRAMS * STEPS);
    let env = if always_a { vec![("COSFS_HA_WITHOUT".to_string(), "failover".to_string())] } else { Vec::new() };
    let mut bench = Bench::on(emulator, Setup { env, ..Setup::default() });
    for site in ["a", "b"] {
        bench.emulator.faults(site, json!([{"kind": "delay", "delay_ms": 20}]));
    }
    // The audit of the start is over.
    std::thread::sleep(Duration::from_secs(2));
    let before = requests(&bench);
    let cpu = processor_time(bench.pid());
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|me| {
            let root = bench.root.clone();
            std::thread::spawn(move || program(&root, me))
        })
        .collect();
    let mut turn = Turn::default();
    for program in programs {
        for (what, times) in program.join().expect("a program ends") {
            turn.times.entry(what).or_default().extend(times);
        }
    }
    bench.settle();
    turn.cpu = processor_time(bench.pid()) - cpu;
    turn.requests = requests(&bench);
    for (what, n) in before {
        *turn.requests.entry(what).or_default() -= n;
    }
    assert_eq!(bench.status()["switches"], json!([]));
    bench.umount();
    turn
}

fn program(root: &std::path::Path, me: usize) -> Times {
    let mut times = Times::new();
    let home = root.join(format!("p{me}"));
    fs::create_dir(&home).expect("a folder");
    let mut timed = |what: &'static str, work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        times.entry(what).or_default().push(began.elapsed().as_secs_f64() * 1000.0);
    };
    for n in 0..STEPS {
        let path = home.join(format!("f{n}"));
        let content = common::bytes(n as u64, 4096);
        timed("write", &mut || fs::File::create(&path).and_then(|mut file| file.write_all(&content)).expect("written"));
        let cold = root.join(format!("cold/{}", me * STEPS + n));
        timed("read", &mut || assert_eq!(fs::read(&cold).expect("read").len(), 16_384));
        timed("reread", &mut || assert_eq!(fs::read(&cold).expect("read").len(), 16_384));
        timed("stat", &mut || assert_eq!(fs::metadata(&path).expect("attributes").len(), 4096));
    }
    times
}

/// User and system time of a process so far, in seconds; the kernel counts hundredths.
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name")..].split(' ').collect();
    fields[12..14].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn requests(bench: &Bench) -> BTreeMap<(String, String), u64> {
    let state = bench.emulator.state();
    let mut found = BTreeMap::new();
    for site in ["a", "b"] {
        for (method, n) in state["sites"][site]["requests"].as_object().expect("counters") {
            found.insert((site.to_string(), method.clone()), n.as_u64().unwrap_or_default());
        }
    }
    found
}
