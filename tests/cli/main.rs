//! The command line as a person meets it: help, messages, exit codes. No mount is needed for any of it.

#[path = "../common/mod.rs"]
mod common;

mod coverage;
mod doctor;
mod probe;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{PROGRAM, cosfs, write_private};

const GOOD: &str = "[a]\nbucket = \"m-1\"\nregion = \"ap-x\"\nendpoint = \"http://127.0.0.1:1\"\n\
     [b]\nbucket = \"s-1\"\nregion = \"ap-y\"\nendpoint = \"http://127.0.0.1:2\"\n\
     [credentials]\nsecret_id = \"AKIDx\"\nsecret_key = \"the-secret-itself\"\n";

struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("m")).unwrap();
        Desk { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().canonicalize().unwrap().join(name).display().to_string()
    }

    fn config(&self, text: &str) -> String {
        let path = self.path("c.toml");
        let folders = format!("[journal]\ndir = \"{}\"\n[cache]\ndir = \"{}\"\n", self.path("j"), self.path("c"));
        write_private(Path::new(&path), &format!("{text}{folders}"));
        path
    }
}

#[track_caller]
fn says(args: &[&str], code: i32, expect: &[&str]) {
    let run = cosfs(args);
    // Help is wrapped to the width of the terminal.
    let said = format!("{}{}", run.stdout, run.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(run.code, Some(code), "{args:?}: {said}");
    for words in expect {
        assert!(said.contains(words), "{args:?}: {words:?} is not in:\n{said}");
    }
    assert!(!said.contains("the-secret-itself") && !said.contains("panicked"), "{args:?}: {said}");
    assert!(code == 0 || run.stdout.is_empty(), "{args:?}: errors belong on standard error, not: {}", run.stdout);
}

#[test]
fn help_tells_a_newcomer_what_to_type() {
    says(&["--help"], 0, &["mount", "umount", "status", "switch", "emulator", "Examples:", "/etc/fstab"]);
    says(&["--version"], 0, &["cosfs-ha "]);
    says(&["mount", "--help"], 0, &["Examples:", "--slave", "cos://", "never goes on the command line"]);
    says(&["switch", "--help"], 0, &["Examples:", "--auto", "--reason"]);
    says(&["provision", "--help"], 0, &["Examples:", "--dry-run", "--yes", "COS_QcsRole", "PutBucketReplication"]);
    says(&["doctor", "--help"], 0, &["Examples:", "--json", "--reconcile", "Exit code: 0 all is well; 8 warnings"]);
    says(&["probe", "--help"], 0, &["Examples:", "--once", "--prometheus", "Exit code of --once"]);
    says(&["umount", "--help"], 0, &["--timeout", "7"]);
    says(&["status", "--help"], 0, &["--json", "on_slave"]);
    says(&["emulator", "--help"], 0, &["--port", "--data", "--write-config", "blackhole"]);
    let all = cosfs(&["--help"]).stdout;
    assert!(!all.contains("  daemon "), "that is no command");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let desk = Desk::new();
    let (point, config) = (desk.path("m"), desk.config(GOOD));
    let (point, config) = (point.as_str(), config.as_str());
    let rows: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["mount"], "MOUNTPOINT"),
        (&["mount", point], "which buckets to mount"),
        (&["mount", point, "--config", config, "--wings"], "--wings"),
        (&["mount", point, "--config", config, "-o", "wombat"], "unknown option wombat"),
        (&["mount", point, "--config", config, "-o", "cache_sise=1GiB"], "did you mean cache_size?"),
        (&["mount", point, "--config", config, "-o", "mount.comit=journal"], "did you mean `commit`?"),
        (&["mount", point, "--config", config, "--commit", "maybe"], "journal, one-region, two-regions"),
        (&["mount", point, "--config", config, "--cache-size", "lots"], "10GiB"),
        (
            &["mount", point, "--config", config, "-o", "credentials.secret_key=the-secret-itself"],
            "visible to every user",
        ),
        (&["mount", "m-1", point, "--config", config], "cos://"),
        (&["switch", point], "--to"),
        (&["switch", point, "--to", "c"], "possible values: a, b"),
        (&["switch", point, "--to", "a", "--auto"], "cannot be used with"),
        (&["umount", point, "--timeout=-1"], "--timeout"),
        (&["umount", point, "--timeout=nan"], "--timeout"),
        (&["status", point, "--xml"], "--xml"),
    ];
    for (args, expect) in rows {
        says(args, 2, &[expect]);
    }
}

