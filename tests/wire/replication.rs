//! Replication as a client of the other region sees it.

use std::time::Duration;

use base64::Engine;
use cosfs_ha::emulator::replicator::Change;
use cosfs_ha::emulator::{Current, Emulator, Fault, Kind, Options, ReplicationChange};
use cosfs_ha::object::Site;
use md5::{Digest, Md5};

use crate::client::{Answer, ask, eventually, get, put, start};

const A: Site = Site::A;
const B: Site = Site::B;
const LONG: Duration = Duration::from_secs(20);

fn a_to_b(change: Change) -> ReplicationChange {
    ReplicationChange { a_to_b: change, ..ReplicationChange::default() }
}

fn names(answer: &Answer) -> Vec<Option<String>> {
    ["etag", "x-cos-version-id", "last-modified", "x-cos-meta-a", "x-cos-hash-crc64ecma", "content-type"]
        .map(|name| answer.header(name).map(str::to_owned))
        .to_vec()
}

#[test]
fn a_replica_is_the_same_version() {
    let emulator = start();
    ask(A, "PUT", "/k").header("x-cos-meta-a", "1").header("Content-Type", "text/x").body("one").send(&emulator, A);
    assert!(emulator.wait_replicated(LONG));
    let (original, replica) = (get(&emulator, A, "k"), get(&emulator, B, "k"));
    assert_eq!(replica.text(), "one");
    assert_eq!(names(&original), names(&replica));
    assert_eq!(replica.header("x-cos-replication-status"), Some("Replica"));
    put(&emulator, B, "back", b"two");
    assert!(emulator.wait_replicated(LONG));
    assert_eq!(get(&emulator, A, "back").text(), "two");
    let versions = ask(A, "GET", "/?versions").send(&emulator, A);
    assert_eq!(versions.elements("VersionId").len(), 2, "replicas do not go round");
}

#[test]
fn deletes_go_over_as_markers_only() {
    let emulator = start();
    let id = put(&emulator, A, "k", b"one").header("x-cos-version-id").expect("an id").to_owned();
    put(&emulator, A, "gone", b"x");
    assert!(emulator.wait_replicated(LONG));
    ask(A, "DELETE", "/gone").send(&emulator, A);
    ask(A, "DELETE", &format!("/k?versionId={id}")).send(&emulator, A);
    assert!(emulator.wait_replicated(LONG));
    assert_eq!(get(&emulator, B, "gone").status, 404);
    assert_eq!(get(&emulator, A, "k").status, 404);
    assert_eq!(get(&emulator, B, "k").text(), "one", "a delete by version id stays on its side");
    emulator.change_replication(a_to_b(Change { lose_delete_markers: Some(true), ..Change::default() }));
    put(&emulator, A, "lost", b"x");
    ask(A, "DELETE", "/lost").send(&emulator, A);
    assert!(emulator.wait_replicated(LONG));
    assert_eq!(get(&emulator, B, "lost").text(), "x");
}

#[test]
fn lag_stall_and_backlog() {
    let emulator = Emulator::start(Options { lag: Duration::from_secs(3600), ..Options::default() }).expect("start");
    put(&emulator, A, "k", b"one");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(get(&emulator, B, "k").status, 404);
    assert_eq!(emulator.state(false).replication.a_to_b.pending, 1);
    emulator.change_replication(a_to_b(Change { stalled: Some(true), lag_ms: Some(0), ..Change::default() }));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(get(&emulator, B, "k").status, 404, "stalled");
    // An outage of our way to B does not stop the replication inside the cloud.
    emulator.set_faults(B, vec![Fault::new(Kind::Blackhole)]).expect("set");
    emulator.change_replication(a_to_b(Change { stalled: Some(false), ..Change::default() }));
    assert!(emulator.wait_replicated(LONG));
    // An outage of the region does.
    emulator.set_faults(B, vec![Fault { stops_replication: true, ..Fault::new(Kind::Blackhole) }]).expect("set");
    put(&emulator, A, "later", b"two");
    assert!(!emulator.wait_replicated(Duration::from_millis(50)));
    emulator.set_faults(B, vec![]).expect("heal");
    assert!(emulator.wait_replicated(LONG));
    assert_eq!(get(&emulator, B, "k").text(), "one");
    assert_eq!(get(&emulator, B, "later").text(), "two");
}

#[test]
fn which_version_is_current() {
    for (current, expect) in [(Current::NewestVersion, "newer, on b"), (Current::LastArrival, "older, on a")] {
        let emulator = start();
        emulator.change_replication(ReplicationChange {
            a_to_b: Change { stalled: Some(true), ..Change::default() },
            b_to_a: Change { stalled: Some(true), ..Change::default() },
            current: Some(current),
        });
        put(&emulator, A, "k", b"older, on a");
        put(&emulator, B, "k", b"newer, on b");
        emulator.change_replication(a_to_b(Change { stalled: Some(false), ..Change::default() }));
        eventually("the older version arrives", || emulator.state(false).replication.a_to_b.pending == 0);
        eventually("it is shelved", || ask(B, "GET", "/?versions").send(&emulator, B).elements("VersionId").len() == 2);
        assert_eq!(get(&emulator, B, "k").text(), expect, "{current:?}");
    }
}

#[test]
fn a_rule_that_was_off_leaves_a_gap() {
    let emulator = start();
    let rules = ask(A, "GET", "/?replication").send(&emulator, A).text();
    ask(A, "DELETE", "/?replication").send(&emulator, A);
    put(&emulator, A, "gap", b"x");
    let md5 = base64::engine::general_purpose::STANDARD.encode(Md5::digest(&rules));
    let again = ask(A, "PUT", "/?replication").header("Content-MD5", md5).body(rules).send(&emulator, A);
    assert_eq!(again.status, 200, "{}", again.text());
    put(&emulator, A, "after", b"y");
    assert!(emulator.wait_replicated(LONG));
    eventually("the later one is there", || get(&emulator, B, "after").status == 200);
    assert_eq!(get(&emulator, B, "gap").status, 404);
}
