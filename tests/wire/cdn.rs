//! The CDN: what a cache in front of a bucket does to those who read through it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cosfs_ha::cos::url_auth::{Type, UrlAuth};
use cosfs_ha::emulator::cdn::{Purge, Settings};
use cosfs_ha::emulator::{Emulator, Fault, Kind, Place};
use cosfs_ha::object::Site;

use crate::client::{Answer, plain, put, start};

fn read(emulator: &Emulator, target: &str) -> Answer {
    plain("GET", target).attempt(emulator.address(Place::Cdn)).expect("an answer")
}

fn lookup(answer: &Answer) -> &str {
    answer.header("x-cache-lookup").unwrap_or("none")
}

fn set(emulator: &Emulator, change: impl FnOnce(&mut Settings)) {
    let mut settings = Settings::default();
    change(&mut settings);
    emulator.cdn().set(settings).expect("settings");
}

fn pulls(emulator: &Emulator) -> u64 {
    emulator.state(false).sites.a.requests.get("GET").copied().unwrap_or(0)
}

#[test]
fn a_copy_lives_on_when_the_object_has_changed() {
    let emulator = start();
    let first = put(&emulator, Site::A, "k", b"one");
    let miss = read(&emulator, "/k");
    assert_eq!((miss.status, miss.text().as_str(), lookup(&miss)), (200, "one", "Cache Miss"));
    assert_eq!(miss.header("x-cos-version-id"), first.header("x-cos-version-id"), "headers of the bucket");
    put(&emulator, Site::A, "k", b"two");
    let hit = read(&emulator, "/k");
    assert_eq!((hit.text().as_str(), lookup(&hit)), ("one", "Cache Hit"), "old content, and no sign of it");
    assert_eq!(hit.header("x-cos-request-id"), miss.header("x-cos-request-id"), "that of the request that filled it");
    let version = first.header("x-cos-version-id").expect("id");
    let pinned = read(&emulator, &format!("/k?versionId={version}"));
    assert_eq!((pinned.text().as_str(), lookup(&pinned)), ("one", "Cache Miss"), "the query is in the key");
    assert_eq!(emulator.cdn().purge(&Purge { urls: vec!["http://files.example.com/k".into()], paths: vec![] }), 1);
    assert_eq!(read(&emulator, "/k").text(), "two");
    let counters = emulator.cdn().counters();
    assert_eq!((counters.hits, counters.misses, counters.purged), (1, 3, 1));
}

#[test]
fn without_the_query_in_the_key_a_version_is_not_what_you_get() {
    let emulator = start();
    set(&emulator, |s| s.query_in_key = false);
    let first = put(&emulator, Site::A, "k", b"one");
    put(&emulator, Site::A, "k", b"two");
    assert_eq!(read(&emulator, "/k").text(), "two");
    let version = first.header("x-cos-version-id").expect("id");
    let pinned = read(&emulator, &format!("/k?versionId={version}"));
    assert_eq!((pinned.text().as_str(), lookup(&pinned)), ("two", "Cache Hit"), "the trap");
}

#[test]
fn absence_is_cached_for_a_while() {
    let emulator = start();
    set(&emulator, |s| s.not_found_ttl_s = 1);
    assert_eq!(read(&emulator, "/k").status, 404);
    put(&emulator, Site::A, "k", b"x");
    let cached = read(&emulator, "/k");
    assert_eq!((cached.status, lookup(&cached)), (404, "Cache Hit"));
    crate::client::eventually("the cached absence ends", || read(&emulator, "/k").status == 200);
}

#[test]
fn time_to_live() {
    let emulator = start();
    set(&emulator, |s| s.ttl_s = 1);
    put(&emulator, Site::A, "k", b"one");
    assert_eq!(read(&emulator, "/k").text(), "one");
    put(&emulator, Site::A, "k", b"two");
    crate::client::eventually("the copy expires", || read(&emulator, "/k").text() == "two");
    for (control, kept) in [("no-store", false), ("max-age=0", false), ("max-age=60", true), ("public", true)] {
        let key = format!("control-{control}");
        let put = crate::client::ask(Site::A, "PUT", &format!("/{key}")).header("Cache-Control", control).body("x");
        assert_eq!(put.send(&emulator, Site::A).status, 200);
        read(&emulator, &format!("/{key}"));
        let again = read(&emulator, &format!("/{key}"));
        assert_eq!(lookup(&again) == "Cache Hit", kept, "{control}");
    }
}

