//! What POSIX promises, one promise a test.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cosfs_ha::vfs::{Error, Kind, ROOT, RenameMode, SetAttr, SetTime, VfsOptions};

use crate::bench::{Bench, User, ctx};

#[test]
fn a_small_file_is_one_put_and_reads_back() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        user.save("hello", b"world").await.expect("saves");
        assert_eq!(bench.store.puts(), 1);
        assert_eq!(bench.store.data("hello").expect("stored"), "world");
        assert_eq!(user.load("hello").await.expect("loads"), b"world");
        let headers = bench.store.headers("hello").expect("stored");
        assert_eq!(headers.user["mode"], (0o100644).to_string());
        assert_eq!(headers.user["uid"], "1000");
        assert!(bench.vfs.uncommitted().is_empty());
    });
}

#[test]
fn random_writes_show_through_and_merge_with_the_stored_content() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"0123456789", &[]);
    bench.run(async {
        let one = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        let two = user.open("f", libc::O_RDONLY).await.expect("opens").fh;
        user.write(one, 3, b"xx").await.expect("writes");
        user.write(one, 14, b"end").await.expect("writes");
        let expect = b"012xx56789\0\0\0\0end";
        assert_eq!(user.read(two, 0, 100).await.expect("reads"), expect, "every handle sees it at once");
        assert_eq!(user.stat("f").await.expect("there").attr.size, 17);
        user.close(one).await.expect("commits");
        assert_eq!(&bench.store.data("f").expect("stored")[..], expect);
        assert_eq!(user.read(two, 9, 3).await.expect("reads"), b"9\0\0");
        user.close(two).await.expect("closes");
    });
    assert_eq!(bench.store.scratch.load(std::sync::atomic::Ordering::SeqCst), 0, "scratch files are gone");
}

#[test]
fn shrink_then_grow_reads_zeros() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"0123456789", &[]);
    bench.run(async {
        let fh = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        user.write(fh, 6, b"ab").await.expect("writes");
        let ino = user.stat("f").await.expect("there").ino;
        for size in [4, 9] {
            let set = SetAttr { size: Some(size), ..SetAttr::default() };
            bench.vfs.setattr(&ctx(), ino, Some(fh), set).await.expect("truncates");
        }
        assert_eq!(user.read(fh, 0, 100).await.expect("reads"), b"0123\0\0\0\0\0");
        user.close(fh).await.expect("commits");
        user.truncate("f", 2).await.expect("commits by itself");
        assert_eq!(bench.store.data("f").expect("stored"), "01");
        assert!(bench.vfs.uncommitted().is_empty());
    });
}

#[test]
fn append_goes_to_the_end_whatever_the_offset() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        user.save("log", b"a").await.expect("saves");
        let handles = [user.open("log", libc::O_WRONLY | libc::O_APPEND).await.expect("opens").fh, {
            user.open("log", libc::O_WRONLY | libc::O_APPEND).await.expect("opens").fh
        }];
        let writes = (0..40usize).map(|n| {
            let user = user.clone();
            async move { user.write(handles[n % 2], 0, &[b'0' + (n % 10) as u8; 3]).await.expect("appends") }
        });
        futures::future::join_all(writes).await;
        for fh in handles {
            user.close(fh).await.expect("commits");
        }
        let data = user.load("log").await.expect("loads");
        assert_eq!(data.len(), 1 + 40 * 3);
        assert!(data[1..].chunks(3).all(|c| c[0] == c[1] && c[1] == c[2]), "no append is torn or lost");
    });
}

#[test]
fn writes_during_a_commit_neither_wait_nor_get_lost() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fh = user.create("f", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"first version").await.expect("writes");
        bench.store.set_delay(Duration::from_millis(200));
        let commit = tokio::spawn({
            let vfs = bench.vfs.clone();
            async move { vfs.fsync(&ctx(), fh).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        user.write(fh, 0, b"other").await.expect("writes on");
        assert_eq!(user.read(fh, 0, 50).await.expect("reads"), b"other version");
        assert!(!commit.is_finished(), "the write did not wait for the upload");
        commit.await.expect("no panic").expect("commits");
        assert_eq!(bench.store.data("f").expect("stored"), "first version");
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.data("f").expect("stored"), "other version");
    });
}

