//! The client against a server that does exactly what a test says, byte by byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use self::server::*;
use super::*;
use crate::cos::attempt::{Deadlines, Progress};
use crate::cos::bucket::{List, ListVersions};
use crate::cos::checksum::crc64;
use crate::cos::credentials::{Credentials, Fixed};
use crate::cos::multipart::{Part, UploadId};
use crate::cos::sign::{self, Presented};
use crate::object::Epoch;

mod server;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Deadlines that keep a test short; each test sets only those it waits for.
fn quick() -> Deadlines {
    Deadlines {
        connect: Duration::from_secs(20),
        first_byte: Duration::from_secs(20),
        progress: Duration::from_secs(20),
    }
}

const SHORT: Duration = Duration::from_millis(200);

/// One call with its own progress.
macro_rules! with {
    (|$at:ident| $call:expr) => {{
        let progress = Progress::new();
        let $at = &Attempt { deadlines: quick(), ..Attempt::new(&progress) };
        $call.await
    }};
    ($change:expr, |$at:ident| $call:expr) => {{
        let progress = Progress::new();
        let mut attempt = Attempt { deadlines: quick(), ..Attempt::new(&progress) };
        #[allow(clippy::redundant_closure_call)]
        ($change)(&mut attempt);
        let $at = &attempt;
        $call.await
    }};
}

fn bytes(text: &'static str) -> Payload {
    Bytes::from_static(text.as_bytes()).into()
}

#[tokio::test]
async fn a_put_says_everything_and_believes_only_what_fits() {
    let good =
        cos(200, &format!("ETag: \"e\"\r\nx-cos-hash-crc64ecma: {}\r\nx-cos-version-id: v1\r\n", crc64(b"hello")), "");
    let wrong = cos(200, "ETag: \"e\"\r\nx-cos-hash-crc64ecma: 7\r\n", "");
    let server = Server::start(vec![Step::Reply(good), Step::Reply(wrong), Step::Reply(cos(200, "", ""))]).await;
    let client = server.client();
    let stamp = Stamp { mount: 1, epoch: Epoch(2), seq: 3 };
    let headers = Headers {
        content_type: Some("text/plain".into()),
        user: [("mode".into(), "33188".into())].into(),
        ..Headers::default()
    };
    let name = key("目录/./a b+c%2F?x#y");
    let token = with!(|at| client.put(&name, bytes("hello"), &headers, Some(stamp), at)).unwrap();
    assert_eq!((token.version.unwrap().0.as_str(), token.size, token.stamp), ("v1", 5, Some(stamp)));
    assert_eq!(token.crc64, Some(crc64(b"hello")));
    assert_eq!(with!(|at| client.put(&name, bytes("hello"), &headers, None, at)).unwrap_err().kind, Kind::Corrupt);
    assert_eq!(
        with!(|at| client.put(&name, bytes(""), &headers, None, at)).unwrap_err().kind,
        Kind::BadAnswer,
        "no ETag"
    );

    let seen = server.seen();
    seen[0].signed_at();
    assert_eq!(seen[0].body, b"hello");
    assert_eq!(seen[0].header("host"), Some("b-1250000000.cos.ap-test.myqcloud.com"));
    assert_eq!(seen[0].header("x-cos-meta-ha"), Some(stamp.to_string().as_str()));
    assert_eq!(seen[0].header("x-cos-security-token"), Some(TOKEN));
    assert_eq!(seen[0].line, "PUT /%E7%9B%AE%E5%BD%95%2F.%2Fa%20b%2Bc%252F%3Fx%23y HTTP/1.1");
    assert_eq!(seen[2].header("content-length"), Some("0"));
    server.done();
}