#[test]
fn ranges_conditions_and_head() {
    let emulator = start();
    put(&emulator, Site::A, "k", b"0123456789");
    let address = emulator.address(Place::Cdn);
    let part = plain("GET", "/k").header("Range", "bytes=2-4").attempt(address).expect("answer");
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let whole = read(&emulator, "/k");
    assert_eq!((whole.text().as_str(), lookup(&whole)), ("0123456789", "Cache Hit"), "the whole object was kept");
    let head = plain("HEAD", "/k").attempt(address).expect("answer");
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    put(&emulator, Site::A, "other", b"12345");
    let head = plain("HEAD", "/other").attempt(address).expect("answer");
    assert_eq!((head.status, head.header("content-length"), lookup(&head)), (200, Some("5"), "Cache Miss"));
    let etag = whole.header("etag").expect("etag").to_owned();
    let same = plain("GET", "/k").header("If-None-Match", etag).attempt(address).expect("answer");
    assert_eq!(same.status, 304);
    let past = plain("GET", "/k").header("Range", "bytes=10-").attempt(address).expect("answer");
    assert_eq!(past.status, 416);
    assert_eq!(plain("PUT", "/k").body("x").attempt(address).expect("answer").status, 405);
}

#[test]
fn what_is_too_large_passes_through() {
    let emulator = start();
    emulator.put(Site::A, "large", vec![7; 65 << 20].into()).expect("put");
    for _ in 0..2 {
        let answer = plain("GET", "/large").header("Range", "bytes=1000-1999").attempt(emulator.address(Place::Cdn));
        let answer = answer.expect("answer");
        assert_eq!((answer.status, answer.body.len(), lookup(&answer)), (206, 1000, "Cache Miss"));
    }
    let whole = read(&emulator, "/large");
    assert_eq!((whole.status, whole.body.len(), whole.short), (200, 65 << 20, false));
    assert!(emulator.cdn().state(true).objects.is_empty());
}

#[test]
fn signed_urls() {
    let emulator = start();
    put(&emulator, Site::A, "dir/k", b"secret");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    for kind in [Type::A, Type::B, Type::C, Type::D] {
        let auth = UrlAuth::new(kind, "dimtm5evg50ijsx2hvuwyfoiu65");
        set(&emulator, |s| s.auth = Some(auth.clone()));
        emulator.cdn().purge(&Purge::default());
        assert_eq!(read(&emulator, "/dir/k").status, 403, "{kind:?}: not signed");
        let good = read(&emulator, &auth.sign("/dir/k", "", now, "r1"));
        assert_eq!((good.status, good.text().as_str(), lookup(&good)), (200, "secret", "Cache Miss"), "{kind:?}");
        let again = read(&emulator, &auth.sign("/dir/k", "", now - 60, "r2"));
        assert_eq!((again.status, lookup(&again)), (200, "Cache Hit"), "{kind:?}: the signature is not in the key");
        let late = read(&emulator, &auth.sign("/dir/k", "", now - 1900, "r3"));
        assert_eq!(late.status, 403, "{kind:?}: expired");
        let forged = UrlAuth::new(kind, "anotherkey").sign("/dir/k", "", now, "r4");
        assert_eq!(read(&emulator, &forged).status, 403, "{kind:?}: another key");
    }
    assert_eq!(emulator.cdn().counters().refused, 12);
    let log = emulator.log(Site::A);
    let last = log.last().expect("requests");
    assert!(last.query.contains("sign="), "type D goes back to the origin with its parameters: {last:?}");
}

#[test]
fn without_private_access_the_bucket_refuses_the_cdn() {
    let emulator = start();
    put(&emulator, Site::A, "k", b"x");
    set(&emulator, |s| s.private_access = false);
    assert_eq!(read(&emulator, "/k").status, 403);
}

#[test]
fn any_4xx_of_the_main_origin_goes_to_the_standby() {
    let emulator = start();
    let file = plain("PUT", "/only-there").body("from the standby");
    assert_eq!(file.attempt(emulator.address(Place::Origin)).expect("answer").status, 201);
    assert_eq!(read(&emulator, "/only-there").status, 404);
    set(&emulator, |s| s.standby = Some("origin".into()));
    emulator.cdn().purge(&Purge::default());
    assert_eq!(read(&emulator, "/only-there").text(), "from the standby", "a 404 of the bucket is no answer");
    emulator.set_faults(Site::A, vec![Fault { status: Some(403), ..Fault::new(Kind::Status) }]).expect("set");
    emulator.cdn().purge(&Purge::default());
    assert_eq!(read(&emulator, "/only-there").text(), "from the standby");
    emulator.set_faults(Site::A, vec![Fault::new(Kind::Refuse)]).expect("set");
    emulator.cdn().purge(&Purge::default());
    assert_eq!(read(&emulator, "/only-there").text(), "from the standby");
    assert_eq!(emulator.cdn().counters().standby_pulls, 3);
    // A bucket can be standby as a plain domain only: nothing signs for it.
    set(&emulator, |s| s.standby = Some("b".into()));
    put(&emulator, Site::B, "in-b", b"x");
    assert_eq!(read(&emulator, "/in-b").status, 403);
    assert!(emulator.cdn().set(Settings { main: "a b".into(), ..Settings::default() }).is_err());
}

