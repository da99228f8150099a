//! Buckets, their configurations, and errors.

use cosfs_ha::emulator::{Fault, Kind};

use super::{A, B, Bench, Row, ask, header, refuses, row};

fn lifecycle(b: &Bench, rule: &str) {
    let xml = format!(
        "<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter/>{rule}</Rule></LifecycleConfiguration>"
    );
    let answer = b.xml("PUT", "/?lifecycle", &xml);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// So many days from now; how many steps were due.
fn days(b: &Bench, days: u64) -> usize {
    b.emulator.put_clock_ahead(std::time::Duration::from_secs(days * 24 * 3600))
}

pub const ROWS: &[Row] = &[
    row("bucket-head", "HEAD Bucket: 200 with `x-cos-bucket-region`, or 404.", |b| {
        let head = b.a("HEAD", "/");
        assert_eq!((head.status, header(&head, "x-cos-bucket-region")), (200, "ap-guangzhou"));
        let mut elsewhere = ask(A, "HEAD", "/");
        elsewhere.host = "nobody-1250000000.cos.ap-guangzhou.myqcloud.com".into();
        assert_eq!(b.send(elsewhere).status, 404);
    }),
    row(
        "bucket-exists",
        "PUT of a bucket that is ours: `409 BucketAlreadyOwnedByYou`; DELETE of one with content: `409 BucketNotEmpty`.",
        |b| {
            b.put("k", "x");
            refuses(&b.a("PUT", "/"), 409, "BucketAlreadyOwnedByYou");
            refuses(&b.a("DELETE", "/"), 409, "BucketNotEmpty");
        },
    ),
    row("bucket-replace", "A PUT of a configuration replaces the whole of it.", |b| {
        let rule = |id: &str| {
            format!(
                "<LifecycleConfiguration><Rule><ID>{id}</ID><Status>Enabled</Status><Filter/><Expiration><Days>9</Days></Expiration></Rule></LifecycleConfiguration>"
            )
        };
        b.xml("PUT", "/?lifecycle", &rule("one"));
        b.xml("PUT", "/?lifecycle", &rule("two"));
        assert_eq!(b.a("GET", "/?lifecycle").elements("ID"), ["two"]);
    }),
    row("bucket-none", "Where there is no configuration, GET answers 404 with a code of its own.", |_| {
        let b = &Bench::bare();
        for (name, code) in [
            ("replication", "ReplicationConfigurationNotFoundError"),
            ("lifecycle", "NoSuchLifecycleConfiguration"),
            ("origin", "OriginConfigurationNotFoundError"),
            ("tagging", "NoSuchTagSetError"),
            ("policy", "NoSuchBucketPolicy"),
            ("cors", "NoSuchCORSConfiguration"),
        ] {
            refuses(&b.a("GET", &format!("/?{name}")), 404, code);
        }
    }),
    row(
        "bucket-kept",
        "What is put as origin-pull, domain, CORS, tags or encryption is given back as it came; DELETE: 204.",
        |b| {
            for (name, xml) in [
                (
                    "cors",
                    "<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>",
                ),
                ("tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"),
                ("encryption", "<ServerSideEncryptionConfiguration><Rule/></ServerSideEncryptionConfiguration>"),
            ] {
                assert_eq!(b.xml("PUT", &format!("/?{name}"), xml).status, 200, "{name}");
                assert_eq!(b.text(&format!("/?{name}")), xml);
                assert_eq!(b.a("DELETE", &format!("/?{name}")).status, 204);
                assert_eq!(b.a("GET", &format!("/?{name}")).status, 404);
            }
            refuses(&b.xml("PUT", "/?cors", "<Other/>"), 400, "MalformedXML");
        },
    ),
    row(
        "versioning-never",
        "A bucket that never had versioning answers without `Status`, and can never go back to that.",
        |_| {
            let b = &Bench::bare();
            assert_eq!(b.a("GET", "/?versioning").element("Status"), None);
            b.versioning("Enabled");
            assert_eq!(b.a("GET", "/?versioning").element("Status").as_deref(), Some("Enabled"));
            b.versioning("Suspended");
            assert_eq!(b.a("GET", "/?versioning").element("Status").as_deref(), Some("Suspended"));
        },
    ),
    row(
        "versioning-enabled",
        "With versioning every PUT is a new version and says `x-cos-version-id`; without it, none.",
        |b| {
            assert_ne!(b.put("k", "1").header("x-cos-version-id"), b.put("k", "2").header("x-cos-version-id"));
            assert_eq!(b.a("GET", "/?versions").elements("VersionId").len(), 2);
            let bare = Bench::bare();
            assert_eq!(bare.put("k", "1").header("x-cos-version-id"), None);
        },
    ),
    row(
        "versioning-suspended",
        "Suspended: PUT replaces the version `null` and names none, Complete names `null`, DELETE writes a `null` marker.",
        |_| {
            let b = &Bench::bare();
            b.versioning("Enabled");
            let kept = header(&b.put("k", "kept"), "x-cos-version-id").to_owned();
            b.versioning("Suspended");
            assert_eq!(b.put("k", "1").header("x-cos-version-id"), None);
            b.put("k", "2");
            assert_eq!(b.a("GET", "/?versions").elements("VersionId"), ["null", kept.as_str()]);
            let id = b.a("POST", "/k?uploads").element("UploadId").expect("an id");
            let etag = b.send(ask(A, "PUT", &format!("/k?partNumber=1&uploadId={id}")).body("x"));
            let xml = format!(
                "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
                header(&etag, "etag")
            );
            assert_eq!(header(&b.xml("POST", &format!("/k?uploadId={id}"), &xml), "x-cos-version-id"), "null");
            let deleted = b.a("DELETE", "/k");
            assert_eq!(
                (header(&deleted, "x-cos-version-id"), header(&deleted, "x-cos-delete-marker")),
                ("null", "true")
            );
            assert_eq!(b.a("GET", "/?versions").elements("VersionId"), ["null", kept.as_str()]);
            assert_eq!(b.text(&format!("/k?versionId={kept}")), "kept");
        },
    ),
    row("life-noncurrent", "Noncurrent versions expire, counted from the moment in which their successor came.", |b| {
        let old = header(&b.put("k", "old"), "x-cos-version-id").to_owned();
        b.put("k", "new");
        lifecycle(b, "<NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration>");
        assert_eq!(days(b, 6), 0);
        assert_eq!(days(b, 8), 1);
        refuses(&b.a("GET", &format!("/k?versionId={old}")), 404, "NoSuchVersion");
        assert_eq!(b.text("/k"), "new");
    }),
    row(
        "life-current",
        "Expiry of a current version puts a delete marker over it; a marker that is left alone can expire, too.",
        |b| {
            b.put("k", "x");
            lifecycle(
                b,
                "<Expiration><Days>3</Days></Expiration><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>",
            );
            days(b, 4);
            assert_eq!(b.a("GET", "/k").status, 404);
            assert_eq!(b.a("GET", "/?versions").elements("VersionId").len(), 2);
            days(b, 6);
            assert_eq!(b.a("GET", "/?versions").elements("VersionId").len(), 1);
            lifecycle(b, "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>");
            days(b, 6);
            assert!(b.a("GET", "/?versions").elements("VersionId").is_empty());
        },
    ),
    row("life-uploads", "Unfinished uploads are aborted some days after their initiation.", |b| {
        let id = b.a("POST", "/m?uploads").element("UploadId").expect("an id");
        lifecycle(
            b,
            "<AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
        );
        assert_eq!((days(b, 2), days(b, 3)), (0, 1));
        refuses(&b.a("GET", &format!("/m?uploadId={id}")), 404, "NoSuchUpload");
    }),
    row("life-apart", "What lifecycle does is not replicated: each bucket needs rules of its own.", |b| {
        b.put("k", "x");
        assert!(b.emulator.wait_replicated(std::time::Duration::from_secs(5)));
        lifecycle(b, "<Expiration><Days>1</Days></Expiration>");
        days(b, 2);
        assert!(b.emulator.wait_replicated(std::time::Duration::from_secs(5)));
        assert_eq!((b.a("GET", "/k").status, b.on(B, "GET", "/k").status), (404, 200));
    }),
    row("life-days", "Days are 1 to 3650, rules 1 to 1000, and `Content-MD5` is required.", |b| {
        let put = |days: u64| {
            let xml = format!(
                "<LifecycleConfiguration><Rule><Status>Enabled</Status><Filter/><Expiration><Days>{days}</Days></Expiration></Rule></LifecycleConfiguration>"
            );
            b.xml("PUT", "/?lifecycle", &xml).status
        };
        assert_eq!((put(0), put(1), put(3650), put(3651)), (400, 200, 200, 400));
        assert_eq!(b.send(ask(A, "PUT", "/?lifecycle").body("<LifecycleConfiguration/>")).status, 400);
    }),
    row(
        "err-body",
        "`<Error><Code>...</Code><Message>...</Message><RequestId>...</RequestId></Error>`, none on HEAD.",
        |b| {
            let answer = b.a("GET", "/missing");
            assert_eq!(header(&answer, "content-type"), "application/xml");
            assert_eq!(answer.element("RequestId").as_deref(), answer.header("x-cos-request-id"));
            assert_eq!(answer.element("TraceId").as_deref(), answer.header("x-cos-trace-id"));
            assert!(answer.element("Resource").is_some_and(|r| r.ends_with("/missing")));
            assert!(b.a("HEAD", "/missing").body.is_empty());
        },
    ),
    row("err-slowdown", "`503 SlowDown` is back-pressure, no fault.", |b| {
        b.emulator.set_faults(A, vec![Fault::new(Kind::Slowdown)]).expect("set");
        refuses(&b.a("GET", "/k"), 503, "SlowDown");
    }),
    row(
        "err-conflict",
        "`409 PathConflict`, `UploadConflict` on simultaneous writes of one key: repeated, after a look at what is there.",
        |b| {
            b.emulator.set_faults(A, vec![Fault { status: Some(409), ..Fault::new(Kind::Status) }]).expect("set");
            refuses(&b.send(ask(A, "PUT", "/k").body("x")), 409, "PathConflict");
        },
    ),
    row("err-451", "`451` and arrears refuse everything: an administrative fault, no failover by default.", |b| {
        b.emulator.set_faults(A, vec![Fault { status: Some(451), ..Fault::new(Kind::Status) }]).expect("set");
        refuses(&b.a("GET", "/k"), 451, "UnavailableForLegalReasons");
    }),
    row("err-foreign", "A redirect or an error without a request id is not from COS.", |b| {
        for status in [302, 404, 503] {
            let fault = Fault { status: Some(status), ..Fault::new(Kind::StatusWithoutRequestId) };
            b.emulator.set_faults(A, vec![fault]).expect("set");
            let answer = b.a("GET", "/k");
            assert_eq!((answer.status, answer.header("x-cos-request-id")), (status, None));
        }
    }),
    row(
        "err-method",
        "A method that a resource does not have: `405 MethodNotAllowed`; what the emulator does not have: `501 NotImplemented`.",
        |b| {
            refuses(&b.a("PATCH", "/k"), 405, "MethodNotAllowed");
            refuses(&b.a("GET", "/k?symlink"), 501, "NotImplemented");
        },
    ),
    row("err-xml", "A document that cannot be read: `400 MalformedXML`.", |b| {
        refuses(&b.xml("PUT", "/?versioning", "<Versio"), 400, "MalformedXML");
        refuses(&b.xml("POST", "/?delete", "<Other/>"), 400, "MalformedXML");
    }),
];
