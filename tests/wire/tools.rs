//! Programs that other people use with COS, unmodified, against the emulator: s3fs and rclone over the S3 dialect, coscmd over
//! the COS one. Each brings a folder in, compares it, and deletes it.
//!
//! A mount of a foreign program can hang like any other: every step is a process with a deadline, and the mount is taken away
//! whatever happens.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cosfs_ha::emulator::{BUCKETS, Emulator, SECRET_ID, SECRET_KEY};
use cosfs_ha::object::Site;

use crate::client::{eventually, start};
use crate::python::python;

const A: Site = Site::A;
const BUCKET: &str = BUCKETS[0].0;
/// Above the part size that the programs are told, so that both forms of upload are used.
const LARGE_BYTES: usize = 12 << 20;

/// A program with nothing of this machine's settings for clouds and proxies.
fn program(name: impl AsRef<std::ffi::OsStr>, seconds: u64) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(seconds.to_string()).arg(name.as_ref());
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "AWS_CA_BUNDLE"] {
        command.env_remove(name);
    }
    command.env("PYTHONWARNINGS", "ignore").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("timeout(1) runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn succeed(command: &mut Command) -> String {
    let (good, text) = run(command);
    assert!(good, "{command:?}\n{text}");
    text
}

fn shell(script: &str, args: &[&Path]) -> String {
    let mut command = program("bash", 60);
    command.args(["-euc", script, "bash"]).args(args);
    succeed(&mut command)
}

/// A folder with a large file, small ones and names that need care. All bytes differ, so that no mix-up goes unseen.
fn folder(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    std::fs::create_dir_all(source.join("deep/er")).expect("mkdir");
    let large: Vec<u8> = (0..LARGE_BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(source.join("large"), large).expect("write");
    std::fs::write(source.join("deep/empty"), b"").expect("write");
    std::fs::write(source.join("deep/er/a b+c~é(1).txt"), b"with care").expect("write");
    std::fs::write(source.join("目录"), b"unicode").expect("write");
    source
}

fn keys(emulator: &Emulator, prefix: &str) -> Vec<(String, u64)> {
    let objects = emulator.state(true).sites.a.objects;
    let here = objects.into_iter().filter(|o| !o.delete_marker && o.key.starts_with(prefix) && !o.key.ends_with('/'));
    here.map(|o| (o.key, o.size)).collect()
}

fn expected(prefix: &str) -> Vec<(String, u64)> {
    let files = [("deep/empty", 0), ("deep/er/a b+c~é(1).txt", 9), ("large", LARGE_BYTES as u64), ("目录", 7)];
    files.map(|(name, size)| (format!("{prefix}{name}"), size)).into()
}

fn is_mounted(at: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == at.to_str())
}

/// A foreign mount in the foreground; gone when dropped.
struct Mount {
    at: PathBuf,
    process: Child,
    log: PathBuf,
}