#[test]
fn when_the_region_is_gone_copies_remain() {
    let emulator = start();
    put(&emulator, Site::A, "kept", b"x");
    put(&emulator, Site::A, "other", b"x");
    read(&emulator, "/kept");
    emulator.set_faults(Site::A, vec![Fault::new(Kind::Blackhole)]).expect("set");
    assert_eq!(read(&emulator, "/kept").status, 200);
    set(&emulator, |s| (s.connect_timeout_ms, s.load_timeout_ms) = (200, 100));
    assert_eq!(read(&emulator, "/other").status, 504, "bounded by the CDN's own timeouts");
    assert_eq!(emulator.cdn().counters().failed_pulls, 1);
    emulator.set_faults(Site::A, vec![]).expect("heal");
    set(&emulator, |s| (s.ttl_s, s.offline_cache) = (1, true));
    assert_eq!(read(&emulator, "/other").status, 200);
    emulator.set_faults(Site::A, vec![Fault::new(Kind::Refuse)]).expect("set");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(read(&emulator, "/other").status, 200, "expired, but better than an error");
    assert_eq!(emulator.cdn().counters().offline_hits, 1);
}

#[test]
fn redirects_of_the_origin() {
    let emulator = start();
    let file = plain("PUT", "/target").body("behind").attempt(emulator.address(Place::Origin)).expect("answer");
    assert_eq!(file.status, 201);
    let location = format!("{}/target", emulator.endpoint(Place::Origin));
    let redirect = Fault { location: Some(location.clone()), ..Fault::new(Kind::Redirect) };
    emulator.set_faults(Site::A, vec![redirect]).expect("set");
    let shown = read(&emulator, "/k");
    assert_eq!((shown.status, shown.header("location")), (302, Some(location.as_str())), "the client sees it");
    set(&emulator, |s| s.follow_redirect = true);
    assert_eq!(read(&emulator, "/k").text(), "behind");
    let circle = Fault { location: Some(emulator.endpoint(Site::A)), ..Fault::new(Kind::Redirect) };
    emulator.set_faults(Site::A, vec![circle]).expect("set");
    assert_eq!(read(&emulator, "/circle").status, 502, "three hops at most");
    assert!(pulls(&emulator) >= 4);
}

#[test]
fn the_edge_itself_breaks() {
    let emulator = start();
    put(&emulator, Site::A, "k", &[b'x'; 1000]);
    read(&emulator, "/k");
    let faults = |kind| emulator.set_faults(Place::Cdn, vec![Fault::new(kind)]).expect("set");
    faults(Kind::Truncate);
    let answer = read(&emulator, "/k");
    assert_eq!((answer.short, answer.body.len()), (true, 500));
    faults(Kind::Corrupt);
    assert_eq!(read(&emulator, "/k").body.iter().filter(|b| **b != b'x').count(), 1);
    faults(Kind::Status);
    let answer = read(&emulator, "/k");
    assert_eq!((answer.status, answer.header("x-cos-request-id")), (500, None), "not an answer of COS");
    faults(Kind::Refuse);
    assert!(plain("GET", "/k").attempt(emulator.address(Place::Cdn)).is_err());
    emulator.set_faults(Place::Cdn, vec![]).expect("heal");
    assert_eq!(read(&emulator, "/k").status, 200);
    assert!(emulator.set_faults(Place::Cdn, vec![Fault::new(Kind::StaleList)]).is_err(), "no bucket, no listing");
}

#[test]
fn a_broken_pull_is_not_kept() {
    let emulator = start();
    put(&emulator, Site::A, "k", &[b'x'; 1000]);
    emulator.set_faults(Site::A, vec![Fault::new(Kind::Truncate)]).expect("set");
    assert_eq!(read(&emulator, "/k").status, 502);
    emulator.set_faults(Site::A, vec![]).expect("heal");
    assert_eq!(read(&emulator, "/k").body.len(), 1000);
}

#[test]
fn steering() {
    let emulator = start();
    put(&emulator, Site::A, "k", b"x");
    read(&emulator, "/k");
    let admin = |method, target: &str, body: &str| {
        plain(method, target).body(body).attempt(emulator.admin()).expect("an answer")
    };
    let set = admin("PUT", "/v1/cdn", r#"{"ttl_s":7,"auth":{"type":"D","key":"secretsecret"}}"#);
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(read(&emulator, "/k").status, 403);
    assert_eq!(admin("PUT", "/v1/cdn", r#"{"colour":"red"}"#).status, 400);
    assert_eq!(admin("PUT", "/v1/cdn", r#"{"standby":"no such place"}"#).status, 400);
    assert_eq!(admin("POST", "/v1/cdn/purge", r#"{"urls":["/k"]}"#).text(), r#"{"purged":1}"#);
    let state: serde_json::Value = serde_json::from_slice(&admin("GET", "/v1/state", "").body).expect("JSON");
    let cdn = &state["sites"]["cdn"];
    assert_eq!((&cdn["settings"]["ttl_s"], &cdn["counters"]["refused"]), (&7.into(), &1.into()));
    assert_eq!(cdn["requests"]["GET"], 2);
    assert_eq!(admin("GET", "/v1/log?site=cdn", "").status, 200);
}
