//! Listings.

use cosfs_ha::emulator::{Fault, Kind};

use super::{A, Bench, Row, header, ours, refuses, row, switch};

pub const ROWS: &[Row] = &[
    row("list-pages", "Pages of 1000, in byte order; `NextMarker` with and without delimiter.", |b| {
        for n in 0..1001 {
            b.emulator.put(A, &format!("k{n:04}"), bytes::Bytes::new()).expect("put");
        }
        let page = b.a("GET", "/?max-keys=5000");
        assert_eq!((page.elements("Key").len(), page.element("MaxKeys").as_deref()), (1000, Some("1000")));
        assert_eq!(
            (page.element("IsTruncated").as_deref(), page.element("NextMarker").as_deref()),
            (Some("true"), Some("k0999"))
        );
        assert_eq!(b.a("GET", "/?marker=k0999").elements("Key"), ["k1000"]);
    }),
    row(
        "list-groups",
        "A one-character delimiter folds keys; a folded group counts as one entry and can be a marker.",
        |b| {
            for key in ["a", "d/1", "d/2", "z"] {
                b.put(key, "");
            }
            let page = b.a("GET", "/?delimiter=%2F&max-keys=2");
            assert_eq!((page.elements("Key"), page.element("NextMarker").as_deref()), (vec!["a".into()], Some("d/")));
            assert_eq!(b.a("GET", "/?delimiter=%2F&marker=d%2F").elements("Key"), ["z"]);
            refuses(&b.a("GET", "/?delimiter=ab"), 400, "InvalidDelimiter");
        },
    ),
    row("list-encoding", "`encoding-type=url` always, because control characters would break the XML.", |b| {
        b.put("a%01b%20c/%E7%9B%AE", "x");
        let page = b.a("GET", "/?encoding-type=url&prefix=a%01");
        assert_eq!(page.elements("Key"), ["a%01b%20c/%E7%9B%AE"]);
        assert_eq!(
            (page.element("EncodingType").as_deref(), page.element("Prefix").as_deref()),
            (Some("url"), Some("a%01"))
        );
        assert_eq!(b.a("GET", "/?encoding-type=other").status, 400);
    }),
    row(
        "list-current",
        "A listing shows latest versions that are no delete markers, with size, ETag, time, class and owner, and no metadata.",
        |b| {
            b.put("gone", "x");
            b.a("DELETE", "/gone");
            let put = b.put("k", "xyz");
            let page = b.a("GET", "/");
            assert_eq!((page.elements("Key"), page.element("Size").as_deref()), (vec!["k".into()], Some("3")));
            assert_eq!(page.element("ETag").as_deref(), put.header("etag"));
            assert_eq!(page.element("StorageClass").as_deref(), Some("STANDARD"));
            assert!(page.element("LastModified").is_some_and(|t| t.ends_with(".000Z")) && page.element("ID").is_some());
            assert_eq!(header(&page, "x-cos-bucket-region"), "ap-guangzhou");
        },
    ),
    switch(
        "list-eventual",
        "Listings are eventually consistent: what this mount wrote itself is therefore laid over each.",
        "stale_list",
        |b| {
            b.put("k", "x");
            assert_eq!(b.a("GET", "/").elements("Key"), ["k"]);
            let fault = Fault { delay_ms: Some(60_000), ..Fault::new(Kind::StaleList) };
            b.emulator.set_faults(A, vec![fault]).expect("set");
            assert!(b.a("GET", "/").elements("Key").is_empty());
        },
    ),
    row("list-versions", "Listing versions is newest first within a key, markers between them.", |b| {
        let one = header(&b.put("k", "1"), "x-cos-version-id").to_owned();
        let marker = header(&b.a("DELETE", "/k"), "x-cos-version-id").to_owned();
        let two = header(&b.put("k", "2"), "x-cos-version-id").to_owned();
        b.put("j", "");
        let page = b.a("GET", "/?versions");
        assert_eq!(page.elements("VersionId")[1..], [two, marker, one]);
        assert_eq!(page.elements("IsLatest"), ["true", "true", "false", "false"]);
    }),
    row(
        "list-versions-pages",
        "`key-marker` alone goes on after all versions of that key; with `version-id-marker` after that version.",
        |b| {
            b.put("k", "1");
            b.put("k", "2");
            b.put("l", "");
            let page = b.a("GET", "/?versions&max-keys=1");
            let (key, version) =
                (page.element("NextKeyMarker").expect("key"), page.element("NextVersionIdMarker").expect("version"));
            assert_eq!(
                b.a("GET", &format!("/?versions&key-marker={key}&version-id-marker={version}")).elements("Key"),
                ["k", "l"]
            );
            assert_eq!(b.a("GET", &format!("/?versions&key-marker={key}")).elements("Key"), ["l"]);
        },
    ),
    row(
        "list-versions-null",
        "The version id in a listing is empty where versioning never was, and `null` for objects from before.",
        |_| {
            let b = &Bench::bare();
            b.put("k", "x");
            assert_eq!(b.a("GET", "/?versions").elements("VersionId"), [""]);
            b.versioning("Enabled");
            assert_eq!(b.a("GET", "/?versions").elements("VersionId"), ["null"]);
            assert_eq!(b.text("/k?versionId=null"), "x");
        },
    ),
    ours("list-v2", "`list-type=2` is not part of the API of COS; it works in the S3 dialect only.", |b| {
        b.put("k", "x");
        let page = b.a("GET", "/?list-type=2");
        assert_eq!((page.element("KeyCount"), page.element("Marker").as_deref()), (None, Some("")));
    }),
];