impl Mount {
    fn start(mut command: Command, at: &Path, log: PathBuf) -> Mount {
        let out = std::fs::File::create(&log).expect("a log");
        let process = command.stdout(out.try_clone().expect("dup")).stderr(out).spawn().expect("timeout(1) runs");
        let mut mount = Mount { at: at.to_path_buf(), process, log };
        let end = Instant::now() + Duration::from_secs(20);
        while !is_mounted(&mount.at) {
            let ended = mount.process.try_wait().expect("our child");
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}\n{}", mount.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        mount
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// In order: what the program still holds back is uploaded.
    fn end(mut self) {
        succeed(program("fusermount3", 20).arg("-u").arg(&self.at));
        let status = self.process.wait().expect("our child");
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.at) {
            let _ = run(program("fusermount3", 10).args(["-u", "-z"]).arg(&self.at));
        }
        // timeout(1) passes a termination on to the program; killed, it could not.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

#[test]
fn s3fs_mounts_the_bucket() {
    let emulator = start();
    let dir = tempfile::tempdir().expect("tempdir");
    let (source, at, password) = (folder(dir.path()), dir.path().join("mnt"), dir.path().join("password"));
    std::fs::create_dir(&at).expect("mkdir");
    let mount = |id: &str, key: &str| {
        std::fs::write(&password, format!("{id}:{key}\n")).expect("write");
        shell("chmod 600 \"$1\"", &[&password]);
        let mut command = program("s3fs", 120);
        let options = format!(
            "url={},use_path_request_style,sigv4,passwd_file={},multipart_size=5,retries=1",
            emulator.endpoint(A),
            password.display()
        );
        command.args([BUCKET, at.to_str().expect("UTF-8"), "-f", "-o", &options]);
        command
    };
    let (_, text) = run(&mut mount(SECRET_ID, "wrong"));
    assert!(text.contains("invalid credentials") && !is_mounted(&at), "{text}");
    assert!(emulator.log(A).iter().all(|entry| entry.status == Some(403)), "{:?}", emulator.log(A));

    let mounted = Mount::start(mount(SECRET_ID, SECRET_KEY), &at, dir.path().join("s3fs.log"));
    shell("cp -r \"$1\" \"$2/in\"; diff -r \"$1\" \"$2/in\"", &[&source, &at]);
    assert_eq!(keys(&emulator, ""), expected("in/"));
    let uploads =
        |method: &str| emulator.log(A).iter().filter(|e| e.method == method && e.query.contains("uploadId")).count();
    assert!(uploads("PUT") >= 2, "the large file came in parts");
    // Renames and changes of mode are copies with new metadata.
    shell("mv \"$2/in\" \"$2/moved\"; chmod 640 \"$2/moved/large\"; diff -r \"$1\" \"$2/moved\"", &[&source, &at]);
    assert_eq!(keys(&emulator, ""), expected("moved/"));
    mounted.end();

    let mounted = Mount::start(mount(SECRET_ID, SECRET_KEY), &at, dir.path().join("s3fs.log"));
    let shown =
        shell("diff -r \"$1\" \"$2/moved\"; stat -c %a \"$2/moved/large\"; rm -r \"$2/moved\"", &[&source, &at]);
    assert_eq!(shown.trim(), "640", "mode kept as metadata");
    assert_eq!(keys(&emulator, ""), []);
    mounted.end();
}

/// Both address styles: as the documentation of rclone configures COS (the bucket in the host name), and in the path.
fn rclone_config(emulator: &Emulator, key: &str, dir: &Path) -> PathBuf {
    let account = format!("access_key_id = {SECRET_ID}\nsecret_access_key = {key}\n");
    let text = format!(
        "[virtual]\ntype = s3\nprovider = TencentCOS\nendpoint = http://cos.{}.myqcloud.com\n{account}\
         [path]\ntype = s3\nprovider = Other\nendpoint = {}\n{account}",
        BUCKETS[0].1,
        emulator.endpoint(A),
    );
    let path = dir.join("rclone.conf");
    std::fs::write(&path, text).expect("write");
    path
}

fn rclone(config: &Path, proxy: Option<String>) -> Command {
    let mut command = program("rclone", 60);
    command.arg("--config").arg(config).args(["--retries=1", "--low-level-retries=1"]);
    command.args(["--s3-upload-cutoff=5Mi", "--s3-chunk-size=5Mi"]);
    if let Some(proxy) = proxy {
        command.env("http_proxy", proxy);
    }
    command
}

#[test]
fn rclone_copies_checks_and_deletes() {
    let emulator = start();
    let dir = tempfile::tempdir().expect("tempdir");
    let source = folder(dir.path());
    let config = rclone_config(&emulator, "wrong", dir.path());
    let (good, text) = run(rclone(&config, None).args(["lsf", &format!("path:{BUCKET}")]));
    assert!(!good && text.contains("SignatureDoesNotMatch"), "{text}");

    let config = rclone_config(&emulator, SECRET_KEY, dir.path());
    let names = succeed(rclone(&config, None).args(["lsf", "path:"]));
    assert_eq!(names, format!("{}/\n{}/\n", BUCKETS[0].0, BUCKETS[1].0), "the list of buckets");
    let proxy = Some(emulator.endpoint(A));
    for (remote, proxy) in [("virtual", proxy), ("path", None)] {
        let target = format!("{remote}:{BUCKET}/{remote}");
        succeed(rclone(&config, proxy.clone()).arg("copy").arg(&source).arg(&target));
        assert_eq!(keys(&emulator, remote), expected(&format!("{remote}/")));
        let checked = succeed(rclone(&config, proxy.clone()).args(["check", "--download"]).arg(&source).arg(&target));
        assert!(checked.contains("4 matching files"), "{checked}");
        // Copies on the server, in parts above the cutoff.
        succeed(rclone(&config, proxy.clone()).args(["move", "--s3-copy-cutoff=5Mi", &target, &format!("{target}-2")]));
        assert_eq!(keys(&emulator, remote), expected(&format!("{remote}-2/")));
        succeed(rclone(&config, proxy).arg("purge").arg(format!("{target}-2")));
        assert_eq!(keys(&emulator, remote), []);
    }
}

#[test]
fn rclone_mounts_the_bucket() {
    let emulator = start();
    let dir = tempfile::tempdir().expect("tempdir");
    let (source, at) = (folder(dir.path()), dir.path().join("mnt"));
    std::fs::create_dir(&at).expect("mkdir");
    let config = rclone_config(&emulator, SECRET_KEY, dir.path());
    let mut command = rclone(&config, None);
    command.arg("mount").arg(format!("path:{BUCKET}")).arg(&at);
    command.args(["--vfs-cache-mode=writes", "--vfs-write-back=0s"]);
    command.arg("--cache-dir").arg(dir.path().join("cache"));
    let mounted = Mount::start(command, &at, dir.path().join("rclone.log"));
    shell("cp -r \"$1\" \"$2/in\"", &[&source, &at]);
    // Uploads go on after close.
    eventually("everything uploaded", || keys(&emulator, "") == expected("in/"));
    shell("diff -r \"$1\" \"$2/in\"; rm -r \"$2/in\"", &[&source, &at]);
    eventually("everything deleted", || keys(&emulator, "").is_empty());
    mounted.end();
}

#[test]
fn coscmd_carries_a_folder() {
    let emulator = start();
    let dir = tempfile::tempdir().expect("tempdir");
    let (source, config) = (folder(dir.path()), dir.path().join("cos.conf"));
    let coscmd = |key: Option<&str>, args: &[&str]| {
        let mut command = program(python().with_file_name("coscmd"), 60);
        command.arg("-c").arg(&config).arg("-l").arg(dir.path().join("log")).env("http_proxy", emulator.endpoint(A));
        if let Some(key) = key {
            command.args(["config", "-a", SECRET_ID, "-s", key, "-b", BUCKET, "-r", BUCKETS[0].1]);
            command.args(["-p", "5", "--retry", "1", "--do-not-use-ssl"]);
        }
        command.args(args);
        command
    };
    succeed(&mut coscmd(Some("wrong"), &[]));
    assert!(!run(&mut coscmd(None, &["list"])).0, "a wrong key lists nothing");
    succeed(&mut coscmd(Some(SECRET_KEY), &[]));
    let source_text = source.to_str().expect("UTF-8");
    succeed(&mut coscmd(None, &["upload", "-r", &format!("{source_text}/"), "in/"]));
    assert_eq!(keys(&emulator, "in/"), expected("in/"));
    let listed = succeed(&mut coscmd(None, &["list", "-r", "in/"]));
    assert!(expected("in/").iter().all(|(key, _)| listed.contains(key)), "{listed}");
    let info = succeed(&mut coscmd(None, &["info", "in/large"]));
    assert!(info.contains(&LARGE_BYTES.to_string()), "{info}");
    let back = dir.path().join("back");
    succeed(&mut coscmd(None, &["download", "-r", "in/", back.to_str().expect("UTF-8")]));
    shell("diff -r \"$1\" \"$2\"", &[&source, &back]);
    succeed(&mut coscmd(None, &["copy", &format!("{BUCKET}.cos.{}.myqcloud.com/in/large", BUCKETS[0].1), "copy"]));
    assert_eq!(keys(&emulator, "copy"), [("copy".into(), LARGE_BYTES as u64)]);
    succeed(&mut coscmd(None, &["delete", "-f", "copy"]));
    succeed(&mut coscmd(None, &["delete", "-r", "-f", "in/"]));
    assert_eq!(keys(&emulator, ""), []);
}
