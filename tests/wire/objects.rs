//! Rules of the object API, one test a section of docs/cos-protocol.md.

use base64::Engine;
use cosfs_ha::emulator::{Emulator, Options};
use cosfs_ha::object::{Site, VersionId};
use md5::{Digest, Md5};

use crate::client::{Ask, ask, get, put, start};

const A: Site = Site::A;

fn md5(body: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(Md5::digest(body))
}

fn document<'a>(method: &'a str, target: &str, xml: &str) -> Ask<'a> {
    ask(A, method, target).header("Content-MD5", md5(xml.as_bytes())).body(xml)
}

#[test]
fn every_answer_names_its_origin() {
    let emulator = start();
    put(&emulator, A, "k", b"123456789");
    for answer in [get(&emulator, A, "k"), get(&emulator, A, "missing"), ask(A, "HEAD", "/").send(&emulator, A)] {
        assert_eq!(answer.header("server"), Some("tencent-cos"));
        assert!(answer.header("date").is_some_and(|d| d.ends_with(" GMT")));
        let id = answer.header("x-cos-request-id").expect("a request id");
        let id = base64::engine::general_purpose::STANDARD_NO_PAD.decode(id).expect("base64");
        assert_eq!(String::from_utf8_lossy(&id).split('_').count(), 4);
    }
    let answer = get(&emulator, A, "k");
    assert_eq!(answer.header("etag"), Some("\"25f9e794323b453885f5181f1b624d0b\""));
    assert_eq!(answer.header("x-cos-hash-crc64ecma"), Some("11051210869376104954"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    let id = VersionId(answer.header("x-cos-version-id").expect("versioned").into());
    assert!(id.commit_micros().is_some(), "{id} has the documented form");
    assert!(answer.headers.iter().any(|(n, _)| n == "ETag"), "spelled as COS does: {:?}", answer.headers);
    let missing = get(&emulator, A, "missing");
    assert_eq!((missing.status, missing.element("Code").as_deref()), (404, Some("NoSuchKey")));
    assert_eq!(missing.element("RequestId").as_deref(), missing.header("x-cos-request-id"));
}

#[test]
fn signature_is_checked() {
    let emulator = start();
    put(&emulator, A, "k", b"x");
    let code = |ask: Ask<'_>| {
        let answer = ask.send(&emulator, A);
        (answer.status, answer.element("Code").unwrap_or_default())
    };
    let denied = |code: &str| (403, code.to_owned());
    let wrong = |change: fn(&mut Ask<'_>)| {
        let mut ask = ask(A, "GET", "/k");
        change(&mut ask);
        ask
    };
    assert_eq!(code(wrong(|_| {})).0, 200);
    assert_eq!(code(wrong(|a| a.secret.1 = "wrong")), denied("SignatureDoesNotMatch"));
    assert_eq!(code(wrong(|a| a.secret.0 = "AKIDnobody")), denied("InvalidAccessKeyId"));
    assert_eq!(code(wrong(|a| a.window = (-600, -10))), denied("AccessDenied"));
    assert_eq!(code(wrong(|a| a.window = (3600, 7200))), denied("RequestTimeTooSkewed"));
    assert_eq!(code(wrong(|a| a.sign = false)), denied("AccessDenied"));
    assert_eq!(
        ask(A, "PUT", "/new").body("refused").header("x", "y").header("Authorization", "x").send(&emulator, A).status,
        200,
        "the first of two Authorization headers counts"
    );
    let presigned = format!("/k?{}", ask(A, "GET", "/k").authorization().replace(';', "%3B"));
    let mut by_url = ask(A, "GET", &presigned);
    by_url.sign = false;
    assert_eq!(code(by_url).0, 200, "signature in the query");
    // A large refused upload must still get its answer.
    let mut large = ask(A, "PUT", "/large").body(vec![7; 8 << 20]);
    large.secret.1 = "wrong";
    assert_eq!(code(large), denied("SignatureDoesNotMatch"));
    assert_eq!(get(&emulator, A, "large").status, 404);
}

#[test]
fn hosts_and_targets() {
    let emulator = start();
    put(&emulator, A, "k", b"in a");
    put(&emulator, Site::B, "only-b", b"in b");
    let via = |host: &str, target: &str, port: Site| {
        let mut ask = ask(A, "GET", target);
        ask.host = host.into();
        ask.send(&emulator, port).text()
    };
    assert_eq!(via("127.0.0.1:9100", "/k", A), "in a");
    assert_eq!(via("master-1250000000.cos.ap-guangzhou.tencentcos.cn", "/k", A), "in a");
    assert_eq!(via("slave-1250000000.cos.ap-shanghai.myqcloud.com", "/only-b", A), "in b");
    assert_eq!(via("localhost", "/slave-1250000000/only-b", A), "in b");
    let host = "master-1250000000.cos.ap-guangzhou.myqcloud.com";
    assert_eq!(via(host, &format!("http://{host}/k"), A), "in a", "absolute form, as through a proxy");
    assert!(via("master-1250000000.cos.ap-shanghai.myqcloud.com", "/k", A).contains("NoSuchBucket"));
}

#[test]
fn put_and_get_with_headers() {
    let emulator = start();
    let answer = ask(A, "PUT", "/d%C3%A9/a%20b+c")
        .header("Content-Type", "text/plain")
        .header("x-cos-meta-mode", "33188")
        .header("Cache-Control", "no-cache")
        .header("Content-MD5", md5(b"hello"))
        .body("hello")
        .send(&emulator, A);
    assert_eq!(answer.status, 200);
    let read = ask(A, "GET", "/d%C3%A9/a%20b%2Bc?response-content-type=image%2Fpng").send(&emulator, A);
    assert_eq!(read.text(), "hello");
    assert_eq!(read.header("content-type"), Some("image/png"));
    assert_eq!(read.header("x-cos-meta-mode"), Some("33188"));
    assert_eq!(read.header("cache-control"), Some("no-cache"));
    let head = ask(A, "HEAD", "/d%C3%A9/a%20b%2Bc").send(&emulator, A);
    assert_eq!((head.header("content-length"), head.header("content-type")), (Some("5"), Some("text/plain")));
    let bad = ask(A, "PUT", "/bad").header("Content-MD5", md5(b"other")).body("hello").send(&emulator, A);
    assert_eq!((bad.status, bad.element("Code").as_deref()), (400, Some("BadDigest")));
    let bad = ask(A, "PUT", "/bad").header("Content-MD5", "short").body("hello").send(&emulator, A);
    assert_eq!((bad.status, bad.element("Code").as_deref()), (400, Some("InvalidDigest")));
    assert_eq!(get(&emulator, A, "bad").status, 404);
    let large = ask(A, "PUT", "/bad").header("x-cos-meta-a", "x".repeat(2100)).body("hello").send(&emulator, A);
    assert_eq!(large.status, 400);
    let long = ask(A, "PUT", &format!("/{}", "k".repeat(851))).body("x").send(&emulator, A);
    assert_eq!(long.element("Code").as_deref(), Some("KeyTooLong"));
}

#[test]
fn chunked_and_expecting_uploads() {
    let emulator = start();
    let chunked = ask(A, "PUT", "/c").header("Transfer-Encoding", "chunked").body("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(chunked.send(&emulator, A).status, 200);
    assert_eq!(get(&emulator, A, "c").text(), "abcde");
    let expecting = ask(A, "PUT", "/e").header("Expect", "100-continue").body("waited");
    assert_eq!(expecting.send(&emulator, A).status, 200);
    assert_eq!(get(&emulator, A, "e").text(), "waited");
    // Announced longer than sent: nothing is stored.
    let mut wire = crate::client::Wire::connect(emulator.address(A)).expect("connect");
    let mut short = ask(A, "PUT", "/short").body("1234567890").bytes();
    short.truncate(short.len() - 5);
    std::io::Write::write_all(&mut wire.stream, &short).expect("write");
    wire.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    drop(wire);
    put(&emulator, A, "after", b"x");
    assert_eq!(get(&emulator, A, "short").status, 404);
}

#[test]
fn ranges_and_conditions() {
    let emulator = start();
    let etag = put(&emulator, A, "k", b"0123456789").header("etag").expect("an etag").to_owned();
    let with = |name: &str, value: &str| ask(A, "GET", "/k").header(name, value).send(&emulator, A);
    let part = with("Range", "bytes=2-4");
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    assert_eq!(
        part.header("x-cos-hash-crc64ecma"),
        get(&emulator, A, "k").header("x-cos-hash-crc64ecma"),
        "of the whole"
    );
    assert_eq!(with("Range", "bytes=7-").text(), "789");
    assert_eq!(with("Range", "bytes=-2").text(), "89");
    let outside = with("Range", "bytes=10-20");
    assert_eq!((outside.status, outside.element("Code").as_deref()), (416, Some("InvalidRange")));
    assert_eq!(with("If-Match", &etag).status, 200);
    let other = with("If-Match", "\"other\"");
    assert_eq!((other.status, other.element("Code").as_deref()), (412, Some("PreconditionFailed")));
    let same = with("If-None-Match", &etag);
    assert_eq!((same.status, same.header("etag")), (304, Some(etag.as_str())));
    assert_eq!(with("If-Modified-Since", "Fri, 10 Apr 2020 09:36:35 GMT").status, 200);
    assert_eq!(with("If-Unmodified-Since", "Fri, 10 Apr 2020 09:36:35 GMT").status, 412);
    let ignored = ask(A, "PUT", "/k").header("If-None-Match", "*").body("new").send(&emulator, A);
    assert_eq!(ignored.status, 200, "COS has no conditional PUT");
}

#[test]
fn versions_and_markers() {
    let emulator = start();
    let first = put(&emulator, A, "k", b"one").header("x-cos-version-id").expect("an id").to_owned();
    let second = put(&emulator, A, "k", b"two").header("x-cos-version-id").expect("an id").to_owned();
    assert!(VersionId(first.clone()).commit_micros() < VersionId(second.clone()).commit_micros());
    assert_eq!(get(&emulator, A, &format!("k?versionId={first}")).text(), "one");
    let deleted = ask(A, "DELETE", "/k").send(&emulator, A);
    assert_eq!((deleted.status, deleted.header("x-cos-delete-marker")), (204, Some("true")));
    let marker = deleted.header("x-cos-version-id").expect("a marker id").to_owned();
    assert_eq!(get(&emulator, A, "k").status, 404);
    assert_eq!(get(&emulator, A, &format!("k?versionId={second}")).text(), "two");
    let listed = ask(A, "GET", "/?versions&prefix=k").send(&emulator, A);
    assert_eq!(listed.elements("VersionId"), [marker.clone(), second.clone(), first.clone()]);
    assert_eq!(listed.elements("IsLatest"), ["true", "false", "false"]);
    assert!(ask(A, "GET", "/?prefix=k").send(&emulator, A).elements("Key").is_empty());
    let undeleted = ask(A, "DELETE", &format!("/k?versionId={marker}")).send(&emulator, A);
    assert_eq!((undeleted.status, undeleted.header("x-cos-delete-marker")), (204, Some("true")));
    assert_eq!(get(&emulator, A, "k").text(), "two");
    let unknown = get(&emulator, A, &format!("k?versionId={marker}"));
    assert_eq!((unknown.status, unknown.element("Code").as_deref()), (404, Some("NoSuchVersion")));
}

#[test]
fn unconfigured_buckets_know_no_versions() {
    let emulator = Emulator::start(Options { unconfigured: true, ..Options::default() }).expect("start");
    assert_eq!(put(&emulator, A, "k", b"one").header("x-cos-version-id"), None);
    let again = ask(A, "PUT", "/k").header("x-cos-forbid-overwrite", "true").body("two").send(&emulator, A);
    assert_eq!((again.status, again.element("Code").as_deref()), (409, Some("FileAlreadyExists")));
    assert_eq!(ask(A, "GET", "/?versioning").send(&emulator, A).element("Status"), None);
    let none = ask(A, "GET", "/?replication").send(&emulator, A);
    assert_eq!((none.status, none.element("Code").as_deref()), (404, Some("ReplicationConfigurationNotFoundError")));
    let enabled =
        document("PUT", "/?versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>");
    assert_eq!(enabled.send(&emulator, A).status, 200);
    let over = ask(A, "PUT", "/k").header("x-cos-forbid-overwrite", "true").body("two").send(&emulator, A);
    assert_eq!(over.status, 200, "without effect on a versioned bucket");
    assert_eq!(
        ask(A, "GET", "/?versions").send(&emulator, A).elements("VersionId").last().map(String::as_str),
        Some("null")
    );
    let suspended = document(
        "PUT",
        "/?versioning",
        "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>",
    );
    assert_eq!(suspended.send(&emulator, A).status, 200);
    assert_eq!(put(&emulator, A, "k", b"three").header("x-cos-version-id"), None, "no header on a suspended bucket");
}

#[test]
fn listing_with_encoding_and_pages() {
    let emulator = start();
    for key in ["a%20b", "d/1", "d/2", "e%01x", "z"] {
        put(&emulator, A, key, b"x");
    }
    let page = ask(A, "GET", "/?delimiter=%2F&max-keys=2&encoding-type=url").send(&emulator, A);
    assert_eq!(page.elements("Key"), ["a%20b"]);
    assert_eq!(page.element("IsTruncated").as_deref(), Some("true"));
    assert_eq!(page.element("NextMarker").as_deref(), Some("d/"));
    let next = ask(A, "GET", "/?delimiter=%2F&marker=d%2F&encoding-type=url").send(&emulator, A);
    assert_eq!(next.elements("Key"), ["e%01x", "z"]);
    let plus = ask(A, "GET", "/?prefix=a+b").send(&emulator, A);
    assert_eq!(plus.elements("Key"), ["a b"], "+ is a space in a query");
    let bad = ask(A, "GET", "/?delimiter=ab").send(&emulator, A);
    assert_eq!(bad.element("Code").as_deref(), Some("InvalidDelimiter"));
}

#[test]
fn copies() {
    let emulator = start();
    let source = crate::client::host(A);
    let first = ask(A, "PUT", "/src%20x").header("x-cos-meta-a", "1").body("one").send(&emulator, A);
    let first = first.header("x-cos-version-id").expect("an id").to_owned();
    put(&emulator, A, "src%20x", b"two");
    let copy = |from: String| ask(A, "PUT", "/dst").header("x-cos-copy-source", from);
    let done = copy(format!("{source}/src%20x?versionId={first}")).send(&emulator, A);
    assert_eq!((done.status, done.header("transfer-encoding")), (200, Some("chunked")));
    assert_eq!(done.header("x-cos-copy-source-version-id"), Some(first.as_str()));
    assert_eq!(done.element("CRC64").as_deref(), get(&emulator, A, "dst").header("x-cos-hash-crc64ecma"));
    assert_eq!(get(&emulator, A, "dst").text(), "one");
    assert_eq!(get(&emulator, A, "dst").header("x-cos-meta-a"), Some("1"));
    copy("/master-1250000000/src%20x".into())
        .header("x-cos-metadata-directive", "REPLACE")
        .header("x-cos-meta-b", "2")
        .send(&emulator, A);
    let replaced = get(&emulator, A, "dst");
    assert_eq!(
        (replaced.text().as_str(), replaced.header("x-cos-meta-a"), replaced.header("x-cos-meta-b")),
        ("two", None, Some("2"))
    );
    let onto_itself = copy(format!("{source}/dst")).send(&emulator, A);
    assert_eq!(onto_itself.status, 400);
    assert_eq!(copy(format!("{source}/missing")).send(&emulator, A).element("Code").as_deref(), Some("NoSuchKey"));
    let condition = copy(format!("{source}/src%20x")).header("x-cos-copy-source-If-Match", "\"x\"").send(&emulator, A);
    assert_eq!(condition.status, 412);
}

#[test]
fn multipart_life() {
    let emulator = start();
    let part = |body: &[u8], number: u32, id: &str| {
        let answer = ask(A, "PUT", &format!("/m?partNumber={number}&uploadId={id}")).body(body).send(&emulator, A);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("etag").expect("an etag").to_owned()
    };
    let initiate = || {
        ask(A, "POST", "/m?uploads").header("x-cos-meta-a", "1").send(&emulator, A).element("UploadId").expect("an id")
    };
    let complete = |id: &str, parts: &[(u32, &str)]| {
        let list: String =
            parts.iter().map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>")).collect();
        let xml = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        ask(A, "POST", &format!("/m?uploadId={id}")).body(xml).send(&emulator, A)
    };
    let code = |answer: crate::client::Answer| answer.element("Code").unwrap_or_default();
    let id = initiate();
    assert!(id[..10].bytes().all(|b| b.is_ascii_digit()), "{id} begins with the time");
    let whole: Vec<u8> = (0..(2 << 20) + 1234u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let (one, two) = whole.split_at(1 << 20);
    let (e2, e1) = (part(two, 2, &id), part(one, 1, &id));
    assert_eq!(get(&emulator, A, "m").status, 404, "no version before Complete");
    let listed = ask(A, "GET", &format!("/m?uploadId={id}&max-parts=1")).send(&emulator, A);
    assert_eq!(
        (listed.elements("PartNumber"), listed.element("NextPartNumberMarker").as_deref()),
        (vec!["1".into()], Some("1"))
    );
    assert_eq!(ask(A, "GET", "/?uploads&prefix=m").send(&emulator, A).elements("UploadId"), std::slice::from_ref(&id));
    assert_eq!(code(complete(&id, &[(2, &e2), (1, &e1)])), "InvalidPartOrder");
    assert_eq!(code(complete(&id, &[(1, &e2)])), "InvalidPart");
    assert_eq!(code(complete(&id, &[(1, &e1), (3, &e2)])), "InvalidPart");
    let done = complete(&id, &[(1, &e1), (2, &e2)]);
    assert_eq!(done.status, 200);
    assert!(done.element("ETag").is_some_and(|e| e.ends_with("-2\"")), "{}", done.text());
    let read = get(&emulator, A, "m");
    assert!(read.body == whole, "the parts in order");
    assert_eq!(read.header("x-cos-meta-a"), Some("1"));
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &whole);
    assert_eq!(read.header("x-cos-hash-crc64ecma"), Some(crc.to_string().as_str()));
    assert_eq!(code(complete(&id, &[(1, &e1)])), "NoSuchUpload");
    let id = initiate();
    let small = part(b"small", 1, &id);
    let copied = ask(A, "PUT", &format!("/m?partNumber=2&uploadId={id}"))
        .header("x-cos-copy-source", "/master-1250000000/m")
        .header("x-cos-copy-source-range", "bytes=1048570-1048585")
        .send(&emulator, A);
    let copied = copied.element("ETag").expect("an etag");
    assert_eq!(code(complete(&id, &[(1, &small), (2, &copied)])), "EntityTooSmall");
    assert_eq!(complete(&id, &[(2, &copied)]).status, 200);
    assert_eq!(get(&emulator, A, "m").body, whole[1048570..1048586], "a part copy across two parts");
    let id = initiate();
    assert_eq!(ask(A, "DELETE", &format!("/m?uploadId={id}")).send(&emulator, A).status, 204);
    assert_eq!(ask(A, "DELETE", &format!("/m?uploadId={id}")).send(&emulator, A).status, 404);
}

#[test]
fn delete_many() {
    let emulator = start();
    put(&emulator, A, "a%26b", b"x");
    put(&emulator, A, "c", b"x");
    let xml =
        "<Delete><Quiet>false</Quiet><Object><Key>a&amp;b</Key></Object><Object><Key>nobody</Key></Object></Delete>";
    let answer = document("POST", "/?delete", xml).send(&emulator, A);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.elements("Key"), ["a&amp;b", "nobody"]);
    assert_eq!(answer.elements("DeleteMarker"), ["true", "true"]);
    let quiet = document("POST", "/?delete", "<Delete><Quiet>true</Quiet><Object><Key>c</Key></Object></Delete>");
    assert!(quiet.send(&emulator, A).elements("Deleted").is_empty());
    assert!(ask(A, "GET", "/").send(&emulator, A).elements("Key").is_empty());
    assert_eq!(ask(A, "POST", "/?delete").body(xml).send(&emulator, A).status, 400, "Content-MD5 is required");
}

#[test]
fn bucket_configurations() {
    let emulator = start();
    let head = ask(A, "HEAD", "/").send(&emulator, A);
    assert_eq!((head.status, head.header("x-cos-bucket-region")), (200, Some("ap-guangzhou")));
    let rules = ask(A, "GET", "/?replication").send(&emulator, A);
    assert_eq!(rules.element("Bucket").as_deref(), Some("qcs::cos:ap-shanghai::slave-1250000000"));
    let suspend = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    assert_eq!(document("PUT", "/?versioning", suspend).send(&emulator, A).status, 409, "rules first");
    assert_eq!(ask(A, "DELETE", "/?replication").send(&emulator, A).status, 204);
    assert_eq!(ask(A, "GET", "/?replication").send(&emulator, A).status, 404);
    let bad = rules.text().replace("ap-shanghai::slave", "ap-tokyo::other");
    assert_eq!(
        document("PUT", "/?replication", &bad).send(&emulator, A).element("Code").as_deref(),
        Some("TargetBucketNameInvalid")
    );
    assert_eq!(document("PUT", "/?replication", &rules.text()).send(&emulator, A).status, 200);
    assert_eq!(ask(A, "DELETE", "/?lifecycle").send(&emulator, A).status, 204);
    let none = ask(A, "GET", "/?lifecycle").send(&emulator, A);
    assert_eq!(none.element("Code").as_deref(), Some("NoSuchLifecycleConfiguration"));
    let xml = "<LifecycleConfiguration><Rule><ID>gc</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
        <NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>";
    assert_eq!(document("PUT", "/?lifecycle", xml).send(&emulator, A).status, 200);
    assert_eq!(ask(A, "GET", "/?lifecycle").send(&emulator, A).text(), xml);
}
