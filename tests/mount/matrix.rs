//! The fault matrix: each kind of fault that the emulator can make, on region A, at a random moment under eight programs.
//!
//! Each run must end with no failed operation, no wrong byte and two equal buckets; how long the first write and the first reads after the
//! fault took is printed as a table. `COSFS_HA_MATRIX_SEEDS=5 cargo test --release --test mount matrix -- --ignored --nocapture` runs
//! all of it; `COSFS_HA_MATRIX_ONLY=hang,drip` a part, `COSFS_HA_MATRIX_SEED=7` begins elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cosfs_ha::object::Site;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Bench, Emulator, Setup, wait_until};

const WORKER: &str = include_str!("matrix_worker.py");
const WORKERS: usize = 8;
const COLD_FILES: usize = 8 * 80;
/// How long a fault lasts: detection, switch, and a while on B.
const FAULT: Duration = Duration::from_secs(12);
/// Before it: the coverage audit of the start has to be done.
const CALM: Duration = Duration::from_secs(6);
const AFTER: Duration = Duration::from_secs(4);

/// One kind of fault, and what may be seen of it at most.
struct Row {
    name: &'static str,
    faults: Value,
    /// Bounds of the first write and the first warm read after it, seconds; arbitrary where the master need not move: `max_stall`.
    write_s: f64,
    warm_s: f64,
}

fn rows() -> Vec<Row> {
    let row = |name, faults, write_s, warm_s| Row { name, faults, write_s, warm_s };
    let writes = json!(["PUT", "POST", "DELETE"]);
    let reads = json!(["GET", "HEAD"]);
    vec![
        row("blackhole", json!([{"kind": "blackhole"}]), 5.0, 1.0),
        row("hang", json!([{"kind": "hang"}]), 5.0, 1.0),
        row("refuse", json!([{"kind": "refuse"}]), 3.0, 1.0),
        row("reset", json!([{"kind": "reset"}]), 3.0, 1.0),
        row("status-500", json!([{"kind": "status", "status": 500}]), 3.0, 1.0),
        row("status-503-foreign", json!([{"kind": "status_without_request_id", "status": 503}]), 3.0, 1.0),
        row("writes-silent", json!([{"kind": "hang", "methods": writes}]), 5.0, 1.0),
        row("writes-500", json!([{"kind": "status", "methods": writes}]), 5.0, 1.0),
        row("reads-silent", json!([{"kind": "hang", "methods": reads}]), 5.0, 1.0),
        row("reads-reset", json!([{"kind": "reset", "methods": reads}]), 5.0, 1.0),
        row("reset-in-body", json!([{"kind": "reset", "after_bytes": 2000}]), 8.0, 2.0),
        row("drip", json!([{"kind": "drip", "after_bytes": 100}]), 8.0, 2.0),
        row("truncate", json!([{"kind": "truncate"}]), 8.0, 2.0),
        row("delay-2s", json!([{"kind": "delay", "delay_ms": 2000}]), 8.0, 2.0),
        row("half-500", json!([{"kind": "status", "probability": 0.5}]), 8.0, 2.0),
        row("grey-30", json!([{"kind": "status", "probability": 0.3}]), 8.0, 2.0),
        row("corrupt-10", json!([{"kind": "corrupt", "probability": 0.1}]), 5.0, 2.0),
        row("slowdown-50", json!([{"kind": "slowdown", "probability": 0.5}]), 8.0, 3.0),
        row("drop-answer", json!([{"kind": "drop_answer", "methods": writes}]), 5.0, 1.0),
        row("late-commit", json!([{"kind": "late_commit", "methods": writes, "delay_ms": 2000}]), 5.0, 1.0),
        row("redirect", json!([{"kind": "redirect", "location": "http://example.invalid/"}]), 5.0, 1.0),
        row("error-in-200", json!([{"kind": "error_in_200"}]), 8.0, 1.0),
    ]
}

/// One operation of a worker: what, when, how long, the error.
#[derive(Deserialize)]
struct Step(String, f64, f64, Option<String>);

#[derive(Deserialize)]
struct Said {
    steps: Vec<Step>,
    wrong: Vec<String>,
    files: BTreeMap<String, String>,
}

