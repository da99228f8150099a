//! `cosfs-ha probe` against two regions: healthy, slow, failing, dark.

use serde_json::{Value, json};

use super::common::{Emulator, cosfs};

#[test]
fn each_linkage_is_measured_and_judged() {
    let emulator = Emulator::start();
    let config = emulator.config(emulator.dir.path(), "").display().to_string();
    emulator.bucket(cosfs_ha::object::Site::A).put("body", vec![7u8; 1 << 20]);
    let probe = |args: &[&str]| {
        cosfs(&[&["probe", "--config", &config, "--once", "--window", "1s", "--every", "50ms"], args].concat())
    };
    let measure = |run: &super::common::Run| -> Value { serde_json::from_str(&run.stdout).expect(&run.stderr) };
    let health = |report: &Value| -> Vec<String> {
        let all = report["linkages"].as_array().unwrap();
        all.iter().map(|m| format!("{}.{} {}", m["site"], m["class"], m["health"]).replace('"', "")).collect()
    };

    let run = probe(&["--json"]);
    let report = measure(&run);
    assert_eq!(run.code, Some(0), "{report}");
    assert_eq!(health(&report), ["a.read up", "a.write up", "b.read up", "b.write up"]);
    let first = &report["linkages"][0];
    assert_eq!(first["success_rate"], json!(1.0));
    for field in ["/latency_ms/p99", "/first_byte_ms/p50", "/throughput_mib_s"] {
        assert!(first.pointer(field).and_then(Value::as_f64).is_some_and(|value| value > 0.0), "{field}: {first}");
    }
    let state = emulator.state();
    let keys: Vec<&str> =
        state["sites"]["a"]["objects"].as_array().unwrap().iter().filter_map(|o| o["key"].as_str()).collect();
    assert_eq!(keys, ["body"], "a probe leaves nothing");

    emulator.faults("b", json!([{"kind": "status", "status": 503, "methods": ["HEAD"], "probability": 0.5}]));
    let run = probe(&["--json"]);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert_eq!(health(&measure(&run)), ["a.read up", "a.write up", "b.read grey", "b.write up"]);
    emulator.black_hole("b");
    let file = emulator.dir.path().join("probe.prom").display().to_string();
    let run = probe(&["--prometheus", "--output", &file]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    let text = std::fs::read_to_string(file).unwrap();
    for line in [
        "# TYPE cosfs_ha_probe_success_ratio gauge",
        "cosfs_ha_probe_success_ratio{site=\"a\",class=\"read\"} 1",
        "cosfs_ha_probe_success_ratio{site=\"b\",class=\"write\"} 0",
        "cosfs_ha_probe_health{site=\"b\",class=\"read\",health=\"down\"} 1",
        "cosfs_ha_probe_failures{site=\"b\",class=\"read\",kind=\"",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn runs_from_cron_tell_an_alarm_once_and_its_end_once() {
    let emulator = Emulator::start();
    let dir = emulator.dir.path();
    let (told, program) = (dir.join("told"), dir.join("tell"));
    std::fs::write(&program, format!("#!/bin/sh\ncat > /dev/null\necho $1 $2 >> {}\n", told.display())).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let alarm = format!("[alarm]\nexec = \"{}\"\nclear_after = \"300ms\"\n", program.display());
    let config = emulator.config(dir, &alarm).display().to_string();
    let args =
        ["probe", "--config", &config, "--once", "--window", "1s", "--every", "100ms", "--bytes", "0", "--alarm"];
    let run = |code: i32, expect: &[&str]| {
        let run = cosfs(&args);
        assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
        let lines = std::fs::read_to_string(&told).unwrap_or_default();
        assert_eq!(lines.lines().collect::<Vec<_>>(), expect);
    };
    run(0, &[]);
    for site in ["a", "b"] {
        emulator.faults(site, json!([{"kind": "refuse"}]));
    }
    run(1, &["both_down raised"]);
    run(1, &["both_down raised"]);
    for site in ["a", "b"] {
        emulator.heal(site);
    }
    run(0, &["both_down raised", "both_down cleared"]);
    run(0, &["both_down raised", "both_down cleared"]);
    // A program that fails has told nobody: the next run tries again.
    emulator.faults("a", json!([{"kind": "status", "status": 403}]));
    let works = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
    run(1, &["both_down raised", "both_down cleared"]);
    std::fs::write(&program, works).unwrap();
    run(1, &["both_down raised", "both_down cleared", "auth raised"]);
    std::fs::write(dir.join("journal/probe-alarms.json"), "damaged").unwrap();
    run(1, &["both_down raised", "both_down cleared", "auth raised", "auth raised"]);
}