#[tokio::test]
async fn requests_without_a_body_announce_none() {
    let head = cos(200, "ETag: \"e\"\r\n", "").into_iter().collect();
    let marker = cos(204, "x-cos-delete-marker: true\r\nx-cos-version-id: m1\r\n", "");
    let server = Server::start(vec![Step::Reply(head), Step::Reply(object("x")), Step::Reply(marker)]).await;
    let client = server.client();
    let version = VersionId("v1".into());
    with!(|at| client.head(&key("k"), Some(&version), at)).unwrap();
    with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap();
    let deleted = with!(|at| client.delete(&key("k"), None, at)).unwrap();
    assert_eq!(deleted, Deleted { version: Some(VersionId("m1".into())), marker: true });
    for seen in server.seen() {
        seen.signed_at();
        assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (None, None), "{}", seen.line);
    }
    assert_eq!(server.seen()[0].line, "HEAD /k?versionId=v1 HTTP/1.1");
    server.done();
}

#[tokio::test]
async fn a_get_gives_the_bytes_asked_for_or_an_error() {
    let part = |range: &str, body: &str| cos(206, &format!("ETag: \"e1\"\r\nContent-Range: bytes {range}\r\n"), body);
    let short_sum = cos(200, "ETag: \"e1\"\r\nx-cos-hash-crc64ecma: 1\r\n", "hello");
    let whole = Get::default();
    let ranged = Get { range: Some(2..5), ..Get::default() };
    let pinned = Get { if_match: Some(ETag("e1".into())), version: Some(VersionId("v1".into())), ..Get::default() };
    let other_version = cos(200, "ETag: \"e1\"\r\nx-cos-version-id: v2\r\n", "hello");
    let other_etag = cos(200, "ETag: \"e2\"\r\n", "hello");
    type Case<'a> = (&'a str, &'a Get, Vec<u8>, Result<&'a str, Kind>);
    let cases: Vec<Case<'_>> = vec![
        ("whole", &whole, object("hello"), Ok("hello")),
        ("empty", &whole, object(""), Ok("")),
        ("range", &ranged, part("2-4/10", "llo"), Ok("llo")),
        ("clipped at the end", &ranged, part("2-3/4", "ll"), Ok("ll")),
        ("range ignored", &ranged, object("hello"), Err(Kind::BadAnswer)),
        ("wrong range", &ranged, part("3-5/10", "lox"), Err(Kind::BadAnswer)),
        ("shorter range than there is", &ranged, part("2-3/10", "ll"), Err(Kind::BadAnswer)),
        ("range unasked", &whole, part("0-4/10", "hello"), Err(Kind::BadAnswer)),
        ("wrong checksum", &whole, short_sum, Err(Kind::Corrupt)),
        ("other version", &pinned, other_version, Err(Kind::BadAnswer)),
        ("other content", &pinned, other_etag, Err(Kind::BadAnswer)),
        ("no etag", &whole, cos(200, "", "hello"), Err(Kind::BadAnswer)),
        ("changed", &pinned, error(412, "PreconditionFailed", ""), Err(Kind::PreconditionFailed)),
        ("absent", &whole, error(404, "NoSuchKey", ""), Err(Kind::NoSuchKey)),
        ("beyond the end", &ranged, error(416, "InvalidRange", ""), Err(Kind::InvalidRange)),
    ];
    for (what, get, reply, expected) in cases {
        let server = Server::start(vec![Step::Reply(reply)]).await;
        let result = with!(|at| async {
            match server.client().get(&key("k"), get, at).await {
                Ok(answer) => answer.body.collect().await,
                Err(e) => Err(e),
            }
        });
        assert_eq!(result.as_deref().map_err(|e| e.kind), expected.map(str::as_bytes), "{what}");
        server.seen()[0].signed_at();
    }
    let server = Server::start(vec![]).await;
    let empty = Get { range: Some(3..3), ..Get::default() };
    assert_eq!(with!(|at| server.client().get(&key("k"), &empty, at)).unwrap_err().kind, Kind::Rejected);
    assert_eq!(with!(|at| server.client().get(&key(".."), &whole, at)).unwrap_err().kind, Kind::Rejected);
}