/// What one run showed.
#[derive(Default)]
struct Seen {
    write: Vec<f64>,
    warm: Vec<f64>,
    cold: Vec<f64>,
    longest: f64,
    steps: usize,
    failed: Vec<String>,
    wrong: Vec<String>,
    moved: usize,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.write.extend(other.write);
        self.warm.extend(other.warm);
        self.cold.extend(other.cold);
        self.longest = self.longest.max(other.longest);
        self.steps += other.steps;
        self.failed.extend(other.failed);
        self.wrong.extend(other.wrong);
        self.moved += other.moved;
    }

    /// How long each worker's first operation of these kinds after the fault took.
    fn take_first(steps: &[Step], kinds: &[&str], fault: f64, to: &mut Vec<f64>) {
        let hit = steps.iter().find(|Step(what, began, ..)| kinds.contains(&what.as_str()) && *began >= fault);
        to.extend(hit.map(|Step(_, _, took, _)| took));
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sum(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Same as `content` of the worker.
fn cold_bytes(name: &str, size: usize) -> Vec<u8> {
    let block = Sha256::digest(name.as_bytes());
    block.iter().copied().cycle().take(size).collect()
}

fn worker(bench: &Bench, n: usize, seed: u64) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", WORKER, &n.to_string(), &seed.to_string()]).arg(&bench.root).arg(bench.dir().join("stop"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 starts")
}

/// One run of one row.
fn run(row: &Row, seed: u64) -> Seen {
    let emulator = Emulator::start();
    let cold = (0..COLD_FILES).map(|n| {
        let name = format!("c{n}");
        let body = cold_bytes(&name, 4096 + n % WORKERS);
        (format!("cold/{name}"), bytes::Bytes::from(body))
    });
    emulator.bucket(Site::A).put_many(cold.collect());
    wait_until("the cold files are in both", Duration::from_secs(60), || emulator.objects("b").len() == COLD_FILES);
    let mut bench = Bench::on(emulator, Setup::default());
    let workers: Vec<Child> = (0..WORKERS).map(|n| worker(&bench, n, seed)).collect();
    let jitter = Duration::from_millis(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 2000);
    std::thread::sleep(CALM + jitter);
    bench.emulator.faults("a", row.faults.clone());
    let fault = now();
    std::thread::sleep(FAULT);
    bench.emulator.heal("a");
    std::thread::sleep(AFTER);
    std::fs::write(bench.dir().join("stop"), "").expect("a stop file");

    let mut seen = Seen::default();
    let mut expect = BTreeMap::new();
    for (n, worker) in workers.into_iter().enumerate() {
        let output = worker.wait_with_output().expect("a worker ends");
        let Ok(said) = serde_json::from_slice::<Said>(&output.stdout) else {
            seen.failed.push(format!("worker {n} broke: {}", String::from_utf8_lossy(&output.stderr)));
            continue;
        };
        Seen::take_first(&said.steps, &["write", "append"], fault, &mut seen.write);
        Seen::take_first(&said.steps, &["read warm"], fault, &mut seen.warm);
        Seen::take_first(&said.steps, &["read cold"], fault, &mut seen.cold);
        seen.steps += said.steps.len();
        for Step(what, began, took, error) in &said.steps {
            if *took > seen.longest {
                seen.longest = *took;
            }
            if *took > 5.0 {
                println!(
                    "  {} seed {seed} worker {n}: {what} took {took:.1} s, {:.1} s after the fault",
                    row.name,
                    began - fault
                );
            }
            seen.failed.extend(error.iter().map(|e| format!("worker {n} {:.1} s: {what}: {e}", began - fault)));
        }
        seen.wrong.extend(said.wrong.into_iter().map(|w| format!("worker {n}: {w}")));
        expect.extend(said.files.into_iter().map(|(name, sum)| (format!("w{n}/{name}"), sum)));
    }
    seen.moved = bench.status()["switches"].as_array().map_or(0, Vec::len);
    seen.wrong.extend(differences(&bench, &expect));
    let left = bench.umount();
    if left.status.code() != Some(0) {
        seen.failed.push(format!("umount: {:?} {}", left.status, String::from_utf8_lossy(&left.stderr)));
    }
    if bench.log().contains("panicked") {
        seen.failed.push("a panic in the log".into());
    }
    if !seen.failed.is_empty() || !seen.wrong.is_empty() {
        let kept = std::env::temp_dir().join(format!("matrix-{}-{seed}-{}.log", row.name, std::process::id()));
        std::fs::write(&kept, bench.log()).expect("room for a log");
        println!("  {} seed {seed}: the mount's log is in {}", row.name, kept.display());
    }
    seen
}

