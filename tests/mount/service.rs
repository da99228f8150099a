//! What surrounds a mount: keys that change under it, the service manager, fstab, the package.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::probe::Prober;
use crate::common::{Bench, Emulator, PROGRAM, Setup, wait_until, write_private};

/// Writes a new STS file and renames it over the old one, as tools that fetch keys do.
fn sts(path: &Path, n: u32) {
    let fresh = path.with_extension("fresh");
    let text = format!(
        "COSAccessKeyId=AKIDtemporary{n}\nCOSSecretKey=temporarySecret{n}\nCOSAccessToken=token{n}\n\
         COSAccessTokenExpire=2030-01-01T00:00:00\n"
    );
    write_private(&fresh, &text);
    fs::rename(&fresh, path).unwrap();
}

fn identity(n: u32) -> serde_json::Value {
    json!({"secret_id": format!("AKIDtemporary{n}"), "secret_key": format!("temporarySecret{n}"), "token": format!("token{n}")})
}

#[test]
fn keys_are_replaced_under_load_without_one_failed_operation() {
    let emulator = Emulator::start();
    let keys = emulator.dir.path().join("sts");
    sts(&keys, 0);
    emulator.put("/v1/credentials", &json!([identity(0)]));
    // Takes the place of the key pair that the bench's configuration names.
    let args = vec!["-o".into(), format!("passwd_file={}", keys.display())];
    let bench = Bench::on(emulator, Setup { args, keyless: true, ..Setup::default() });
    let probers: Vec<Prober> = (0..4).map(|n| Prober::start(&bench.path(&format!("d{n}")), n)).collect();
    for n in 1..=8 {
        std::thread::sleep(Duration::from_millis(700));
        // The new file, and in the same moment the end of the old keys.
        sts(&keys, n);
        bench.emulator.put("/v1/credentials", &json!([identity(n)]));
    }
    std::thread::sleep(Duration::from_secs(1));
    let mut steps = 0;
    for prober in probers {
        let report = prober.end();
        assert!(report.errors().is_empty(), "{:?}", report.errors());
        steps += report.steps.len();
    }
    assert!(steps > 100, "{steps}");
    assert_eq!(bench.status()["master"], "a");
    bench.settle();
    assert!(bench.log().contains("newer credentials"), "a request was refused with the old ones");
    assert!(!bench.log().contains("temporarySecret"));
}

#[test]
fn the_service_manager_hears_of_it_all() {
    let emulator = Emulator::start();
    let place = emulator.dir.path().join("notify");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let env = vec![
        ("NOTIFY_SOCKET".to_string(), place.display().to_string()),
        ("WATCHDOG_USEC".to_string(), "500000".to_string()),
    ];
    let mut bench = Bench::on(emulator, Setup { env, ..Setup::default() });
    let hear = |wanted: &str| {
        let (mut buffer, end) = ([0; 4096], Instant::now() + Duration::from_secs(20));
        loop {
            let n = socket.recv(&mut buffer).expect(wanted);
            if String::from_utf8_lossy(&buffer[..n]).lines().any(|line| line.starts_with(wanted)) {
                return;
            }
            assert!(Instant::now() < end, "{wanted} was never said");
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    assert!(Command::new("kill").args(["-HUP", &bench.pid().to_string()]).status().unwrap().success());
    hear("RELOADING=1");
    hear("READY=1");
    let waiting = std::thread::scope(|scope| {
        let heard = scope.spawn(|| hear("STOPPING=1"));
        let code = bench.end_by("-TERM");
        heard.join().map(|()| code)
    });
    assert_eq!(waiting.unwrap(), Some(0));
}

#[test]
fn the_unit_is_what_systemd_accepts() {
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        return eprintln!("systemd-analyze is not installed: nothing to ask");
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package.d/cosfs-ha@.service");
    let text = fs::read_to_string(unit).unwrap().replace("/usr/bin/cosfs-ha", PROGRAM);
    let dir = tempfile::tempdir().unwrap();
    let instance = dir.path().join("cosfs-ha@data.service");
    fs::write(&instance, text).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&instance).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("cosfs-ha@data.service:"), "{said}");
}

