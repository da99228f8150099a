//! A region fails under the store.

use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::emulator::{Fault, Kind};
use cosfs_ha::failover::{Command, State};
use cosfs_ha::object::{Headers, Site};
use cosfs_ha::store::{Commit, Depth, Error, Options, Store, WhenUnreachable};
use tokio::time::Instant;

use crate::bench::{Bench, LATE_COMMIT, emulator, key, soon};

/// The stall bound of `one-region` writes and cold reads: detection, switch, first request on the slave.
const STALL_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_reads_go_on_when_the_master_goes_silent() {
    // All at once: most of it is waiting for the region to be trusted again.
    let each = [Kind::Blackhole, Kind::Hang, Kind::Refuse, Kind::Reset].map(|kind| async move {
        let bench = Bench::new(30);
        bench.put("old", b"written before").await;
        bench.wait_settled().await;
        bench.wait_audit().await;
        bench.fault(Site::A, kind);
        let began = Instant::now();
        bench.put("new", b"written during").await;
        let stall = began.elapsed();
        assert!(stall <= STALL_MAX, "{kind:?}: {stall:?}");
        assert_eq!(bench.links.view().master, Site::B, "{kind:?}");
        assert_eq!(bench.get("new").await, Some(Bytes::from_static(b"written during")), "{kind:?}");
        assert_eq!(bench.get("old").await, Some(Bytes::from_static(b"written before")), "{kind:?}");
        assert_eq!(bench.get("never").await, None, "{kind:?}: the audit proves it");
        assert_eq!(bench.in_bucket(Site::B, "new").await, Some(Bytes::from_static(b"written during")), "{kind:?}");
        bench.heal(Site::A);
        bench.wait_settled().await;
        assert_eq!(bench.in_bucket(Site::A, "new").await, Some(Bytes::from_static(b"written during")), "{kind:?}");
    });
    futures::future::join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_replicated_is_read_and_brought_to_the_slave() {
    let bench = Bench::new(0);
    bench.put("k", b"version one").await;
    bench.wait_settled().await;
    bench.wait_audit().await;
    bench.stall_replication();
    bench.put("k", b"version two").await;
    bench.put("fresh", b"only in a").await;
    bench.put("gone", b"x").await;
    bench.store.delete(&key("gone"), soon()).await.unwrap();
    bench.fault(Site::A, Kind::Blackhole);
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"version two")), "read your writes");
    assert_eq!(bench.get("fresh").await, Some(Bytes::from_static(b"only in a")));
    assert_eq!(bench.get("gone").await, None);
    let listing = bench.store.list("", Depth::Children, soon()).await.unwrap();
    assert_eq!(listing.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["fresh", "k"]);
    bench.wait_state(&[State::OnSlave]).await;
    let end = soon();
    while bench.in_bucket(Site::B, "k").await != Some(Bytes::from_static(b"version two"))
        || bench.in_bucket(Site::B, "fresh").await.is_none()
    {
        assert!(Instant::now() < end, "not re-uploaded: {:?}", bench.store.pending());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.in_bucket(Site::B, "gone").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_wrote_and_this_mount_read_is_not_shown_older() {
    let bench = Bench::new(0);
    bench.emulator.put(Site::A, "k", Bytes::from_static(b"old")).unwrap();
    assert!(bench.emulator.wait_replicated(Duration::from_secs(10)));
    bench.wait_audit().await;
    bench.stall_replication();
    bench.emulator.put(Site::A, "k", Bytes::from_static(b"newer")).unwrap();
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"newer")));
    bench.fault(Site::A, Kind::Blackhole);
    bench.wait_state(&[State::OnSlave]).await;
    let object = bench.store.head(&key("k"), soon()).await.unwrap().unwrap();
    assert_eq!(object.token.size, 5, "the attributes of the newer version");
    assert_eq!(bench.read("k", &object).await.unwrap(), Bytes::from_static(b"newer"), "from the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_slave_does_not_have_is_not_called_absent() {
    let bench = Bench::new(0);
    bench.stall_replication();
    bench.emulator.put(Site::A, "only-a", Bytes::from_static(b"x")).unwrap();
    bench.wait_audit().await;
    bench.fault(Site::A, Kind::Blackhole);
    bench.wait_state(&[State::OnSlave]).await;
    let until = Instant::now() + Duration::from_secs(2);
    match bench.store.head(&key("only-a"), until).await {
        Err(Error::Unavailable(_)) => {}
        other => panic!("an object that is only in the dead bucket: {other:?}"),
    }
    let listing = bench.store.list("", Depth::Children, soon()).await.unwrap();
    assert!(listing.entries.iter().any(|e| e.key.as_str() == "only-a"), "listed all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_listing_shows_what_was_done_since() {
    let bench = Bench::new(0);
    bench.put("d/old", b"x").await;
    bench.put("d/doomed", b"x").await;
    bench.wait_settled().await;
    bench.wait_audit().await;
    let names = async || {
        let listing = bench.store.list("d/", Depth::Children, soon()).await.unwrap();
        let files = listing.entries.iter().map(|e| e.key.to_string());
        files.chain(listing.prefixes).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["d/doomed", "d/old"]);
    bench.put("d/new", b"after the listing").await;
    bench.put("d/sub/x", b"in a new directory").await;
    bench.store.delete(&key("d/doomed"), soon()).await.unwrap();
    bench.wait_settled().await;
    // The master answers listings too slowly to be waited for while it is suspect.
    let silent = Fault { methods: vec!["GET".into()], ..Fault::new(Kind::Hang) };
    for site in Site::ALL {
        bench.emulator.set_faults(site, vec![silent.clone()]).unwrap();
    }
    for _ in 0..4 {
        assert_eq!(names().await, ["d/new", "d/old", "d/sub/"], "neither lost nor back");
    }
    for site in Site::ALL {
        bench.fault(site, Kind::Blackhole);
    }
    bench.wait_state(&[State::BothDown, State::LocalOutage]).await;
    assert_eq!(names().await, ["d/new", "d/old", "d/sub/"]);
    assert!(bench.store.below("d/sub/", soon()).await.unwrap().children, "a directory made since is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_damaged_on_their_way_into_a_bucket_are_sent_again() {
    let bench = Bench::new(0);
    let damage = Fault { methods: vec!["PUT".into()], count: Some(2), ..Fault::new(Kind::Corrupt) };
    bench.emulator.set_faults(Site::A, vec![damage]).unwrap();
    bench.put("k", b"the right bytes").await;
    bench.wait_settled().await;
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "k").await, Some(Bytes::from_static(b"the right bytes")), "bucket {site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_again_and_again_is_put_together() {
    let bench = Bench::new(0);
    let content: Vec<u8> = (0..200_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    bench.stall_replication();
    bench.emulator.put(Site::A, "k", Bytes::from(content.clone())).unwrap();
    let object = bench.store.head(&key("k"), soon()).await.unwrap().unwrap();
    let breaks =
        Fault { methods: vec!["GET".into()], after_bytes: Some(60_000), count: Some(3), ..Fault::new(Kind::Truncate) };
    bench.emulator.set_faults(Site::A, vec![breaks]).unwrap();
    assert!(bench.read("k", &object).await.unwrap() == content, "the pieces in their order");
    let sent: u64 =
        bench.emulator.log(Site::A).iter().filter(|entry| entry.method == "GET").map(|entry| entry.bytes).sum();
    assert!((400_000..500_000).contains(&sent), "{sent} bytes announced: what had come was not asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_makes_no_error_and_no_second_content() {
    let bench = Bench::new(0);
    let lose = Fault { methods: vec!["PUT".into()], count: Some(1), ..Fault::new(Kind::DropAnswer) };
    bench.emulator.set_faults(Site::A, vec![lose]).unwrap();
    bench.put("k", b"once").await;
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"once")));
    assert_eq!(bench.links.view().master, Site::A, "one lost answer moves nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_regions_silent_what_is_known_is_answered_and_the_rest_is_an_error() {
    let bench = Bench::new(0);
    bench.put("d/known", b"cached").await;
    bench.wait_settled().await;
    bench.emulator.put(Site::A, "d/cold", Bytes::from(vec![7u8; 5000])).unwrap();
    let cold = bench.store.head(&key("d/cold"), soon()).await.unwrap().unwrap();
    assert_eq!(bench.get("d/known").await, Some(Bytes::from_static(b"cached")));
    bench.store.list("d/", Depth::Children, soon()).await.unwrap();
    for site in Site::ALL {
        bench.fault(site, Kind::Blackhole);
    }
    bench.wait_state(&[State::BothDown, State::LocalOutage]).await;
    let began = Instant::now();
    assert_eq!(bench.get("d/known").await, Some(Bytes::from_static(b"cached")));
    assert_eq!(bench.store.list("d/", Depth::Children, soon()).await.unwrap().entries.len(), 2);
    assert_eq!(bench.get("d/nothing").await, None, "the last complete listing has no such name");
    assert!(began.elapsed() < Duration::from_secs(1), "answered at once: {:?}", began.elapsed());
    let reader = bench.store.open(&key("d/cold"), &cold);
    let until = Instant::now() + Duration::from_secs(2);
    assert!(matches!(bench.store.read(&reader, 0, 100, until).await, Err(Error::Unavailable(_))));
    assert!(Instant::now() < until + Duration::from_secs(1), "ends at its deadline");
    for site in Site::ALL {
        bench.heal(site);
    }
    bench.wait_state(&[State::Normal, State::CatchUp, State::OnSlave]).await;
    let bytes = bench.store.read(&reader, 0, 100, soon()).await.unwrap();
    assert_eq!(bytes, Bytes::from(vec![7u8; 100]), "the same reader works again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_no_bucket_takes_follows_the_policy_and_arrives_later() {
    for policy in [WhenUnreachable::Journal, WhenUnreachable::Error] {
        let options = Options { when_unreachable: policy, ..Options::default() };
        let bench = Bench::with(emulator(0), tempfile::tempdir().unwrap(), options);
        bench.wait_audit().await;
        for site in Site::ALL {
            bench.fault(site, Kind::Blackhole);
        }
        let until = Instant::now() + Duration::from_secs(3);
        let answer = bench.try_put("k", b"kept", until).await;
        match policy {
            WhenUnreachable::Journal => assert!(answer.is_ok(), "{answer:?}"),
            WhenUnreachable::Error => assert!(matches!(answer, Err(Error::Late { .. })), "{answer:?}"),
        }
        assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"kept")), "{policy:?}: readable meanwhile");
        for site in Site::ALL {
            bench.heal(site);
        }
        bench.wait_settled().await;
        for site in Site::ALL {
            assert_eq!(
                bench.in_bucket(site, "k").await,
                Some(Bytes::from_static(b"kept")),
                "{policy:?}: bucket {site}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_moves_the_master_there_and_back_without_an_error() {
    let bench = Bench::new(20);
    bench.put("k", b"0").await;
    for (i, to) in [Site::B, Site::A, Site::B].into_iter().enumerate() {
        bench.links.command(Command::Switch { to, reason: "drill".into() }).await.unwrap();
        assert_eq!(bench.links.view().master, to, "an answered command is a finished one");
        let content = format!("written on {to}, round {i}");
        bench.put("k", content.as_bytes()).await;
        assert_eq!(bench.get("k").await, Some(Bytes::from(content.clone())));
        bench.wait_settled().await;
        for site in Site::ALL {
            assert_eq!(bench.in_bucket(site, "k").await, Some(Bytes::from(content.clone())), "bucket {site}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_whose_source_is_not_in_the_slave_yet_is_done_there_all_the_same() {
    let bench = Bench::new(0);
    bench.wait_audit().await;
    bench.stall_replication();
    let object = bench.put("tmp", b"payload").await;
    bench.fault(Site::A, Kind::Blackhole);
    bench.store.rename(&key("tmp"), &object, &key("final"), Headers::default(), soon()).await.unwrap();
    assert_eq!(bench.get("final").await, Some(Bytes::from_static(b"payload")));
    assert_eq!(bench.get("tmp").await, None);
    assert_eq!(bench.in_bucket(Site::B, "final").await, Some(Bytes::from_static(b"payload")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_of_an_old_write_does_not_come_back() {
    let bench = Bench::new(0);
    bench.put("k", b"base").await;
    bench.wait_settled().await;
    bench.wait_audit().await;
    let late = Fault {
        methods: vec!["PUT".into()],
        key_prefix: Some("k".into()),
        count: Some(1),
        delay_ms: Some(8000),
        ..Fault::new(Kind::LateCommit)
    };
    bench
        .emulator
        .set_faults(
            Site::A,
            vec![late, Fault { methods: vec!["PUT".into(), "POST".into()], ..Fault::new(Kind::Reset) }],
        )
        .unwrap();
    bench.put("k", b"first try of this is committed late").await;
    bench.put("k", b"the newest").await;
    bench.heal(Site::A);
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"the newest")));
    bench.wait_settled().await;
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "k").await, Some(Bytes::from_static(b"the newest")), "bucket {site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_commit_in_a_bucket_that_was_well_all_the_time_does_not_come_back() {
    let bench = Bench::new(0);
    bench.wait_audit().await;
    let delay = u64::try_from((LATE_COMMIT / 2).as_millis()).unwrap();
    let late = Fault {
        methods: vec!["PUT".into()],
        key_prefix: Some("k".into()),
        count: Some(1),
        delay_ms: Some(delay),
        ..Fault::new(Kind::LateCommit)
    };
    bench.emulator.set_faults(Site::A, vec![late]).unwrap();
    bench.put("k", b"first try of this is committed late").await;
    bench.put("k", b"the newest").await;
    assert_eq!(bench.links.view().master, Site::A, "one lost answer moves nobody");
    bench.wait_settled().await;
    assert_eq!(bench.requests(Site::A, "PUT"), 3, "the first try, its repetition, the newest");
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "k").await, Some(Bytes::from_static(b"the newest")), "bucket {site}");
    }
    // Whatever is committed late, is by now.
    tokio::time::sleep(LATE_COMMIT / 2).await;
    assert_eq!(bench.in_bucket(Site::A, "k").await, Some(Bytes::from_static(b"the newest")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_write_that_replication_will_replace_is_no_late_commit() {
    let bench = Bench::new(0);
    bench.wait_audit().await;
    let lose = Fault { methods: vec!["PUT".into()], count: Some(1), ..Fault::new(Kind::DropAnswer) };
    let reset = Fault { methods: vec!["PUT".into(), "POST".into()], ..Fault::new(Kind::Reset) };
    bench.emulator.set_faults(Site::A, vec![lose, reset]).unwrap();
    bench.put("k", b"committed in A, its answer is lost").await;
    bench.replication(serde_json::json!({"b_to_a": {"stalled": true}}));
    bench.put("k", b"the newest").await;
    bench.heal(Site::A);
    bench.wait_state(&[State::CatchUp]).await;
    tokio::time::sleep(LATE_COMMIT * 2).await;
    let early = Some(Bytes::from_static(b"committed in A, its answer is lost"));
    assert_eq!(bench.in_bucket(Site::A, "k").await, early, "a version that was right in its time is removed by nobody");
    bench.replication(serde_json::json!({"b_to_a": {"stalled": false}}));
    bench.wait_settled().await;
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "k").await, Some(Bytes::from_static(b"the newest")), "bucket {site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_older_write_neither_hides_a_newer_one_nor_stays_for_ever() {
    let options = Options { commit: Commit::Journal, ..Options::default() };
    let bench = Bench::with(emulator(0), tempfile::tempdir().unwrap(), options);
    bench.wait_audit().await;
    let lose = Fault { methods: vec!["PUT".into()], ..Fault::new(Kind::DropAnswer) };
    bench.emulator.set_faults(Site::A, vec![lose]).unwrap();
    bench.put("k", b"older, its answers are lost").await;
    let end = soon();
    while !bench.journal.all().iter().any(|r| r.ambiguous[Site::A.index()]) {
        assert!(Instant::now() < end, "{:?}", bench.journal.all());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.put("k", b"newer").await;
    bench.heal(Site::A);
    let end = soon();
    while bench.in_bucket(Site::B, "k").await != Some(Bytes::from_static(b"newer")) {
        assert!(Instant::now() < end, "{:?}", bench.store.pending());
        assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"newer")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Time for the newer record to be retired, if it wrongly were, and less than the older one is watched.
    tokio::time::sleep(LATE_COMMIT / 2).await;
    assert!(bench.journal.all().iter().any(|r| r.ambiguous[Site::A.index()]), "the older one is still watched");
    for site in Site::ALL {
        bench.fault(site, Kind::Blackhole);
    }
    bench.wait_state(&[State::BothDown, State::LocalOutage]).await;
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"newer")), "what is known is the newest");
    for site in Site::ALL {
        bench.heal(site);
    }
    bench.wait_settled().await;
}

/// A master that fails once is not a master that is gone: the other bucket may lag, and an audit is as old as it is.
#[tokio::test(flavor = "multi_thread")]
async fn one_failure_of_the_master_makes_no_name_disappear() {
    let bench = Bench::new(0);
    bench.put("d/known", b"k").await;
    bench.wait_settled().await;
    bench.wait_audit().await;
    bench.stall_replication();
    for n in 0..10 {
        let name = format!("d/fresh{n}");
        bench.emulator.put(Site::A, &name, Bytes::from_static(b"fresh")).unwrap();
        let once = |method: &str| Fault { methods: vec![method.into()], count: Some(1), ..Fault::new(Kind::Status) };
        bench.emulator.set_faults(Site::A, vec![once("HEAD"), once("GET")]).unwrap();
        assert!(bench.store.head(&key(&name), soon()).await.unwrap().is_some(), "{name}");
        let listing = bench.store.list("d/", Depth::Children, soon()).await.unwrap();
        assert!(listing.entries.iter().any(|entry| entry.key.as_str() == name), "{name} is listed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_bucket_refuses_the_other_gives() {
    let bench = Bench::new(0);
    bench.emulator.put(Site::A, "f", Bytes::from_static(b"content")).unwrap();
    assert!(bench.emulator.wait_replicated(Duration::from_secs(10)));
    let object = bench.store.head(&key("f"), soon()).await.unwrap().unwrap();
    let get = |fault: Fault| Fault { methods: vec!["GET".into()], key_prefix: Some("f".into()), ..fault };
    let refuse = || get(Fault { status: Some(403), ..Fault::new(Kind::Status) });
    bench.emulator.set_faults(Site::A, vec![get(Fault { delay_ms: Some(2000), ..Fault::new(Kind::Delay) })]).unwrap();
    bench.emulator.set_faults(Site::B, vec![refuse()]).unwrap();
    assert_eq!(bench.read("f", &object).await.unwrap(), Bytes::from_static(b"content"), "slow in a, refused by b");
    bench.emulator.put(Site::A, "f2", Bytes::from_static(b"another")).unwrap();
    assert!(bench.emulator.wait_replicated(Duration::from_secs(10)));
    bench.emulator.set_faults(Site::A, vec![refuse()]).unwrap();
    bench.heal(Site::B);
    let object = bench.store.head(&key("f2"), soon()).await.unwrap().unwrap();
    assert_eq!(bench.read("f2", &object).await.unwrap(), Bytes::from_static(b"another"), "refused by a");
    bench.emulator.set_faults(Site::B, vec![refuse()]).unwrap();
    bench.emulator.put(Site::A, "f3", Bytes::from_static(b"third")).unwrap();
    let object = bench.store.head(&key("f3"), soon()).await.unwrap().unwrap();
    let began = Instant::now();
    let refused = bench.read("f3", &object).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "refused by both: {refused:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_trickles_holds_nobody_up() {
    let bench = Bench::new(0);
    let object = bench.put("d/small", b"content").await;
    for n in 0..8 {
        bench.put(&format!("d/{n}"), b"listed").await;
    }
    bench.wait_settled().await;
    bench.wait_audit().await;
    let trickle = |methods: &str| Fault {
        methods: vec![methods.into()],
        after_bytes: Some(20),
        delay_ms: Some(1000),
        ..Fault::new(Kind::Drip)
    };
    bench.emulator.set_faults(Site::A, vec![trickle("GET"), trickle("PUT")]).unwrap();
    let began = Instant::now();
    let listing = bench.store.list("d/", Depth::Children, soon()).await.unwrap();
    assert_eq!(listing.entries.len(), 9);
    // Three seconds until the body counts as broken, then the other bucket.
    assert!(began.elapsed() < Duration::from_secs(5), "list: {:?}", began.elapsed());
    let began = Instant::now();
    bench.store.rename(&key("d/small"), &object, &key("d/moved"), Headers::default(), soon()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(12), "rename: {:?}", began.elapsed());
    bench.heal(Site::A);
    assert_eq!(bench.get("d/moved").await, Some(Bytes::from_static(b"content")));
    bench.wait_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_copy_is_given_the_content() {
    let bench = Bench::new(0);
    let object = bench.put("small", b"content").await;
    bench.wait_settled().await;
    bench.fault(Site::A, Kind::ErrorIn200);
    let began = Instant::now();
    bench.store.rename(&key("small"), &object, &key("moved"), Headers::default(), soon()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(bench.get("moved").await, Some(Bytes::from_static(b"content")));
    bench.wait_settled().await;
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "moved").await, Some(Bytes::from_static(b"content")), "bucket {site}");
        assert_eq!(bench.in_bucket(site, "small").await, None, "bucket {site}");
    }
}