#[test]
fn a_commit_that_ends_under_a_write_does_not_take_it_away() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fh = user.create("f", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"first version").await.expect("writes");
        bench.store.set_delay(Duration::from_millis(100));
        let commit = tokio::spawn({
            let vfs = bench.vfs.clone();
            async move { vfs.fsync(&ctx(), fh).await }
        });
        while bench.store.puts() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.store.hold_staging.store(true, SeqCst);
        let write = tokio::spawn({
            let user = user.clone();
            async move { user.write(fh, 0, b"other").await }
        });
        while bench.store.held.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        commit.await.expect("no panic").expect("commits");
        bench.store.hold_staging.store(false, SeqCst);
        write.await.expect("no panic").expect("writes");
        assert_eq!(user.read(fh, 0, 50).await.expect("reads"), b"other version");
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.data("f").expect("stored"), "other version");
    });
}

#[test]
fn nothing_is_lost_between_writes_and_commits_of_one_file() {
    const BLOCK: usize = 16;
    const BLOCKS: usize = 400;
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fh = user.create("f", libc::O_RDWR).await.expect("creates").fh;
        let other = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let commits: Vec<_> = [fh, other]
            .into_iter()
            .map(|fh| {
                let (vfs, done) = (bench.vfs.clone(), done.clone());
                tokio::spawn(async move {
                    while !done.load(SeqCst) {
                        vfs.flush(&ctx(), fh).await.expect("commits");
                    }
                })
            })
            .collect();
        for n in 0..BLOCKS {
            let content = [n as u8; BLOCK];
            user.write([fh, other][n % 2], (n * BLOCK) as u64, &content).await.expect("writes");
            let seen = user.read(fh, (n * BLOCK) as u64, BLOCK as u32).await.expect("reads");
            assert_eq!(seen, content, "block {n}");
        }
        done.store(true, SeqCst);
        futures::future::try_join_all(commits).await.expect("no panic");
        user.close(fh).await.expect("commits");
        user.close(other).await.expect("commits");
        let stored = bench.store.data("f").expect("stored");
        let wrong = (0..BLOCKS).find(|n| stored[n * BLOCK..][..BLOCK] != [*n as u8; BLOCK]);
        assert_eq!((stored.len(), wrong), (BLOCKS * BLOCK, None));
    });
}

#[test]
fn a_file_outlives_the_directory_that_somebody_else_empties_around_it() {
    let bench = Bench::with(VfsOptions { metadata_ttl: Duration::from_millis(1), ..VfsOptions::default() });
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("d/x", b"what makes it a directory", &[]);
    bench.run(async {
        let fh = user.create("d/f", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"not stored yet").await.expect("writes");
        bench.store.foreign_delete("d/x");
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Whatever is said of the directory now, an acknowledged close has stored the file.
        let _ = user.stat("d").await;
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.data("d/f").expect("stored"), "not stored yet");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(user.load("d/f").await.expect("loads"), b"not stored yet");
    });
}

#[test]
fn the_late_end_of_a_handle_does_not_store_what_another_is_writing() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        user.save("f", b"old").await.expect("saves");
        let first = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        user.write(first, 0, b"new").await.expect("writes");
        bench.vfs.flush(&ctx(), first).await.expect("commits");
        // The kernel tells the end of a handle some time after `close`; the next program may have the file open by then.
        let second = user.open("f", libc::O_RDWR | libc::O_TRUNC).await.expect("opens").fh;
        let puts = bench.store.puts();
        bench.vfs.release(first).expect("ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((bench.store.puts(), &bench.store.data("f").expect("stored")[..]), (puts, &b"new"[..]));
        user.write(second, 0, b"newest").await.expect("writes");
        user.close(second).await.expect("commits");
        assert_eq!((bench.store.puts(), &bench.store.data("f").expect("stored")[..]), (puts + 1, &b"newest"[..]));
    });
}