#[tokio::test]
async fn a_body_that_breaks_is_never_a_short_file() {
    let cut = |reply: Vec<u8>| reply[..reply.len() - 3].to_vec();
    for (what, step, kind) in [
        ("closed", Step::ReplyAndClose(cut(object("hello world"))), Kind::Unreachable),
        ("silent", Step::ReplyAndHang(cut(object("hello world"))), Kind::Stalled),
    ] {
        let server = Server::start(vec![step]).await;
        let change = |at: &mut Attempt<'_>| at.deadlines.progress = SHORT;
        let mut answer = with!(change, |at| server.client().get(&key("k"), &Get::default(), at)).unwrap();
        let mut got = 0;
        let error = loop {
            match answer.body.next_chunk().await {
                Ok(Some(piece)) => got += piece.len(),
                Ok(None) => panic!("{what}: looked complete"),
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert_eq!((got as u64, answer.body.left()), (8, 3), "{what}");
    }
}

#[tokio::test]
async fn a_slow_body_is_not_a_dead_one() {
    let whole = object("hello world");
    let pieces = whole.chunks(whole.len() / 6).map(<[u8]>::to_vec).collect();
    // Each pause is far below the deadline, their sum is far above it.
    let server = Server::start(vec![Step::Drip(pieces, Duration::from_millis(150))]).await;
    let change = |at: &mut Attempt<'_>| {
        at.deadlines = Deadlines {
            connect: quick().connect,
            first_byte: Duration::from_secs(5),
            progress: Duration::from_millis(700),
        };
    };
    let answer = with!(change, |at| server.client().get(&key("k"), &Get::default(), at)).unwrap();
    assert_eq!(answer.body.collect().await.unwrap(), "hello world");
}

#[tokio::test]
async fn silence_is_blamed_on_the_phase_it_happens_in() {
    // Accept queue of one, filled: the kernel drops further SYNs, as a black hole does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let hole = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = async {
        let mut held = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(SHORT, TcpStream::connect(hole)).await {
            held.push(stream);
        }
        held
    };
    let _held = fill.await;
    let (seen, left) = Default::default();
    let server = Server { port: hole.port(), seen, left };
    let change = |at: &mut Attempt<'_>| at.deadlines.connect = SHORT;
    let error =
        with!(change, |at| server.client().put(&key("k"), bytes("x"), &Headers::default(), None, at)).unwrap_err();
    assert_eq!((error.kind, error.sent), (Kind::Unreachable, Sent::No), "{error}");

    let server = Server::start(vec![Step::ReplyAndHang(vec![])]).await;
    let progress = Progress::new();
    let at = Attempt { deadlines: Deadlines { first_byte: SHORT, ..quick() }, ..Attempt::new(&progress) };
    let watcher = progress.clone();
    let sent = tokio::spawn(async move { watcher.sent_all().await });
    let error = server.client().put(&key("k"), bytes("x"), &Headers::default(), None, &at).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (Kind::FirstByteTimeout, Sent::Fully), "{error}");
    sent.await.unwrap();

    // More than all socket buffers on the way can swallow.
    let file = tempfile::tempfile().unwrap();
    file.set_len(256 << 20).unwrap();
    let large = Payload::File { file: Arc::new(file), offset: 0, len: 256 << 20 };
    let server = Server::start(vec![Step::StopReading]).await;
    let change = |at: &mut Attempt<'_>| at.deadlines.progress = SHORT;
    let error =
        with!(change, |at| server.client().put(&key("k"), large.clone(), &Headers::default(), None, at)).unwrap_err();
    assert_eq!((error.kind, error.sent), (Kind::Stalled, Sent::Partly), "{error}");
}

