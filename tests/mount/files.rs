//! Files as a program with a local disk expects them, and as plain objects in the bucket.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cosfs_ha::object::Site;
use serde_json::json;

use crate::common::bucket::tree;
use crate::common::{Bench, Emulator, Setup, bytes, wait_until};

#[test]
fn what_is_written_is_read_back_and_lies_in_both_buckets() {
    let mut bench = Bench::start();
    let content = bytes(1, 3_000_000);
    fs::write(bench.path("plain"), &content).unwrap();
    fs::create_dir_all(bench.path("a/b/c")).unwrap();
    fs::write(bench.path("a/b/c/deep é"), b"deep").unwrap();
    fs::write(bench.path("empty"), b"").unwrap();
    assert_eq!(fs::read(bench.path("plain")).unwrap(), content);
    bench.settle();
    for site in Site::ALL {
        let bucket = bench.emulator.bucket(site);
        assert_eq!(bucket.get("plain").as_deref(), Some(&content[..]), "bucket {site}");
        assert_eq!(bucket.get("a/b/c/deep é").as_deref(), Some(&b"deep"[..]), "bucket {site}");
        assert_eq!(bucket.get("empty").as_deref(), Some(&b""[..]), "bucket {site}");
    }
    let before = tree(&bench.root);
    assert_eq!(bench.umount().status.code(), Some(0));
    fs::remove_dir_all(bench.dir().join("cache")).unwrap();
    bench.mount();
    assert_eq!(tree(&bench.root), before, "another mount, without a cache, shows the same");
}

#[test]
fn a_file_can_be_changed_anywhere() {
    let mut bench = Bench::start();
    let path = bench.path("f");
    let mut model = bytes(2, 2_500_000);
    fs::write(&path, &model).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for (offset, len, seed) in [(0_usize, 10, 3), (1_048_570, 20, 4), (2_499_990, 100, 5), (3_000_000, 5, 6)] {
        let piece = bytes(seed, len);
        file.write_all_at(&piece, offset as u64).unwrap();
        model.resize(model.len().max(offset + len), 0);
        model[offset..offset + len].copy_from_slice(&piece);
    }
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), model);
    file.set_len(1_500_000).unwrap();
    model.truncate(1_500_000);
    file.set_len(1_600_000).unwrap();
    model.resize(1_600_000, 0);
    drop(file);
    let mut tail = OpenOptions::new().append(true).open(&path).unwrap();
    tail.write_all(b"at the end").unwrap();
    drop(tail);
    model.extend_from_slice(b"at the end");
    assert_eq!(fs::read(&path).unwrap(), model);
    assert_eq!(fs::metadata(&path).unwrap().len(), model.len() as u64);
    bench.settle();
    assert_eq!(bench.emulator.bucket(Site::B).get("f").as_deref(), Some(&model[..]));
    assert_eq!(bench.umount().status.code(), Some(0));
}

