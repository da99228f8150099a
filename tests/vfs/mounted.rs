//! The same file system through the kernel. The mount lives in a child process (a process that opens files of its own mount can
//! end up unkillable), with a time limit; whatever happens, the connection is aborted at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cosfs_ha::fuse::{self, MountOptions};
use cosfs_ha::vfs::{Vfs, VfsOptions};

use crate::bench::runtime;
use crate::fake::Fake;

const POINT: &str = "COSFS_HA_TEST_MOUNT_POINT";
const LIMIT: Duration = Duration::from_secs(60);

/// Not a test of its own: the body of the child process.
#[test]
#[ignore = "started by the tests of this file"]
fn child() {
    let Some(point) = std::env::var_os(POINT) else { return };
    let _ = env_logger::builder().filter_level(log::LevelFilter::Warn).try_init();
    let rt = runtime();
    let store = Fake::new();
    for n in 0..3000 {
        store.foreign_put(&format!("many/f{n:04}"), b"x", &[]);
    }
    store.foreign_put("many/link", b"f0000", &[("mode", "41471")]);
    store.foreign_put("big", &vec![7; 5 << 20], &[]);
    let options = VfsOptions { max_stall: Duration::from_secs(5), default_uid: 0, ..VfsOptions::default() };
    let vfs = Vfs::new(store.clone(), options, rt.handle().clone());
    let options =
        MountOptions { mountpoint: point.into(), source: "a,b c".into(), allow_other: true, ..Default::default() };
    match fuse::mount(vfs.clone(), options, rt.handle().clone()) {
        Ok(mounted) => {
            println!("\nMOUNTED {}", mounted.connection());
            let control = std::thread::spawn(move || {
                for line in std::io::stdin().lines().map_while(Result::ok) {
                    match &*line {
                        "down" => store.set_down(true),
                        "up" => store.set_down(false),
                        "slow" => store.set_delay(Duration::from_secs(3600)),
                        "keys" => println!("\nKEYS {}", store.keys().iter().filter(|k| !k.starts_with("many")).count()),
                        _ => {}
                    }
                    println!("\nDONE");
                }
            });
            let result = rt.block_on(mounted.wait());
            println!("\nENDED {result:?}");
            drop(control);
        }
        Err(e) => println!("\nFAILED {e}"),
    }
    std::process::exit(0);
}

struct Mount {
    child: Child,
    lines: mpsc::Receiver<String>,
    point: PathBuf,
    connection: String,
    _dir: tempfile::TempDir,
}

fn start(point: &Path) -> (Child, mpsc::Receiver<String>) {
    let mut child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "mounted::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(POINT, point)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let stdout = child.stdout.take().expect("piped");
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    (child, lines)
}

fn wait_for(lines: &mpsc::Receiver<String>, words: &[&str]) -> String {
    let until = Instant::now() + LIMIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left).unwrap_or_else(|e| panic!("waiting for {words:?}: {e}"));
        if words.iter().any(|word| line.starts_with(word)) {
            return line;
        }
    }
}

impl Mount {
    fn new() -> Mount {
        assert!(rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(), "needs root and /dev/fuse");
        let dir = tempfile::tempdir().expect("a directory");
        let point = dir.path().join("a mount point");
        fs::create_dir(&point).expect("made");
        let (child, lines) = start(&point);
        let line = wait_for(&lines, &["MOUNTED", "FAILED"]);
        let connection = line.strip_prefix("MOUNTED ").unwrap_or_else(|| panic!("{line}")).to_string();
        Mount { child, lines, point, connection, _dir: dir }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().expect("piped"), "{word}").expect("told");
        wait_for(&self.lines, &["DONE"]);
    }

    fn at(&self, path: &str) -> PathBuf {
        self.point.join(path)
    }

    /// Runs the body with a time limit; a body that hangs is freed by aborting the connection, and fails.
    fn within_limit(&mut self, body: impl FnOnce(PathBuf) + Send + 'static) {
        let point = self.point.clone();
        let (tell, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            body(point);
            let _ = tell.send(());
        });
        if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(LIMIT) {
            self.abort();
            panic!("hung");
        }
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn abort(&self) {
        let _ = Command::new("mount").args(["-t", "fusectl", "none", "/sys/fs/fuse/connections"]).output();
        let _ = fs::write(format!("/sys/fs/fuse/connections/{}/abort", self.connection), "1");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).output();
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.abort();
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

