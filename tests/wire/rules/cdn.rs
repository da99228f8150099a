//! The CDN.

use std::time::{SystemTime, UNIX_EPOCH};

use cosfs_ha::cos::url_auth::{Type, UrlAuth};
use cosfs_ha::emulator::cdn::{Purge, Settings};
use cosfs_ha::emulator::{Fault, Kind, Place};

use super::{A, B, Bench, Row, header, ours, row};
use crate::client::Answer;

fn edge(b: &Bench, target: &str) -> Answer {
    crate::client::plain("GET", target).attempt(b.emulator.address(Place::Cdn)).expect("an answer")
}

fn lookup(answer: &Answer) -> &str {
    header(answer, "x-cache-lookup")
}

fn set(b: &Bench, change: impl FnOnce(&mut Settings)) {
    let mut settings = Settings::default();
    change(&mut settings);
    b.emulator.cdn().set(settings).expect("settings");
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

pub const ROWS: &[Row] = &[
    row("cdn-auth", "Signed URLs of type A, B, C and D; a mismatch or an expired time is `403`.", |b| {
        b.put("k", "x");
        for kind in [Type::A, Type::B, Type::C, Type::D] {
            let auth = UrlAuth::new(kind, "dimtm5evg50ijsx2hvuwyfoiu65");
            set(b, |s| s.auth = Some(auth.clone()));
            let forged = UrlAuth::new(kind, "other");
            assert_eq!(edge(b, &auth.sign("/k", "", now(), "r")).text(), "x", "{kind:?}");
            assert_eq!(edge(b, &auth.sign("/k", "", now() - 9000, "r")).status, 403, "{kind:?}");
            assert_eq!(edge(b, &forged.sign("/k", "", now(), "r")).status, 403, "{kind:?}");
            assert_eq!(edge(b, "/k").status, 403, "{kind:?}");
        }
    }),
    row("cdn-auth-key", "The parameters of a signed URL are no part of the cache key.", |b| {
        b.put("k", "x");
        let auth = UrlAuth::new(Type::D, "dimtm5evg50ijsx2hvuwyfoiu65");
        set(b, |s| s.auth = Some(auth.clone()));
        assert_eq!(lookup(&edge(b, &auth.sign("/k", "", now(), "r"))), "Cache Miss");
        assert_eq!(lookup(&edge(b, &auth.sign("/k", "", now() - 60, "s"))), "Cache Hit");
    }),
    row("cdn-stale", "A copy lives for its time to live, whatever happens to the object: 30 days by default.", |b| {
        b.put("k", "one");
        edge(b, "/k");
        b.put("k", "two");
        assert_eq!((edge(b, "/k").text().as_str(), Settings::default().ttl_s), ("one", 30 * 24 * 3600));
    }),
    row("cdn-404", "An absence is kept for 10 seconds by default.", |b| {
        assert_eq!(edge(b, "/k").status, 404);
        b.put("k", "x");
        let cached = edge(b, "/k");
        assert_eq!((cached.status, lookup(&cached), Settings::default().not_found_ttl_s), (404, "Cache Hit", 10));
    }),
    row(
        "cdn-query",
        "With the query in the cache key, a version is read by its id; without it, any version may be what one gets.",
        |b| {
            let one = header(&b.put("k", "one"), "x-cos-version-id").to_owned();
            b.put("k", "two");
            let pinned = format!("/k?versionId={one}");
            assert_eq!((edge(b, "/k").text(), edge(b, &pinned).text()), ("two".into(), "one".into()));
            set(b, |s| s.query_in_key = false);
            b.emulator.cdn().purge(&Purge::default());
            assert_eq!((edge(b, "/k").text(), edge(b, &pinned).text()), ("two".into(), "two".into()));
        },
    ),
    ours(
        "cdn-id",
        "An answer from the cache carries the origin's `x-cos-*` headers of then, so a request id there proves nothing.",
        |b| {
            b.put("k", "x");
            let miss = edge(b, "/k");
            let hit = edge(b, "/k");
            assert_eq!((lookup(&miss), lookup(&hit)), ("Cache Miss", "Cache Hit"));
            assert_eq!(header(&hit, "x-cos-request-id"), header(&miss, "x-cos-request-id"));
        },
    ),
    row("cdn-standby", "The standby is asked when the main origin answers 4XX or 5XX or nothing.", |b| {
        let file = crate::client::plain("PUT", "/k").body("standby").attempt(b.emulator.address(Place::Origin));
        assert_eq!(file.expect("an answer").status, 201);
        set(b, |s| s.standby = Some("origin".into()));
        for fault in [None, Some(403), Some(500)] {
            let fault = fault.map(|status| Fault { status: Some(status), ..Fault::new(Kind::Status) });
            b.emulator.set_faults(A, fault.into_iter().collect()).expect("set");
            b.emulator.cdn().purge(&Purge::default());
            assert_eq!(edge(b, "/k").text(), "standby");
        }
    }),
    row("cdn-standby-plain", "A standby is a plain domain: nothing signs for a private bucket there.", |b| {
        let apart = r#"{"b_to_a":{"stalled":true}}"#;
        b.emulator.change_replication(serde_json::from_str(apart).expect("a change"));
        crate::client::put(&b.emulator, B, "only-b", b"x");
        set(b, |s| s.standby = Some("b".into()));
        assert_eq!(edge(b, "/only-b").status, 403);
    }),
    row(
        "cdn-private",
        "Without the CDN's own account a private bucket refuses it; with it, everything cached is public.",
        |b| {
            b.put("k", "x");
            assert_eq!(edge(b, "/k").text(), "x");
            set(b, |s| s.private_access = false);
            b.emulator.cdn().purge(&Purge::default());
            assert_eq!(edge(b, "/k").status, 403);
        },
    ),
    row("cdn-redirect", "A redirect of the origin goes through to the client unless following is on.", |b| {
        let fault = Fault {
            status: Some(302),
            location: Some("http://elsewhere.invalid/".into()),
            ..Fault::new(Kind::Redirect)
        };
        b.emulator.set_faults(A, vec![fault]).expect("set");
        let answer = edge(b, "/k");
        assert_eq!((answer.status, header(&answer, "location")), (302, "http://elsewhere.invalid/"));
    }),
    row("cdn-purge", "A purge by URL takes one entry away, at once here.", |b| {
        b.put("k", "one");
        edge(b, "/k");
        b.put("k", "two");
        b.emulator.cdn().purge(&Purge { urls: vec!["http://files.example.com/k".into()], paths: vec![] });
        assert_eq!(edge(b, "/k").text(), "two");
    }),
];
