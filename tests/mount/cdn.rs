//! Contents through the CDN: right bytes when both buckets are dark, and never an old copy or a remembered absence.

use std::fs;
use std::time::Duration;

use cosfs_ha::cos::url_auth::{Type, UrlAuth};
use cosfs_ha::object::Site;
use serde_json::{Value, json};

use crate::common::{Bench, Emulator, Setup, bytes, http, wait_until};

const KEY: &str = "edgekey1234567";

fn config(emulator: &Emulator, kind: &str, key: &str, share: u32) -> String {
    let endpoint = emulator.state()["sites"]["cdn"]["endpoint"].as_str().unwrap().to_string();
    let domain = emulator.state()["sites"]["cdn"]["settings"]["domain"].as_str().unwrap().to_string();
    format!(
        "[cdn]\ndomain = \"{domain}\"\nendpoint = \"{endpoint}\"\nauth = {{ type = \"{kind}\", key = \"{key}\" }}\nshare = {share}\n\
         [mount]\nmax_stall = \"8s\"\nmetadata_ttl = \"0s\"\n"
    )
}

fn settings(emulator: &Emulator, kind: &str, more: Value) {
    let mut all = json!({ "auth": { "type": kind, "key": KEY } });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    emulator.put("/v1/cdn", &all);
}

fn purge(emulator: &Emulator) {
    assert_eq!(http("POST", emulator.ports[2], "/v1/cdn/purge", "{}").unwrap().0, 200);
}

fn counter(emulator: &Emulator, name: &str) -> u64 {
    emulator.state()["sites"]["cdn"]["counters"][name].as_u64().unwrap()
}

#[test]
fn both_buckets_dark_and_every_way_of_signing() {
    let emulator = Emulator::start();
    settings(&emulator, "A", json!({}));
    let setup = Setup { config: config(&emulator, "A", KEY, 100), ..Setup::default() };
    let mut bench = Bench::on(emulator, setup);
    for kind in ["A", "B", "C", "D"] {
        settings(&bench.emulator, kind, json!({}));
        purge(&bench.emulator);
        bench.setup.config = config(&bench.emulator, kind, KEY, 100);
        assert_eq!(bench.umount().status.code(), Some(0));
        bench.mount();
        let (name, content) = (format!("signed by {kind}"), bytes(kind.as_bytes()[0].into(), 3_000_000));
        bench.emulator.bucket(Site::A).put(&name, content.clone());
        let before = bench.emulator.state()["sites"]["cdn"]["counters"]["main_pulls"].as_u64().unwrap();
        assert!(fs::read(bench.path(&name)).unwrap() == content, "{kind}");
        assert!(counter(&bench.emulator, "main_pulls") > before, "{kind}: the CDN was asked");
        assert_eq!(counter(&bench.emulator, "refused"), 0, "{kind}");
    }
    // In the dark: what the edge has is all there is.
    bench.empty_cache();
    bench.emulator.black_hole("a");
    bench.emulator.black_hole("b");
    let began = std::time::Instant::now();
    let found = fs::read(bench.path("signed by D")).unwrap();
    assert!(found == bytes(u64::from(b'D'), 3_000_000));
    assert!(began.elapsed() < Duration::from_secs(5), "without waiting for the verdict: {:?}", began.elapsed());
    wait_until("the mount knows", Duration::from_secs(30), || {
        ["both_down", "local_outage"].contains(&bench.status()["state"].as_str().unwrap())
    });
    let began = std::time::Instant::now();
    let _ = fs::read(bench.path("never seen"));
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    bench.emulator.heal("a");
    bench.emulator.heal("b");
}

