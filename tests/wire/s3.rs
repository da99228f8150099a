//! The S3 dialect byte for byte: what s3fs and rclone (`tools`) do not send. The signer here shares nothing with the emulator's.

use cosfs_ha::emulator::{BUCKETS, Emulator, SECRET_ID, SECRET_KEY};
use cosfs_ha::object::Site;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::client::{Answer, plain, put, start};

const A: Site = Site::A;
const HOST: &str = "127.0.0.1:9100";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

struct Signer {
    moment: String,
    scope: String,
    key: Vec<u8>,
}

impl Signer {
    fn new(secret: &str) -> Signer {
        let form = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
        let moment = time::OffsetDateTime::now_utc().format(form).expect("a date");
        let scope = format!("{}/auto/s3/aws4_request", &moment[..8]);
        let first = format!("AWS4{secret}").into_bytes();
        let key = scope.split('/').fold(first, |key, item| mac(&key, item));
        Signer { moment, scope, key }
    }

    fn sign(&self, kind: &str, text: &str) -> String {
        hex(mac(&self.key, &format!("{kind}\n{}\n{}\n{text}", self.moment, self.scope)))
    }

    /// Sends with the headers `host`, `x-amz-content-sha256`, `x-amz-date` signed, and `more`, which must come after them in order.
    fn send(
        &self,
        emulator: &Emulator,
        method: &str,
        target: &str,
        payload: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let own = [("host", HOST), ("x-amz-content-sha256", payload), ("x-amz-date", self.moment.as_str())];
        let all: Vec<_> = own.iter().chain(more).collect();
        let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let signature = self.sign("AWS4-HMAC-SHA256", &hex(Sha256::digest(request)));
        let mut ask = plain(method, target).body(body);
        ask.host = HOST.into();
        for (name, value) in &all[1..] {
            ask = ask.header(name, *value);
        }
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={SECRET_ID}/{}, SignedHeaders={names}, Signature={signature}",
            self.scope
        );
        ask.header("Authorization", value).send(emulator, A)
    }

    fn seed(&self, target: &str, payload: &str, more: &[(&str, &str)]) -> String {
        let own = [("host", HOST), ("x-amz-content-sha256", payload), ("x-amz-date", self.moment.as_str())];
        let all: Vec<_> = own.iter().chain(more).collect();
        let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let request = format!("PUT\n{target}\n\n{lines}\n{}\n{payload}", names.join(";"));
        self.sign("AWS4-HMAC-SHA256", &hex(Sha256::digest(request)))
    }
}

fn at(key: &str) -> String {
    format!("/{}/{key}", BUCKETS[0].0)
}

#[test]
fn names_and_errors_are_those_of_s3() {
    let emulator = start();
    put(&emulator, A, "k", b"x");
    let good = Signer::new(SECRET_KEY);
    let answer = good.send(&emulator, "GET", &at("k"), EMPTY, &[], b"");
    assert_eq!((answer.status, answer.text().as_str()), (200, "x"));
    assert!(answer.header("x-amz-version-id").is_some() && answer.header("x-amz-request-id").is_some());
    assert!(answer.header("x-cos-version-id").is_none() && answer.header("x-cos-request-id").is_some());
    let wrong = Signer::new("wrong").send(&emulator, "GET", &at("k"), EMPTY, &[], b"");
    assert_eq!((wrong.status, wrong.element("Code").as_deref()), (403, Some("SignatureDoesNotMatch")));
    let page = good.send(&emulator, "GET", &format!("/{}?list-type=2", BUCKETS[0].0), EMPTY, &[], b"");
    assert_eq!((page.element("KeyCount").as_deref(), page.elements("Key")), (Some("1"), vec!["k".into()]));
    let elsewhere = good.send(&emulator, "GET", "/nobody/k", EMPTY, &[], b"");
    assert_eq!((elsewhere.status, elsewhere.element("Code").as_deref()), (404, Some("NoSuchBucket")));
}

#[test]
fn list_v2_in_pages() {
    let emulator = start();
    for key in ["a", "d/1", "d/2", "e", "f"] {
        put(&emulator, A, key, b"x");
    }
    let signer = Signer::new(SECRET_KEY);
    let list = |query: &str| signer.send(&emulator, "GET", &format!("/{}?{query}", BUCKETS[0].0), EMPTY, &[], b"");
    let first = list("delimiter=%2F&list-type=2&max-keys=2");
    assert_eq!((first.elements("Key"), first.element("KeyCount").as_deref()), (vec!["a".into()], Some("2")));
    let token = first.element("NextContinuationToken").expect("a token");
    let rest = list(&format!("continuation-token={token}&delimiter=%2F&list-type=2"));
    assert_eq!(
        (rest.elements("Key"), rest.element("IsTruncated").as_deref()),
        (vec!["e".into(), "f".into()], Some("false"))
    );
    assert_eq!(list("list-type=2&start-after=e").elements("Key"), ["f"]);
    assert_eq!(list("continuation-token=d%2F&list-type=2").status, 400);
}