#[tokio::test]
async fn nothing_is_sent_twice_behind_the_callers_back() {
    for step in [Step::Close, Step::Reply(error(500, "InternalError", "")), Step::Reply(error(503, "SlowDown", ""))] {
        let server = Server::start(vec![Step::Reply(object("x")), step]).await;
        let client = server.client();
        // The second request uses a pooled connection, where clients like to repeat.
        with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap().body.collect().await.unwrap();
        with!(|at| client.put(&key("k"), bytes("x"), &Headers::default(), None, at)).unwrap_err();
        tokio::time::sleep(SHORT).await;
        assert_eq!(server.seen().len(), 2);
        server.done();
    }
}

#[tokio::test]
async fn pooled_connections_are_kept_and_fresh_ones_are_not() {
    let server = Server::start((0..5).map(|_| Step::Reply(object("hello"))).collect()).await;
    let client = server.client();
    for fresh in [false, false, true, true, false] {
        let change = |at: &mut Attempt<'_>| at.fresh_connection = fresh;
        with!(change, |at| client.get(&key("k"), &Get::default(), at)).unwrap().body.collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let connections: Vec<usize> = server.seen().iter().map(|s| s.connection).collect();
    assert_eq!(connections, [0, 0, 1, 2, 0]);
}

#[tokio::test]
async fn the_other_domain_is_signed_for() {
    let server = Server::start(vec![Step::Reply(object("x"))]).await;
    let change = |at: &mut Attempt<'_>| at.alternate_domain = true;
    with!(change, |at| server.client().get(&key("k"), &Get::default(), at)).unwrap();
    let seen = &server.seen()[0];
    assert_eq!(seen.header("host"), Some("b-1250000000.cos.ap-test.tencentcos.cn"));
    seen.signed_at();
}

#[tokio::test]
async fn an_answer_of_somebody_else_proves_nothing() {
    let not_found = "<Error><Code>NoSuchKey</Code></Error>";
    for (status, headers, body) in [
        (200, "ETag: \"e\"\r\n", "<html>please log in</html>"),
        (404, "", not_found),
        (403, "Date: Thu, 01 Jan 2015 00:00:00 GMT\r\n", "<Error><Code>RequestTimeTooSkewed</Code></Error>"),
        (500, "", ""),
        (302, "Location: http://127.0.0.1:1/\r\n", ""),
        (503, "Retry-After: 3\r\n", ""),
    ] {
        let server =
            Server::start(vec![Step::Reply(foreign(status, headers, body)), Step::Reply(foreign(status, headers, ""))])
                .await;
        let client = server.client();
        let error = with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap_err();
        assert_eq!((error.kind, error.status), (Kind::Middlebox, Some(status)));
        assert_eq!(with!(|at| client.head(&key("k"), None, at)).unwrap_err().kind, Kind::Middlebox);
        assert_eq!(client.clock().milliseconds(), 0, "nor does it set our clock");
        server.done();
    }
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_and_the_request_signed_once_more() {
    let late = std::time::SystemTime::now() + Duration::from_secs(7200);
    let date = format!("Date: {}\r\n", httpdate::fmt_http_date(late));
    let good = || cos(200, &format!("{date}ETag: \"e\"\r\n"), "");
    let skewed = || error(403, "RequestTimeTooSkewed", &date);
    let expired = cos(403, &date, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>");
    for first in [skewed(), expired] {
        let server = Server::start(vec![Step::Reply(first), Step::Reply(good())]).await;
        let client = server.client();
        with!(|at| client.put(&key("k"), bytes("hello"), &Headers::default(), None, at)).unwrap();
        let seen = server.seen();
        assert_eq!((seen[0].body.as_slice(), seen[1].body.as_slice()), (&b"hello"[..], &b"hello"[..]));
        let moved = seen[1].signed_at().start - seen[0].signed_at().start;
        assert!((7195..7210).contains(&moved), "{moved}");
        server.done();
    }
    // HEAD cannot say why.
    let bare = cos(403, &date, "");
    let server = Server::start(vec![Step::Reply(bare), Step::Reply(good())]).await;
    with!(|at| server.client().head(&key("k"), None, at)).unwrap();
    server.done();
    // Once is enough.
    let later = late + Duration::from_secs(7200);
    let again = error(403, "RequestTimeTooSkewed", &format!("Date: {}\r\n", httpdate::fmt_http_date(later)));
    let server = Server::start(vec![Step::Reply(skewed()), Step::Reply(again)]).await;
    let error = with!(|at| server.client().put(&key("k"), bytes("x"), &Headers::default(), None, at)).unwrap_err();
    assert_eq!(error.kind, Kind::ClockSkew);
    server.done();
    // With the clock right, a refusal is about rights.
    let server = Server::start(vec![Step::Reply(cos(403, "", ""))]).await;
    assert_eq!(with!(|at| server.client().head(&key("k"), None, at)).unwrap_err().kind, Kind::Auth);
    server.done();
}

#[tokio::test]
async fn a_redirect_is_handed_up_and_never_followed() {
    let origin = Server::start(vec![]).await;
    let location = format!("http://127.0.0.1:{}/x", origin.port);
    let elsewhere = || Step::Reply(cos(302, &format!("Location: {location}\r\n"), ""));
    let bucket = Server::start((0..4).map(|_| elsewhere()).collect()).await;
    let client = bucket.client();
    let get = Get { range: Some(1..4), if_match: None, version: None };
    let error = with!(|at| client.get(&key("k"), &get, at)).unwrap_err();
    assert_eq!((error.kind, error.status), (Kind::Redirected, Some(302)));
    let redirect = error.redirect().unwrap();
    assert_eq!((redirect.location.as_str(), redirect.from.path()), (location.as_str(), "/k"));
    // Rules of origin-pull concern the GET of an object and nothing else.
    assert_eq!(with!(|at| client.head(&key("k"), None, at)).unwrap_err().kind, Kind::BadAnswer);
    assert_eq!(with!(|at| client.list(&List::default(), at)).unwrap_err().kind, Kind::BadAnswer);
    let put = with!(|at| client.put(&key("k"), bytes("x"), &Headers::default(), None, at));
    assert_eq!(put.unwrap_err().kind, Kind::BadAnswer);
    assert!(origin.seen().is_empty());
    bucket.done();
}

#[tokio::test]
async fn a_success_with_an_error_inside_is_an_error() {
    let inside = |code: &str| cos(200, "", &format!("<?xml version='1.0'?>\n<Error><Code>{code}</Code></Error>"));
    let throttled = Kind::Throttled { retry_after: None };
    for (code, kind) in [("InternalError", Kind::Server), ("SlowDown", throttled), ("NoSuchUpload", Kind::NoSuchUpload)]
    {
        let server = Server::start((0..3).map(|_| Step::Reply(inside(code))).collect()).await;
        let client = server.client();
        let source = client.copy_source(&key("from"), None).sized(5);
        let upload = UploadId("u".into());
        let copied = with!(|at| client.copy(&source, &key("k"), None, at)).unwrap_err();
        let completed = with!(|at| client.complete(&key("k"), &upload, &[], at)).unwrap_err();
        let part = with!(|at| client.upload_part_copy(&key("k"), &upload, 1, &source, 0..5, at)).unwrap_err();
        for error in [copied, completed, part] {
            assert_eq!((error.kind, error.code.as_deref(), error.sent), (kind, Some(code), Sent::Fully));
        }
        server.done();
    }
    for body in ["", "   ", "<CopyObjectResult/>", "<CopyObjectResult><ETag></ETag></CopyObjectResult>", "<html/>"] {
        let server = Server::start(vec![Step::Reply(cos(200, "", body))]).await;
        let client = server.client();
        let source = client.copy_source(&key("from"), None).sized(5);
        let error = with!(|at| client.copy(&source, &key("k"), None, at)).unwrap_err();
        assert_eq!(error.kind, Kind::BadAnswer, "{body:?}");
    }
}

#[tokio::test]
async fn copies_name_their_source_and_replace_headers() {
    let body = "<CopyObjectResult><ETag>\"e\"</ETag><CRC64>9</CRC64><LastModified>2020-04-10T18:21:55Z</LastModified><VersionId>v2</VersionId></CopyObjectResult>";
    let head = b"HTTP/1.1 200 OK\r\nx-cos-request-id: r\r\nContent-Length: 77\r\nETag: \"e\"\r\n\r\n".to_vec();
    let server =
        Server::start(vec![Step::Reply(cos(200, "", body)), Step::Reply(cos(200, "", body)), Step::Reply(head)]).await;
    let client = server.client();
    let headers = Headers { user: [("mode".into(), "1".into())].into(), ..Headers::default() };
    let stamp = Stamp { mount: 1, epoch: Epoch(1), seq: 1 };
    let source = client.copy_source(&key("dir/a b?c"), Some(&VersionId("v1".into())));
    let token =
        with!(|at| client.copy(&source.clone().sized(5), &key("k"), Some((&headers, Some(stamp))), at)).unwrap();
    assert_eq!((token.size, token.crc64, token.stamp), (5, Some(9), Some(stamp)));
    assert_eq!(token.version, Some(VersionId("v2".into())));
    // The size is asked for where nobody knows it, of exactly the version that was made.
    assert_eq!(with!(|at| client.copy(&source, &key("k"), None, at)).unwrap().size, 77);
    let seen = server.seen();
    let expected = "b-1250000000.cos.ap-test.myqcloud.com/dir/a%20b%3Fc?versionId=v1";
    assert_eq!(seen[0].header("x-cos-copy-source"), Some(expected));
    assert_eq!(seen[0].header("x-cos-metadata-directive"), Some("Replaced"));
    assert_eq!(seen[1].header("x-cos-metadata-directive"), Some("Copy"));
    assert_eq!(seen[2].line, "HEAD /k?versionId=v2 HTTP/1.1");
    seen.iter().for_each(Seen::check_signature);
    server.done();
}

#[tokio::test]
async fn a_multipart_upload_is_checked_as_a_whole() {
    let initiated =
        cos(200, "", "<InitiateMultipartUploadResult><UploadId>u+1</UploadId></InitiateMultipartUploadResult>");
    let part =
        |text: &str| cos(200, &format!("ETag: \"p\"\r\nx-cos-hash-crc64ecma: {}\r\n", crc64(text.as_bytes())), "");
    let complete = |sum: u64| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nx-cos-request-id: r\r\nx-cos-hash-crc64ecma: {sum}\r\nx-cos-version-id: v\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let body = "<CompleteMultipartUploadResult><ETag>&quot;x-2&quot;</ETag></CompleteMultipartUploadResult>";
        // White space while the service works, as documented.
        Step::Drip(
            vec![
                head.into_bytes(),
                b"1\r\n \r\n".to_vec(),
                format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes(),
            ],
            Duration::from_millis(10),
        )
    };
    let server = Server::start(vec![
        Step::Reply(initiated),
        Step::Reply(part("hello ")),
        Step::Reply(part("world")),
        Step::Reply(part("damaged")),
        complete(crc64(b"hello world")),
        complete(crc64(b"hello w0rld")),
        Step::Reply(cos(204, "", "")),
    ])
    .await;
    let client = server.client();
    let name = key("big");
    let upload = with!(|at| client.initiate(&name, &Headers::default(), None, at)).unwrap();
    let first = with!(|at| client.upload_part(&name, &upload, 1, bytes("hello "), at)).unwrap();
    let second = with!(|at| client.upload_part(&name, &upload, 2, bytes("world"), at)).unwrap();
    let bad = with!(|at| client.upload_part(&name, &upload, 3, bytes("intact"), at)).unwrap_err();
    assert_eq!(bad.kind, Kind::Corrupt);
    let parts: [Part; 2] = [first, second];
    let token = with!(|at| client.complete(&name, &upload, &parts, at)).unwrap();
    assert_eq!((token.size, token.crc64, token.etag.0.as_str()), (11, Some(crc64(b"hello world")), "x-2"));
    assert_eq!(with!(|at| client.complete(&name, &upload, &parts, at)).unwrap_err().kind, Kind::Corrupt);
    with!(|at| client.abort(&name, &upload, at)).unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].line, "POST /big?uploads HTTP/1.1");
    assert_eq!(seen[1].line, "PUT /big?partNumber=1&uploadId=u%2B1 HTTP/1.1");
    let sent = String::from_utf8(seen[4].body.clone()).unwrap();
    assert!(sent.contains("<Part><PartNumber>2</PartNumber><ETag>"), "{sent}");
    seen.iter().for_each(Seen::check_signature);
    server.done();
}