#[test]
fn an_old_copy_and_a_remembered_absence_are_never_shown() {
    let emulator = Emulator::start();
    // The worst kind of edge: it ignores the query, and keeps what it has for ever.
    settings(&emulator, "D", json!({ "query_in_key": false, "not_found_ttl_s": 3600 }));
    let setup = Setup { config: config(&emulator, "D", KEY, 100), ..Setup::default() };
    let mut bench = Bench::on(emulator, setup);
    let bucket = bench.emulator.bucket(Site::A);
    let (old, new) = (bytes(1, 500_000), bytes(2, 500_000));
    bucket.put("changes", old.clone());
    assert!(fs::read(bench.path("changes")).unwrap() == old);
    bucket.put("changes", new.clone());
    assert!(fs::read(bench.path("changes")).unwrap() == new, "the edge still has the old copy");
    assert!(counter(&bench.emulator, "hits") > 0, "and was asked");

    // Its memory of an absence: somebody asked for a key before there was one.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let target = UrlAuth::new(Type::D, KEY).sign("/appears", "", now, "");
    let port = bench.emulator.state()["sites"]["cdn"]["endpoint"].as_str().unwrap().rsplit(':').next().unwrap().parse();
    assert_eq!(http("GET", port.unwrap(), &target, "").unwrap().0, 404);
    bucket.put("appears", new.clone());
    assert!(fs::read(bench.path("appears")).unwrap() == new);
    assert!(counter(&bench.emulator, "not_found_hits") > 0, "the edge said that there is none");

    // In the dark there is only the old copy: rather an error than that.
    bench.empty_cache();
    settings(&bench.emulator, "D", json!({ "query_in_key": false, "offline_cache": true }));
    purge(&bench.emulator);
    bucket.put("changes", old.clone());
    assert!(fs::read(bench.path("changes")).unwrap() == old);
    bucket.put("changes", new.clone());
    let known = fs::metadata(bench.path("changes")).unwrap();
    assert_eq!(known.len(), 500_000);
    bench.emulator.black_hole("a");
    bench.emulator.black_hole("b");
    match fs::read(bench.path("changes")) {
        Ok(found) => assert!(found == new, "an old copy was shown"),
        Err(error) => assert_ne!(error.raw_os_error(), Some(libc::ENOENT)),
    }
    bench.emulator.heal("a");
    bench.emulator.heal("b");
    wait_until("the new one is read again", Duration::from_secs(40), || {
        fs::read(bench.path("changes")).is_ok_and(|found| found == new)
    });
}

#[test]
fn urls_are_signed_by_the_clock_of_the_provider() {
    let emulator = Emulator::start();
    settings(&emulator, "A", json!({}));
    // Two hours off in both regions; the edge has the same time as this host. So what the mount signs is over for the edge.
    for site in ["a", "b"] {
        emulator.faults(site, json!([{"kind": "wrong_clock", "skew_s": -7200}]));
    }
    let setup = Setup { config: config(&emulator, "A", KEY, 100), ..Setup::default() };
    let bench = Bench::on(emulator, setup);
    let (one, two) = (bytes(3, 2_000_000), bytes(4, 2_000_000));
    fs::write(bench.path("one"), &one).unwrap();
    bench.settle();
    bench.emulator.bucket(Site::A).put("two", two.clone());
    assert!(fs::read(bench.path("two")).unwrap() == two);
    assert!(
        counter(&bench.emulator, "refused") >= 1,
        "an URL that is over is refused, and the file is read all the same"
    );
    assert_eq!(counter(&bench.emulator, "main_pulls"), 0);
}

#[test]
fn a_wrong_key_costs_nothing_but_the_cdn() {
    let emulator = Emulator::start();
    settings(&emulator, "A", json!({}));
    let setup = Setup { config: config(&emulator, "A", "anotherkey12345", 100), ..Setup::default() };
    let bench = Bench::on(emulator, setup);
    let content = bytes(3, 2_000_000);
    bench.emulator.bucket(Site::A).put("f", content.clone());
    assert!(fs::read(bench.path("f")).unwrap() == content);
    assert!(counter(&bench.emulator, "refused") >= 1);
    assert_eq!(counter(&bench.emulator, "main_pulls"), 0);
}
