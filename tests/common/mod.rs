//! The bench that keeps tests short: two emulated regions, a mount on them, faults on demand, and certain cleaning up.
//!
//! Emulator and mount are the real program, each a child process that is ended by its own id. A mount that hangs would hang the test, and a
//! test that hangs cannot even be killed; so every mount has a watchdog that breaks its FUSE connection when the test takes too long,
//! upon which every waiting call fails and the test with it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub mod bucket;
pub mod probe;
pub mod python;

/// The emulator's only identity.
pub const SECRET_ID: &str = "AKIDEXAMPLE0000000000000000000000001";
pub const SECRET_KEY: &str = "exampleSecretKey0000000000000001";

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cosfs-ha");

/// Longest life of a mount in a test. The longest stall allowed anywhere is `max_stall`, 30 s.
const LIFE: Duration = Duration::from_secs(240);

/// Waits until something holds; the message names it.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "after {limit:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One request to a local server, with a connection of its own.
pub fn http(method: &str, port: u16, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, body.to_string()))
}

/// The program, or what becomes the program.
fn program(through: &[String]) -> Command {
    match through.split_first() {
        None => Command::new(PROGRAM),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(PROGRAM);
            command
        }
    }
}

/// How one run of the program ended.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end, without a key in the environment.
pub fn cosfs(args: &[&str]) -> Run {
    let mut command = Command::new(PROGRAM);
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.env("HOME", "/nonexistent").stdin(Stdio::null()).output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Two regions in a process.
pub struct Emulator {
    child: Child,
    /// Ports of region A, region B and the admin interface.
    pub ports: [u16; 3],
    pub dir: TempDir,
}

impl Emulator {
    pub fn start() -> Emulator {
        Emulator::start_with(&[])
    }

    /// Port 0 lets it choose; it says what it chose on its last line.
    pub fn start_with(args: &[&str]) -> Emulator {
        Emulator::start_by(&[], args)
    }

    /// Started through another program, which may put it elsewhere.
    pub fn start_by(through: &[String], args: &[&str]) -> Emulator {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(dir.path().join("emulator.log")).expect("a log");
        let mut child = program(through)
            .args(["emulator", "--port", "0"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the emulator starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready = lines.map_while(Result::ok).find(|line| line.starts_with("emulator ready "));
        let ready = ready.expect("the emulator gets ready");
        let port = |name: &str| -> u16 {
            let word = ready.split(' ').find_map(|word| word.strip_prefix(name)).expect("an address");
            word.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
        };
        Emulator { child, ports: [port("a="), port("b="), port("admin=")], dir }
    }

    fn try_state(&self) -> Option<Value> {
        let (status, body) = http("GET", self.ports[2], "/v1/state", "").ok()?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    }

    pub fn state(&self) -> Value {
        self.try_state().expect("the emulator answers")
    }

    /// The latest requests that a site was asked.
    pub fn log(&self, site: &str) -> Value {
        let (_, body) = http("GET", self.ports[2], &format!("/v1/log?site={site}"), "").expect("the emulator answers");
        serde_json::from_str(&body).expect("a list of requests")
    }

    pub fn put(&self, path: &str, body: &Value) {
        self.send("PUT", path, body);
    }

    /// Many objects at once, without a request each.
    pub fn fill(&self, fill: Value) {
        self.send("POST", "/v1/fill", &fill);
    }

    fn send(&self, method: &str, path: &str, body: &Value) {
        let (status, answer) = http(method, self.ports[2], path, &body.to_string()).expect("the emulator answers");
        assert!((200..300).contains(&status), "{method} {path} {body}: {status} {answer}");
    }

    /// Replaces the faults of a site; an empty list heals it.
    pub fn faults(&self, site: &str, faults: Value) {
        self.put(&format!("/v1/faults/{site}"), &faults);
    }

    pub fn black_hole(&self, site: &str) {
        self.faults(site, json!([{"kind": "blackhole"}]));
    }

    pub fn heal(&self, site: &str) {
        self.faults(site, json!([]));
    }

    pub fn replication(&self, setting: Value) {
        self.put("/v1/replication", &setting);
    }

    /// Current objects of a bucket by key: size and ETag; delete markers left out.
    pub fn objects(&self, site: &str) -> std::collections::BTreeMap<String, (u64, String)> {
        let state = self.state();
        let all = state["sites"][site]["objects"].as_array().expect("a list of objects");
        all.iter()
            .filter(|object| object["delete_marker"] != json!(true))
            .map(|object| {
                let key = object["key"].as_str().expect("a key").to_string();
                let etag = object["etag"].as_str().unwrap_or_default().to_string();
                (key, (object["size"].as_u64().unwrap_or_default(), etag))
            })
            .collect()
    }

    /// A configuration for a mount on it, with folders of its own below `dir`; `more` goes on in section `[cache]`.
    pub fn config(&self, dir: &Path, more: &str) -> PathBuf {
        let path = dir.join("cosfs-ha.toml");
        let [a, b, _] = self.ports;
        let text = format!(
            "[a]\nbucket = \"master-1250000000\"\nregion = \"ap-guangzhou\"\nendpoint = \"http://127.0.0.1:{a}\"\n\
             [b]\nbucket = \"slave-1250000000\"\nregion = \"ap-shanghai\"\nendpoint = \"http://127.0.0.1:{b}\"\n\
             [credentials]\nsecret_id = \"{SECRET_ID}\"\nsecret_key = \"{SECRET_KEY}\"\n\
             [failover]\nlate_commit = \"{LATE_COMMIT}\"\n\
             [journal]\ndir = \"{dir}/journal\"\n[cache]\ndir = \"{dir}/cache\"\n{more}",
            dir = dir.display(),
        );
        write_private(&path, &text);
        path
    }
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("room for a file");
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may be dead already; waiting then only collects it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long the mounts of the tests watch a write with a lost answer: the emulator commits late only where a test says so.
const LATE_COMMIT: &str = "3s";

/// Options of a bench. `config` is the rest of the configuration file; it begins in section `[cache]`.
#[derive(Default, Clone)]
pub struct Setup {
    pub config: String,
    /// More lines for section `[failover]`.
    pub failover: String,
    pub args: Vec<String>,
    /// Leave the key pair out of the configuration file.
    pub keyless: bool,
    /// Another program to start the daemon with, and its arguments.
    pub through: Vec<String>,
    /// Environment of the daemon, besides the test's own.
    pub env: Vec<(String, String)>,
}

/// A mount on two emulated regions.
pub struct Bench {
    pub emulator: Emulator,
    pub setup: Setup,
    pub root: PathBuf,
    daemon: Option<Daemon>,
}

struct Daemon {
    child: Child,
    /// Number of the FUSE connection, for breaking it.
    connection: Option<u32>,
    over: Arc<AtomicBool>,
}

impl Bench {
    pub fn start() -> Bench {
        Bench::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Bench {
        Bench::on(Emulator::start(), setup)
    }

    pub fn on(emulator: Emulator, setup: Setup) -> Bench {
        let root = emulator.dir.path().canonicalize().expect("a temporary folder").join("mnt");
        std::fs::create_dir(&root).expect("a mount point");
        let mut bench = Bench { emulator, setup, root, daemon: None };
        bench.mount();
        bench
    }

    pub fn dir(&self) -> &Path {
        self.emulator.dir.path()
    }

    /// A path in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("mount.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("mounted").child.id()
    }

    /// Mounts (again), and waits until the mount answers.
    pub fn mount(&mut self) {
        assert!(self.daemon.is_none(), "already mounted");
        let config = self.emulator.config(self.dir(), &self.setup.config);
        if !self.setup.failover.is_empty() {
            let text = std::fs::read_to_string(&config).expect("a configuration");
            write_private(&config, &text.replace("[failover]\n", &format!("[failover]\n{}", self.setup.failover)));
        }
        if self.setup.keyless {
            let text = std::fs::read_to_string(&config).expect("a configuration");
            let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("secret_")).collect();
            write_private(&config, &(kept.join("\n") + "\n"));
        }
        let log = File::options().create(true).append(true).open(self.dir().join("mount.log")).expect("a log");
        let child = program(&self.setup.through)
            .arg("mount")
            .arg(&self.root)
            .arg("--config")
            .arg(config)
            .arg("--foreground")
            .args(&self.setup.args)
            .envs(self.setup.env.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the mount starts");
        let over = Arc::new(AtomicBool::new(false));
        self.daemon = Some(Daemon { child, connection: None, over: over.clone() });
        let end = Instant::now() + Duration::from_secs(40);
        while !self.is_mounted() || self.try_status().is_none() {
            let gone = self.daemon.as_mut().and_then(|daemon| daemon.child.try_wait().expect("a child"));
            assert!(gone.is_none() && Instant::now() < end, "no mount ({gone:?}); log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let connection = connection(&self.root);
        let daemon = self.daemon.as_mut().expect("mounted");
        daemon.connection = connection;
        let pid = daemon.child.id();
        std::thread::spawn(move || {
            let asked = std::env::var("COSFS_HA_MOUNT_LIFE").ok().and_then(|text| text.parse().ok());
            let end = Instant::now() + asked.map_or(LIFE, Duration::from_secs);
            while !over.load(Ordering::Relaxed) {
                if Instant::now() > end {
                    eprintln!("the watchdog breaks the mount of daemon {pid}");
                    return break_connection(connection);
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    /// A new mount that has forgotten the contents it had, but not what it knows of them.
    pub fn empty_cache(&mut self) {
        assert_eq!(self.umount().status.code(), Some(0));
        for folder in std::fs::read_dir(self.dir().join("cache")).expect("a cache") {
            std::fs::remove_dir_all(folder.expect("a folder").path().join("data")).expect("contents");
        }
        self.mount();
    }

    pub fn is_mounted(&self) -> bool {
        mount_line(&self.root).is_some()
    }

    fn try_status(&self) -> Option<Value> {
        let output = Command::new(PROGRAM).args(["status", "--json"]).arg(&self.root).output().ok()?;
        output.status.success().then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    pub fn status(&self) -> Value {
        self.try_status().expect("the mount tells its status")
    }

    pub fn wait_state(&self, state: &str, limit: Duration) {
        wait_until(&format!("state {state}; log:\n{}", self.log()), limit, || self.status()["state"] == state);
    }

    /// Waits until everything written is in both buckets.
    pub fn settle(&self) {
        wait_until("the journal is empty", Duration::from_secs(120), || self.status()["journal"]["records"] == 0);
    }

    /// `cosfs-ha umount`; the daemon must have ended with it.
    pub fn umount(&mut self) -> Output {
        let output = Command::new(PROGRAM)
            .arg("umount")
            .arg(&self.root)
            .args(["--timeout", "60"])
            .output()
            .expect("umount runs");
        if let Some(mut daemon) = self.daemon.take() {
            if output.status.code() == Some(3) {
                self.daemon = Some(daemon);
                return output;
            }
            daemon.over.store(true, Ordering::Relaxed);
            wait_until("the daemon ends", Duration::from_secs(20), || {
                daemon.child.try_wait().expect("a child").is_some()
            });
        }
        output
    }

    /// kill -9, and away with the dead mount.
    pub fn crash(&mut self) {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.over.store(true, Ordering::Relaxed);
        daemon.child.kill().expect("a child");
        daemon.child.wait().expect("a child");
        detach(&self.root);
    }

    /// A signal to the daemon, and its exit code.
    pub fn end_by(&mut self, signal: &str) -> Option<i32> {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.over.store(true, Ordering::Relaxed);
        let killed = Command::new("kill").args([signal, &daemon.child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        let mut code = None;
        wait_until("the daemon ends", Duration::from_secs(90), || {
            code = daemon.child.try_wait().expect("a child");
            code.is_some()
        });
        code.and_then(|status| status.code())
    }

    /// The mount was ended by another command; collects the daemon.
    pub fn forget(&mut self) {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.over.store(true, Ordering::Relaxed);
        wait_until("the daemon ends", Duration::from_secs(20), || daemon.child.try_wait().expect("a child").is_some());
    }

    /// Waits until the daemon ends by itself.
    pub fn wait_end(&mut self, code: Option<i32>) {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.over.store(true, Ordering::Relaxed);
        let mut found = None;
        wait_until("the daemon ends", Duration::from_secs(20), || {
            found = daemon.child.try_wait().expect("a child");
            found.is_some()
        });
        assert_eq!(found.and_then(|status| status.code()), code, "log:\n{}", self.log());
    }

    /// Peak of the daemon's resident memory, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    }

    /// A shell script with the mount as working directory; returns its output, fails if it fails.
    pub fn shell(&self, script: &str) -> String {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(&self.root)
            .output()
            .expect("bash runs");
        assert!(
            output.status.success(),
            "{script}\n{}{}\nlog:\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.over.store(true, Ordering::Relaxed);
            detach(&self.root);
            // Whatever of this fails, failed because it was done already.
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
            break_connection(daemon.connection);
        }
        if std::thread::panicking() {
            eprintln!("--- the mount's log ---\n{}", self.log());
        }
    }
}

fn mount_line(root: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let wanted = root.to_string_lossy();
    table.lines().find(|line| line.split(' ').nth(4) == Some(wanted.as_ref())).map(str::to_string)
}

/// Minor number of the mount's device, which is the name of its FUSE connection.
fn connection(root: &Path) -> Option<u32> {
    mount_line(root)?.split(' ').nth(2)?.split_once(':')?.1.parse().ok()
}

fn break_connection(connection: Option<u32>) {
    if let Some(number) = connection {
        // Not there if the connection is gone, which is what we want.
        let _ = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
    }
}

pub fn detach(root: &Path) {
    if mount_line(root).is_some() {
        let _ = Command::new("umount").arg("-l").arg(root).stderr(Stdio::null()).status();
    }
}

/// Deterministic bytes that differ by seed and show where they belong.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64: fast, and no two seeds give the same stream.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
