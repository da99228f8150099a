//! When nobody answers: nothing vanishes, nothing is lost, everything ends.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use cosfs_ha::vfs::{Ctx, Error, ROOT, VfsOptions};
use tokio::time::Instant;

use crate::bench::{Bench, User, ctx};

fn short_ttl() -> VfsOptions {
    VfsOptions { metadata_ttl: Duration::from_millis(30), ..VfsOptions::default() }
}

#[test]
fn an_outage_is_never_absence_and_what_was_known_stays() {
    let bench = Bench::with(short_ttl());
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("d/seen", b"x", &[]);
    bench.store.foreign_put("unseen", b"x", &[]);
    bench.store.set_knows_headers(true);
    bench.run(async {
        assert_eq!(user.names("d").await.expect("lists"), ["seen"]);
        assert_eq!(user.load("d/seen").await.expect("loads"), b"x");
        assert!(matches!(user.stat("nothing").await, Err(Error::NotFound)));
        tokio::time::sleep(Duration::from_millis(60)).await;
        bench.store.set_down(true);
        for unknown in ["unseen", "nothing", "d/other"] {
            match user.stat(unknown).await {
                Err(Error::NotFound) if unknown == "d/other" => {
                    // Proven by the complete listing that still counts.
                }
                Err(e) if e.is_outage() => {}
                other => panic!("{unknown}: {other:?}"),
            }
        }
        assert_eq!(user.names("d").await.expect("the listing last seen"), ["seen"]);
        assert!(user.stat("d/seen").await.is_ok(), "attributes last seen");
        assert!(matches!(user.names("").await, Err(e) if e.is_outage()), "never listed: not empty but unknown");
        bench.store.set_down(false);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(user.names("").await.expect("lists"), ["d", "unseen"]);
    });
}

#[test]
fn when_nobody_can_be_asked_what_was_known_is_shown_at_once() {
    let bench = Bench::with(short_ttl());
    let user = User(bench.vfs.clone());
    for n in 0..3 {
        bench.store.foreign_put(&format!("d/f{n}"), b"x", &[]);
    }
    bench.run(async {
        user.names("d").await.expect("lists");
        user.stat("d/f1").await.expect("there");
        user.mkdir("own").await.expect("makes");
        tokio::time::sleep(Duration::from_millis(60)).await;
        // The first of them are under way when it begins.
        bench.store.set_delay(Duration::from_secs(5));
        let begin = Instant::now();
        let early = tokio::spawn({
            let user = user.clone();
            async move { (user.names("d").await, user.stat("d/f1").await.map(drop)) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.store.silent.store(true, SeqCst);
        let (names, stat) = early.await.expect("no panic");
        assert_eq!(names.expect("the listing last seen"), ["f0", "f1", "f2"]);
        stat.expect("attributes last seen");
        for _ in 0..3 {
            assert_eq!(user.names("d").await.expect("lists"), ["f0", "f1", "f2"]);
            user.stat("d/f1").await.expect("there");
            assert!(matches!(user.stat("own/nothing").await, Err(Error::NotFound)));
            user.create("own/new", libc::O_RDWR).await.expect("creates");
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "nobody waited: {:?}", begin.elapsed());
        let hasty = Ctx { until: Instant::now() + Duration::from_millis(100), ..ctx() };
        let unknown = bench.vfs.lookup(&hasty, ROOT, OsStr::new("unknown")).await;
        assert!(unknown.is_err_and(|error| error.is_outage()), "what was never known is no absence");
    });
}

#[test]
fn uncommitted_data_survives_failed_commits() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        let fh = user.create("f", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"precious").await.expect("writes");
        bench.store.set_writes_down(true);
        for _ in 0..2 {
            assert!(bench.vfs.fsync(&ctx(), fh).await.is_err_and(|e| e.is_outage()), "told each time");
        }
        assert_eq!(user.read(fh, 0, 99).await.expect("reads"), b"precious");
        user.write(fh, 8, b"!").await.expect("writes go on");
        assert!(user.close(fh).await.is_err(), "close tells as well");
        assert_eq!(bench.vfs.uncommitted(), ["f"]);
        let entry = user.stat("f").await.expect("still there");
        bench.vfs.forget(entry.ino, 100);
        assert_eq!(user.load("f").await.expect("readable by a new handle"), b"precious!");
        let left = bench.vfs.flush_all(ctx().until).await;
        assert!(left.iter().any(|(path, _)| path == "f"), "a drain names what stays behind");
        bench.store.set_writes_down(false);
        assert!(bench.vfs.flush_all(ctx().until).await.is_empty());
        assert_eq!(bench.store.data("f").expect("stored"), "precious!");
        assert!(bench.vfs.uncommitted().is_empty());
    });
    assert_eq!(bench.store.scratch.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn files_nobody_has_open_are_tried_again_by_themselves() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        bench.store.set_writes_down(true);
        assert!(user.save("f", b"data").await.is_err());
        bench.store.set_writes_down(false);
        let stored = async {
            while bench.store.data("f").is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stored).await.expect("committed in the background");
    });
}