#[test]
fn filling_in_never_covers_a_newer_write() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", &[b'o'; 100], &[]);
    bench.run(async {
        let fh = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        user.write(fh, 0, b"1").await.expect("writes");
        bench.store.set_delay(Duration::from_millis(200));
        let commit = tokio::spawn({
            let vfs = bench.vfs.clone();
            async move { vfs.fsync(&ctx(), fh).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.store.set_delay(Duration::ZERO);
        user.write(fh, 50, b"22").await.expect("writes while the rest is being fetched");
        assert!(!commit.is_finished());
        commit.await.expect("no panic").expect("commits");
        user.close(fh).await.expect("commits");
        let data = bench.store.data("f").expect("stored");
        assert_eq!((&data[..2], &data[49..53], data.len()), (&b"1o"[..], &b"o22o"[..], 100));
    });
}

#[test]
fn concurrent_flushes_share_one_commit() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fh = user.create("f", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"x").await.expect("writes");
        bench.store.set_delay(Duration::from_millis(50));
        let flushes = (0..8).map(|_| {
            let vfs = bench.vfs.clone();
            async move { vfs.flush(&ctx(), fh).await.expect("commits") }
        });
        futures::future::join_all(flushes).await;
        assert_eq!(bench.store.puts(), 1);
    });
}

#[test]
fn an_unlinked_open_file_lives_on_and_is_never_uploaded() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        user.save("f", b"data").await.expect("saves");
        let fh = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        user.unlink("f").await.expect("unlinks");
        assert!(matches!(user.stat("f").await, Err(Error::NotFound)));
        assert_eq!(user.read(fh, 0, 9).await.expect("reads"), b"data");
        user.write(fh, 4, b"!").await.expect("writes");
        assert_eq!(user.read(fh, 0, 9).await.expect("reads"), b"data!");
        user.save("f", b"new").await.expect("the name is free again");
        user.close(fh).await.expect("nothing to commit");
        assert_eq!(bench.store.data("f").expect("stored"), "new");
    });
}

#[test]
fn a_file_that_was_never_stored_is_unlinked_without_a_request() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fh = user.create("tmp", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"x").await.expect("writes");
        user.unlink("tmp").await.expect("unlinks");
        user.close(fh).await.expect("closes");
        assert_eq!(bench.store.deletes.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert_eq!(bench.store.puts(), 0);
        assert!(bench.vfs.uncommitted().is_empty());
    });
}

#[test]
fn rename_of_files() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        user.save("a", b"A").await.expect("saves");
        user.save("b", b"B").await.expect("saves");
        let (ino, over) =
            (user.stat("a").await.expect("there").ino, user.open("b", libc::O_RDWR).await.expect("opens").fh);
        let (name_a, name_b) = (OsStr::new("a"), OsStr::new("b"));
        let refused = bench.vfs.rename(&ctx(), ROOT, name_a, ROOT, name_b, RenameMode::NoReplace).await;
        assert!(matches!(refused, Err(Error::Exists)));
        user.rename("a", "b").await.expect("renames");
        assert_eq!(user.stat("b").await.expect("there").ino, ino, "the inode moves along");
        assert_eq!(user.load("b").await.expect("loads"), b"A");
        assert_eq!(user.read(over, 0, 9).await.expect("reads"), b"B", "the one renamed over lives on in its handle");
        user.close(over).await.expect("closes");
        assert!(matches!(user.stat("a").await, Err(Error::NotFound)));
        assert_eq!(bench.store.keys(), ["b"]);
        assert!(matches!(user.rename("nothing", "b").await, Err(Error::NotFound)));
    });
}

#[test]
fn rename_of_open_dirty_files() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fresh = user.create("new", libc::O_RDWR).await.expect("creates").fh;
        user.write(fresh, 0, b"fresh").await.expect("writes");
        user.save("target", b"old").await.expect("saves");
        user.rename("new", "target").await.expect("renames");
        assert_eq!(user.load("target").await.expect("loads"), b"fresh");
        user.close(fresh).await.expect("commits");
        assert_eq!(bench.store.data("target").expect("stored"), "fresh");

        let fh = user.open("target", libc::O_RDWR).await.expect("opens").fh;
        user.write(fh, 0, b"F").await.expect("writes");
        user.rename("target", "moved").await.expect("renames");
        user.write(fh, 1, b"R").await.expect("writes");
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.data("moved").expect("stored"), "FResh");
        assert_eq!(bench.store.keys(), ["moved"]);
    });
}

