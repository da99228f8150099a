//! How many requests an operation costs: latency and the user's bill.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cosfs_ha::vfs::{Error, ROOT, VfsOptions};

use crate::bench::{Bench, User, ctx};

#[test]
fn a_known_name_costs_nothing_a_new_one_at_most_two() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"x", &[]);
    bench.store.foreign_put("d/x", b"x", &[]);
    bench.store.foreign_put("e/", b"", &[]);
    bench.run(async {
        user.stat("").await.expect("the root needs no request");
        assert_eq!(bench.store.questions(), 0);
        for (name, exists) in [("f", true), ("d", true), ("nothing", false)] {
            let before = bench.store.questions();
            assert_eq!(user.stat(name).await.is_ok(), exists);
            assert!(bench.store.questions() - before <= 2, "{name}: {}", bench.store.questions() - before);
            let before = bench.store.questions();
            assert_eq!(user.stat(name).await.is_ok(), exists);
            assert_eq!(bench.store.questions(), before, "{name}, again");
        }
        // A directory with a marker has attributes to fetch.
        let before = bench.store.questions();
        user.stat("e").await.expect("there");
        assert!(bench.store.questions() - before <= 3);
    });
}

#[test]
fn ls_of_2500_names_is_three_pages_and_settles_absence() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for n in 0..2500 {
        bench.store.foreign_put(&format!("f{n:04}"), b"x", &[]);
    }
    bench.run(async {
        assert_eq!(user.names("").await.expect("lists").len(), 2500);
        assert_eq!(bench.store.questions(), 3);
        assert_eq!(user.names("").await.expect("lists").len(), 2500);
        assert!(matches!(user.stat("f9999").await, Err(Error::NotFound)));
        assert_eq!(bench.store.questions(), 3, "what is not in a complete listing is not there");
        user.stat("f1234").await.expect("there");
        assert_eq!(bench.store.questions(), 4, "one head for the attributes");
        user.save("new", b"").await.expect("saves");
        user.unlink("f0000").await.expect("unlinks");
        let names = user.names("").await.expect("lists");
        assert_eq!(
            (names.len(), bench.store.lists.load(Ordering::SeqCst)),
            (2500, 3),
            "own changes need no new listing"
        );
        assert!(names.contains(&"new".to_string()) && !names.contains(&"f0000".to_string()));
    });
}

#[test]
fn known_headers_in_a_listing_make_ls_l_free() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.set_knows_headers(true);
    for n in 0..500 {
        bench.store.foreign_put(&format!("f{n:03}"), b"xyz", &[("mode", "33188")]);
    }
    bench.run(async {
        let fh = bench.vfs.opendir(ROOT).expect("opens");
        bench.vfs.readdir_ready(&ctx(), fh, 0).await.expect("lists");
        let mut with = 0;
        bench
            .vfs
            .readdir(fh, 0, true, |line| {
                with += u32::from(line.entry.is_some_and(|entry| entry.attr.size == 3));
                true
            })
            .expect("reads");
        assert_eq!(with, 500);
        user.stat("f250").await.expect("there");
        assert_eq!(bench.store.questions(), 1);
    });
}

#[test]
fn ls_l_fetches_attributes_ahead() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    for n in 0..300 {
        bench.store.foreign_put(&format!("f{n:03}"), b"x", &[]);
    }
    bench.run(async {
        let names = user.names("").await.expect("lists");
        bench.store.set_delay(Duration::from_millis(20));
        let start = std::time::Instant::now();
        for name in &names {
            user.stat(name).await.expect("there");
        }
        // Once each; a lookup that comes while an answer is being put away may ask again.
        let heads = bench.store.heads.load(Ordering::SeqCst);
        assert!((300..=315).contains(&heads), "{heads}");
        // One after the other would be 300 answers of 20 ms.
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    });
}

