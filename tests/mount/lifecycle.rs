//! How a mount begins and ends: the daemon, its signals, what is said when something is wrong.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use cosfs_ha::object::Site;
use serde_json::json;

use crate::common::{Bench, Emulator, Setup, cosfs, detach, http, wait_until, write_private};

#[test]
fn mount_returns_when_the_daemon_answers_and_umount_when_it_is_gone() {
    let emulator = Emulator::start();
    let dir = emulator.dir.path().canonicalize().unwrap();
    let config = emulator.config(&dir, "");
    let point = dir.join("m");
    fs::create_dir(&point).unwrap();
    let (config, point) = (config.to_str().unwrap(), point.to_str().unwrap());
    let run = cosfs(&["mount", point, "--config", config]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    fs::write(format!("{point}/f"), b"x").unwrap();
    let again = cosfs(&["mount", point, "--config", config]);
    assert_eq!(again.code, Some(3));
    assert!(again.stderr.contains("already mounted by cosfs-ha"), "{}", again.stderr);

    let status = cosfs(&["status", point]);
    assert_eq!(status.code, Some(0));
    assert!(status.stdout.starts_with("normal "), "{}", status.stdout);
    let json = cosfs(&["status", point, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let pid = json["mount"]["pid"].as_u64().unwrap();
    let log = json["mount"]["log"].as_str().unwrap();
    assert!(fs::read_to_string(log).unwrap().contains(" answers"));

    let holder = fs::File::open(format!("{point}/f")).unwrap();
    let busy = cosfs(&["umount", point]);
    assert_eq!(busy.code, Some(3), "{}", busy.stderr);
    assert!(busy.stderr.contains(&format!("(pid {})", std::process::id())), "{}", busy.stderr);
    drop(holder);
    let run = cosfs(&["umount", point]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{}", run.stderr);
    wait_until("the daemon ends", Duration::from_secs(15), || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    for command in ["umount", "status"] {
        let run = cosfs(&[command, point]);
        assert_eq!(run.code, Some(3));
        assert!(run.stderr.contains("nothing is mounted at"), "{}", run.stderr);
    }
}

#[test]
fn what_cannot_be_sent_is_listed_and_sent_by_the_next_mount() {
    let config = "[mount]\ncommit = \"journal\"\n".to_string();
    let mut bench = Bench::with(Setup { config, ..Setup::default() });
    // What a folder holds must be known before the outage, or a new name could hide an old file.
    bench.shell("ls");
    for site in ["a", "b"] {
        bench.emulator.faults(site, json!([{"kind": "refuse"}]));
    }
    fs::write(bench.path("left behind"), b"patience").unwrap();
    let point = bench.root.to_str().unwrap().to_string();
    let run = cosfs(&["umount", &point, "--timeout", "1"]);
    assert_eq!(run.code, Some(7), "{}", run.stderr);
    assert!(run.stderr.contains("left behind") && run.stderr.contains("next mount"), "{}", run.stderr);
    assert!(!bench.is_mounted());
    bench.forget();
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    bench.mount();
    bench.settle();
    assert_eq!(bench.emulator.bucket(Site::B).get("left behind").as_deref(), Some(&b"patience"[..]));
    assert_eq!(bench.end_by("-TERM"), Some(0));
    assert!(!bench.is_mounted());
}

#[test]
fn sigterm_sends_what_is_left_even_while_in_use() {
    let mut bench = Bench::start();
    let mut user = Command::new("sleep").arg("60").current_dir(&bench.root).stdin(Stdio::null()).spawn().unwrap();
    fs::write(bench.path("f"), b"x").unwrap();
    assert_eq!(bench.end_by("-TERM"), Some(0), "log:\n{}", bench.log());
    assert!(!bench.is_mounted());
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(bench.emulator.bucket(Site::A).get("f").as_deref(), Some(&b"x"[..]));
}

#[test]
fn a_mount_whose_daemon_was_killed_is_buried() {
    let mut bench = Bench::start();
    let point = bench.root.to_str().unwrap().to_string();
    let pid = bench.pid().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    wait_until("the mount is dead", Duration::from_secs(10), || fs::read_dir(&point).is_err());
    let run = cosfs(&["status", &point]);
    assert_eq!(run.code, Some(3));
    assert!(run.stderr.contains("no living daemon") && run.stderr.contains("cosfs-ha umount"), "{}", run.stderr);
    let run = cosfs(&["umount", &point]);
    assert_eq!(run.code, Some(7), "{}", run.stderr);
    assert!(!bench.is_mounted());
    bench.forget();
    bench.mount();
}

#[test]
fn unmounting_from_outside_ends_the_daemon() {
    let mut bench = Bench::start();
    fs::write(bench.path("f"), b"x").unwrap();
    assert!(Command::new("umount").arg(&bench.root).status().unwrap().success());
    bench.wait_end(Some(0));
}

/// What is wrong before or at the mount, with its exit code and the words that help.
#[test]
fn a_mount_that_cannot_be_says_why() {
    let emulator = Emulator::start();
    let dir = emulator.dir.path().canonicalize().unwrap();
    let good = fs::read_to_string(emulator.config(&dir, "")).unwrap();
    let point = dir.join("m");
    fs::create_dir(&point).unwrap();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/x"), "").unwrap();
    let mount = |text: &str, point: &std::path::Path, code: i32, expect: &[&str]| {
        let config = dir.join("c.toml");
        write_private(&config, text);
        let run = cosfs(&["mount", point.to_str().unwrap(), "--config", config.to_str().unwrap()]);
        assert_eq!(run.code, Some(code), "{expect:?}: {}", run.stderr);
        for words in expect {
            assert!(run.stderr.contains(words), "{words:?} is not in: {}", run.stderr);
        }
        assert!(!run.stderr.contains("exampleSecretKey"), "a secret in a message");
        assert!(!run.stderr.contains("wrongSecretKey"), "a secret in a message");
        detach(point);
    };
    let wrong_key = good.replace("exampleSecretKey0000000000000001", "wrongSecretKey000000000000000001");
    mount(&wrong_key, &point, 5, &["refuses the credentials", "SignatureDoesNotMatch", "does not belong"]);
    mount(&good.replace("AKIDEXAMPLE", "AKIDMISTAKE"), &point, 5, &["refuses the credentials"]);
    mount(&good.replace("slave-1250000000", "slave-1259999999"), &point, 4, &["slave-1259999999", "does not exist"]);
    mount(&good, &dir.join("full"), 3, &["not empty"]);
    mount(&good, &dir.join("absent"), 3, &["mkdir"]);
    emulator.bucket(Site::A).put("f", "on both");
    wait_until("it is in B", Duration::from_secs(10), || emulator.objects("b").contains_key("f"));
    for site in ["a", "b"] {
        emulator.faults(site, json!([{"kind": "refuse"}]));
    }
    mount(&good, &point, 6, &["neither bucket answers"]);
    emulator.heal("b");
    let config = dir.join("c.toml");
    let run = cosfs(&["mount", point.to_str().unwrap(), "--config", config.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "one bucket is enough: {}", run.stderr);
    assert!(run.stderr.contains("warning") && run.stderr.contains("master-1250000000"), "{}", run.stderr);
    assert_eq!(fs::read(point.join("f")).unwrap(), b"on both");
    emulator.heal("a");
    assert_eq!(cosfs(&["umount", point.to_str().unwrap()]).code, Some(0));
}

#[test]
fn buckets_that_are_not_ready_are_warned_about() {
    let emulator = Emulator::start_with(&["--unconfigured"]);
    let dir = emulator.dir.path().canonicalize().unwrap();
    let config = emulator.config(&dir, "");
    let point = dir.join("m");
    fs::create_dir(&point).unwrap();
    let (config, point) = (config.to_str().unwrap(), point.to_str().unwrap());
    let run = cosfs(&["mount", point, "--config", config]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for words in ["versioning off", "no enabled replication rule", "master-1250000000", "slave-1250000000"] {
        assert!(run.stderr.contains(words), "{words:?} is not in: {}", run.stderr);
    }
    assert_eq!(cosfs(&["umount", point, "--timeout", "5"]).code, Some(0));
    assert_eq!(http("GET", emulator.ports[2], "/v1/state", "").unwrap().0, 200);
}

#[test]
fn called_by_mount_8_it_understands_fstab() {
    let emulator = Emulator::start();
    let dir = emulator.dir.path().canonicalize().unwrap();
    let config = emulator.config(&dir, "");
    let (helper, point) = (dir.join("mount.cosfs-ha"), dir.join("m"));
    std::os::unix::fs::symlink(crate::common::PROGRAM, &helper).unwrap();
    fs::create_dir(&point).unwrap();
    let run = |options: &str| {
        let output = Command::new(&helper)
            .args(["cos://master-1250000000.cos.ap-guangzhou.myqcloud.com".as_ref(), point.as_os_str()])
            .args(["-n", "-o", options])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let config = format!("rw,_netdev,nofail,config={}", config.display());
    let (code, said) = run(&format!("{config},wombat=1"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("unknown option wombat"), "{said}");
    let (code, said) = run(&format!("{config},cache_size=64MiB"));
    assert_eq!(code, Some(0), "{said}");
    fs::write(point.join("f"), b"x").unwrap();
    let status = cosfs(&["status", point.to_str().unwrap(), "--json"]);
    assert!(status.stdout.contains("\"limit\":67108864"), "{}", status.stdout);
    assert_eq!(cosfs(&["umount", point.to_str().unwrap()]).code, Some(0));
}