#[tokio::test]
async fn listings_are_decoded_and_never_shortened() {
    let item = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2020-12-10T03:37:30.000Z</LastModified><ETag>\"e\"</ETag><Size>3</Size></Contents>"
        )
    };
    let page = |inside: &str| {
        cos(200, "", &format!("<ListBucketResult><EncodingType>url</EncodingType>{inside}</ListBucketResult>"))
    };
    let full = format!(
        "<IsTruncated>true</IsTruncated><NextMarker>d/b%2B/</NextMarker>{}<CommonPrefixes><Prefix>d/b%2B/</Prefix></CommonPrefixes>",
        item("d/a%20%0A%E7%9B%AE")
    );
    let q = List { prefix: "d/".into(), delimiter: Some('/'), marker: Some("d/0".into()), max_keys: 1000 };
    let server = Server::start(vec![Step::Reply(page(&full))]).await;
    let got = with!(|at| server.client().list(&q, at)).unwrap();
    assert_eq!(got.objects[0].key, "d/a \n目");
    assert_eq!((got.prefixes, got.next), (vec!["d/b+/".to_string()], Some("d/b+/".to_string())));
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "GET /?prefix=d%2F&max-keys=1000&encoding-type=url&delimiter=%2F&marker=d%2F0 HTTP/1.1");
    seen.signed_at();

    let stuck = "<IsTruncated>true</IsTruncated><NextMarker>d/0</NextMarker>";
    let silent = "<NextMarker>d/1</NextMarker>";
    let odd_time = item("a").replace("2020-12", "then") + "<IsTruncated>false</IsTruncated>";
    let not_text = item("%ff") + "<IsTruncated>false</IsTruncated>";
    for inside in [stuck, silent, odd_time.as_str(), not_text.as_str()] {
        let server = Server::start(vec![Step::Reply(page(inside))]).await;
        assert_eq!(with!(|at| server.client().list(&q, at)).unwrap_err().kind, Kind::BadAnswer, "{inside}");
    }
    let whole = page(&full);
    let server = Server::start(vec![Step::ReplyAndClose(whole[..whole.len() - 40].to_vec())]).await;
    assert_eq!(with!(|at| server.client().list(&q, at)).unwrap_err().kind, Kind::Unreachable);
}

