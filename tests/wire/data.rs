//! `--data`: what was there is there again.

use std::time::Duration;

use cosfs_ha::emulator::replicator::Change;
use cosfs_ha::emulator::{Emulator, Options, ReplicationChange};
use cosfs_ha::object::Site;

use crate::client::{ask, get, put};

const A: Site = Site::A;
const B: Site = Site::B;

#[test]
fn everything_survives_a_kill() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = Options { data: Some(dir.path().into()), lag: Duration::from_secs(3600), ..Options::default() };
    let emulator = Emulator::start(options.clone()).expect("start");
    let first = put(&emulator, A, "k", b"one").header("x-cos-version-id").expect("an id").to_owned();
    put(&emulator, A, "k", b"two");
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n >> 5) as u8).collect();
    put(&emulator, A, "large", &large);
    put(&emulator, B, "gone", b"x");
    let removed = put(&emulator, B, "gone", b"y").header("x-cos-version-id").expect("an id").to_owned();
    ask(B, "DELETE", &format!("/gone?versionId={removed}")).send(&emulator, B);
    ask(B, "DELETE", "/gone").send(&emulator, B);
    let upload = ask(A, "POST", "/m?uploads").send(&emulator, A).element("UploadId").expect("an id");
    ask(A, "PUT", &format!("/m?partNumber=1&uploadId={upload}")).body(large.clone()).send(&emulator, A);
    // Nothing is told to end: the files are as `kill -9` would leave them.
    let copy = tempfile::tempdir().expect("tempdir");
    std::process::Command::new("cp").arg("-a").arg(dir.path()).arg(copy.path().join("d")).status().expect("cp");
    drop(emulator);

    for data in [copy.path().join("d"), dir.path().to_path_buf()] {
        // An unfinished record at the end.
        let mut ledger = std::fs::File::options().append(true).open(data.join("ledger")).expect("ledger");
        std::io::Write::write_all(&mut ledger, b"{\"is\":\"put\",\"si").expect("write");
        std::fs::write(data.join("bodies/00000000000fffff"), b"a body without a record").expect("write");
        for round in 0..2 {
            let options = Options { data: Some(data.clone()), ..options.clone() };
            let emulator = Emulator::start(options).expect("start again");
            assert_eq!(get(&emulator, A, "k").text(), "two");
            assert_eq!(get(&emulator, A, &format!("k?versionId={first}")).text(), "one");
            assert!(get(&emulator, A, "large").body == large);
            assert_eq!(get(&emulator, B, "gone").status, 404);
            assert_eq!(ask(B, "GET", "/?versions&prefix=gone").send(&emulator, B).elements("VersionId").len(), 2);
            let parts = ask(A, "GET", &format!("/m?uploadId={upload}")).send(&emulator, A);
            assert_eq!(parts.elements("Size"), ["3000000"]);
            assert_eq!(ask(A, "GET", "/?replication").send(&emulator, A).status, 200);
            assert!(!data.join("bodies/00000000000fffff").exists(), "swept");
            let pending = emulator.state(false).replication;
            assert_eq!((pending.a_to_b.pending, pending.b_to_a.pending), (3, 2), "the backlog of round {round}");
            let at_once = Change { lag_ms: Some(0), ..Change::default() };
            if round == 1 {
                emulator.change_replication(ReplicationChange { a_to_b: at_once, b_to_a: at_once, current: None });
                assert!(emulator.wait_replicated(Duration::from_secs(20)));
                assert_eq!(get(&emulator, B, "k").text(), "two");
                assert!(get(&emulator, B, "large").body == large);
            }
        }
    }
}

#[test]
fn a_foreign_folder_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("ledger"), b"something else\n").expect("write");
    let options = Options { data: Some(dir.path().into()), ..Options::default() };
    assert!(Emulator::start(options).is_err());
}

#[test]
fn a_hundred_thousand_objects_list_in_pages() {
    let emulator = Emulator::start(Options::default()).expect("start");
    for n in 0..100_000 {
        emulator.put(A, &format!("d/{n:06}"), bytes::Bytes::from_static(b"x")).expect("put");
    }
    let (mut marker, mut pages, mut keys) = (String::new(), 0, 0);
    let mut wire = crate::client::Wire::connect(emulator.address(A)).expect("connect");
    loop {
        let answer =
            wire.exchange(&ask(A, "GET", &format!("/?prefix=d/&delimiter=/&marker={marker}"))).expect("a page");
        pages += 1;
        keys += answer.elements("Key").len();
        match answer.element("NextMarker") {
            Some(next) => marker = next,
            None => break,
        }
    }
    assert_eq!((pages, keys), (100, 100_000));
    assert_eq!(emulator.state(true).sites.a.objects.len(), 100_000);
}
