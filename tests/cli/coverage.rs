//! The comparison of both buckets at size: exact, and in bounded memory.
//!
//! 20 000 keys here; `COSFS_HA_COVERAGE_KEYS=1000000` in `scripts/soak`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::{Emulator, PROGRAM};

/// Of a million keys each side, two pages a side may be in memory.
const RESIDENT_MAX_MIB: u64 = 200;

#[test]
fn exactly_the_planted_differences_are_found_in_bounded_memory() {
    let keys: u64 = std::env::var("COSFS_HA_COVERAGE_KEYS").map_or(20_000, |text| text.parse().expect("a number"));
    let emulator = Emulator::start();
    emulator.fill(json!({"prefix": "data/", "count": keys, "content": "the same"}));
    // 137 differences: 40 only in A, 50 only in B, 47 with other content; at the ends and in between.
    emulator.fill(json!({"site": "a", "prefix": "data/a-only-", "count": 20}));
    emulator.fill(json!({"site": "a", "prefix": "data/00010000-", "count": 20}));
    emulator.fill(json!({"site": "b", "prefix": "data/zz-only-", "count": 49}));
    emulator.fill(json!({"site": "b", "prefix": "data/!", "count": 1}));
    emulator.fill(json!({"site": "b", "prefix": "data/", "first": 977, "count": 46, "content": "not the same"}));
    emulator.fill(json!({"site": "a", "prefix": "data/", "first": keys - 1, "count": 1, "content": "not same"}));

    let config = emulator.config(emulator.dir.path(), "");
    let began = Instant::now();
    let out = emulator.dir.path().join("report.json");
    let mut doctor = Command::new(PROGRAM)
        .args(["doctor", "--json", "--no-write", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let code = loop {
        // The high-water mark: what is read last before the end is the peak, or very near.
        let status = std::fs::read_to_string(format!("/proc/{}/status", doctor.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(peak);
        if let Some(code) = doctor.try_wait().unwrap() {
            break code.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = began.elapsed();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap();
    let coverage = &report["coverage"];
    println!("{keys} keys a side compared in {took:?}, {} MiB resident at most", peak / 1024);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(
        [&coverage["only_in_a"], &coverage["only_in_b"], &coverage["differ"], &coverage["different"]],
        [&json!(40), &json!(50), &json!(47), &json!(137)]
    );
    assert_eq!(coverage["keys"], json!([keys + 40, keys + 50]));
    let found = coverage["differences"].as_array().unwrap();
    assert_eq!(found.len(), 137);
    let named = |key: &str| found.iter().any(|difference| difference["key"] == key);
    for number in 977..977 + 46 {
        assert!(named(&format!("data/{number:08}")), "{number}");
    }
    assert!(named(&format!("data/{:08}", keys - 1)) && named("data/!00000000") && named("data/zz-only-00000048"));
    assert!(peak > 0 && peak / 1024 < RESIDENT_MAX_MIB, "{} MiB resident", peak / 1024);
}