#[test]
fn failed_changes_of_names_change_nothing() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.run(async {
        user.mkdir("d").await.expect("makes");
        user.save("d/f", b"x").await.expect("saves");
        user.mkdir("empty").await.expect("makes");
        bench.store.set_writes_down(true);
        assert!(user.unlink("d/f").await.is_err());
        assert!(user.rename("d/f", "g").await.is_err());
        assert!(user.rename("d", "e").await.is_err());
        assert!(user.rmdir("empty").await.is_err());
        assert!(user.mkdir("new").await.is_err());
        assert!(user.truncate("d/f", 0).await.is_err());
        bench.store.set_writes_down(false);
        assert_eq!(user.names("").await.expect("lists"), ["d", "empty"]);
        assert_eq!(user.names("d").await.expect("lists"), ["f"]);
        assert_eq!(user.load("d/f").await.expect("loads"), b"", "truncated here, not yet there");
        assert!(bench.vfs.flush_all(ctx().until).await.is_empty());
        assert_eq!(bench.store.data("d/f").expect("stored"), "");
    });
}

#[test]
fn foreign_changes_are_seen_after_the_ttl() {
    let bench = Bench::with(short_ttl());
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"one", &[]);
    bench.store.foreign_put("x", b"", &[]);
    bench.store.foreign_put("closed", b"one", &[]);
    bench.run(async {
        let closed = user.open("closed", libc::O_RDONLY).await.expect("opens");
        bench.vfs.release(closed.fh).expect("closes");
        bench.store.foreign_put("closed", b"three", &[]);
        let before = user.stat("f").await.expect("there");
        let fh = user.open("f", libc::O_RDONLY).await.expect("opens");
        assert_eq!(user.read(fh.fh, 0, 9).await.expect("reads"), b"one");
        bench.store.foreign_put("f", b"three", &[]);
        bench.store.foreign_delete("x");
        bench.store.foreign_put("x/now-a-directory", b"", &[]);
        tokio::time::sleep(Duration::from_millis(60)).await;
        let now = user.stat("f").await.expect("there");
        assert_eq!(now.attr.size, 5);
        assert_ne!(now.ino, before.ino, "the kernel's pages and the length of an inode are of one version");
        let by_the_old_inode = bench.vfs.open(&ctx(), before.ino, libc::O_RDONLY).await;
        assert!(matches!(by_the_old_inode, Err(Error::Stale)), "the kernel looks the name up again");
        let again = user.open("f", libc::O_RDONLY).await.expect("opens");
        assert_eq!(user.read(again.fh, 0, 9).await.expect("reads"), b"three");
        assert_eq!(user.read(fh.fh, 0, 9).await.expect("reads"), b"one", "who had it open reads on in his version");
        assert!(user.open("f", libc::O_RDONLY).await.expect("opens").keep_cache);
        let closed = user.open("closed", libc::O_RDONLY).await.expect("opens");
        assert!(!closed.keep_cache, "the kernel's pages are of the old version");
        assert_eq!(user.read(closed.fh, 0, 9).await.expect("reads"), b"three");
        assert_eq!(user.names("x").await.expect("lists"), ["now-a-directory"]);
    });
}
