//! Objects: PUT, GET, HEAD, DELETE, copy, and what is kept with them.

use base64::Engine;
use cosfs_ha::emulator::{Fault, Kind};

use super::{A, B, Bench, Row, ask, header, md5, ours, refuses, row, switch};
use crate::client::{Answer, Ask};

fn copy<'a>(target: &str, from: &str) -> Ask<'a> {
    ask(A, "PUT", target).header("x-cos-copy-source", format!("master-1250000000.cos.ap-guangzhou.myqcloud.com/{from}"))
}

fn append(b: &Bench, position: u64, body: &str) -> Answer {
    b.send(ask(A, "POST", &format!("/log?append&position={position}")).body(body))
}

pub const ROWS: &[Row] = &[
    row("put-whole", "PUT replaces the whole object; there is no partial write.", |b| {
        b.put("k", "a longer text");
        let put = b.send(ask(A, "PUT", "/k").header("Range", "bytes=0-1").body("xx"));
        assert_eq!((put.status, b.text("/k")), (200, "xx".into()));
    }),
    row("put-etag", "ETag of a simple PUT is the MD5 of the content, in quotes.", |b| {
        let put = b.put("k", "123456789");
        assert_eq!(header(&put, "etag"), "\"25f9e794323b453885f5181f1b624d0b\"");
        assert_eq!(header(&b.a("HEAD", "/k"), "etag"), header(&put, "etag"));
    }),
    row(
        "put-stored",
        "Kept with the object and given back: `Cache-Control`, `Content-Disposition`, `Content-Encoding`, `Content-Type`, `Expires`, `x-cos-meta-*`.",
        |b| {
            let kept = [
                ("Cache-Control", "no-cache"),
                ("Content-Disposition", "inline"),
                ("Content-Encoding", "gzip"),
                ("Content-Type", "text/x"),
                ("Expires", "Thu, 01 Jan 2026 00:00:00 GMT"),
                ("x-cos-meta-a", "1_2"),
            ];
            let put = kept.iter().fold(ask(A, "PUT", "/k").body("x"), |ask, (n, v)| ask.header(n, *v));
            assert_eq!(b.send(put).status, 200);
            for (name, value) in kept {
                assert_eq!(header(&b.a("GET", "/k"), name), value);
                assert_eq!(header(&b.a("HEAD", "/k"), name), value);
            }
        },
    ),
    ours(
        "put-meta-limit",
        "Metadata beyond 2 KB is refused; whether that is by header or in total is not said.",
        |b| {
            let put = |n: usize| b.send(ask(A, "PUT", "/k").header("x-cos-meta-a", "x".repeat(n)).body("x")).status;
            assert_eq!((put(2000), put(2100)), (200, 400));
        },
    ),
    row("put-meta-name", "An underscore is not allowed in the name of a metadata header.", |b| {
        refuses(&b.send(ask(A, "PUT", "/k").header("x-cos-meta-a_b", "x").body("x")), 400, "InvalidArgument");
    }),
    row("put-md5", "`Content-MD5` is checked: `400 BadDigest`; malformed: `400 InvalidDigest`.", |b| {
        refuses(&b.send(ask(A, "PUT", "/k").header("Content-MD5", md5(b"other")).body("x")), 400, "BadDigest");
        refuses(&b.send(ask(A, "PUT", "/k").header("Content-MD5", "short").body("x")), 400, "InvalidDigest");
        assert_eq!(b.a("GET", "/k").status, 404);
    }),
    row(
        "put-length",
        "A body without a length is refused: `411 MissingContentLength`; chunked is allowed for PUT.",
        |b| {
            let mut bytes = ask(A, "PUT", "/k").bytes();
            let head = String::from_utf8(bytes).expect("text").replace("Content-Length: 0\r\n", "");
            bytes = head.into_bytes();
            let mut wire = crate::client::Wire::connect(b.emulator.address(A)).expect("connect");
            std::io::Write::write_all(&mut wire.stream, &bytes).expect("write");
            refuses(&wire.read(false).expect("an answer"), 411, "MissingContentLength");
            let chunked = ask(A, "PUT", "/k").header("Transfer-Encoding", "chunked").body("1\r\nx\r\n0\r\n\r\n");
            assert_eq!(b.send(chunked).status, 200);
        },
    ),
    ours(
        "put-no-condition",
        "No condition on PUT: `If-Match` and `If-None-Match` are not documented for it, and ignored.",
        |b| {
            b.put("k", "one");
            for (name, value) in [("If-None-Match", "*"), ("If-Match", "\"other\"")] {
                assert_eq!(b.send(ask(A, "PUT", "/k").header(name, value).body("two")).status, 200);
            }
        },
    ),
    row(
        "put-forbid",
        "`x-cos-forbid-overwrite` is effective only on a bucket that never had versioning: `409 FileAlreadyExists`.",
        |_| {
            let create = |b: &Bench, method: &str, target: &str| {
                b.send(ask(A, method, target).header("x-cos-forbid-overwrite", "true").body(""))
            };
            let bare = Bench::bare();
            bare.put("k", "x");
            refuses(&create(&bare, "PUT", "/k"), 409, "FileAlreadyExists");
            refuses(&create(&bare, "POST", "/k?uploads"), 409, "FileAlreadyExists");
            let copy = ask(A, "PUT", "/k")
                .header("x-cos-copy-source", "/master-1250000000/k")
                .header("x-cos-metadata-directive", "Replaced");
            refuses(&bare.send(copy.header("x-cos-forbid-overwrite", "true")), 409, "FileAlreadyExists");
            bare.versioning("Enabled");
            assert_eq!(create(&bare, "PUT", "/k").status, 200, "without effect once versioning is on");
            bare.versioning("Suspended");
            assert_eq!(create(&bare, "PUT", "/k").status, 200, "or was");
        },
    ),
    row("put-traffic", "`x-cos-traffic-limit` outside of 819200 to 838860800 bit/s is refused.", |b| {
        let put = |limit: &str| b.send(ask(A, "PUT", "/k").header("x-cos-traffic-limit", limit).body("x")).status;
        assert_eq!((put("819199"), put("819200"), put("838860800"), put("838860801")), (400, 200, 200, 400));
    }),
    row("put-class", "A storage class is kept and shown on GET and HEAD unless it is `STANDARD`.", |b| {
        let put = |class: &str| b.send(ask(A, "PUT", "/k").header("x-cos-storage-class", class).body("x"));
        assert_eq!(put("STANDARD_IA").status, 200);
        assert_eq!(header(&b.a("HEAD", "/k"), "x-cos-storage-class"), "STANDARD_IA");
        assert_eq!(put("INTELLIGENT_TIERING").status, 200);
        assert_eq!(header(&b.a("GET", "/k"), "x-cos-storage-tier"), "FREQUENT");
        assert_eq!(put("STANDARD").status, 200);
        assert_eq!(b.a("HEAD", "/k").header("x-cos-storage-class"), None);
        refuses(&put("NO_CLASS"), 400, "NotSupportedStorageClass");
    }),
    row("put-maz", "Classes for several zones do not mix with those for one.", |b| {
        refuses(
            &b.send(ask(A, "PUT", "/k").header("x-cos-storage-class", "MAZ_STANDARD").body("x")),
            400,
            "NotSupportedStorageClass",
        );
    }),
    row("put-key", "A key has 1 to 850 bytes, does not begin with `/` or `\\`, and has no bytes 0x18 to 0x1B.", |b| {
        let put = |key: &str| b.send(ask(A, "PUT", &format!("/{key}")).body("x"));
        assert_eq!(put(&"k".repeat(850)).status, 200);
        refuses(&put(&"k".repeat(851)), 400, "KeyTooLong");
        for bad in ["%2Fk", "%5Ck", "a%18", "a%1B"] {
            assert_eq!(put(bad).status, 400, "{bad}");
        }
        assert_eq!(put("a%17").status, 200);
    }),
    row("get-range", "GET with `Range` answers 206; checksum and ETag are those of the whole object.", |b| {
        b.put("k", "0123456789");
        let part = b.send(ask(A, "GET", "/k").header("Range", "bytes=2-4"));
        assert_eq!((part.status, part.text().as_str(), header(&part, "content-range")), (206, "234", "bytes 2-4/10"));
        let whole = b.a("GET", "/k");
        assert_eq!(header(&whole, "accept-ranges"), "bytes");
        for name in ["etag", "x-cos-hash-crc64ecma"] {
            assert_eq!(header(&part, name), header(&whole, name));
        }
    }),
    row("get-range-outside", "A range beyond the end: `416 InvalidRange`.", |b| {
        b.put("k", "0123456789");
        refuses(&b.send(ask(A, "GET", "/k").header("Range", "bytes=10-20")), 416, "InvalidRange");
    }),
    ours("get-range-open", "Ranges without an end, and from the end, work.", |b| {
        b.put("k", "0123456789");
        let range = |text: &str| b.send(ask(A, "GET", "/k").header("Range", text)).text();
        assert_eq!((range("bytes=7-"), range("bytes=-2")), ("789".into(), "89".into()));
    }),
    row(
        "get-conditions",
        "Conditions on GET and HEAD: 304 for `If-None-Match`, `If-Modified-Since`; 412 for `If-Match`, `If-Unmodified-Since`.",
        |b| {
            let etag = header(&b.put("k", "x"), "etag").to_owned();
            let with = |method: &str, name: &str, value: &str| b.send(ask(A, method, "/k").header(name, value));
            let old = "Fri, 10 Apr 2020 09:36:35 GMT";
            let new = httpdate::fmt_http_date(std::time::SystemTime::now() + std::time::Duration::from_secs(60));
            for method in ["GET", "HEAD"] {
                assert_eq!(with(method, "If-None-Match", &etag).status, 304);
                assert_eq!(with(method, "If-Modified-Since", &new).status, 304);
                assert_eq!(with(method, "If-Modified-Since", old).status, 200);
                assert_eq!(with(method, "If-Match", &etag).status, 200);
                assert_eq!(with(method, "If-Match", "\"other\"").status, 412);
                assert_eq!(with(method, "If-Unmodified-Since", old).status, 412);
            }
            assert_eq!(
                with("GET", "If-Match", "\"other\"").element("Message").as_deref(),
                Some("Precondition not match.")
            );
        },
    ),
    row(
        "get-304",
        "A 304 to GET has ETag, checksum and type of the object; to HEAD the type `application/xml` and a trace id.",
        |b| {
            let etag = header(&b.put("k", "x"), "etag").to_owned();
            let get = b.send(ask(A, "GET", "/k").header("If-None-Match", etag.clone()));
            assert_eq!(
                (header(&get, "etag"), header(&get, "content-type")),
                (etag.as_str(), "application/octet-stream")
            );
            assert!(get.header("x-cos-hash-crc64ecma").is_some());
            let head = b.send(ask(A, "HEAD", "/k").header("If-None-Match", etag));
            assert_eq!((header(&head, "content-type"), head.header("etag")), ("application/xml", None));
            assert!(head.header("x-cos-trace-id").is_some());
        },
    ),
    row("get-response", "`response-*` parameters replace headers of the answer to a GET.", |b| {
        b.put("k", "x");
        let answer = b.a("GET", "/k?response-content-type=image%2Fpng&response-cache-control=max-age%3D600");
        assert_eq!((header(&answer, "content-type"), header(&answer, "cache-control")), ("image/png", "max-age=600"));
    }),
    row("get-version", "GET and HEAD with `versionId` give exactly that version.", |b| {
        let first = header(&b.put("k", "one"), "x-cos-version-id").to_owned();
        b.put("k", "second");
        let old = b.a("GET", &format!("/k?versionId={first}"));
        assert_eq!((old.text().as_str(), header(&old, "x-cos-version-id")), ("one", first.as_str()));
        assert_eq!(header(&b.a("HEAD", &format!("/k?versionId={first}")), "content-length"), "3");
    }),
    row("get-missing", "GET of a missing key: `404 NoSuchKey`; of a missing version: `404 NoSuchVersion`.", |b| {
        refuses(&b.a("GET", "/k"), 404, "NoSuchKey");
        let id = header(&b.put("k", "x"), "x-cos-version-id").to_owned();
        b.a("DELETE", &format!("/k?versionId={id}"));
        refuses(&b.a("GET", &format!("/k?versionId={id}")), 404, "NoSuchVersion");
    }),
    row("head-missing", "HEAD 404 has no body, so a missing key, version and bucket look alike.", |b| {
        let mut elsewhere = ask(A, "HEAD", "/k");
        elsewhere.host = "nobody-1250000000.cos.ap-guangzhou.myqcloud.com".into();
        for answer in [b.a("HEAD", "/k"), b.send(elsewhere)] {
            assert_eq!((answer.status, answer.body.len()), (404, 0));
        }
    }),
    row("get-marker", "Under a delete marker: 404, by id as well.", |b| {
        b.put("k", "x");
        let marker = header(&b.a("DELETE", "/k"), "x-cos-version-id").to_owned();
        refuses(&b.a("GET", "/k"), 404, "NoSuchKey");
        assert_eq!(b.a("GET", &format!("/k?versionId={marker}")).status, 404);
    }),
    ours("get-marker-header", "The 404 of a delete marker says `x-cos-delete-marker: true`.", |b| {
        b.put("k", "x");
        b.a("DELETE", "/k");
        assert_eq!(header(&b.a("GET", "/k"), "x-cos-delete-marker"), "true");
    }),
    switch("read-after-write", "GET right after PUT is current; no page promises it.", "stale_read", |b| {
        b.put("k", "one");
        b.put("k", "two");
        assert_eq!(b.text("/k"), "two");
        let fault = Fault { delay_ms: Some(60_000), ..Fault::new(Kind::StaleRead) };
        b.emulator.set_faults(A, vec![fault]).expect("set");
        refuses(&b.a("GET", "/k"), 404, "NoSuchKey");
    }),
    row("del-marker", "DELETE without a version id adds a delete marker and says so.", |b| {
        b.put("k", "x");
        let deleted = b.a("DELETE", "/k");
        assert_eq!((deleted.status, header(&deleted, "x-cos-delete-marker")), (204, "true"));
        let marker = header(&deleted, "x-cos-version-id").to_owned();
        assert_eq!(b.a("GET", "/?versions").elements("VersionId")[0], marker);
    }),
    row(
        "del-version",
        "DELETE with a version id removes that version for good; of a marker, it says `x-cos-delete-marker`.",
        |b| {
            let id = header(&b.put("k", "one"), "x-cos-version-id").to_owned();
            let deleted = b.a("DELETE", &format!("/k?versionId={id}"));
            assert_eq!(
                (deleted.status, header(&deleted, "x-cos-version-id"), deleted.header("x-cos-delete-marker")),
                (204, id.as_str(), None)
            );
            b.put("k", "two");
            let marker = header(&b.a("DELETE", "/k"), "x-cos-version-id").to_owned();
            let undone = b.a("DELETE", &format!("/k?versionId={marker}"));
            assert_eq!(header(&undone, "x-cos-delete-marker"), "true");
            assert_eq!(b.text("/k"), "two", "undeleted");
        },
    ),
    row(
        "del-never",
        "On a bucket without versioning DELETE removes, and a version id is `400 BucketVersionNotOpen`.",
        |_| {
            let b = &Bench::bare();
            b.put("k", "x");
            refuses(&b.a("DELETE", "/k?versionId=MTg0NDUxNTc1NjIzMTQ1MDAwODg"), 400, "BucketVersionNotOpen");
            let deleted = b.a("DELETE", "/k");
            assert_eq!((deleted.status, deleted.header("x-cos-delete-marker")), (204, None));
            assert!(b.a("GET", "/?versions").elements("Key").is_empty());
        },
    ),
    ours("del-missing", "DELETE of a missing key: 204; with versioning, a marker all the same.", |b| {
        let deleted = b.a("DELETE", "/nobody");
        assert_eq!((deleted.status, header(&deleted, "x-cos-delete-marker")), (204, "true"));
        assert_eq!(Bench::bare().a("DELETE", "/nobody").status, 204);
    }),
    row(
        "del-many",
        "Delete Multiple Objects needs `Content-MD5`, takes up to 1000 keys, and always answers 200 with one result a key.",
        |b| {
            b.put("a%26b", "x");
            let xml = "<Delete><Object><Key>a&amp;b</Key></Object><Object><Key>nobody</Key></Object></Delete>";
            let answer = b.xml("POST", "/?delete", xml);
            assert_eq!((answer.status, answer.elements("Key")), (200, vec!["a&amp;b".into(), "nobody".into()]));
            assert_eq!(answer.elements("DeleteMarkerVersionId").len(), 2);
            assert_eq!(b.send(ask(A, "POST", "/?delete").body(xml)).status, 400);
            let many: String = (0..1001).map(|n| format!("<Object><Key>{n}</Key></Object>")).collect();
            assert_eq!(b.xml("POST", "/?delete", &format!("<Delete>{many}</Delete>")).status, 400);
        },
    ),
    row("del-many-quiet", "In quiet mode only errors are listed; of a deleted marker, all three elements.", |b| {
        b.put("k", "x");
        let marker = header(&b.a("DELETE", "/k"), "x-cos-version-id").to_owned();
        let quiet = b.xml("POST", "/?delete", "<Delete><Quiet>true</Quiet><Object><Key>c</Key></Object></Delete>");
        assert!(quiet.elements("Deleted").is_empty());
        let one = format!("<Delete><Object><Key>k</Key><VersionId>{marker}</VersionId></Object></Delete>");
        let answer = b.xml("POST", "/?delete", &one);
        assert_eq!(answer.element("DeleteMarker").as_deref(), Some("true"));
        assert_eq!(
            (answer.element("DeleteMarkerVersionId"), answer.element("VersionId")),
            (Some(marker.clone()), Some(marker))
        );
    }),
    row("copy-meta", "PUT Object - Copy keeps metadata, or with the directive `Replaced` takes the request's.", |b| {
        b.send(ask(A, "PUT", "/src").header("x-cos-meta-a", "1").body("x"));
        b.send(copy("/dst", "src").header("x-cos-meta-b", "2"));
        let kept = b.a("HEAD", "/dst");
        assert_eq!((kept.header("x-cos-meta-a"), kept.header("x-cos-meta-b")), (Some("1"), None));
        b.send(copy("/dst", "src").header("x-cos-metadata-directive", "Replaced").header("x-cos-meta-b", "2"));
        let replaced = b.a("HEAD", "/dst");
        assert_eq!((replaced.header("x-cos-meta-a"), replaced.header("x-cos-meta-b")), (None, Some("2")));
    }),
    row("copy-self", "An object is copied onto itself only with `Replaced`; that is a new version.", |b| {
        let before = header(&b.put("k", "x"), "x-cos-version-id").to_owned();
        assert_eq!(b.send(copy("/k", "k")).status, 400);
        let done = b.send(copy("/k", "k").header("x-cos-metadata-directive", "Replaced"));
        assert_ne!(header(&done, "x-cos-version-id"), before);
    }),
    row(
        "copy-class",
        "The copy is `STANDARD`, with the bucket's access list, and unencrypted, unless the request says otherwise.",
        |b| {
            let put =
                ask(A, "PUT", "/src").header("x-cos-storage-class", "STANDARD_IA").header("x-cos-acl", "public-read");
            b.send(put.header("x-cos-server-side-encryption", "AES256").body("x"));
            b.send(copy("/dst", "src"));
            let head = b.a("HEAD", "/dst");
            assert_eq!((head.header("x-cos-storage-class"), head.header("x-cos-server-side-encryption")), (None, None));
            assert_eq!(header(&b.a("GET", "/dst?acl"), "x-cos-acl"), "default");
            b.send(copy("/dst", "src").header("x-cos-storage-class", "STANDARD_IA"));
            assert_eq!(header(&b.a("HEAD", "/dst"), "x-cos-storage-class"), "STANDARD_IA");
        },
    ),
    row("copy-answer", "The result is in the body: ETag, CRC64, time, version; the answer is chunked.", |b| {
        b.put("src", "x");
        let done = b.send(copy("/dst", "src"));
        let head = b.a("HEAD", "/dst");
        assert_eq!(header(&done, "transfer-encoding"), "chunked");
        assert_eq!(done.element("ETag").as_deref(), head.header("etag"));
        assert_eq!(done.element("CRC64").as_deref(), head.header("x-cos-hash-crc64ecma"));
        assert_eq!(done.element("VersionId").as_deref(), head.header("x-cos-version-id"));
        assert!(done.element("LastModified").is_some_and(|t| t.ends_with('Z')));
    }),
    row("copy-error-200", "Copy and Complete Multipart Upload may answer **200 with an `<Error>` body**.", |b| {
        b.put("src", "x");
        b.emulator.set_faults(A, vec![Fault::new(Kind::ErrorIn200)]).expect("set");
        let answer = b.send(copy("/dst", "src"));
        assert_eq!((answer.status, answer.element("Code").as_deref()), (200, Some("InternalError")));
    }),
    row(
        "copy-conditions",
        "Conditions on the source: 412 where one does not hold; only the documented pairs may be combined.",
        |b| {
            let etag = header(&b.put("src", "x"), "etag").to_owned();
            let with = |name: &str, value: &str| copy("/dst", "src").header(name, value);
            assert_eq!(b.send(with("x-cos-copy-source-If-Match", "\"other\"")).status, 412);
            assert_eq!(b.send(with("x-cos-copy-source-If-None-Match", &etag)).status, 412);
            assert_eq!(b.send(with("x-cos-copy-source-If-Match", &etag)).status, 200);
            assert_eq!(
                b.send(with("x-cos-copy-source-If-Match", &etag).header("x-cos-copy-source-If-None-Match", "\"x\""))
                    .status,
                400
            );
        },
    ),
    row(
        "copy-version",
        "A source version that is named is named in the answer; a named delete marker is `400`, a current one `404`.",
        |b| {
            let id = header(&b.put("src", "x"), "x-cos-version-id").to_owned();
            let done = b.send(copy("/dst", &format!("src?versionId={id}")));
            assert_eq!(header(&done, "x-cos-copy-source-version-id"), id);
            let marker = header(&b.a("DELETE", "/src"), "x-cos-version-id").to_owned();
            assert_eq!(b.send(copy("/dst", "src")).status, 404);
            assert_eq!(b.send(copy("/dst", &format!("src?versionId={marker}"))).status, 400);
        },
    ),
    row("copy-region", "A copy from another region works inside one account.", |b| {
        crate::client::put(&b.emulator, B, "there", b"x");
        let ask =
            ask(A, "PUT", "/dst").header("x-cos-copy-source", "slave-1250000000.cos.ap-shanghai.myqcloud.com/there");
        assert_eq!((b.send(ask).status, b.text("/dst")), (200, "x".into()));
    }),
    row(
        "append-position",
        "Append goes on exactly at the end: `409 AppendPositionErr`, with `x-cos-next-append-position` after each success.",
        |b| {
            let one = append(b, 0, "one");
            assert_eq!((one.status, header(&one, "x-cos-next-append-position")), (200, "3"));
            refuses(&append(b, 2, "x"), 409, "AppendPositionErr");
            assert_eq!(header(&append(b, 3, "two"), "x-cos-next-append-position"), "6");
            let read = b.a("GET", "/log");
            assert_eq!((read.text().as_str(), header(&read, "x-cos-object-type")), ("onetwo", "appendable"));
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, b"onetwo").to_string();
            assert_eq!(header(&read, "x-cos-hash-crc64ecma"), crc);
        },
    ),
    row(
        "append-kind",
        "An object written otherwise is `409 ObjectNotAppendable`; a PUT makes an appendable one ordinary.",
        |b| {
            b.put("log", "x");
            refuses(&append(b, 1, "y"), 409, "ObjectNotAppendable");
            b.a("DELETE", "/log");
            assert_eq!(append(b, 0, "y").status, 200);
            b.put("log", "z");
            assert_eq!(b.a("GET", "/log").header("x-cos-object-type"), None);
            refuses(&b.send(ask(A, "POST", "/log?append").body("x")), 400, "InvalidArgument");
        },
    ),
    row(
        "append-apart",
        "Appendable objects take no part in versions, copies and replication: never used by this mount.",
        |b| {
            assert_eq!(append(b, 0, "one").header("x-cos-version-id"), None);
            append(b, 3, "two");
            assert_eq!(b.a("GET", "/?versions").elements("VersionId"), ["null"]);
            assert_eq!(b.send(copy("/dst", "log")).status, 400);
            assert!(b.emulator.wait_replicated(std::time::Duration::from_secs(5)));
            assert_eq!(b.on(B, "GET", "/log").status, 404);
        },
    ),
    row(
        "archive-get",
        "An archived object is `403 InvalidObjectState` to GET and copy until restored; HEAD answers.",
        |b| {
            b.send(ask(A, "PUT", "/k").header("x-cos-storage-class", "ARCHIVE").body("x"));
            let get = b.a("GET", "/k");
            refuses(&get, 403, "InvalidObjectState");
            assert_eq!(header(&get, "x-cos-storage-class"), "ARCHIVE");
            assert_eq!(b.send(copy("/dst", "k")).status, 403);
            assert_eq!(b.a("HEAD", "/k").status, 200);
        },
    ),
    row(
        "archive-restore",
        "Restore answers 202, is seen on HEAD and takes hours by its tier; again meanwhile: `409 RestoreAlreadyInProgress`.",
        |b| {
            b.send(ask(A, "PUT", "/k").header("x-cos-storage-class", "ARCHIVE").body("x"));
            let xml = "<RestoreRequest><Days>1</Days><CASJobParameters><Tier>Standard</Tier></CASJobParameters></RestoreRequest>";
            assert_eq!(b.xml("POST", "/k?restore", xml).status, 202);
            assert_eq!(header(&b.a("HEAD", "/k"), "x-cos-restore"), "ongoing-request=\"true\"");
            assert!(header(&b.a("HEAD", "/k"), "x-cos-restore-status").starts_with("tier=\"standard\"; request-date="));
            assert_eq!(b.a("GET", "/").element("RestoreStatus").as_deref(), Some("ONGOING"));
            refuses(&b.xml("POST", "/k?restore", xml), 409, "RestoreAlreadyInProgress");
            let hours = |n: u64| b.emulator.put_clock_ahead(std::time::Duration::from_secs(n * 3600));
            hours(6);
            assert_eq!(b.text("/k"), "x");
            assert!(header(&b.a("HEAD", "/k"), "x-cos-restore").starts_with("ongoing-request=\"false\", expiry-date="));
            hours(6 + 24);
            refuses(&b.a("GET", "/k"), 403, "InvalidObjectState");
        },
    ),
    row(
        "archive-not",
        "Restoring what is not archived: `405 RestoreNonArchiveObject`; the deep archive has no expedited tier.",
        |b| {
            b.put("k", "x");
            let xml = "<RestoreRequest><Days>1</Days><CASJobParameters><Tier>Expedited</Tier></CASJobParameters></RestoreRequest>";
            refuses(&b.xml("POST", "/k?restore", xml), 405, "RestoreNonArchiveObject");
            b.send(ask(A, "PUT", "/k").header("x-cos-storage-class", "DEEP_ARCHIVE").body("x"));
            assert_eq!(b.xml("POST", "/k?restore", xml).status, 400);
        },
    ),
    row(
        "tags",
        "Up to 10 tags an object, by header or `?tagging`, changed without a new version: `400 InvalidTag` otherwise.",
        |b| {
            let put = b.send(ask(A, "PUT", "/k").header("x-cos-tagging", "a=1&b=2").body("x"));
            assert_eq!(b.a("GET", "/k?tagging").elements("Key"), ["a", "b"]);
            let tags =
                |n: usize| (0..n).map(|n| format!("<Tag><Key>k{n}</Key><Value>v</Value></Tag>")).collect::<String>();
            let set =
                |n: usize| b.xml("PUT", "/k?tagging", &format!("<Tagging><TagSet>{}</TagSet></Tagging>", tags(n)));
            assert_eq!(set(10).status, 200);
            refuses(&set(11), 400, "InvalidTag");
            assert_eq!(b.a("GET", "/k?tagging").elements("Key").len(), 10);
            assert_eq!(b.a("HEAD", "/k").header("x-cos-version-id"), put.header("x-cos-version-id"));
            b.send(copy("/copy", "k"));
            assert_eq!(b.a("GET", "/copy?tagging").elements("Key").len(), 10, "a copy takes them along");
            assert_eq!(b.a("DELETE", "/k?tagging").status, 204);
            assert!(b.a("GET", "/k?tagging").elements("Key").is_empty());
        },
    ),
    row(
        "sse",
        "With `AES256` the ETag stays the MD5; with `cos/kms` or a key of one's own it does not, and the checksum does.",
        |b| {
            let plain = b.put("k", "x");
            let put = |kind: &str| b.send(ask(A, "PUT", "/k").header("x-cos-server-side-encryption", kind).body("x"));
            let aes = put("AES256");
            assert_eq!(
                (aes.header("etag"), header(&aes, "x-cos-server-side-encryption")),
                (plain.header("etag"), "AES256")
            );
            let kms = put("cos/kms");
            assert_ne!(kms.header("etag"), plain.header("etag"));
            assert_eq!(kms.header("x-cos-hash-crc64ecma"), plain.header("x-cos-hash-crc64ecma"));
            assert_eq!(header(&b.a("HEAD", "/k"), "x-cos-server-side-encryption"), "cos/kms");
        },
    ),
    row("sse-customer", "An object with a customer key is read with that key only.", |b| {
        let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
        let with = |method: &'static str| {
            let name = "x-cos-server-side-encryption-customer-";
            ask(A, method, "/k")
                .header(&format!("{name}algorithm"), "AES256")
                .header(&format!("{name}key"), key.clone())
                .header(&format!("{name}key-MD5"), md5(&[7; 32]))
        };
        assert_eq!(b.send(with("PUT").body("x")).status, 200);
        assert_eq!(b.a("GET", "/k").status, 400);
        assert_eq!(b.a("HEAD", "/k").status, 400);
        assert_eq!(b.send(with("GET")).text(), "x");
    }),
];