#[test]
fn rename_of_directories() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for n in 0..40 {
        bench.store.foreign_put(&format!("d/s/f{n:02}"), format!("{n}").as_bytes(), &[]);
    }
    bench.run(async {
        user.mkdir("d/e").await.expect("makes");
        user.mkdir("t").await.expect("makes");
        let open = user.open("d/s/f07", libc::O_RDWR).await.expect("opens").fh;
        let local = user.create("d/s/new", libc::O_RDWR).await.expect("creates").fh;
        user.write(local, 0, b"local").await.expect("writes");
        let ino = user.stat("d").await.expect("there").ino;
        assert!(matches!(user.rename("d", "d/s/inside").await, Err(Error::Invalid(_))));
        user.rename("d", "t").await.expect("over an empty directory");
        assert_eq!(user.stat("t").await.expect("there").ino, ino);
        assert!(matches!(user.stat("d").await, Err(Error::NotFound)));
        assert_eq!(user.names("").await.expect("lists"), ["t"]);
        assert_eq!(user.names("t/s").await.expect("lists").len(), 41);
        assert_eq!(user.load("t/s/f31").await.expect("loads"), b"31");
        assert_eq!(user.read(open, 0, 9).await.expect("reads"), b"7");
        user.write(open, 1, b"!").await.expect("writes");
        user.close(open).await.expect("commits");
        user.close(local).await.expect("commits");
        assert_eq!(bench.store.data("t/s/f07").expect("stored"), "7!");
        assert_eq!(bench.store.data("t/s/new").expect("stored"), "local");
        assert!(bench.store.keys().iter().all(|key| key.starts_with("t/")), "{:?}", bench.store.keys());
        user.mkdir("u").await.expect("makes");
        user.save("u/x", b"").await.expect("saves");
        assert!(matches!(user.rename("t", "u").await, Err(Error::NotEmpty)));
        user.save("file", b"").await.expect("saves");
        assert!(matches!(user.rename("t", "file").await, Err(Error::NotDir)));
        assert!(matches!(user.rename("file", "t").await, Err(Error::IsDir)));
    });
}

#[test]
fn directories_stay_when_their_last_name_goes() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("implied/only", b"x", &[]);
    bench.store.foreign_put("other/only", b"x", &[]);
    bench.run(async {
        assert!(matches!(user.rmdir("implied").await, Err(Error::NotEmpty)));
        user.unlink("implied/only").await.expect("unlinks");
        user.rename("other/only", "there").await.expect("renames");
        for dir in ["implied", "other"] {
            assert_eq!(user.stat(dir).await.expect("still there").attr.kind, Kind::Dir);
            assert!(bench.store.data(&format!("{dir}/")).is_some(), "by a marker in the bucket");
            user.rmdir(dir).await.expect("now empty");
            assert!(matches!(user.stat(dir).await, Err(Error::NotFound)));
        }
        assert_eq!(bench.store.keys(), ["there"]);
        assert!(matches!(user.rmdir("there").await, Err(Error::NotDir)));
        assert!(matches!(user.unlink("nothing").await, Err(Error::NotFound)));
        user.mkdir("d").await.expect("makes");
        assert!(matches!(user.mkdir("d").await, Err(Error::Exists)));
        assert!(matches!(user.unlink("d").await, Err(Error::IsDir)));
        assert!(matches!(user.create("d", libc::O_RDWR).await, Err(Error::IsDir)));
        let exclusive = user.create("there", libc::O_RDWR | libc::O_EXCL).await;
        assert!(matches!(exclusive, Err(Error::Exists)));
    });
}

