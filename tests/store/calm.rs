//! Both regions are well.

use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::cos::{Attempt, Element, Progress, Resource};
use cosfs_ha::emulator::{self, Emulator, Fault, Kind};
use cosfs_ha::object::{Headers, Site};
use cosfs_ha::store::{Ack, Commit, Depth, Error, Options, Staging, Store};
use tokio::time::Instant;

use crate::bench::{Bench, client, key, soon};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8 ^ (i >> 16) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_found_read_listed_and_reaches_both_buckets() {
    let bench = Bench::new(50);
    bench.put("d/a", b"alpha").await;
    bench.put("d/sub/b", b"beta").await;
    assert_eq!(bench.get("d/a").await, Some(Bytes::from_static(b"alpha")));
    assert_eq!(bench.get("d/none").await, None);
    let listing = bench.store.list("d/", Depth::Children, soon()).await.unwrap();
    assert_eq!(listing.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["d/a"]);
    assert_eq!(listing.prefixes, ["d/sub/"]);
    assert!(listing.entries[0].known.is_some(), "what this mount wrote needs no HEAD");
    assert!(bench.store.has_children("d/", soon()).await.unwrap());
    assert!(!bench.store.has_children("e/", soon()).await.unwrap());
    bench.wait_settled().await;
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "d/a").await, Some(Bytes::from_static(b"alpha")), "bucket {site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_delete_and_new_headers_reach_both_buckets() {
    let bench = Bench::new(20);
    let object = bench.put("from", b"content").await;
    let mut headers = Headers { content_type: Some("text/plain".into()), ..Headers::default() };
    headers.user.insert("mode".into(), "33188".into());
    let moved = bench.store.rename(&key("from"), &object, &key("to"), headers.clone(), soon()).await.unwrap();
    assert_eq!(moved.headers, headers);
    assert_eq!(bench.get("from").await, None);
    assert_eq!(bench.get("to").await, Some(Bytes::from_static(b"content")));
    headers.user.insert("uid".into(), "7".into());
    bench.store.set_headers(&key("to"), &moved, headers.clone(), soon()).await.unwrap();
    let seen = bench.store.head(&key("to"), soon()).await.unwrap().unwrap();
    assert_eq!(seen.headers, headers);
    bench.put("gone", b"x").await;
    bench.store.delete(&key("gone"), soon()).await.unwrap();
    assert_eq!(bench.get("gone").await, None);
    bench.wait_settled().await;
    for site in Site::ALL {
        assert_eq!(bench.in_bucket(site, "to").await, Some(Bytes::from_static(b"content")), "bucket {site}");
        assert_eq!(bench.in_bucket(site, "from").await, None, "bucket {site}");
        assert_eq!(bench.in_bucket(site, "gone").await, None, "bucket {site}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_fsync_covers_what_was_closed_before() {
    let options = Options { commit: Commit::Journal, sync_interval: Duration::ZERO, ..Options::default() };
    let bench = Bench::with(crate::bench::emulator(0), tempfile::tempdir().unwrap(), options);
    for site in Site::ALL {
        bench.fault(site, Kind::Blackhole);
    }
    bench.put("closed", b"content").await;
    assert!(bench.journal.spool().unsynced() > 0);
    let staging = bench.store.staging().unwrap();
    bench.store.reserve(&staging, 4).unwrap();
    std::os::unix::fs::FileExt::write_all_at(staging.file(), b"more", 0).unwrap();
    let staging = Some(std::sync::Arc::new(staging));
    bench.store.put(&key("synced"), staging, Headers::default(), Ack::Fsync, soon()).await.unwrap();
    assert_eq!(bench.journal.spool().unsynced(), 0);
}

/// Somebody else's metadata must not keep a file from being written: COS would refuse a part of it, and gave another part itself.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_others_is_kept_or_left_out_and_never_refused() {
    let bench = Bench::new(20);
    let object = bench.put("f", b"content").await;
    let mut headers = Headers { content_type: Some("text/plain".into()), ..Headers::default() };
    headers.user.insert("author".into(), "\u{738b} \u{e9}".into());
    headers.stored.insert("content-encoding".into(), "gzip".into());
    headers.stored.insert("cache-control".into(), "max-age=60".into());
    let kept = headers.clone();
    headers.user.insert("odd".into(), "a\u{1}b".into());
    headers.user.insert("long".into(), "x".repeat(2040));
    bench.store.set_headers(&key("f"), &object, headers, soon()).await.unwrap();
    bench.wait_settled().await;
    for site in Site::ALL {
        let progress = Progress::new();
        let found = client(&bench.emulator, site).head(&key("f"), None, &Attempt::new(&progress)).await.unwrap();
        assert_eq!(found.headers, kept, "bucket {site}");
    }
}

