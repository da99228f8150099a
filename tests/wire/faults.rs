//! Every fault kind, seen on the wire.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use cosfs_ha::emulator::{Emulator, Fault, Kind};
use cosfs_ha::object::Site;

use crate::client::{Wire, ask, eventually, get, put, start};

const A: Site = Site::A;
const SHORT: Duration = Duration::from_millis(150);

fn broken(kind: Kind) -> Emulator {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    emulator.set_faults(A, vec![Fault::new(kind)]).expect("set");
    emulator
}

fn heal(emulator: &Emulator) {
    emulator.set_faults(A, vec![]).expect("heal");
    assert_eq!(get(emulator, A, "k").body.len(), 100_000, "healthy again");
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

#[test]
fn refuse() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let mut old = Wire::connect(emulator.address(A)).expect("connect");
    assert_eq!(old.exchange(&ask(A, "GET", "/k")).expect("answer").status, 200);
    emulator.set_faults(A, vec![Fault::new(Kind::Refuse)]).expect("set");
    assert_eq!(Wire::connect(emulator.address(A)).err().map(|e| e.kind()), Some(ErrorKind::ConnectionRefused));
    assert!(old.exchange(&ask(A, "GET", "/k")).is_err(), "established connections are gone");
    assert_eq!(get(&emulator, Site::B, "nothing").status, 404, "the other site lives");
    emulator.set_faults(A, vec![Fault::new(Kind::Refuse)]).expect("again");
    heal(&emulator);
}

#[test]
fn blackhole() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let mut idle = Wire::connect(emulator.address(A)).expect("connect");
    assert_eq!(idle.exchange(&ask(A, "GET", "/k")).expect("answer").status, 200);
    emulator.set_faults(A, vec![Fault::new(Kind::Blackhole)]).expect("set");
    let refused = Wire::connect(emulator.address(A)).err().map(|e| e.kind());
    assert_eq!(refused, Some(ErrorKind::TimedOut), "no answer to a SYN");
    idle.stream.write_all(&ask(A, "PUT", "/late").body("x").bytes()).expect("the kernel takes it");
    assert!(idle.is_silent(SHORT), "no byte, no end");
    heal(&emulator);
    assert_eq!(get(&emulator, A, "late").status, 404, "what was sent into the dark is never carried out");
    let end = idle.stream.read(&mut [0; 1]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|e| is_reset(e.kind())), "frozen connections end at heal");
}

#[test]
fn blackhole_in_the_middle_of_a_body() {
    let emulator = start();
    let large = vec![b'x'; 64 << 20];
    emulator.put(A, "large", large.into()).expect("put");
    let mut wire = Wire::connect(emulator.address(A)).expect("connect");
    wire.stream.write_all(&ask(A, "GET", "/large").bytes()).expect("write");
    wire.stream.read_exact(&mut [0; 4096]).expect("the beginning");
    emulator.set_faults(A, vec![Fault::new(Kind::Blackhole)]).expect("set");
    // What the kernels hold still arrives; then silence.
    let mut sink = vec![0; 1 << 20];
    wire.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    let mut got = 4096;
    let end = loop {
        match wire.stream.read(&mut sink) {
            Ok(n) => got += n,
            Err(error) => break error.kind(),
        }
        assert!(got < 64 << 20, "the body must not get through");
    };
    assert!(matches!(end, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{end:?}");
}

#[test]
fn blackhole_of_writes_only() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let writes = Fault { methods: vec!["PUT".into(), "POST".into(), "DELETE".into()], ..Fault::new(Kind::Blackhole) };
    emulator.set_faults(A, vec![writes]).expect("set");
    let mut wire = Wire::connect(emulator.address(A)).expect("connecting works");
    wire.stream.write_all(&ask(A, "PUT", "/w").body("x").bytes()).expect("write");
    assert!(wire.is_silent(SHORT));
    assert_eq!(get(&emulator, A, "k").status, 200, "reads work");
    heal(&emulator);
    assert_eq!(get(&emulator, A, "w").status, 404);
}

#[test]
fn reset() {
    let emulator = broken(Kind::Reset);
    let error = ask(A, "GET", "/k").attempt(emulator.address(A)).expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    emulator.set_faults(A, vec![Fault { after_bytes: Some(5000), ..Fault::new(Kind::Reset) }]).expect("set");
    let answer = get(&emulator, A, "k");
    assert!(answer.short && answer.body.len() <= 5000, "{} bytes", answer.body.len());
    let upload = ask(A, "PUT", "/w").body(vec![0; 200_000]).attempt(emulator.address(A));
    assert!(upload.is_err_and(|e| is_reset(e.kind())), "in the middle of an upload");
    heal(&emulator);
    assert_eq!(get(&emulator, A, "w").status, 404);
}

#[test]
fn hang() {
    let emulator = broken(Kind::Hang);
    let mut wire = Wire::connect(emulator.address(A)).expect("connect");
    wire.stream.write_all(&ask(A, "PUT", "/w").body("x").bytes()).expect("write");
    assert!(wire.is_silent(SHORT));
    heal(&emulator);
    assert_eq!(get(&emulator, A, "w").status, 404, "not carried out");
}

#[test]
fn delay() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let fault = Fault { delay_ms: Some(150), count: Some(1), ..Fault::new(Kind::Delay) };
    emulator.set_faults(A, vec![fault]).expect("set");
    let begin = Instant::now();
    assert_eq!(get(&emulator, A, "k").status, 200);
    assert!(begin.elapsed() >= SHORT, "at least the delay");
    heal(&emulator);
}