#[test]
fn a_wrong_configuration_ends_with_4_and_names_the_line() {
    let desk = Desk::new();
    let point = desk.path("m");
    let try_text = |text: &str, expect: &[&str]| {
        let config = desk.config(text);
        says(&["mount", &point, "--config", &config], 4, expect);
    };
    try_text(&GOOD.replace("region = \"ap-x\"", "regoin = \"ap-x\""), &["c.toml:3", "did you mean `region`?"]);
    try_text(&GOOD.replace("[credentials]", "[credential]"), &["c.toml:9", "did you mean [credentials]?"]);
    try_text(&GOOD.replace("\"m-1\"", "\"m\""), &["account number"]);
    try_text(&GOOD.replace("[b]", "[mount]\nmax_stall = \"1s\"\n[b]"), &["5s to 100s"]);
    try_text(&GOOD.replace("secret_key = \"the-secret-itself\"\n", ""), &["must be given together"]);
    try_text(&GOOD.replace("\"the-secret-itself\"", "\"the-secret-itself"), &["c.toml:11"]);
    let (without_keys, _) = GOOD.split_once("[credentials]").unwrap();
    try_text(without_keys, &["there is no key", "TENCENTCLOUD_SECRET_ID", "/etc/passwd-cosfs"]);
    says(&["mount", &point, "--config", &desk.path("absent.toml")], 4, &["absent.toml"]);
    let config = desk.config(GOOD);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    says(&["mount", &point, "--config", &config], 4, &["chmod 600", "other users can read it"]);
}

#[test]
fn a_place_where_nothing_is_mounted_ends_with_3() {
    let desk = Desk::new();
    let point = desk.path("m");
    for args in
        [&["status", &point][..], &["umount", &point], &["switch", &point, "--to", "b"], &["status", "/absent/x"]]
    {
        says(args, 3, &["nothing is mounted at"]);
    }
    let config = desk.config(GOOD);
    says(&["mount", &desk.path("absent"), "--config", &config], 3, &["does not exist", "mkdir"]);
    says(&["mount", &config, "--config", &config], 3, &["not a directory"]);
    says(&["mount", "/proc", "--config", &config], 3, &["already mounted"]);
}

#[test]
fn two_buckets_that_do_not_answer_end_with_6() {
    let desk = Desk::new();
    let config = desk.config(GOOD);
    says(&["mount", &desk.path("m"), "--config", &config], 6, &["neither bucket answers", "m-1", "s-1"]);
}

/// By its path, because the search path under test is empty.
const SETPRIV: &str = "/usr/bin/setpriv";

/// The program where any user may run it, as another user than root.
fn as_nobody(desk: &Desk, args: &[&str], path: &str) -> std::process::Output {
    assert!(rustix::process::geteuid().is_root() && Path::new(SETPRIV).exists(), "needs root and {SETPRIV}");
    let program = PathBuf::from(desk.path("cosfs-ha"));
    std::fs::copy(PROGRAM, &program).unwrap();
    for (place, mode) in [(desk.path(""), 0o755), (desk.path("cosfs-ha"), 0o755), (desk.path("m"), 0o777)] {
        std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(args);
    command.env("PATH", path).env("HOME", desk.path("m")).env_remove("XDG_RUNTIME_DIR").output().unwrap()
}

#[test]
fn without_root_a_missing_fusermount3_is_named() {
    let desk = Desk::new();
    let (point, config) = (desk.path("m"), desk.config(GOOD));
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&config, Some(65534), Some(65534)).unwrap_or_default();
    let output = as_nobody(&desk, &["mount", &point, "--config", &config], "/nonexistent");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("fusermount3 is not installed") && said.contains("apt install fuse3"), "{said}");
}

#[test]
fn the_emulator_serves_what_it_prints() {
    let desk = Desk::new();
    let (config, authority) = (desk.path("try.toml"), desk.path("ca.pem"));
    let emulator =
        common::Emulator::start_with(&["--write-config", &config, "--write-ca", &authority, "--unconfigured"]);
    let read = cosfs_ha::config::load(Some(Path::new(&config)), &[]).expect("the mount takes the configuration");
    let state = emulator.state();
    let https = |site: &str| {
        let endpoint = state["sites"][site]["endpoint"].as_str().expect("an endpoint");
        endpoint.replace("http://", "https://")
    };
    assert_eq!([read.a.endpoint, read.b.endpoint], [Some(https("a")), Some(https("b"))]);
    assert_eq!((read.cdn.domain.as_str(), read.cdn.endpoint), ("files.example.com", Some(https("cdn"))));
    assert_eq!(read.origin.url, Some(format!("{}/", https("origin"))));
    assert!(std::fs::read_to_string(&authority).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(state["sites"]["a"]["versioning"], "Never", "unconfigured");
}
