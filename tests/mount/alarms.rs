//! A switch is told once and its end once, by mail, web address, program and in figures, however the region flaps meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Bench, Emulator, PROGRAM, Setup, http, wait_until};

/// A web server that takes every POST and keeps its body.
fn hook() -> (u16, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let keep = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            keep.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    (port, taken)
}

/// An SMTP server that is not ours.
struct Smtp {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Smtp {
    fn start(dir: &Path, certificate: Option<(&Path, &Path)>) -> Smtp {
        let venv = std::env::var_os("COSFS_HA_TEST_VENV").map(PathBuf::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = venv.unwrap_or_else(|| root.join("target/venv")).join("bin/python");
        let folder = dir.join("mails");
        fs::create_dir(&folder).unwrap();
        let mut command = Command::new(python);
        command.arg(root.join("tests/mount/smtp.py")).arg(&folder);
        if let Some((certificate, key)) = certificate {
            command.arg(certificate).arg(key);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("aiosmtpd: run scripts/test");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("aiosmtpd says its port: run scripts/test, which installs it");
        Smtp { child, port, folder }
    }

    fn mails(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = fs::read_dir(&self.folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "eml"));
        files.sort();
        files.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate authority that signed 127.0.0.1.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .expect("openssl runs");
    assert!(made.success());
    (certificate, key)
}

fn scrape(port: u16) -> String {
    let (status, text) = http("GET", port, "/metrics", "").expect("the mount answers");
    assert_eq!(status, 200);
    text
}

/// The value of a metric with these labels.
fn figure(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).expect("the text that Prometheus reads");
    let wanted = |sample: &&prometheus_parse::Sample| {
        sample.metric == name && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
    };
    match scrape.samples.iter().find(wanted)?.value {
        prometheus_parse::Value::Counter(value)
        | prometheus_parse::Value::Gauge(value)
        | prometheus_parse::Value::Untyped(value) => Some(value),
        _ => None,
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn switch_to_a(bench: &Bench) {
    wait_until("the way back is open", Duration::from_secs(90), || {
        let moved = Command::new(PROGRAM).arg("switch").arg(&bench.root).args(["--to", "a"]).output().unwrap();
        moved.status.success() && bench.status()["master"] == "a"
    });
}

#[test]
fn a_flapping_region_is_one_alarm_on_every_channel() {
    let emulator = Emulator::start();
    let dir = emulator.dir.path().to_path_buf();
    let (hook_port, hooked) = hook();
    let (certificate, key) = certificate(&dir);
    let smtp = Smtp::start(&dir, Some((&certificate, &key)));
    let (program, ran) = (dir.join("notify"), dir.join("ran"));
    fs::write(&program, format!("#!/bin/sh\nbody=$(cat)\necho \"$1 $2 $body\" >> {}\n", ran.display())).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let metrics = free_port();
    let config = format!(
        "[alarm]\nexec = \"{}\"\nwebhook = \"http://127.0.0.1:{hook_port}/secret\"\nclear_after = \"12s\"\n\
         mail = {{ to = \"Ops <ops@example.com>\", from = \"mount@example.com\", smtp = \"smtp://127.0.0.1:{}\", ca = \"{}\" }}\n\
         [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n",
        program.display(),
        smtp.port,
        certificate.display(),
    );
    let bench = Bench::on(emulator, Setup { config, ..Setup::default() });
    fs::write(bench.path("f"), b"before").unwrap();
    let calm = scrape(metrics);
    assert_eq!(figure(&calm, "cosfs_ha_master", &[("site", "a")]), Some(1.0), "{calm}");
    assert_eq!(figure(&calm, "cosfs_ha_alarm", &[("event", "switch")]), Some(0.0));

    // Away, back, away, back: each way by a real outage and an operator's move.
    for round in 0..2 {
        bench.emulator.black_hole("a");
        wait_until("b is the master", Duration::from_secs(60), || bench.status()["master"] == "b");
        fs::write(bench.path("f"), format!("round {round}")).unwrap();
        bench.emulator.heal("a");
        switch_to_a(&bench);
    }
    let standing = scrape(metrics);
    assert_eq!(figure(&standing, "cosfs_ha_alarm", &[("event", "switch")]), Some(1.0), "{standing}");
    assert!(bench.status()["alarms"].as_array().unwrap().iter().any(|alarm| alarm["event"] == "switch"));

    let of = |phase: &str| -> [usize; 3] {
        let ran = fs::read_to_string(&ran).unwrap_or_default();
        let programs = ran.lines().filter(|line| line.starts_with(&format!("switch {phase} "))).count();
        let hooks = hooked.lock().unwrap().iter().filter(|n| n["event"] == "switch" && n["phase"] == phase).count();
        let mails = smtp.mails().iter().filter(|mail| mail.contains(&format!("] switch {phase}: "))).count();
        [programs, hooks, mails]
    };
    wait_until("the all-clear has gone everywhere", Duration::from_secs(90), || of("cleared") == [1, 1, 1]);
    // Whatever else might come would have come by now.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((of("raised"), of("cleared")), ([1, 1, 1], [1, 1, 1]), "{}", fs::read_to_string(&ran).unwrap());

    let hooks = hooked.lock().unwrap().clone();
    let pair: Vec<&Value> = hooks.iter().filter(|notice| notice["event"] == "switch").collect();
    assert_eq!(pair[0]["id"], pair[1]["id"]);
    assert_eq!(pair[1]["times"], 2, "{}", pair[1]);
    assert!(pair[0]["evidence"]["linkages"].is_array() && pair[0]["evidence"]["explain"].is_string(), "{}", pair[0]);
    let mail = smtp.mails().into_iter().find(|mail| mail.contains("switch raised")).unwrap();
    assert!(mail.contains("X-Tls: True") && mail.contains("X-To: ops@example.com"), "{mail}");
    let after = scrape(metrics);
    assert_eq!(figure(&after, "cosfs_ha_alarms_total", &[("event", "switch")]), Some(1.0), "{after}");
    assert_eq!(figure(&after, "cosfs_ha_switches_total", &[]), Some(4.0));
    for channel in ["exec", "webhook", "mail"] {
        let labels = [("channel", channel), ("result", "failed")];
        assert_eq!(figure(&after, "cosfs_ha_alarm_deliveries_total", &labels), Some(0.0), "{after}");
    }
    assert!(!bench.log().contains("/secret"), "the address may hold a secret");
}

#[test]
fn a_new_configuration_is_taken_in_while_it_runs() {
    let mut bench = Bench::with(Setup { config: "[log]\nlevel = \"info\"\n".into(), ..Setup::default() });
    let (port, hooked) = hook();
    bench.setup.config = format!(
        "[log]\nlevel = \"debug\"\n[alarm]\nwebhook = \"http://127.0.0.1:{port}/\"\nclear_after = \"1s\"\n[mount]\nprefix = \"x\"\n"
    );
    bench.emulator.config(bench.dir(), &bench.setup.config);
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &bench.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    signal("-HUP");
    wait_until("it is taken in", Duration::from_secs(10), || bench.log().contains("taken in: log.level, alarm"));
    assert!(bench.log().contains("they need a new mount"), "a new prefix cannot be taken in");
    wait_until("the log is louder", Duration::from_secs(10), || bench.log().contains("DEBUG"));
    bench.emulator.black_hole("b");
    wait_until("the new address is told", Duration::from_secs(60), || {
        hooked.lock().unwrap().iter().any(|notice| notice["event"] == "suspect")
    });
    signal("-USR2");
    wait_until("one step louder", Duration::from_secs(10), || bench.log().contains("lines of level trace"));
    signal("-USR1");
    wait_until("the state is in the log", Duration::from_secs(10), || bench.log().contains("SIGUSR1: {\"state\""));
    bench.emulator.config(bench.dir(), "[log]\nlevel = \"deafening\"\n");
    signal("-HUP");
    wait_until("a wrong one is refused", Duration::from_secs(10), || bench.log().contains("nothing was changed"));
    fs::write(bench.path("f"), b"still here").unwrap();
    bench.emulator.heal("b");
    assert_eq!(bench.umount().status.code(), Some(0));
}