#[test]
fn drip() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let fault = Fault { after_bytes: Some(99_997), delay_ms: Some(30), ..Fault::new(Kind::Drip) };
    emulator.set_faults(A, vec![fault]).expect("set");
    let begin = Instant::now();
    assert_eq!(get(&emulator, A, "k").body.len(), 100_000);
    assert!(begin.elapsed() >= Duration::from_millis(90), "the last three bytes one by one");
    heal(&emulator);
}

#[test]
fn truncate() {
    let emulator = broken(Kind::Truncate);
    let answer = get(&emulator, A, "k");
    assert_eq!(answer.header("content-length"), Some("100000"), "promised in full");
    assert_eq!((answer.short, answer.body.len()), (true, 50_000));
    heal(&emulator);
}

#[test]
fn corrupt() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let fault = Fault { after_bytes: Some(777), ..Fault::new(Kind::Corrupt) };
    emulator.set_faults(A, vec![fault]).expect("set");
    let answer = get(&emulator, A, "k");
    let wrong: Vec<usize> = (0..answer.body.len()).filter(|i| answer.body[*i] != b'x').collect();
    assert_eq!((answer.body.len(), wrong), (100_000, vec![777]));
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &[b'x'; 100_000]).to_string();
    assert_eq!(answer.header("x-cos-hash-crc64ecma"), Some(crc.as_str()), "the checksum tells");
    let stored = put(&emulator, A, "w", &[b'x'; 100_000]);
    assert_ne!(stored.header("x-cos-hash-crc64ecma"), Some(crc.as_str()), "what arrived was something else");
    heal(&emulator);
}

#[test]
fn statuses() {
    let emulator = broken(Kind::Status);
    let answer = ask(A, "PUT", "/w").body("x").send(&emulator, A);
    assert_eq!((answer.status, answer.element("Code").as_deref()), (500, Some("InternalError")));
    assert!(answer.header("x-cos-request-id").is_some());
    emulator.set_faults(A, vec![Fault { status: Some(503), ..Fault::new(Kind::StatusWithoutRequestId) }]).expect("set");
    let answer = get(&emulator, A, "k");
    assert_eq!(answer.status, 503);
    assert_eq!((answer.header("x-cos-request-id"), answer.header("server")), (None, Some("middlebox")));
    emulator.set_faults(A, vec![Fault::new(Kind::Slowdown)]).expect("set");
    let answer = get(&emulator, A, "k");
    assert_eq!((answer.status, answer.element("Code").as_deref()), (503, Some("SlowDown")));
    let redirect = Fault { location: Some("http://example.com/k".into()), ..Fault::new(Kind::Redirect) };
    emulator.set_faults(A, vec![redirect]).expect("set");
    let answer = get(&emulator, A, "k");
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://example.com/k")));
    assert!(answer.header("x-cos-request-id").is_some());
    heal(&emulator);
    assert_eq!(get(&emulator, A, "w").status, 404, "nothing was carried out");
}

#[test]
fn drop_answer() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let fault = Fault { methods: vec!["PUT".into()], count: Some(1), ..Fault::new(Kind::DropAnswer) };
    emulator.set_faults(A, vec![fault]).expect("set");
    assert!(ask(A, "PUT", "/w").body("done").attempt(emulator.address(A)).is_err(), "no answer");
    assert_eq!(get(&emulator, A, "w").text(), "done", "but carried out");
    heal(&emulator);
}