/// A root of its own over this host's: what is installed there is gone afterwards.
#[test]
fn the_package_installs_mounts_and_goes_without_a_trace() {
    let emulator = Emulator::start();
    let dir = emulator.dir.path().canonicalize().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made =
        Command::new(root.join("scripts/package")).args(["--binary", PROGRAM, "--out"]).arg(&dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let package = String::from_utf8(made.stdout).unwrap().trim().to_string();
    let config = emulator.config(&dir, "");
    let script = format!(
        "set -eu\n\
         mount -t tmpfs tmpfs {dir}/space\nmkdir {dir}/space/upper {dir}/space/work {dir}/space/root\nnew={dir}/space/root\n\
         mount -t overlay overlay -o lowerdir=/,upperdir={dir}/space/upper,workdir={dir}/space/work $new\n\
         for place in dev proc sys; do mount --rbind /$place $new/$place; done\n\
         mount -t tmpfs tmpfs $new/run\nmount -t tmpfs tmpfs $new/tmp\n\
         mkdir -p $new/data $new/tmp/given\ncp {package} $new/tmp/given/p.deb\ncp {config} $new/tmp/given/data.toml\n\
         cat > $new/tmp/given/steps <<'END'\n\
         set -eu\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nunset NOTIFY_SOCKET\n\
         dpkg -i --force-depends /tmp/given/p.deb > /dev/null\n\
         install -m 600 /tmp/given/data.toml /etc/cosfs-ha/data.toml\n\
         sed -i '/^dir = /d' /etc/cosfs-ha/data.toml\n\
         echo 'none /data cosfs-ha _netdev,nofail,noatime,allow_other,config=/etc/cosfs-ha/data.toml 0 0' > /etc/fstab\n\
         mount /data\n\
         echo hello > /data/greeting; cat /data/greeting\n\
         findmnt -n -o FSTYPE /data\n\
         cosfs-ha status /data > /dev/null\n\
         cosfs-ha umount /data 2> /dev/null\n\
         mount -t cosfs-ha none /data -o ro,noexec,config=/etc/cosfs-ha/data.toml\n\
         touch /data/not 2> /dev/null && echo 'not read-only'\n\
         findmnt -n -o OPTIONS /data\n\
         cosfs-ha umount /data 2> /dev/null\n\
         code=0; mount.cosfs-ha none /data -o wombat,config=/etc/cosfs-ha/data.toml 2> /dev/null || code=$?\n\
         echo unknown option $code\n\
         rm /etc/cosfs-ha/data.toml\n\
         dpkg --purge --force-depends cosfs-ha > /dev/null\n\
         ls -d /usr/bin/cosfs-ha /usr/sbin/mount.cosfs-ha /usr/lib/systemd/system/cosfs-ha* /usr/share/doc/cosfs-ha /etc/cosfs-ha 2> /dev/null || true\n\
         ls -d /var/lib/cosfs-ha\n\
         END\n\
         exec chroot $new sh /tmp/given/steps\n",
        dir = dir.display(),
        config = config.display(),
    );
    fs::create_dir(dir.join("space")).unwrap();
    let output =
        Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{wrong}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["hello", "fuse.cosfs-ha"], "{said}\n{wrong}");
    assert!(lines[2].starts_with("ro,") && lines[2].contains("noexec"), "{said}");
    assert_eq!(
        lines[3..],
        ["unknown option 2", "/var/lib/cosfs-ha"],
        "nothing but the journal is left: {said}\n{wrong}"
    );
    wait_until("both buckets have it", Duration::from_secs(20), || emulator.objects("b").contains_key("greeting"));
}