#[test]
fn plain_programs_work() {
    let mut mount = Mount::new();
    mount.within_limit(|point| {
        let at = |path: &str| point.join(path);
        fs::write(at("hello"), "world").expect("writes");
        assert_eq!(fs::read_to_string(at("hello")).expect("reads"), "world");
        fs::create_dir_all(at("d/e/f")).expect("makes");
        fs::rename(at("hello"), at("d/e/f/h")).expect("renames");
        fs::rename(at("d/e"), at("d/g")).expect("renames a directory");
        assert_eq!(fs::read_to_string(at("d/g/f/h")).expect("reads"), "world");
        symlink("g/f/h", at("d/l")).expect("links");
        assert_eq!(fs::read_to_string(at("d/l")).expect("follows"), "world");
        fs::set_permissions(at("d/l"), fs::Permissions::from_mode(0o640)).expect("chmod through the link");
        let meta = fs::metadata(at("d/g/f/h")).expect("there");
        assert_eq!((meta.mode(), meta.size(), meta.blksize()), (0o100640, 5, 1 << 20));
        let file = OpenOptions::new().read(true).write(true).open(at("big")).expect("opens");
        file.write_all_at(b"abc", 3 << 20).expect("writes in the middle");
        file.sync_all().expect("syncs");
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, (3 << 20) - 1).expect("reads");
        assert_eq!(&bytes, b"\x07abc\x07");
        file.set_len(100).expect("truncates");
        assert_eq!(file.metadata().expect("there").len(), 100);
        fs::remove_file(at("big")).expect("unlinks");
        assert_eq!(file.read_at(&mut bytes, 98).expect("reads on"), 2);
        drop(file);
        let mut log = OpenOptions::new().append(true).create(true).open(at("log")).expect("opens");
        for n in 0..20 {
            writeln!(log, "line {n}").expect("appends");
        }
        drop(log);
        let mut log = File::open(at("log")).expect("opens");
        log.seek(SeekFrom::End(-8)).expect("seeks");
        let mut tail = String::new();
        log.read_to_string(&mut tail).expect("reads");
        assert_eq!(tail, "line 19\n");
        assert_eq!(fs::hard_link(at("log"), at("log2")).expect_err("no hard links").raw_os_error(), Some(libc::EPERM));
        let error = fs::remove_dir(at("d")).expect_err("not empty");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
        fs::remove_dir_all(at("d")).expect("removes");
        assert!(!at("d").exists());
        assert_eq!(File::open(at("nothing")).expect_err("absent").raw_os_error(), Some(libc::ENOENT));
    });
    let shell = |script: &str| {
        let output =
            Command::new("timeout").args(["-k", "1", "40", "sh", "-ec", script]).current_dir(&mount.point).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(shell("ls many | wc -l").trim(), "3001");
    assert_eq!(shell("find many -type l").trim(), "many/link", "unknown types are asked for, not guessed");
    assert_eq!(shell("ls -l many | grep -c '^-rw'").trim(), "3000");
    assert_eq!(shell("cd many && rm f00* && ls | wc -l").trim(), "2901");
    assert_eq!(shell("mkdir t && cp -rp many t/copy && mv t u && ls u/copy | wc -l && rm -r u").trim(), "2901");
    assert_eq!(
        shell("echo one > s; echo two >> s; cat s | tr '\\n' ' '; touch -d @1000.5 s; stat -c %.1Y s").trim(),
        "one two 1000.5"
    );
    assert_eq!(shell("dd if=/dev/zero of=z bs=64k count=64 conv=fsync 2>/dev/null; dd if=/dev/zero bs=1M count=4 2>/dev/null | cmp - z; stat -c %s z").trim(), "4194304");
    assert!(shell("mount | grep a_b_c").contains("type fuse.cosfs-ha"));
    assert!(shell("df -P . | tail -1").contains("a_b_c"));
    let python = "import mmap,os
f=open('m','wb+'); f.truncate(8192); f.flush()
m=mmap.mmap(f.fileno(),8192); m[5000:5003]=b'abc'; f.close(); m.flush(); m[1:2]=b'z'; m.close()
";
    let run =
        Command::new("timeout").args(["-k", "1", "40", "python3", "-c", python]).current_dir(&mount.point).status();
    if run.is_ok_and(|status| status.success()) {
        let data = shell("sleep 0.3; od -An -c -j5000 -N3 m; od -An -c -j1 -N1 m");
        assert_eq!(data.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "z"]);
    }
}

#[test]
fn an_outage_ends_in_errors_and_heals() {
    let mut mount = Mount::new();
    let (seen, unseen) = (mount.at("many/f0001"), mount.at("many/f2999"));
    assert_eq!(fs::read(&seen).expect("reads"), b"x");
    mount.tell("down");
    std::thread::sleep(Duration::from_millis(5500));
    let start = Instant::now();
    assert!(seen.metadata().is_ok(), "attributes last seen");
    let error = unseen.metadata().expect_err("never asked for");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    let error = mount.at("other").metadata().expect_err("unknown");
    assert_ne!(error.raw_os_error(), Some(libc::ENOENT), "an outage is not absence");
    let error = fs::write(mount.at("w"), "data").expect_err("cannot be stored");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(start.elapsed() < Duration::from_secs(7), "within max_stall");
    mount.tell("up");
    mount.tell("slow");
    let start = Instant::now();
    assert!(mount.at("many/f2998").metadata().is_err());
    assert!(start.elapsed() < Duration::from_secs(8), "a silent store is answered for: {:?}", start.elapsed());
    assert!(Command::new("df").arg(&mount.point).output().expect("runs").status.success(), "statfs needs nobody");
}

#[test]
fn unmounting_from_outside_ends_the_session_and_mount_points_are_checked() {
    let mut mount = Mount::new();
    let refuse = |point: &Path, word: &str| {
        let (mut child, lines) = start(point);
        let line = wait_for(&lines, &["MOUNTED", "FAILED"]);
        assert!(line.starts_with("FAILED") && line.contains(word), "{line}");
        let _ = child.wait();
    };
    refuse(&mount.point, "already");
    refuse(&mount.point.join("missing"), "does not exist");
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "").expect("written");
    refuse(&dir.path().join("file"), "not a directory");
    refuse(dir.path(), "not empty");
    let open = File::create(mount.at("open")).expect("creates");
    assert!(Command::new("umount").arg("-l").arg(&mount.point).status().expect("runs").success());
    drop(open);
    let line = wait_for(&mount.lines, &["ENDED"]);
    assert_eq!(line, "ENDED Ok(())");
    assert!(mount.child.wait().expect("ended").success());
}