#[test]
fn concurrent_lookups_of_one_name_ask_once() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"x", &[]);
    bench.store.set_delay(Duration::from_millis(30));
    bench.run(async {
        let lookups = (0..20).map(|_| user.stat("f"));
        assert!(futures::future::join_all(lookups).await.iter().all(Result::is_ok));
        assert_eq!(bench.store.heads.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_listing_in_flight_does_not_undo_local_changes() {
    let bench = Bench::new();
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("old", b"x", &[]);
    bench.store.foreign_put("gone", b"x", &[]);
    bench.run(async {
        user.stat("gone").await.expect("there");
        bench.store.set_hold_lists(true);
        let listing = tokio::spawn({
            let user = user.clone();
            async move { user.names("").await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        user.save("new", b"x").await.expect("saves");
        user.unlink("gone").await.expect("unlinks");
        user.rename("old", "renamed").await.expect("renames");
        bench.store.set_hold_lists(false);
        assert_eq!(listing.await.expect("no panic").expect("lists"), ["new", "renamed"]);
        assert_eq!(user.names("").await.expect("lists"), ["new", "renamed"]);
    });
}

#[test]
fn an_answer_in_flight_does_not_undo_a_commit() {
    let bench = Bench::with(VfsOptions { metadata_ttl: Duration::from_millis(30), ..VfsOptions::default() });
    let user = User(bench.vfs.clone());
    bench.store.foreign_put("f", b"old", &[]);
    bench.run(async {
        let fh = user.open("f", libc::O_RDWR).await.expect("opens").fh;
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.store.set_delay(Duration::from_millis(200));
        let question = tokio::spawn({
            let user = user.clone();
            async move { user.stat("f").await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.store.set_delay(Duration::ZERO);
        user.write(fh, 0, b"much longer").await.expect("writes");
        bench.vfs.fsync(&ctx(), fh).await.expect("commits");
        assert!(!question.is_finished(), "the old answer comes after the commit");
        assert_eq!(question.await.expect("no panic").expect("there").attr.size, 11);
        assert_eq!(user.read(fh, 0, 99).await.expect("reads"), b"much longer");
        user.close(fh).await.expect("closes");
    });
}

#[test]
fn a_hundred_thousand_names_list_once_each_while_others_come_and_go() {
    let bench = Bench::with(VfsOptions { metadata_ttl: Duration::from_millis(200), ..VfsOptions::default() });
    let user = User(bench.vfs.clone());
    for n in 0..100_000 {
        bench.store.foreign_put(&format!("f{n:06}"), b"", &[]);
    }
    bench.run(async {
        let fh = bench.vfs.opendir(ROOT).expect("opens");
        bench.vfs.readdir_ready(&ctx(), fh, 0).await.expect("lists");
        let mut seen: Vec<(u64, String)> = Vec::new();
        let mut at = 0;
        loop {
            bench.vfs.readdir_ready(&ctx(), fh, at).await.expect("ready");
            let before = seen.len();
            let mut room = 1000;
            bench
                .vfs
                .readdir(fh, at, false, |line| {
                    if room == 0 {
                        return false;
                    }
                    room -= 1;
                    seen.push((line.next, line.name.to_string()));
                    true
                })
                .expect("reads");
            if seen.len() == before {
                break;
            }
            at = seen[seen.len() - 1].0;
            let n = seen.len();
            if !n.is_multiple_of(1000) {
                continue;
            }
            user.unlink(&format!("f{:06}", 100_000 - n / 10)).await.expect("unlinks");
            user.save(&format!("g{n}"), b"").await.expect("saves");
        }
        let names: BTreeSet<&str> = seen.iter().map(|(_, name)| &**name).collect();
        assert_eq!(names.len(), seen.len(), "nothing twice");
        assert!((0..80_000).all(|n| names.contains(&*format!("f{n:06}"))), "nothing left out");
        // Seeking back shows the same again.
        let (offset, _) = seen[500];
        let mut again = None;
        bench
            .vfs
            .readdir(fh, offset, false, |line| {
                again = Some(line.name.to_string());
                false
            })
            .expect("reads");
        assert_eq!(again.as_deref(), Some(&*seen[501].1));
        assert!(bench.vfs.lookup(&ctx(), ROOT, OsStr::new("f000001")).await.is_ok());
    });
}

#[test]
fn listings_are_bounded() {
    let bench = Bench::with(VfsOptions {
        listed_names_max: 1000,
        metadata_ttl: Duration::from_secs(600),
        ..VfsOptions::default()
    });
    let user = User(bench.vfs.clone());
    for dir in 0..10 {
        for n in 0..300 {
            bench.store.foreign_put(&format!("d{dir}/f{n}"), b"", &[]);
        }
    }
    bench.run(async {
        for dir in 0..10 {
            assert_eq!(user.names(&format!("d{dir}")).await.expect("lists").len(), 300);
        }
        let before = bench.store.lists.load(Ordering::SeqCst);
        user.names("d9").await.expect("lists");
        assert_eq!(bench.store.lists.load(Ordering::SeqCst), before, "the last is kept");
        user.names("d0").await.expect("lists");
        assert_eq!(bench.store.lists.load(Ordering::SeqCst), before + 1, "the first was dropped");
    });
}