/// What the buckets hold at the end against what the workers left.
fn differences(bench: &Bench, expect: &BTreeMap<String, String>) -> Vec<String> {
    let end = SystemTime::now() + Duration::from_secs(120);
    while bench.status()["journal"]["records"] != 0 {
        if SystemTime::now() > end {
            return vec![format!("the journal never got empty: {}", bench.status()["journal"])];
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let files = |site: &str| -> BTreeMap<String, (u64, String)> {
        let all = bench.emulator.objects(site).into_iter();
        all.filter(|(key, _)| !key.ends_with('/') && !key.starts_with("cold/")).collect()
    };
    let end = SystemTime::now() + Duration::from_secs(30);
    while files("a") != files("b") && SystemTime::now() < end {
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut wrong = Vec::new();
    for site in Site::ALL {
        let found: BTreeSet<String> = files(&site.to_string()).into_keys().collect();
        let wanted: BTreeSet<String> = expect.keys().cloned().collect();
        wrong.extend(wanted.difference(&found).map(|key| format!("{key} is not in bucket {site}")));
        wrong.extend(found.difference(&wanted).map(|key| format!("{key} is in bucket {site}, but was removed")));
        let bucket = bench.emulator.bucket(site);
        for key in found.intersection(&wanted) {
            let content = bucket.get(key).unwrap_or_default();
            if sum(&content) != expect[key] {
                wrong.push(format!("{key} has other content in bucket {site} ({} bytes)", content.len()));
            }
        }
    }
    wrong
}

fn quantiles(values: &mut [f64]) -> String {
    if values.is_empty() {
        return format!("{:>17}", "-");
    }
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values[((values.len() as f64 * q).ceil() as usize).clamp(1, values.len()) - 1];
    format!("{:>5.2} {:>5.2} {:>5.2}", at(0.5), at(0.99), at(1.0))
}

/// Runs these rows and prints the table. What is slower than promised is told, and fails only where `strict`.
fn matrix(rows: &[Row], first: u64, seeds: u64, strict: bool) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut table = format!(
        "load at the start {}; seconds that each program's first operation after the fault took: p50 p99 max\n\
         {:<19} {:<17} {:<17} {:<17} {:>7} {:>6} {:>6} {:>5} {:>6}\n",
        load.trim(),
        "fault",
        "write",
        "warm read",
        "cold read",
        "longest",
        "ops",
        "failed",
        "wrong",
        "moves"
    );
    let mut bad = Vec::new();
    for row in rows {
        let mut all = Seen::default();
        for seed in first..first + seeds {
            let seen = run(row, seed);
            for what in seen.failed.iter().chain(&seen.wrong).take(12) {
                println!("  {} seed {seed}: {what}", row.name);
            }
            all.add(seen);
        }
        let line = format!(
            "{:<19} {} {} {} {:>7.1} {:>6} {:>6} {:>5} {:>6}",
            row.name,
            quantiles(&mut all.write),
            quantiles(&mut all.warm),
            quantiles(&mut all.cold),
            all.longest,
            all.steps,
            all.failed.len(),
            all.wrong.len(),
            all.moved
        );
        println!("{line}");
        writeln!(table, "{line}").expect("memory");
        if !all.failed.is_empty() || !all.wrong.is_empty() {
            bad.push(format!("{}: {} failed, {} wrong", row.name, all.failed.len(), all.wrong.len()));
        }
        let over = |values: &[f64], bound: f64| values.last().is_some_and(|max| *max > bound);
        if over(&all.write, row.write_s) || over(&all.warm, row.warm_s) {
            let late = format!("{}: first write or warm read later than {} s, {} s", row.name, row.write_s, row.warm_s);
            println!("  {late}");
            bad.extend(strict.then_some(late));
        }
    }
    println!("{table}");
    assert!(bad.is_empty(), "{bad:#?}\n{table}");
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
#[ignore = "an hour; scripts/soak runs it"]
fn every_fault_under_eight_programs() {
    let only = std::env::var("COSFS_HA_MATRIX_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    let rows: Vec<Row> = rows().into_iter().filter(|row| only.is_empty() || only.contains(&row.name)).collect();
    matrix(&rows, from_env("COSFS_HA_MATRIX_SEED", 1), from_env("COSFS_HA_MATRIX_SEEDS", 5), false);
}

#[test]
fn a_part_of_the_fault_matrix() {
    let rows: Vec<Row> = rows().into_iter().filter(|row| ["status-500", "late-commit"].contains(&row.name)).collect();
    matrix(&rows, 1, 1, false);
}