#[test]
fn attributes_are_kept_and_foreign_headers_with_them() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"x", &[("md5", "abc"), ("mode", "33152"), ("mtime", "100")]);
    bench.run(async {
        let entry = user.stat("f").await.expect("there");
        assert_eq!((entry.attr.perm, entry.attr.mtime), (0o600, UNIX_EPOCH + Duration::from_secs(100)));
        let time = UNIX_EPOCH + Duration::new(1234, 567_000_001);
        let set = SetAttr { mode: Some(0o640), mtime: Some(SetTime::At(time)), ..SetAttr::default() };
        bench.vfs.setattr(&ctx(), entry.ino, None, set).await.expect("sets");
        let headers = bench.store.headers("f").expect("stored");
        assert_eq!(headers.user["md5"], "abc");
        assert_eq!(headers.user["mtime"], "1234");
        assert_eq!(headers.user["mode"], (0o100640).to_string());
        let puts = bench.store.puts();
        let set = SetAttr { atime: Some(SetTime::At(SystemTime::now())), ..SetAttr::default() };
        bench.vfs.setattr(&ctx(), entry.ino, None, set).await.expect("sets");
        assert_eq!(bench.store.puts(), puts, "access times never leave memory");

        let fh = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        user.write(fh, 0, b"y").await.expect("writes");
        let set = SetAttr { mtime: Some(SetTime::At(time)), uid: Some(5), ..SetAttr::default() };
        bench.vfs.setattr(&ctx(), entry.ino, Some(fh), set).await.expect("sets");
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.puts(), puts + 1, "on a dirty file they ride along");
        let headers = bench.store.headers("f").expect("stored");
        let user_headers: Vec<_> = headers.user.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        bench.store.foreign_put("copy", b"y", &user_headers);
        let other = user.stat("copy").await.expect("there").attr;
        assert_eq!((other.mtime, other.uid, other.perm), (time, 5, 0o640), "whoever reads the object sees the same");

        user.mkdir("d").await.expect("makes");
        let dir = user.stat("d").await.expect("there").ino;
        bench.vfs.setattr(&ctx(), dir, None, SetAttr { mode: Some(0o700), ..SetAttr::default() }).await.expect("sets");
        assert_eq!(bench.store.headers("d/").expect("stored").user["mode"], (0o40700).to_string());
    });
}

#[test]
fn links_and_special_files() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("cosfs-link", b"to/there", &[("mode", "41471")]);
    bench.run(async {
        let link = bench.vfs.symlink(&ctx(), ROOT, OsStr::new("l"), OsStr::new("../x")).await.expect("links");
        assert_eq!(bench.store.data("l").expect("stored"), "../x");
        assert_eq!((link.attr.kind, link.attr.size), (Kind::Symlink, 4));
        assert_eq!(bench.vfs.readlink(&ctx(), link.ino).await.expect("reads"), "../x");
        let foreign = user.stat("cosfs-link").await.expect("there");
        assert_eq!(foreign.attr.kind, Kind::Symlink);
        assert_eq!(bench.vfs.readlink(&ctx(), foreign.ino).await.expect("reads"), "to/there");
        let fifo = bench.vfs.mknod(&ctx(), ROOT, OsStr::new("p"), libc::S_IFIFO | 0o644, 0).await.expect("makes");
        assert_eq!(fifo.attr.kind, Kind::Fifo);
    });
}

#[test]
fn names_that_cannot_be_keys() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("d//x", b"", &[]);
    bench.store.foreign_put("d/ok", b"", &[]);
    bench.store.foreign_put("both", b"file", &[]);
    bench.store.foreign_put("both/x", b"", &[]);
    bench.run(async {
        assert_eq!(user.names("d").await.expect("lists"), ["ok"]);
        assert_eq!(user.stat("both").await.expect("there").attr.kind, Kind::Dir);
        assert_eq!(user.names("").await.expect("lists"), ["both", "d"]);
        let long = "x".repeat(256);
        assert!(matches!(user.create(&long, libc::O_RDWR).await, Err(Error::NameTooLong)));
        let deep = "x".repeat(200);
        let mut path = String::from("d");
        for _ in 0..4 {
            path = format!("{path}/{deep}");
            user.mkdir(&path).await.expect("fits");
        }
        assert!(matches!(user.mkdir(&format!("{path}/{deep}")).await, Err(Error::NameTooLong)));
    });
}

#[test]
fn inode_numbers_agree_and_are_given_back() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for n in 0..20 {
        bench.store.foreign_put(&format!("f{n}"), b"", &[]);
    }
    bench.run(async {
        let fh = bench.vfs.opendir(ROOT).expect("opens");
        bench.vfs.readdir_ready(&ctx(), fh, 0).await.expect("lists");
        let mut listed = Vec::new();
        bench
            .vfs
            .readdir(fh, 2, false, |line| {
                listed.push((line.name.to_string(), line.ino));
                true
            })
            .expect("reads");
        assert_eq!(listed.len(), 20);
        for (name, ino) in listed {
            assert_eq!(user.stat(&name).await.expect("there").ino, ino, "d_ino is st_ino");
            bench.vfs.forget(ino, 1);
        }
        bench.vfs.releasedir(fh).expect("closes");
        assert_eq!(bench.vfs.inode_count(), 1, "only the root is left");
    });
}