#[tokio::test]
async fn versions_come_in_order_and_configurations_are_read() {
    let time = "<LastModified>2020-12-10T03:37:30.000Z</LastModified>";
    let versions = format!(
        "<ListVersionsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextKeyMarker>a%2B</NextKeyMarker><NextVersionIdMarker/>\
         <DeleteMarker><Key>a</Key><VersionId>m</VersionId><IsLatest>true</IsLatest>{time}</DeleteMarker>\
         <Version><Key>a</Key><VersionId>v</VersionId><IsLatest>false</IsLatest>{time}<ETag>\"e\"</ETag><Size>3</Size></Version>\
         <Version><Key>a%2B</Key><VersionId>null</VersionId><IsLatest>true</IsLatest>{time}<ETag>\"e\"</ETag><Size>3</Size></Version></ListVersionsResult>"
    );
    let server = Server::start(vec![
        Step::Reply(cos(200, "", &versions)),
        Step::Reply(cos(200, "", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")),
        Step::Reply(cos(200, "", "<VersioningConfiguration/>")),
        Step::Reply(error(404, "ReplicationConfigurationNotFoundError", "")),
        Step::Reply(cos(200, "", "")),
        Step::Reply(cos(404, "", "")),
    ])
    .await;
    let client = server.client();
    let q = ListVersions { prefix: "a".into(), max_keys: 3, ..Default::default() };
    let page = with!(|at| client.list_versions(&q, at)).unwrap();
    let shape: Vec<_> =
        page.entries.iter().map(|e| (e.key.as_str(), e.version.0.as_str(), e.marker, e.latest)).collect();
    assert_eq!(shape, [("a", "m", true, true), ("a", "v", false, false), ("a+", "null", false, true)]);
    assert_eq!(page.entries[1].token.as_ref().unwrap().version, Some(VersionId("v".into())));
    assert_eq!(page.entries[2].token.as_ref().unwrap().version, None, "null names no content");
    assert_eq!(page.next, Some(("a+".into(), None)));
    assert_eq!(with!(|at| client.versioning(at)).unwrap(), Some(true));
    assert_eq!(with!(|at| client.versioning(at)).unwrap(), None);
    assert_eq!(with!(|at| client.replication(at)).unwrap(), None);
    with!(|at| client.head_bucket(at)).unwrap();
    assert_eq!(with!(|at| client.head_bucket(at)).unwrap_err().kind, Kind::NoSuchBucket);
    server.seen().iter().for_each(Seen::check_signature);
    server.done();
}

#[tokio::test]
async fn throttling_and_refusals_keep_their_details() {
    let server = Server::start(vec![
        Step::Reply(error(503, "SlowDown", "Retry-After: 3\r\n")),
        Step::Reply(error(403, "SignatureDoesNotMatch", "")),
        Step::Reply(cos(404, "", "not what it should be")),
    ])
    .await;
    let client = server.client();
    let slow = with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap_err();
    assert_eq!(slow.kind, Kind::Throttled { retry_after: Some(Duration::from_secs(3)) });
    let auth = with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap_err();
    assert_eq!((auth.kind, auth.request_id.as_deref()), (Kind::Auth, Some("NWU5")));
    let shown = format!("{auth} {auth:?} {client:?}");
    for secret in [SECRET, TOKEN, "q-signature"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let vague = with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap_err();
    assert_eq!(vague.kind, Kind::BadAnswer, "an unreadable 404 is no proof of absence");
}

#[tokio::test]
async fn https_has_its_cryptography_and_checks_the_other_side() {
    // Something that does not speak TLS: the handshake must fail, not the process, and nothing may be sent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hello = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0u8; 5];
        stream.read_exact(&mut first).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        first
    });
    let (seen, left) = Default::default();
    let server = Server { port, seen, left };
    let credentials = Credentials::new(ID.into(), SECRET.into(), None).unwrap();
    let address = BucketAddress { endpoint: Some(format!("https://127.0.0.1:{port}")), ..server.address() };
    let client = Client::new(address, Arc::new(Fixed::new(credentials)), Arc::default()).unwrap();
    let error = with!(|at| client.get(&key("k"), &Get::default(), at)).unwrap_err();
    assert_eq!((error.kind, error.sent), (Kind::Unreachable, Sent::No), "{error}");
    let first = hello.await.unwrap();
    assert_eq!(first[..2], [0x16, 0x03], "a TLS client hello");
}
