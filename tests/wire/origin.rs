//! The external origin as a plain HTTP client sees it.

use cosfs_ha::emulator::{Emulator, Fault, Kind, Place};

use crate::client::{Answer, Ask, eventually, plain, start};

fn send(emulator: &Emulator, ask: Ask<'_>) -> Answer {
    ask.attempt(emulator.address(Place::Origin)).expect("an answer")
}

#[test]
fn files_come_and_go() {
    let emulator = start();
    let created = send(&emulator, plain("PUT", "/dir/k%20k").header("Content-Type", "text/plain").body("0123456789"));
    assert_eq!((created.status, created.header("etag")), (201, Some("\"781e5e245d69b566979b86e28d23f2c7\"")));
    assert_eq!(created.header("x-cos-request-id"), None, "not COS");
    let got = send(&emulator, plain("GET", "/dir/k%20k"));
    assert_eq!((got.status, got.text().as_str(), got.header("content-type")), (200, "0123456789", Some("text/plain")));
    assert_eq!((got.header("etag"), got.header("x-cos-hash-crc64ecma")), (created.header("etag"), None));
    assert!(got.header("last-modified").is_some());
    let part = send(&emulator, plain("GET", "/dir/k%20k").header("Range", "bytes=-3"));
    assert_eq!((part.status, part.text().as_str()), (206, "789"));
    let head = send(&emulator, plain("HEAD", "/dir/k%20k"));
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("10"), 0));
    let replaced = send(&emulator, plain("PUT", "/dir/k%20k").header("x-cos-meta-ha", "stamp").body("new"));
    assert_eq!(replaced.status, 204);
    assert_eq!(send(&emulator, plain("GET", "/dir/k%20k")).header("x-cos-meta-ha"), Some("stamp"));
    assert_eq!(send(&emulator, plain("DELETE", "/dir/k%20k")).status, 204);
    assert_eq!(send(&emulator, plain("GET", "/dir/k%20k")).status, 404);
    assert_eq!(send(&emulator, plain("DELETE", "/dir/k%20k")).status, 404);
    assert_eq!(send(&emulator, plain("PATCH", "/k")).status, 405);
}

#[test]
fn conditions_count_for_writes_too() {
    let emulator = start();
    let put = |name: &str, value: &str| send(&emulator, plain("PUT", "/k").header(name, value).body("x")).status;
    assert_eq!(put("If-Match", "\"781e\""), 412, "nothing there");
    assert_eq!(put("If-None-Match", "*"), 201);
    assert_eq!(put("If-None-Match", "*"), 412, "exclusive");
    let etag = send(&emulator, plain("GET", "/k")).header("etag").expect("etag").to_owned();
    assert_eq!(put("If-Match", &etag), 204);
    assert_eq!(put("If-Match", "\"other\""), 412);
    assert_eq!(send(&emulator, plain("GET", "/k").header("If-None-Match", etag.as_str())).status, 304);
    assert_eq!(send(&emulator, plain("DELETE", "/k").header("If-Match", "\"other\"")).status, 412);
    assert_eq!(send(&emulator, plain("DELETE", "/k").header("If-Match", etag)).status, 204);
}

#[test]
fn listings() {
    let emulator = start();
    for key in ["a", "dir/b", "dir/sub/c"] {
        assert_eq!(send(&emulator, plain("PUT", &format!("/{key}")).body("x")).status, 201);
    }
    let list: serde_json::Value =
        serde_json::from_slice(&send(&emulator, plain("GET", "/?prefix=dir/")).body).expect("JSON");
    assert_eq!((&list[0]["key"], &list[1]["key"]), (&"dir/b".into(), &"dir/sub/c".into()));
    let hrefs = |target: &str, depth: &str| {
        let answer = send(&emulator, plain("PROPFIND", target).header("Depth", depth));
        assert_eq!(answer.status, 207, "{}", answer.text());
        answer.elements("D:href")
    };
    assert_eq!(hrefs("/", "infinity"), ["/a", "/dir/b", "/dir/sub/c", "/", "/dir/", "/dir/sub/"]);
    assert_eq!(hrefs("/dir/", "1"), ["/dir/b", "/dir/", "/dir/sub/"]);
    assert_eq!(hrefs("/dir/", "0"), ["/dir/"]);
    assert_eq!(hrefs("/a", "0"), ["/a"]);
    assert_eq!(send(&emulator, plain("PROPFIND", "/nothing")).status, 404);
}

#[test]
fn faults_apply() {
    let emulator = start();
    let faults = |fault: Fault| emulator.set_faults(Place::Origin, vec![fault]).expect("set");
    faults(Fault { methods: vec!["PUT".into()], ..Fault::new(Kind::DropAnswer) });
    assert!(plain("PUT", "/k").body("kept").attempt(emulator.address(Place::Origin)).is_err());
    assert_eq!(send(&emulator, plain("GET", "/k")).text(), "kept", "carried out, not answered");
    faults(Fault { delay_ms: Some(200), ..Fault::new(Kind::LateCommit) });
    assert!(plain("DELETE", "/k").attempt(emulator.address(Place::Origin)).is_err());
    emulator.set_faults(Place::Origin, vec![]).expect("heal");
    assert_eq!(send(&emulator, plain("GET", "/k")).status, 200);
    eventually("deleted late", || send(&emulator, plain("GET", "/k")).status == 404);
    faults(Fault { status: Some(503), ..Fault::new(Kind::Status) });
    let answer = send(&emulator, plain("GET", "/k"));
    assert_eq!((answer.status, answer.header("x-cos-request-id")), (503, None));
    faults(Fault::new(Kind::Refuse));
    assert!(plain("GET", "/k").attempt(emulator.address(Place::Origin)).is_err());
    assert!(emulator.set_faults(Place::Origin, vec![Fault::new(Kind::WrongClock)]).is_err());
}
