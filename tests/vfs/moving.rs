//! A rename is one step for whoever looks, although it is several in the bucket.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::journal::Move;
use cosfs_ha::vfs::{Error, VfsOptions, Writer};
use tokio::task::JoinHandle;

use crate::bench::{Bench, User, ctx};

/// Everything is asked anew each time.
fn forgetful() -> Bench {
    Bench::with(VfsOptions { metadata_ttl: Duration::ZERO, ..VfsOptions::default() })
}

/// Begins a rename and waits until the bucket has moved `objects` objects, without the file system having heard of it.
async fn half_way(bench: &Bench, from: &'static str, to: &'static str, objects: u64) -> JoinHandle<Result<(), Error>> {
    bench.store.hold_renames.store(true, SeqCst);
    let user = User(bench.vfs.clone());
    let rename = tokio::spawn(async move { user.rename(from, to).await });
    while bench.store.renamed.load(SeqCst) < objects {
        assert!(!rename.is_finished(), "it waits for the bucket");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rename
}

async fn done(bench: &Bench, rename: JoinHandle<Result<(), Error>>) {
    bench.store.hold_renames.store(false, SeqCst);
    rename.await.expect("no panic").expect("renames");
}

#[test]
fn a_file_on_the_move_is_at_its_old_name_and_the_replaced_one_at_the_new() {
    let bench = forgetful();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("a", b"moving", &[]);
    bench.store.foreign_put("b", b"replaced", &[]);
    bench.run(async {
        let (a, b) = (user.stat("a").await.expect("there").ino, user.stat("b").await.expect("there").ino);
        let moving = user.open("a", libc::O_RDWR).await.expect("opens").fh;
        let replaced = user.open("b", libc::O_RDONLY).await.expect("opens").fh;
        let rename = half_way(&bench, "a", "b", 1).await;
        for _ in 0..3 {
            assert_eq!(user.stat("a").await.expect("still there").ino, a);
            assert_eq!(user.stat("b").await.expect("still there").ino, b);
            assert_eq!(user.stat("b").await.expect("still there").attr.size, 8);
            assert_eq!(user.names("").await.expect("lists"), ["a", "b"]);
            assert_eq!(user.read(moving, 0, 20).await.expect("reads"), b"moving");
            assert_eq!(user.read(replaced, 0, 20).await.expect("reads"), b"replaced");
        }
        done(&bench, rename).await;
        assert!(matches!(user.stat("a").await, Err(Error::NotFound)));
        assert_eq!(user.stat("b").await.expect("moved").ino, a);
        assert_eq!(user.names("").await.expect("lists"), ["b"]);
        assert_eq!(user.read(replaced, 0, 20).await.expect("open files stay"), b"replaced");
        user.write(moving, 0, b"M").await.expect("writes");
        user.close(moving).await.expect("closes");
        user.close(replaced).await.expect("closes");
        assert_eq!(bench.store.data("b").expect("stored"), "Moving");
        assert_eq!(bench.store.keys(), ["b"]);
    });
}

#[test]
fn a_directory_on_the_move_is_whole_at_its_old_name() {
    let bench = forgetful();
    let user = User(bench.vfs.clone());
    for (key, data) in [("d/", ""), ("d/x", "x"), ("d/sub/", ""), ("d/sub/y", "yy"), ("d/sub/deep/z", "zzz")] {
        bench.store.foreign_put(key, data.as_bytes(), &[]);
    }
    bench.run(async {
        let open = user.open("d/sub/y", libc::O_RDONLY).await.expect("opens").fh;
        let kept = user.stat("d/sub").await.expect("there").ino;
        // All but the old marker of the directory itself.
        let rename = half_way(&bench, "d", "e", 4).await;
        assert!(!bench.store.keys().iter().any(|key| key.starts_with("d/") && key != "d/"), "the bucket has moved it");
        for _ in 0..3 {
            assert_eq!(user.names("").await.expect("lists"), ["d"]);
            assert!(matches!(user.stat("e").await, Err(Error::NotFound)));
            assert_eq!(user.names("d").await.expect("lists"), ["sub", "x"]);
            assert_eq!(user.names("d/sub").await.expect("lists"), ["deep", "y"]);
            assert_eq!(user.load("d/x").await.expect("loads"), b"x");
            assert_eq!(user.load("d/sub/deep/z").await.expect("loads"), b"zzz");
            assert_eq!(user.read(open, 0, 9).await.expect("reads"), b"yy");
            assert!(matches!(user.stat("d/nothing").await, Err(Error::NotFound)));
        }
        done(&bench, rename).await;
        assert!(matches!(user.stat("d").await, Err(Error::NotFound)));
        assert_eq!(user.names("e").await.expect("lists"), ["sub", "x"]);
        assert_eq!(user.load("e/sub/y").await.expect("loads"), b"yy");
        assert_eq!(user.load("e/sub/deep/z").await.expect("loads"), b"zzz");
        assert_eq!(user.stat("e/sub").await.expect("moved").ino, kept);
        user.close(open).await.expect("closes");
        user.save("e/sub/y", b"new").await.expect("saves");
        assert_eq!(bench.store.data("e/sub/y").expect("stored"), "new");
    });
}

#[test]
fn what_was_asked_before_the_move_is_not_believed_after_it() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("d/x", b"x", &[]);
    bench.run(async {
        user.stat("d").await.expect("there");
        let dir = user.stat("d").await.expect("there").ino;
        bench.store.set_hold_lists(true);
        let asked = bench.store.lists.load(SeqCst);
        let list = tokio::spawn({
            let vfs = bench.vfs.clone();
            async move {
                let fh = vfs.opendir(dir).expect("opens");
                vfs.readdir_ready(&ctx(), fh, 0).await.expect("lists");
                let mut names = Vec::new();
                vfs.readdir(fh, 2, false, |line| {
                    names.push(line.name.to_string());
                    true
                })
                .expect("reads");
                names
            }
        });
        while bench.store.lists.load(SeqCst) == asked {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rename = tokio::spawn({
            let user = user.clone();
            async move { user.rename("d", "e").await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.store.set_hold_lists(false);
        rename.await.expect("no panic").expect("renames");
        assert_eq!(list.await.expect("no panic"), ["x"]);
        assert_eq!(user.names("e").await.expect("lists"), ["x"]);
        assert_eq!(user.load("e/x").await.expect("loads"), b"x");
    });
}

#[test]
fn after_a_move_that_failed_the_bucket_is_believed() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for key in ["d/x", "f", "g"] {
        bench.store.foreign_put(key, b"x", &[]);
    }
    bench.run(async {
        user.names("").await.expect("lists");
        user.names("d").await.expect("lists");
        bench.store.set_writes_down(true);
        assert!(user.rename("f", "g").await.is_err());
        assert!(user.rename("d", "e").await.is_err());
        bench.store.set_writes_down(false);
        // Whatever came of it: somebody else finishes it now.
        bench.store.foreign_delete("f");
        bench.store.foreign_put("g", b"new", &[]);
        bench.store.foreign_delete("d/x");
        bench.store.foreign_put("e/x", b"new", &[]);
        assert!(matches!(user.stat("f").await, Err(Error::NotFound)));
        assert_eq!(user.load("g").await.expect("loads"), b"new");
        assert_eq!(user.names("").await.expect("lists"), ["e", "g"]);
        assert_eq!(user.load("e/x").await.expect("loads"), b"new");
    });
}

#[test]
fn an_interrupted_move_is_finished_without_overwriting_what_came_after_it() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for key in ["d/", "d/x", "d/y", "d/z"] {
        bench.store.foreign_put(key, b"old", &[]);
    }
    bench.store.foreign_put("e/x", b"newer", &[]);
    bench.store.moves.lock().push(Move { from: "d".into(), to: "e".into(), before: Some(7) });
    bench.run(async {
        bench.vfs.clone().finish_moves().await;
        assert!(bench.store.moves.lock().is_empty());
        assert_eq!(user.names("d").await.expect("lists"), ["x"]);
        assert_eq!(user.names("e").await.expect("lists"), ["x", "y", "z"]);
        assert_eq!(user.load("e/x").await.expect("loads"), b"newer");
        assert_eq!(user.load("d/x").await.expect("loads"), b"old");
        assert!(bench.store.data("d/").is_some(), "a directory that is not empty keeps its marker");
    });
}

#[test]
fn what_was_written_or_removed_since_an_interrupted_move_stays_as_it_is() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for key in ["d/", "d/rewritten", "d/removed-there", "d/old"] {
        bench.store.foreign_put(key, b"old", &[]);
    }
    bench.store.written.lock().extend(["d/rewritten".to_string(), "e/removed-there".to_string()]);
    bench.store.moves.lock().push(Move { from: "d".into(), to: "e".into(), before: Some(7) });
    bench.run(async {
        bench.vfs.clone().finish_moves().await;
        assert_eq!(user.names("d").await.expect("lists"), ["removed-there", "rewritten"]);
        assert_eq!(user.names("e").await.expect("lists"), ["old"]);
    });
}

#[test]
fn a_directory_with_unstored_files_in_it_is_neither_empty_nor_another_thing() {
    let bench = forgetful();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("d/sub/x", b"x", &[]);
    bench.run(async {
        let fh = user.create("d/sub/new", libc::O_RDWR).await.expect("creates").fh;
        user.write(fh, 0, b"mine").await.expect("writes");
        bench.store.foreign_delete("d/sub/x");
        assert!(matches!(user.rmdir("d").await, Err(Error::NotEmpty)));
        bench.store.foreign_put("d/sub", b"a file", &[]);
        assert!(user.stat("d/sub/new").await.is_ok());
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.data("d/sub/new").expect("stored"), "mine");
    });
}

