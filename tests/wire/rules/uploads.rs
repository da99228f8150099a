//! Multipart uploads, checksums, version ids.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use cosfs_ha::object::VersionId;

use super::{A, B, Bench, Row, ask, header, refuses, row};
use crate::client::Answer;

fn initiate(b: &Bench) -> String {
    b.a("POST", "/m?uploads").element("UploadId").expect("an id")
}

fn part(b: &Bench, id: &str, number: u32, body: &[u8]) -> String {
    let answer = b.send(ask(A, "PUT", &format!("/m?partNumber={number}&uploadId={id}")).body(body));
    header(&answer, "etag").to_owned()
}

fn complete(b: &Bench, id: &str, parts: &[(u32, &str)]) -> Answer {
    let list: String =
        parts.iter().map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>")).collect();
    let xml = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    b.send(ask(A, "POST", &format!("/m?uploadId={id}")).body(xml))
}

pub const ROWS: &[Row] = &[
    row("part-id", "An upload id begins with the Unix time of its initiation.", |b| {
        let id = initiate(b);
        assert!(id[..10].parse::<u64>().is_ok_and(|t| t > 1_700_000_000), "{id}");
    }),
    row(
        "part-invisible",
        "An upload and its parts belong to the bucket they began in and are not replicated. No version exists before Complete.",
        |b| {
            let id = initiate(b);
            part(b, &id, 1, b"x");
            assert_eq!(b.a("GET", "/m").status, 404);
            assert!(b.a("GET", "/?versions").elements("VersionId").is_empty());
            assert!(b.on(B, "GET", "/?uploads").elements("UploadId").is_empty());
            refuses(&b.on(B, "GET", &format!("/m?uploadId={id}")), 404, "NoSuchUpload");
        },
    ),
    row("part-headers", "Metadata, class and access list of the object are given at initiation.", |b| {
        let ask = ask(A, "POST", "/m?uploads").header("x-cos-meta-a", "1").header("x-cos-storage-class", "STANDARD_IA");
        let id = b.send(ask).element("UploadId").expect("an id");
        let etag = part(b, &id, 1, b"x");
        complete(b, &id, &[(1, &etag)]);
        let head = b.a("HEAD", "/m");
        assert_eq!((header(&head, "x-cos-meta-a"), header(&head, "x-cos-storage-class")), ("1", "STANDARD_IA"));
    }),
    row("part-answer", "A part answers with its MD5 as ETag, and its checksum.", |b| {
        let id = initiate(b);
        let answer = b.send(ask(A, "PUT", &format!("/m?partNumber=1&uploadId={id}")).body("123456789"));
        assert_eq!(header(&answer, "etag"), "\"25f9e794323b453885f5181f1b624d0b\"");
        assert_eq!(header(&answer, "x-cos-hash-crc64ecma"), "11051210869376104954");
    }),
    row("part-number", "Part numbers are 1 to 10 000; a part sent again replaces the one before.", |b| {
        let id = initiate(b);
        let put = |n: &str| b.send(ask(A, "PUT", &format!("/m?partNumber={n}&uploadId={id}")).body("x")).status;
        assert_eq!((put("0"), put("1"), put("10000"), put("10001"), put("x")), (400, 200, 200, 400, 400));
        let etag = part(b, &id, 1, b"new");
        complete(b, &id, &[(1, &etag)]);
        assert_eq!(b.text("/m"), "new");
    }),
    row("part-size", "Every part but the last has 1 MB at least: `400 EntityTooSmall` at Complete.", |b| {
        let id = initiate(b);
        let (one, two) = (part(b, &id, 1, &vec![1; (1 << 20) - 1]), part(b, &id, 2, b"x"));
        refuses(&complete(b, &id, &[(1, &one), (2, &two)]), 400, "EntityTooSmall");
        let one = part(b, &id, 1, &vec![1; 1 << 20]);
        assert_eq!(complete(b, &id, &[(1, &one), (2, &two)]).status, 200);
    }),
    row(
        "part-order",
        "Complete lists the parts in ascending order: `400 InvalidPartOrder`; one that is not there: `400 InvalidPart`.",
        |b| {
            let id = initiate(b);
            let (one, two) = (part(b, &id, 1, &vec![1; 1 << 20]), part(b, &id, 2, b"x"));
            refuses(&complete(b, &id, &[(2, &two), (1, &one)]), 400, "InvalidPartOrder");
            refuses(&complete(b, &id, &[(1, &one), (3, &two)]), 400, "InvalidPart");
            refuses(&complete(b, &id, &[(1, &two)]), 400, "InvalidPart");
        },
    ),
    row("part-complete", "Complete answers chunked, with white space before the result.", |b| {
        let id = initiate(b);
        let etag = part(b, &id, 1, b"x");
        let done = complete(b, &id, &[(1, &etag)]);
        assert_eq!(header(&done, "transfer-encoding"), "chunked");
        assert!(done.text().starts_with('\n') && done.element("Location").is_some(), "{}", done.text());
        assert_eq!(done.header("x-cos-version-id"), b.a("HEAD", "/m").header("x-cos-version-id"));
    }),
    row(
        "part-etag",
        "The ETag of the result is no function of the content, but 32 digits and the number of parts",
        |b| {
            let once = || {
                let id = initiate(b);
                let etag = part(b, &id, 1, b"same");
                complete(b, &id, &[(1, &etag)]).element("ETag").expect("an ETag")
            };
            let (one, two) = (once(), once());
            assert_ne!(one, two);
            assert!(one.len() == 36 && one.ends_with("-1\""), "{one}");
        },
    ),
    row("part-crc", "The checksum of the result is that of the whole content.", |b| {
        let whole: Vec<u8> = (0..(1 << 20) + 99u32).map(|n| ((n * 31) >> 3) as u8).collect();
        let id = initiate(b);
        let (one, two) = (part(b, &id, 1, &whole[..1 << 20]), part(b, &id, 2, &whole[1 << 20..]));
        let done = complete(b, &id, &[(1, &one), (2, &two)]);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &whole).to_string();
        assert_eq!(header(&done, "x-cos-hash-crc64ecma"), crc);
    }),
    row(
        "part-again",
        "A Complete without an answer may have happened. A repetition then answers `404 NoSuchUpload`",
        |b| {
            let id = initiate(b);
            let etag = part(b, &id, 1, b"x");
            assert_eq!(complete(b, &id, &[(1, &etag)]).status, 200);
            refuses(&complete(b, &id, &[(1, &etag)]), 404, "NoSuchUpload");
        },
    ),
    row("part-abort", "Abort: 204, and again `404 NoSuchUpload`.", |b| {
        let id = initiate(b);
        assert_eq!(b.a("DELETE", &format!("/m?uploadId={id}")).status, 204);
        refuses(&b.a("DELETE", &format!("/m?uploadId={id}")), 404, "NoSuchUpload");
    }),
    row("part-list", "List Parts goes page by page with `part-number-marker`.", |b| {
        let id = initiate(b);
        for n in 1..=3 {
            part(b, &id, n, b"x");
        }
        let page = b.a("GET", &format!("/m?uploadId={id}&max-parts=2"));
        assert_eq!(page.elements("PartNumber"), ["1", "2"]);
        assert_eq!(
            (page.element("IsTruncated").as_deref(), page.element("NextPartNumberMarker").as_deref()),
            (Some("true"), Some("2"))
        );
        let rest = b.a("GET", &format!("/m?uploadId={id}&part-number-marker=2"));
        assert_eq!((rest.elements("PartNumber"), rest.element("Size").as_deref()), (vec!["3".into()], Some("1")));
    }),
    row(
        "part-uploads",
        "List Multipart Uploads shows what is unfinished, by key; `upload-id-marker` counts only with a `key-marker`.",
        |b| {
            let (one, two) = (initiate(b), initiate(b));
            let page = b.a("GET", "/?uploads&max-uploads=1");
            assert_eq!(
                (page.elements("UploadId"), page.element("NextKeyMarker").as_deref()),
                (vec![one.clone().min(two.clone())], Some("m"))
            );
            let next = page.element("NextUploadIdMarker").expect("a marker");
            let rest = b.a("GET", &format!("/?uploads&key-marker=m&upload-id-marker={next}"));
            assert_eq!(rest.elements("UploadId"), [one.max(two)]);
            assert_eq!(b.a("GET", &format!("/?uploads&upload-id-marker={next}")).elements("UploadId").len(), 2);
        },
    ),
    row("part-copy", "A part can be copied from a range of an object, both ends inclusive.", |b| {
        b.put("src", "0123456789");
        let id = initiate(b);
        let copied = b.send(
            ask(A, "PUT", &format!("/m?partNumber=1&uploadId={id}"))
                .header("x-cos-copy-source", "/master-1250000000/src")
                .header("x-cos-copy-source-range", "bytes=2-4"),
        );
        let etag = copied.element("ETag").expect("an ETag");
        complete(b, &id, &[(1, &etag)]);
        assert_eq!(b.text("/m"), "234");
    }),
    row("sum-crc", "`x-cos-hash-crc64ecma` is CRC-64/XZ (reflected), in unsigned decimal.", |b| {
        for (text, crc) in [
            ("", "0"),
            ("123456789", "11051210869376104954"),
            ("hello", "11177612005948864433"),
            ("[Object Content]", "16749565679157681890"),
        ] {
            assert_eq!(header(&b.put("k", text), "x-cos-hash-crc64ecma"), crc);
            assert_eq!(header(&b.a("HEAD", "/k"), "x-cos-hash-crc64ecma"), crc);
        }
    }),
    row(
        "id-form",
        "A version id is unpadded base64 of the decimal text of 2^64 minus the time of the commit in microseconds",
        |b| {
            let put = b.put("k", "x");
            let id = VersionId(header(&put, "x-cos-version-id").into());
            let micros = id.commit_micros().expect("the form");
            let modified = httpdate::parse_http_date(header(&b.a("HEAD", "/k"), "last-modified")).expect("a date");
            let modified = modified.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
            assert_eq!(micros / 1_000_000, modified);
        },
    ),
    row("id-order", "The newer of two versions has the smaller number", |b| {
        // The text decodes to decimal digits, which are as many in both; the text itself keeps no order.
        let id = |text: &str| STANDARD_NO_PAD.decode(header(&b.put("k", text), "x-cos-version-id")).expect("base64");
        let (one, two) = (id("one"), id("two"));
        assert!(two.len() == one.len() && two < one);
    }),
];