#[test]
fn late_commit() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let fault = Fault { methods: vec!["PUT".into()], delay_ms: Some(400), ..Fault::new(Kind::LateCommit) };
    emulator.set_faults(A, vec![fault]).expect("set");
    assert!(ask(A, "PUT", "/w").body("late").attempt(emulator.address(A)).is_err(), "no answer");
    assert_eq!(get(&emulator, A, "w").status, 404, "not yet");
    heal(&emulator);
    eventually("committed after the connection died", || get(&emulator, A, "w").text() == "late");
}

#[test]
fn error_in_200() {
    let emulator = broken(Kind::ErrorIn200);
    let copy = ask(A, "PUT", "/w").header("x-cos-copy-source", "/master-1250000000/k").send(&emulator, A);
    assert_eq!((copy.status, copy.element("Code").as_deref()), (200, Some("InternalError")));
    assert_eq!(get(&emulator, A, "k").status, 200, "only where COS can do that");
    heal(&emulator);
    assert_eq!(get(&emulator, A, "w").status, 404);
}

#[test]
fn filters_and_counts() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let fault = Fault { key_prefix: Some("dir/".into()), count: Some(2), ..Fault::new(Kind::Status) };
    emulator.set_faults(A, vec![fault]).expect("set");
    assert_eq!(get(&emulator, A, "k").status, 200);
    assert_eq!(ask(A, "GET", "/?prefix=dir/").send(&emulator, A).status, 500, "the listed prefix counts as the key");
    assert_eq!(get(&emulator, A, "dir/x").status, 500);
    assert_eq!(get(&emulator, A, "dir/x").status, 404, "used up");
    assert!(emulator.faults(A).is_empty());
}

