//! What it costs to see writes into the second bucket.

use bytes::Bytes;
use cosfs_ha::object::Site;
use futures::future::join_all;

use crate::bench::Bench;

/// Requests of one method to the second bucket about keys that begin so.
fn asked_b(bench: &Bench, method: &str, prefix: &str) -> usize {
    let about = |entry: &&cosfs_ha::emulator::LogEntry| entry.method == method && entry.key.starts_with(prefix);
    bench.emulator.log(Site::B).iter().filter(about).count()
}

fn listings_of_b(bench: &Bench) -> usize {
    let log = bench.emulator.log(Site::B);
    log.iter().filter(|entry| entry.method == "GET" && entry.query.starts_with("versions&prefix=d%2F")).count()
}

async fn put_all(bench: &Bench, keys: Vec<String>) {
    join_all(keys.iter().map(|key| bench.put(key, b"content"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_to_one_directory_are_looked_up_together() {
    let bench = Bench::new(0);
    put_all(&bench, (0..300).map(|n| format!("d/{n:03}")).collect()).await;
    bench.wait_settled().await;
    // What came last in its second may have been alone; on a busy machine that is more.
    assert!(asked_b(&bench, "HEAD", "d/") < 150, "{} HEADs for 300 writes", asked_b(&bench, "HEAD", "d/"));
    assert!(listings_of_b(&bench) < 60, "{} listings", listings_of_b(&bench));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_to_many_directories_are_looked_up_one_by_one() {
    let bench = Bench::new(0);
    put_all(&bench, (0..100).map(|n| format!("d/{n}/k")).collect()).await;
    bench.wait_settled().await;
    assert!(asked_b(&bench, "HEAD", "d/") >= 100);
    assert_eq!(listings_of_b(&bench), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_brings_little_is_not_continued() {
    let bench = Bench::new(0);
    let between = (0..9000).map(|n| (format!("d/m{n:04}"), Bytes::from_static(b"x")));
    for (key, content) in between {
        bench.emulator.put(Site::A, &key, content).unwrap();
    }
    bench.replication(serde_json::json!({"a_to_b": {"stalled": true}}));
    let keys = (0..20).map(|n| format!("d/{}{n:02}", if n < 10 { "a" } else { "z" }));
    put_all(&bench, keys.collect()).await;
    bench.replication(serde_json::json!({"a_to_b": {"stalled": false}}));
    bench.wait_settled().await;
    assert!(listings_of_b(&bench) < 6, "{} listings of 1000", listings_of_b(&bench));
}

/// A listing cannot tell whose a version is.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wrote_over_is_asked_for_by_itself() {
    let bench = Bench::new(0);
    bench.stall_replication();
    put_all(&bench, (0..40).map(|n| format!("d/{n:02}")).collect()).await;
    bench.emulator.put(Site::B, "d/07", Bytes::from_static(b"another")).unwrap();
    bench.replication(serde_json::json!({"a_to_b": {"stalled": false}}));
    bench.wait_settled().await;
    assert!(asked_b(&bench, "HEAD", "d/07") >= 1);
    assert_eq!(bench.in_bucket(Site::B, "d/07").await.unwrap(), Bytes::from_static(b"another"));
}