#[test]
fn an_unstored_name_does_not_keep_its_directory() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("d/x", b"x", &[]);
    bench.run(async {
        user.names("d").await.expect("lists");
        let fh = user.create("d/new", libc::O_RDWR).await.expect("creates").fh;
        user.unlink("d/x").await.expect("unlinks");
        assert!(bench.store.data("d/").is_some(), "by a marker");
        user.unlink("d/new").await.expect("unlinks");
        user.close(fh).await.expect("closes");
        assert!(user.names("d").await.expect("still there").is_empty());
    });
}

#[test]
fn a_mapped_page_has_its_place_also_by_a_handle_for_appending() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"0123", &[]);
    bench.run(async {
        let fh = user.open("f", libc::O_RDWR | libc::O_APPEND).await.expect("opens").fh;
        bench.vfs.write(&ctx(), fh, 0, Bytes::from_static(b"45")).await.expect("appends");
        bench.vfs.write_by(&ctx(), fh, 0, Bytes::from_static(b"ab"), Writer::Mapping).await.expect("writes back");
        user.close(fh).await.expect("commits");
        assert_eq!(bench.store.data("f").expect("stored"), "ab2345");
    });
}

#[test]
fn an_answer_that_nobody_waited_for_is_not_given_to_the_next() {
    let bench = forgetful();
    let user = User(bench.vfs.clone());
    bench.run(async {
        bench.store.set_delay(Duration::from_millis(50));
        let lookup = tokio::spawn({
            let user = user.clone();
            async move { user.stat("f").await.map(drop) }
        });
        while bench.store.heads.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lookup.abort();
        let _ = lookup.await;
        bench.store.set_delay(Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.store.foreign_put("f", b"x", &[]);
        assert!(bench.vfs.lookup(&ctx(), 1, OsStr::new("f")).await.is_ok(), "it is there now");
    });
}