#[test]
fn a_body_is_what_was_signed() {
    let emulator = start();
    let signer = Signer::new(SECRET_KEY);
    let hash = hex(Sha256::digest(b"content"));
    let meta = [("x-amz-meta-a", "1")];
    assert_eq!(signer.send(&emulator, "PUT", &at("k"), &hash, &meta, b"content").status, 200);
    assert_eq!(crate::client::get(&emulator, A, "k").header("x-cos-meta-a"), Some("1"), "the same object");
    let other = signer.send(&emulator, "PUT", &at("bad"), &hash, &[], b"changed");
    assert_eq!((other.status, other.element("Code").as_deref()), (400, Some("XAmzContentSHA256Mismatch")));
    assert_eq!(signer.send(&emulator, "PUT", &at("open"), "UNSIGNED-PAYLOAD", &[], b"anything").status, 200);
    assert_eq!(crate::client::get(&emulator, A, "bad").status, 404);
}

#[test]
fn chunks_with_signatures_and_a_trailer() {
    let emulator = start();
    let signer = Signer::new(SECRET_KEY);
    let payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
    let content = b"123456789";
    let more = [("x-amz-decoded-content-length", "9"), ("x-amz-trailer", "x-amz-checksum-crc32c")];
    let framed = |bend: bool, sum: &str| {
        let mut previous = signer.seed(&at("k"), payload, &more);
        let mut body = String::new();
        for chunk in [&content[..5], &content[5..], b""] {
            let text = format!("{previous}\n{EMPTY}\n{}", hex(Sha256::digest(chunk)));
            previous = signer.sign("AWS4-HMAC-SHA256-PAYLOAD", &text);
            body += &format!("{:x};chunk-signature={previous}\r\n{}", chunk.len(), String::from_utf8_lossy(chunk));
            body += if chunk.is_empty() { "" } else { "\r\n" };
        }
        let trailer = format!("x-amz-checksum-crc32c:{sum}\n");
        let signed = signer.sign("AWS4-HMAC-SHA256-TRAILER", &format!("{previous}\n{}", hex(Sha256::digest(&trailer))));
        body += &format!("{}\r\nx-amz-trailer-signature:{signed}\r\n\r\n", trailer.trim());
        if bend { body.replace("12345", "12354") } else { body }
    };
    let send = |body: String| signer.send(&emulator, "PUT", &at("k"), payload, &more, body.as_bytes());
    let code = |answer: Answer| (answer.status, answer.element("Code").unwrap_or_default());
    assert_eq!(code(send(framed(true, "4waSgw=="))), (403, "SignatureDoesNotMatch".into()), "a byte was changed");
    assert_eq!(code(send(framed(false, "AAAAAA=="))), (400, "BadDigest".into()), "a signed but wrong checksum");
    assert_eq!(crate::client::get(&emulator, A, "k").status, 404);
    let good = send(framed(false, "4waSgw=="));
    assert_eq!(good.status, 200, "{}", good.text());
    let read = crate::client::get(&emulator, A, "k");
    assert_eq!((read.body.as_slice(), read.header("content-encoding")), (&content[..], None));

    let unsigned = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let body = "9\r\n123456789\r\n0\r\nx-amz-checksum-crc32c:4waSgw==\r\n\r\n";
    let put = signer.send(&emulator, "PUT", &at("u"), unsigned, &more, body.as_bytes());
    assert_eq!(
        (put.status, crate::client::get(&emulator, A, "u").text().as_str()),
        (200, "123456789"),
        "{}",
        put.text()
    );
}

#[test]
fn presigned_urls() {
    let emulator = start();
    put(&emulator, A, "k", b"x");
    let signer = Signer::new(SECRET_KEY);
    let url = |method: &str, seconds: u64| {
        let credential = format!("{SECRET_ID}/{}", signer.scope).replace('/', "%2F");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={}&X-Amz-Expires={seconds}&X-Amz-SignedHeaders=host",
            signer.moment
        );
        let request = format!("{method}\n{}\n{query}\nhost:{HOST}\n\nhost\nUNSIGNED-PAYLOAD", at("k"));
        let signature = signer.sign("AWS4-HMAC-SHA256", &hex(Sha256::digest(request)));
        format!("{}?{query}&X-Amz-Signature={signature}", at("k"))
    };
    let send = |method: &str, url: String| {
        let mut ask = plain(method, &url);
        ask.host = HOST.into();
        ask.send(&emulator, A)
    };
    assert_eq!(send("GET", url("GET", 60)).text(), "x");
    assert_eq!(send("DELETE", url("GET", 60)).status, 403);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(send("GET", url("GET", 1)).element("Message").as_deref(), Some("Request has expired"));
}
