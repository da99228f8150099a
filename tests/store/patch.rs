//! Small changes of large objects: what they cost, and that they survive whatever a whole write survives.

use std::sync::Arc;

use bytes::Bytes;
use cosfs_ha::cos::{Attempt, Progress};
use cosfs_ha::emulator::{Fault, Kind};
use cosfs_ha::failover::State;
use cosfs_ha::object::{Headers, Object, Site};
use cosfs_ha::store::{Ack, Commit, HaStore, Options, Patch, Staging, Store};
use tokio::time::Instant;

use crate::bench::{Bench, client, emulator, key, soon};

const MIB: usize = 1 << 20;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8 ^ (i >> 16) as u8).collect()
}

/// Writes `bytes` at `at` over an object, as the file system does it.
async fn patch(
    bench: &Bench,
    name: &str,
    old: &Object,
    at: usize,
    bytes: &[u8],
    until: Instant,
) -> cosfs_ha::store::Result<Object> {
    let staging = bench.store.staging().unwrap();
    bench.store.reserve(&staging, bytes.len() as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(staging.file(), bytes, at as u64).unwrap();
    let size = old.token.size.max((at + bytes.len()) as u64);
    staging.file().set_len(size).unwrap();
    let patch = Patch::<HaStore> {
        staging: Some(Arc::new(staging)),
        ranges: std::iter::once(at as u64..(at + bytes.len()) as u64).collect(),
        size,
        base: Arc::new(bench.store.open(&key(name), old)),
        shown: old.token.size,
    };
    bench.store.patch(&key(name), patch, Headers::default(), Ack::Close, until).await
}

fn sent(bench: &Bench, site: Site) -> u64 {
    let sites = bench.emulator.state(false).sites;
    if site == Site::A { sites.a.bytes_in } else { sites.b.bytes_in }
}

async fn read_all(bench: &Bench, name: &str, object: &Object) -> Vec<u8> {
    let reader = bench.store.open(&key(name), object);
    let mut all = Vec::new();
    while (all.len() as u64) < object.token.size {
        let bytes = bench.store.read(&reader, all.len() as u64, MIB as u32, soon()).await.unwrap();
        assert!(!bytes.is_empty());
        all.extend_from_slice(&bytes);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_what_changed() {
    let bench = Bench::new(20);
    let mut expect = content(48 * MIB + 4321);
    let old = bench.put("big", &expect).await;
    bench.wait_settled().await;
    let before = sent(&bench, Site::A);
    expect[20 * MIB + 5..20 * MIB + 5 + 4096].fill(0xee);
    let new = patch(&bench, "big", &old, 20 * MIB + 5, &[0xee; 4096], soon()).await.unwrap();
    let cost = sent(&bench, Site::A) - before;
    assert!(cost < 2 * MIB as u64, "{cost} bytes for 4096");
    assert!(read_all(&bench, "big", &new).await == expect, "while it is in the journal");
    // Another change and an append, one after the other, over what replication may not have brought to B yet.
    expect[7..9].fill(1);
    let new = patch(&bench, "big", &new, 7, &[1; 2], soon()).await.unwrap();
    let end = expect.len();
    expect.extend_from_slice(b"appended");
    let new = patch(&bench, "big", &new, end, b"appended", soon()).await.unwrap();
    let cost = sent(&bench, Site::A) - before;
    assert!(cost < 4 * MIB as u64, "{cost} bytes for three small changes");
    assert_eq!(new.token.size, expect.len() as u64);
    bench.wait_settled().await;
    for site in Site::ALL {
        assert!(bench.in_bucket(site, "big").await.unwrap() == expect, "bucket {site}");
    }
    let found = bench.store.head(&key("big"), soon()).await.unwrap().unwrap();
    assert!(read_all(&bench, "big", &found).await == expect, "after the journal has forgotten it");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_only_the_dead_region_had_are_put_together_on_the_other() {
    let bench = Bench::new(0);
    let mut expect = content(33 * MIB);
    let mut object = bench.put("big", &expect).await;
    bench.wait_settled().await;
    bench.wait_audit().await;
    bench.stall_replication();
    // More than are kept apart, so that some are made into one; they overlap, cut and grow.
    for n in 0..12_usize {
        let at = (n * 3 * MIB + n) % (30 * MIB);
        let bytes = vec![n as u8 + 1; MIB + 17];
        expect[at..at + bytes.len()].copy_from_slice(&bytes);
        object = patch(&bench, "big", &object, at, &bytes, soon()).await.unwrap();
        let end = expect.len();
        expect.extend_from_slice(b"more");
        object = patch(&bench, "big", &object, end, b"more", soon()).await.unwrap();
    }
    assert!(bench.in_bucket(Site::A, "big").await.unwrap() == expect);
    assert_eq!(bench.in_bucket(Site::B, "big").await.unwrap().len(), 33 * MIB, "nothing was replicated");
    let before = sent(&bench, Site::B);
    bench.fault(Site::A, Kind::Blackhole);
    bench.wait_state(&[State::OnSlave]).await;
    let end = soon();
    while bench.in_bucket(Site::B, "big").await.unwrap() != expect {
        assert!(Instant::now() < end, "B has it");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let cost = sent(&bench, Site::B) - before;
    assert!(cost < 33 * MIB as u64, "{cost} bytes: B had the oldest version and got the rest");
    let object = bench.store.head(&key("big"), soon()).await.unwrap().unwrap();
    assert!(read_all(&bench, "big", &object).await == expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_changed_before_any_bucket_took_it_is_replayed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { commit: Commit::Journal, ..Options::default() };
    let bench = Bench::with(emulator(20), dir, options());
    for site in Site::ALL {
        bench.fault(site, Kind::Refuse);
    }
    let mut expect = content(40 * MIB);
    let mut object = bench.put("new", &expect).await;
    for n in 0..3_usize {
        let at = n * 11 * MIB;
        expect[at..at + 5].fill(n as u8);
        object = patch(&bench, "new", &object, at, &[n as u8; 5], soon()).await.unwrap();
        assert!(read_all(&bench, "new", &object).await == expect, "change {n}");
    }
    let moved = bench.store.rename(&key("new"), &object, &key("moved"), Headers::default(), soon()).await.unwrap();
    assert!(read_all(&bench, "moved", &moved).await == expect);
    for site in Site::ALL {
        bench.heal(site);
    }
    bench.wait_settled().await;
    for site in Site::ALL {
        assert!(bench.in_bucket(site, "moved").await == Some(Bytes::from(expect.clone())), "bucket {site}");
        assert_eq!(bench.in_bucket(site, "new").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_and_renamed_before_any_bucket_took_it_stays_cut() {
    let options = Options { commit: Commit::Journal, ..Options::default() };
    let bench = Bench::with(emulator(20), tempfile::tempdir().unwrap(), options);
    let mut expect = content(40 * MIB);
    let old = bench.put("long", &expect).await;
    bench.wait_settled().await;
    let old = bench.store.head(&key("long"), soon()).await.unwrap().unwrap_or(old);
    for site in Site::ALL {
        bench.fault(site, Kind::Refuse);
    }
    expect.truncate(33 * MIB);
    let size = expect.len() as u64;
    let base = Arc::new(bench.store.open(&key("long"), &old));
    let cut = Patch::<HaStore> { staging: None, ranges: Vec::new(), size, base, shown: size };
    let cut = bench.store.patch(&key("long"), cut, Headers::default(), Ack::Close, soon()).await.unwrap();
    let moved = bench.store.rename(&key("long"), &cut, &key("short"), Headers::default(), soon()).await.unwrap();
    assert!(read_all(&bench, "short", &moved).await == expect);
    for site in Site::ALL {
        bench.heal(site);
    }
    bench.wait_settled().await;
    for site in Site::ALL {
        let found = bench.in_bucket(site, "short").await.unwrap();
        assert!(found == expect, "bucket {site} has {} bytes", found.len());
        assert_eq!(bench.in_bucket(site, "long").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_dead_upload_are_given_up() {
    let bench = Bench::new(20);
    let old = bench.put("big", &content(40 * MIB)).await;
    bench.wait_settled().await;
    let mut fault = Fault::new(Kind::Status);
    (fault.status, fault.methods, fault.count) = (Some(403), vec!["PUT".into()], Some(1));
    bench.emulator.set_faults(Site::A, vec![fault]).unwrap();
    assert!(patch(&bench, "big", &old, 5, b"x", soon()).await.is_err(), "a refusal is told");
    let progress = Progress::new();
    let uploads = client(&bench.emulator, Site::A).list_uploads("", &Attempt::new(&progress)).await.unwrap();
    assert_eq!(uploads, [], "given up at once");
    bench.wait_settled().await;
    assert_eq!(bench.in_bucket(Site::B, "big").await.unwrap()[5], b'x', "sent again later");
}
