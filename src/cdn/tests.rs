use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use std::time::SystemTime;

use super::*;
use crate::config::Secret;
use crate::object::VersionId;

const BODY: &[u8] = b"0123456789";

fn token() -> Token {
    Token {
        version: Some(VersionId("v2".into())),
        etag: ETag("e2".into()),
        size: 10,
        crc64: Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, BODY)),
        modified_micros: 0,
        stamp: None,
    }
}

/// Answers each request with this text; returns its address and, by connection, the request lines it got.
fn server(answer: String) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let _ = send.send(line.trim().to_string());
            let mut rest = String::new();
            while reader.read_line(&mut rest).is_ok_and(|n| n > 2) {
                rest.clear();
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, lines)
}

fn cdn(endpoint: &str, auth: Option<CdnAuth>, share: u32) -> Cdn {
    let config = config::Cdn {
        domain: "files.example.com".into(),
        endpoint: Some(endpoint.into()),
        auth,
        share,
        ..config::Cdn::default()
    };
    Cdn::new(&config, Arc::default()).unwrap().unwrap()
}

fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

#[tokio::test]
async fn only_the_version_asked_for_is_believed() {
    let key = Key::new("dir/a b").unwrap();
    let all = "Content-Range: bytes 0-9/10";
    let good = ["ETag: \"e2\"", "x-cos-version-id: v2", all];
    let body = "0123456789";
    type Row = (&'static str, String, Range<u64>, Result<&'static str, Unusable>);
    let rows: Vec<Row> = vec![
        ("the version", answer("206 Partial", &good, body), 0..10, Ok(body)),
        (
            "a part of it",
            answer("206 Partial", &["ETag: \"e2\"", "Content-Range: bytes 2-4/10"], "234"),
            2..5,
            Ok("234"),
        ),
        (
            "without a version id, by ETag and length",
            answer("206 Partial", &["ETag: \"e2\"", all], body),
            0..10,
            Ok(body),
        ),
        ("all of it, for a range that is all", answer("200 OK", &["ETag: \"e2\""], body), 0..10, Ok(body)),
        (
            "an old version",
            answer("206 Partial", &["ETag: \"e1\"", "x-cos-version-id: v1", all], body),
            0..10,
            Err(Unusable::Stale),
        ),
        (
            "old, and only the id tells",
            answer("206 Partial", &["ETag: \"e2\"", "x-cos-version-id: v1", all], body),
            0..10,
            Err(Unusable::Stale),
        ),
        (
            "old, and only the ETag tells",
            answer("206 Partial", &["ETag: \"e1\"", all], body),
            0..10,
            Err(Unusable::Stale),
        ),
        (
            "old, and only the length tells",
            answer("206 Partial", &["ETag: \"e2\"", "Content-Range: bytes 0-9/11"], body),
            0..10,
            Err(Unusable::Stale),
        ),
        ("an older, shorter one", answer("416 Range", &["Content-Range: bytes */3"], ""), 0..10, Err(Unusable::Stale)),
        ("no ETag", answer("206 Partial", &[all], body), 0..10, Err(Unusable::Unprovable)),
        ("a cached absence", answer("404 Not Found", &[], ""), 0..10, Err(Unusable::Missing)),
        ("a refusal", answer("403 Forbidden", &[], ""), 0..10, Err(Unusable::Refused(403))),
        ("a redirect", answer("302 Found", &["Location: http://127.0.0.1:1/"], ""), 0..10, Err(Unusable::Refused(302))),
        ("a failure", answer("504 Late", &[], ""), 0..10, Err(Unusable::Failed("status 504".into()))),
        (
            "other bytes",
            answer("206 Partial", &["ETag: \"e2\"", "Content-Range: bytes 0-2/10"], "012"),
            2..5,
            Err(Unusable::Failed("other bytes than asked for".into())),
        ),
        (
            "damaged bytes",
            answer("206 Partial", &good, "0123456780"),
            0..10,
            Err(Unusable::Failed("wrong checksum".into())),
        ),
    ];
    for (what, text, range, expect) in rows {
        let (endpoint, lines) = server(text);
        let found = cdn(&endpoint, None, 0).get(&key, &token(), &range).await;
        assert_eq!(found, expect.map(|text| Bytes::copy_from_slice(text.as_bytes())), "{what}");
        assert_eq!(lines.recv().unwrap(), "GET /dir/a%20b?versionId=v2 HTTP/1.1", "{what}");
    }
    let nameless = Token { etag: ETag(String::new()), ..token() };
    assert_eq!(cdn("http://127.0.0.1:1", None, 0).get(&key, &nameless, &(0..10)).await, Err(Unusable::Unprovable));
}

#[tokio::test]
async fn a_cdn_that_fails_rests_and_is_counted() {
    let dead = cdn("http://127.0.0.1:1", None, 100);
    assert!(dead.has_turn());
    let key = Key::new("k").unwrap();
    assert!(matches!(dead.get(&key, &token(), &(0..10)).await, Err(Unusable::Failed(_))));
    assert!(!dead.has_turn());
    assert_eq!(dead.counters.all(), [("used", 0), ("stale", 0), ("missing", 0), ("refused", 0), ("failed", 1)]);
}

#[test]
fn turns_are_spread_evenly() {
    for (share, of_ten) in [(0, 0), (5, 0), (20, 2), (50, 5), (100, 10)] {
        let cdn = cdn("http://127.0.0.1:1", None, share);
        for _ in 0..10 {
            let turns = (0..10).filter(|_| cdn.has_turn()).count();
            assert!(turns.abs_diff(of_ten) <= 1, "{share}: {turns}");
        }
        let cdn = self::cdn("http://127.0.0.1:1", None, share);
        assert_eq!((0..1000).filter(|_| cdn.has_turn()).count(), share as usize * 10);
    }
}

#[test]
fn urls_are_signed_as_configured() {
    let key = Key::new("dir/a b").unwrap();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for kind in [AuthType::A, AuthType::B, AuthType::C, AuthType::D] {
        let auth = CdnAuth {
            kind,
            key: Secret("abcdef123456".into()),
            algorithm: AuthDigest::Md5,
            sign_param: "s".into(),
            time_param: "when".into(),
            time_format: AuthTime::Hexadecimal,
            valid: Duration::from_secs(60),
        };
        let cdn = cdn("http://127.0.0.1:1", Some(auth.clone()), 0);
        let url = cdn.url(&key, &token());
        let target = url.strip_prefix("http://files.example.com").unwrap();
        let (path, query) = target.split_once('?').unwrap();
        let verify = |auth: &CdnAuth, at: u64| url_auth(auth).verify(path, query, at);
        let admitted = verify(&auth, now()).unwrap();
        assert_eq!((admitted.path.as_str(), admitted.query.as_str()), ("/dir/a%20b", "versionId=v2"), "{kind:?}");
        // B counts whole minutes.
        assert!(verify(&auth, now() + 121).is_err(), "{kind:?} expires");
        let wrong = CdnAuth { key: Secret("abcdef123457".into()), ..auth };
        assert!(verify(&wrong, now()).is_err(), "{kind:?} with another key");
        assert!(!format!("{cdn:?}").contains("abcdef123456"));
    }
}