#[test]
fn names_move_and_vanish_as_on_a_disk() {
    let bench = Bench::start();
    let at = |name: &str| bench.path(name);
    fs::write(at("one"), b"1").unwrap();
    fs::write(at("two"), b"2").unwrap();
    fs::rename(at("one"), at("two")).unwrap();
    assert_eq!(fs::read(at("two")).unwrap(), b"1");
    assert!(!at("one").exists());
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/x"), b"x").unwrap();
    assert_eq!(fs::remove_dir(at("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    fs::rename(at("d"), at("e")).unwrap();
    assert_eq!(fs::read(at("e/x")).unwrap(), b"x");
    assert_eq!(fs::read_dir(at("d")).unwrap_err().raw_os_error(), Some(libc::ENOENT));

    let mut open = File::open(at("e/x")).unwrap();
    fs::remove_file(at("e/x")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x", "an open file outlives its name");
    drop(open);
    fs::remove_dir(at("e")).unwrap();

    symlink("two", at("link")).unwrap();
    assert_eq!(fs::read(at("link")).unwrap(), b"1");
    assert_eq!(fs::read_link(at("link")).unwrap().to_str(), Some("two"));
    assert_eq!(fs::create_dir(at("two")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(File::open(at("two/x")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert_eq!(fs::write(at(&"n".repeat(300)), b"").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    let names: Vec<_> = tree(&bench.root).into_keys().collect();
    assert_eq!(names, ["link", "two"]);
    wait_until("bucket B has the same names", Duration::from_secs(20), || {
        bench.emulator.objects("b").into_keys().collect::<Vec<_>>() == ["link", "two"]
    });
}

#[test]
fn attributes_survive_a_new_mount() {
    let mut bench = Bench::start();
    let path = bench.path("f");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
    let then = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    let see = |bench: &Bench| {
        let data = fs::metadata(bench.path("f")).unwrap();
        (data.mode() & 0o7777, data.uid(), data.gid(), data.mtime(), data.size())
    };
    let expect = (0o640, 1234, 2345, 1_500_000_000, 1);
    assert_eq!(see(&bench), expect);
    assert_eq!(bench.umount().status.code(), Some(0));
    fs::remove_dir_all(bench.dir().join("cache")).unwrap();
    bench.mount();
    assert_eq!(see(&bench), expect);
    let age = SystemTime::now().duration_since(fs::metadata(&bench.root).unwrap().modified().unwrap());
    assert!(age.is_ok(), "the root has a time, too");
}

/// A copy that takes longer than the attributes count must not be of two versions.
#[test]
fn who_has_a_file_open_reads_one_version_to_its_end() {
    const SIZE: usize = 32 << 20;
    let bench = Bench::with(Setup { config: "[mount]\nmetadata_ttl = \"1s\"\n".into(), ..Setup::default() });
    let bucket = bench.emulator.bucket(Site::A);
    bucket.put("f", vec![b'1'; SIZE]);
    let mut open = fs::File::open(bench.path("f")).unwrap();
    let mut start = vec![0; 1 << 20];
    open.read_exact(&mut start).unwrap();
    bucket.put("f", vec![b'2'; SIZE / 2]);
    let limit = Duration::from_secs(10);
    wait_until("the new version shows", limit, || fs::metadata(bench.path("f")).unwrap().len() == SIZE as u64 / 2);
    assert_eq!(open.metadata().unwrap().len(), SIZE as u64);
    let second = fs::File::open(bench.path("f")).unwrap();
    fs::set_permissions(bench.path("f"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(bench.path("f")).unwrap().permissions().mode() & 0o777, 0o640);
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert_eq!(start.len() + rest.len(), SIZE);
    assert!(start.iter().chain(&rest).all(|byte| *byte == b'1'), "not a byte of the new version");
    let mut now = Vec::new();
    (&second).read_to_end(&mut now).unwrap();
    assert!(now.len() == SIZE / 2 && now.iter().all(|byte| *byte == b'2'));
    fs::OpenOptions::new().append(true).open(bench.path("f")).unwrap().write_all(b"3").unwrap();
    assert_eq!(fs::metadata(bench.path("f")).unwrap().len(), SIZE as u64 / 2 + 1);
}

/// The kernel says with each write whether the file is still open for appending.
#[test]
fn a_descriptor_that_appends_no_more_writes_where_it_is_told() {
    use rustix::fs::{OFlags, fcntl_setfl};
    let bench = Bench::start();
    fs::write(bench.path("f"), "0123456789").unwrap();
    let file = fs::OpenOptions::new().read(true).append(true).open(bench.path("f")).unwrap();
    (&file).write_all(b"a").unwrap();
    fcntl_setfl(&file, OFlags::empty()).unwrap();
    file.write_all_at(b"x", 2).unwrap();
    fcntl_setfl(&file, OFlags::APPEND).unwrap();
    (&file).write_all(b"b").unwrap();
    drop(file);
    assert_eq!(fs::read(bench.path("f")).unwrap(), b"01x3456789ab");
    bench.settle();
    assert_eq!(bench.emulator.bucket(Site::A).get("f").unwrap(), "01x3456789ab");
}

#[test]
fn changes_made_elsewhere_show_after_the_ttl() {
    let bench = Bench::with(Setup { config: "[mount]\nmetadata_ttl = \"1s\"\n".into(), ..Setup::default() });
    let bucket = bench.emulator.bucket(Site::A);
    bucket.put("foreign/file", "one");
    assert_eq!(fs::read(bench.path("foreign/file")).unwrap(), b"one");
    bucket.put("foreign/file", "two!");
    bucket.put("foreign/new", "n");
    let limit = Duration::from_secs(10);
    wait_until("the new content shows", limit, || fs::read(bench.path("foreign/file")).unwrap() == b"two!");
    wait_until("the new name shows", limit, || fs::read_dir(bench.path("foreign")).unwrap().count() == 2);
    bucket.delete("foreign/file");
    wait_until("the file is gone", limit, || !bench.path("foreign/file").exists());
}

#[test]
fn a_prefix_is_the_root_and_nothing_else_shows() {
    let mut bench = Bench::with(Setup { config: "[mount]\nprefix = \"team/x\"\n".into(), ..Setup::default() });
    let bucket = bench.emulator.bucket(Site::A);
    bucket.put("outside", "o");
    bucket.put("team/x/inside", "i");
    assert_eq!(tree(&bench.root).into_keys().collect::<Vec<_>>(), ["inside"]);
    fs::write(bench.path("new"), b"n").unwrap();
    assert_eq!(bucket.get("team/x/new").as_deref(), Some(&b"n"[..]));
    assert_eq!(bench.umount().status.code(), Some(0));
    bench.setup.args = vec!["--read-only".into()];
    bench.mount();
    assert_eq!(fs::write(bench.path("no"), b"").unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(bench.path("new")).unwrap(), b"n");
}

#[test]
fn two_handles_see_each_other() {
    let bench = Bench::start();
    let mut writer = File::create(bench.path("f")).unwrap();
    let mut reader = File::open(bench.path("f")).unwrap();
    writer.write_all(b"first").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first");
    writer.seek(SeekFrom::Start(0)).unwrap();
    writer.write_all(b"FIRST and more").unwrap();
    reader.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "FIRST and more");
}

#[test]
fn a_key_that_may_only_touch_the_mounted_folder_is_enough() {
    let emulator = Emulator::start();
    for site in ["a", "b"] {
        // Everything else that this program itself would ask for.
        emulator.faults(site, json!([{"kind": "status", "status": 403, "key_prefix": ".cosfs-ha/"}]));
    }
    let bench = Bench::on(emulator, Setup { config: "[mount]\nprefix = \"team/x\"\n".into(), ..Setup::default() });
    fs::write(bench.path("f"), b"content").unwrap();
    bench.settle();
    std::thread::sleep(Duration::from_secs(3));
    let status = bench.status();
    assert!(status["linkages"].as_array().unwrap().iter().all(|linkage| linkage["health"] == "up"), "{status}");
    // What it puts there is its own.
    for taken in [fs::create_dir(bench.path(".cosfs-ha")), fs::write(bench.path(".cosfs-ha"), "x")] {
        assert_eq!(taken.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
    assert_eq!(bench.shell("ls -A").trim(), "f");
}

/// Whoever may write into a program must not thereby get to run code as its owner.
#[test]
fn a_file_that_changes_loses_its_set_user_id() {
    let bench = Bench::with(Setup { args: vec!["--allow-other".into()], ..Setup::default() });
    let mode = |name: &str| fs::metadata(bench.path(name)).unwrap().mode() & 0o7777;
    let stranger = "setpriv --reuid=12345 --regid=12345 --clear-groups";
    let rows = [
        ("written", "echo x >> written"),
        ("emptied", ": > emptied"),
        ("cut", "truncate -s 3 cut"),
        ("longer", "truncate -s 9999 longer"),
    ];
    for (name, command) in rows {
        fs::write(bench.path(name), "content").unwrap();
        bench.shell(&format!("chmod 6777 {name}; {stranger} sh -c '{command}'"));
        assert_eq!(mode(name), 0o777, "{name}");
    }
    bench.shell("echo x > mine; chmod 6755 mine; echo y >> mine");
    assert_eq!(mode("mine"), 0o6755, "root may keep them");
    bench.shell("chown 12345 mine");
    assert_eq!(mode("mine"), 0o755, "another owner");
    bench.shell("echo x > locked; chmod 2644 locked; chown 12345 locked");
    assert_eq!(mode("locked"), 0o2644, "without the right to execute it is no privilege");
}