/// It has no version id that a copy could name, and in mode `journal` its removal may be there first.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_before_versioning_is_renamed_with_its_content() {
    let options = emulator::Options { unconfigured: true, ..emulator::Options::default() };
    let emulator = Emulator::start(options).unwrap();
    emulator.put(Site::A, "old", Bytes::from_static(b"content")).unwrap();
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let on = Element::parse(on.as_bytes(), "VersioningConfiguration").unwrap();
    for site in Site::ALL {
        let progress = Progress::new();
        let client = client(&emulator, site);
        client.set_configuration(Resource::Versioning, &on, &Attempt::new(&progress)).await.unwrap();
    }
    let options = Options { commit: Commit::Journal, ..Options::default() };
    let bench = Bench::with(emulator, tempfile::tempdir().unwrap(), options);
    let refused = Fault {
        methods: vec!["PUT".into()],
        key_prefix: Some("new".into()),
        count: Some(5),
        ..Fault::new(Kind::Status)
    };
    bench.emulator.set_faults(Site::A, vec![refused]).unwrap();
    let object = bench.store.head(&key("old"), soon()).await.unwrap().unwrap();
    assert_eq!(object.token.version, None);
    bench.store.rename(&key("old"), &object, &key("new"), Headers::default(), soon()).await.unwrap();
    assert_eq!(bench.get("old").await, None);
    let end = soon();
    while bench.in_bucket(Site::A, "new").await.is_none() {
        assert!(Instant::now() < end, "{:?}", bench.store.pending());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.in_bucket(Site::A, "new").await, Some(Bytes::from_static(b"content")));
    assert_eq!(bench.in_bucket(Site::A, "old").await, None);
    assert_eq!(bench.get("new").await, Some(Bytes::from_static(b"content")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_goes_up_in_parts_and_comes_back_the_same() {
    let bench = Bench::new(20);
    let content = pattern((70 << 20) + 12_345);
    let object = bench.put("big", &content).await;
    assert_eq!(object.token.size, content.len() as u64);
    assert!(bench.requests(Site::A, "POST") >= 2, "initiate and complete");
    bench.wait_settled().await;
    // A second mount without a cache reads it from the network.
    let Bench { emulator, store, links, journal, .. } = bench;
    drop((store, links, journal));
    let again = Bench::with(emulator, tempfile::tempdir().unwrap(), Default::default());
    let object = again.store.head(&key("big"), soon()).await.unwrap().unwrap();
    let reader = again.store.open(&key("big"), &object);
    let mut at = 0;
    while at < content.len() {
        let bytes = again.store.read(&reader, at as u64, 128 * 1024, soon()).await.unwrap();
        assert!(!bytes.is_empty());
        assert_eq!(&content[at..at + bytes.len()], &bytes[..], "at {at}");
        at += bytes.len();
    }
    assert!(again.store.read(&reader, at as u64, 4096, soon()).await.unwrap().is_empty(), "nothing beyond the end");
    let gets = again.requests(Site::A, "GET");
    assert!(gets < 45, "read ahead in runs, not block by block: {gets} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_write_and_delete_are_seen() {
    let bench = Bench::new(20);
    bench.put("k", b"mine").await;
    bench.wait_settled().await;
    bench.emulator.put(Site::A, "k", Bytes::from_static(b"theirs")).unwrap();
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"theirs")));
    let progress = cosfs_ha::cos::Progress::new();
    let client = crate::bench::client(&bench.emulator, Site::A);
    client.delete(&key("k"), None, &cosfs_ha::cos::Attempt::new(&progress)).await.unwrap();
    assert_eq!(bench.get("k").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_reader_keeps_its_version() {
    let bench = Bench::new(20);
    let old = bench.put("k", b"first").await;
    bench.wait_settled().await;
    let reader = bench.store.open(&key("k"), &old);
    bench.put("k", b"second!").await;
    assert_eq!(bench.store.read(&reader, 0, 100, soon()).await.unwrap(), Bytes::from_static(b"first"));
    assert_eq!(bench.get("k").await, Some(Bytes::from_static(b"second!")));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_keys_list_completely_in_ten_requests() {
    let bench = Bench::new(0);
    for i in 0..10_000 {
        bench.emulator.put(Site::A, &format!("many/{i:05}"), Bytes::from_static(b"x")).unwrap();
    }
    let before = bench.requests(Site::A, "GET");
    let listing = bench.store.list("many/", Depth::Children, soon()).await.unwrap();
    assert_eq!(listing.entries.len(), 10_000);
    assert!(listing.entries.windows(2).all(|w| w[0].key < w[1].key));
    let audits = 2 * 10 + 4;
    assert!(bench.requests(Site::A, "GET") - before <= 10 + audits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_says_so() {
    let bench = Bench::new(0);
    let staging = bench.store.staging().unwrap();
    assert!(matches!(bench.store.reserve(&staging, 5 << 30), Err(Error::Full(_))));
    bench.put("still", b"works").await;
}