#[test]
fn steering_over_http() {
    let emulator = start();
    put(&emulator, A, "k", b"hello");
    let plain = |method: &'static str, target: &str, body: &str| {
        let mut ask = ask(A, method, target).body(body);
        ask.sign = false;
        ask.attempt(emulator.admin()).expect("an answer")
    };
    let set = plain("PUT", "/v1/faults/a", r#"[{"kind":"status","methods":["GET"],"status":503}]"#);
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(get(&emulator, A, "k").status, 503);
    assert_eq!(plain("PUT", "/v1/faults/a", "[]").status, 200);
    assert_eq!(get(&emulator, A, "k").status, 200);
    assert_eq!(plain("PUT", "/v1/faults/a", r#"[{"kind":"nonsense"}]"#).status, 400);
    assert_eq!(plain("PUT", "/v1/faults/z", "[]").status, 404);
    let replication =
        plain("PUT", "/v1/replication", r#"{"a_to_b":{"lag_ms":7,"stalled":true},"current":"last_arrival"}"#);
    assert_eq!(replication.status, 200, "{}", replication.text());
    let state: serde_json::Value = serde_json::from_slice(&plain("GET", "/v1/state", "").body).expect("JSON");
    assert_eq!(state["sites"]["a"]["objects"][0]["crc64"], "11177612005948864433");
    assert_eq!(state["sites"]["a"]["requests"]["GET"], 2);
    assert_eq!(state["replication"]["a_to_b"]["lag_ms"], 7);
    assert_eq!(state["replication"]["current"], "last_arrival");
    let log: serde_json::Value = serde_json::from_slice(&plain("GET", "/v1/log?site=a", "").body).expect("JSON");
    assert_eq!((&log[0]["method"], &log[0]["key"], &log[1]["status"]), (&"PUT".into(), &"k".into(), &503.into()));
    let short: serde_json::Value =
        serde_json::from_slice(&plain("GET", "/v1/state?objects=false", "").body).expect("JSON");
    assert_eq!(
        (&short["sites"]["a"]["objects"], &short["sites"]["a"]["object_count"]),
        (&serde_json::json!([]), &1.into())
    );
}

#[test]
fn wrong_date_and_wrong_clock() {
    let emulator = broken(Kind::WrongDate);
    let off = |answer: &crate::client::Answer| {
        let date = httpdate::parse_http_date(answer.header("date").expect("a date")).expect("readable");
        let now = std::time::SystemTime::now();
        date.duration_since(now).map_or_else(|e| -(e.duration().as_secs() as i64), |d| d.as_secs() as i64)
    };
    let answer = get(&emulator, A, "k");
    assert!((1190..=1210).contains(&off(&answer)), "{}", off(&answer));
    assert_eq!(answer.status, 200, "only the header lies");
    emulator.set_faults(A, vec![Fault { skew_s: Some(-7200), ..Fault::new(Kind::WrongClock) }]).expect("set");
    let answer = get(&emulator, A, "k");
    assert_eq!((answer.status, answer.element("Code").as_deref()), (403, Some("RequestTimeTooSkewed")));
    assert!((-7210..=-7190).contains(&off(&answer)), "the date tells why");
    let mut adjusted = ask(A, "GET", "/k");
    adjusted.window = (-7260, -6600);
    assert_eq!(adjusted.send(&emulator, A).status, 200, "signed in the time of the region");
    heal(&emulator);
}

#[test]
fn wrong_etag() {
    let emulator = start();
    let etag = put(&emulator, A, "k", &[b'x'; 100_000]).header("etag").expect("etag").to_owned();
    emulator.set_faults(A, vec![Fault::new(Kind::WrongEtag)]).expect("set");
    let answer = get(&emulator, A, "k");
    assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    assert_ne!(answer.header("etag"), Some(etag.as_str()));
    heal(&emulator);
}

#[test]
fn stale_read() {
    let emulator = start();
    put(&emulator, A, "old", b"one");
    std::thread::sleep(Duration::from_millis(400));
    put(&emulator, A, "old", b"two");
    put(&emulator, A, "new", b"x");
    let fault = Fault { delay_ms: Some(300), ..Fault::new(Kind::StaleRead) };
    emulator.set_faults(A, vec![fault]).expect("set");
    assert_eq!(get(&emulator, A, "old").text(), "one", "as it was");
    let head = ask(A, "HEAD", "/new").send(&emulator, A);
    assert_eq!(head.status, 404, "not there yet");
    let listing = ask(A, "GET", "/").send(&emulator, A);
    assert_eq!(listing.elements("Key"), ["new", "old"], "listings are not concerned");
    eventually("the new version shows", || get(&emulator, A, "old").text() == "two");
}

#[test]
fn stale_list() {
    let emulator = start();
    put(&emulator, A, "gone", b"x");
    put(&emulator, A, "stays", b"x");
    std::thread::sleep(Duration::from_millis(400));
    put(&emulator, A, "new", b"x");
    assert_eq!(ask(A, "DELETE", "/gone").send(&emulator, A).status, 204);
    emulator.set_faults(A, vec![Fault { delay_ms: Some(300), ..Fault::new(Kind::StaleList) }]).expect("set");
    let keys = || ask(A, "GET", "/").send(&emulator, A).elements("Key");
    assert_eq!(keys(), ["gone", "stays"]);
    assert_eq!(get(&emulator, A, "new").status, 200, "reads are not concerned");
    assert_eq!(ask(A, "GET", "/?versioning").send(&emulator, A).element("Status").as_deref(), Some("Enabled"));
    eventually("the listing catches up", || keys() == ["new", "stays"]);
}

#[test]
fn connection_limit() {
    let emulator = start();
    put(&emulator, A, "k", &[b'x'; 100_000]);
    let mut first = Wire::connect(emulator.address(A)).expect("connect");
    assert_eq!(first.exchange(&ask(A, "GET", "/k")).expect("answer").status, 200);
    emulator.set_faults(A, vec![Fault { limit: Some(1), ..Fault::new(Kind::ConnectionLimit) }]).expect("set");
    let second = ask(A, "GET", "/k").attempt(emulator.address(A));
    assert!(second.is_err_and(|e| is_reset(e.kind())), "one too many");
    assert_eq!(first.exchange(&ask(A, "GET", "/k")).expect("answer").status, 200, "who is in stays in");
    drop(first);
    eventually("room for another", || ask(A, "GET", "/k").attempt(emulator.address(A)).is_ok());
    heal_limit(&emulator);
}

fn heal_limit(emulator: &Emulator) {
    emulator.set_faults(A, vec![]).expect("heal");
    let many: Vec<Wire> = (0..20).map(|_| Wire::connect(emulator.address(A)).expect("connect")).collect();
    assert_eq!(get(emulator, A, "k").status, 200, "beside {} others", many.len());
}
