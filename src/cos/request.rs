//! Building requests and reading answer heads. Pure.
//!
//! A key travels in three forms: raw in the signature, percent-encoded in the request line, twice encoded as a copy source. The
//! URL library sits between us and the wire and *normalises*: `a/./b` would silently become `a/b`, another file. So the path
//! is encoded such that nothing is left to normalise, and the transport checks that the URL kept it.
//!
//! Owns: addresses, wire forms, the headers of objects. Owns not: sending.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use super::clock::ClockOffset;
use super::credentials::Credentials;
use super::error::Target;
use super::payload::Payload;
use super::sign::{authorization, url_encode, url_encode_path};
use crate::object::{ETag, Headers, Object, STAMP_META, Stamp, Token, VersionId};

pub(super) const REQUEST_ID: &str = "x-cos-request-id";
pub(super) const CRC64: &str = "x-cos-hash-crc64ecma";
pub(super) const VERSION_ID: &str = "x-cos-version-id";
const META: &str = "x-cos-meta-";
/// Names and values of metadata together ("PUT Object": 2 KB; whether that is in total is not said).
const META_BYTES_MAX: usize = 2048;
/// What else COS keeps with an object and gives back ("PUT Object").
const STORED: [&str; 4] = ["cache-control", "content-disposition", "content-encoding", "expires"];

/// Where one bucket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketAddress {
    /// With the account number: `name-1250000000`.
    pub bucket: String,
    pub region: String,
    /// Connect to this `http://host:port` instead; the name in requests and signatures stays the bucket's own.
    pub endpoint: Option<String>,
    /// Ignored where `endpoint` names a scheme.
    pub https: bool,
}

impl BucketAddress {
    /// Host name in requests. Both domains lead to the same bucket.
    pub fn host(&self, alternate_domain: bool) -> String {
        let domain = if alternate_domain { "tencentcos.cn" } else { "myqcloud.com" };
        format!("{}.cos.{}.{domain}", self.bucket, self.region)
    }

    /// Host and port to connect to in place of the bucket's own.
    pub(super) fn endpoint_authority(&self) -> Option<&str> {
        let endpoint = self.endpoint.as_deref()?;
        let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        Some(rest.trim_end_matches('/'))
    }

    pub(super) fn scheme(&self) -> &'static str {
        match self.endpoint.as_deref().and_then(|e| e.split_once("://")) {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => "http",
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => "https",
            _ if self.https => "https",
            _ => "http",
        }
    }
}

/// A request before it is signed.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub method: &'static str,
    /// Empty for the bucket itself.
    pub key: String,
    /// Decoded; a sub-resource first, because COS routes on it.
    pub params: Vec<(&'static str, String)>,
    pub headers: Vec<(String, String)>,
    pub payload: Payload,
    pub target: Target,
}

impl Request {
    pub fn object(method: &'static str, key: &str) -> Request {
        let (params, headers, payload) = (Vec::new(), Vec::new(), Payload::empty());
        Request { method, key: key.to_string(), params, headers, payload, target: Target::Object }
    }

    pub fn bucket(method: &'static str) -> Request {
        Request { target: Target::Bucket, ..Request::object(method, "") }
    }

    pub fn param(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.params.push((name, value.into()));
        self
    }

    pub fn version(mut self, version: Option<&VersionId>) -> Request {
        if let Some(version) = version {
            self.params.push(("versionId", version.0.clone()));
            self.target = Target::Version;
        }
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    pub fn payload(mut self, payload: Payload) -> Request {
        self.payload = payload;
        self
    }

    /// `None` if no URL can name the key.
    pub fn wire_path(&self) -> Option<String> {
        wire_path(&self.key)
    }

    pub fn wire_query(&self) -> String {
        let pairs = self.params.iter().map(|(name, value)| match value.as_str() {
            "" => url_encode(name),
            value => format!("{}={}", url_encode(name), url_encode(value)),
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// All headers to send but `Host`, with the signature as the last.
    pub fn signed_headers(&self, host: &str, credentials: &Credentials, clock: &ClockOffset) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        if let Some(token) = &credentials.token {
            headers.push(("x-cos-security-token".into(), token.clone()));
        }
        let mut signed: Vec<(&str, &str)> =
            headers.iter().filter(|(n, _)| is_signed(n)).map(|(n, v)| (n.as_str(), v.as_str())).collect();
        signed.push(("host", host));
        let path = format!("/{}", self.key);
        let Credentials { secret_id, secret_key, .. } = credentials;
        let value = authorization(secret_id, secret_key, clock.key_time(), self.method, &path, &self.params, &signed);
        headers.push(("authorization".into(), value));
        headers
    }
}

/// What the official SDKs sign, as far as we send it. A bucket with strict signatures demands the host and all of `x-cos-*`.
fn is_signed(name: &str) -> bool {
    name.starts_with("x-cos-")
        || matches!(name, "content-type" | "content-md5" | "range" | "if-match" | "if-none-match")
}

/// The request path for a key, proof against the URL library's normalisation.
///
/// `.` and `..` segments vanish from URLs even when percent-encoded, unless the slash next to them is encoded too; COS decodes it
/// (the Python SDK sends `.%2F`). A key that is nothing but dots has no slash to encode and no URL.
fn wire_path(key: &str) -> Option<String> {
    let is_dots = |segment: &str| segment == "." || segment == "..";
    if is_dots(key) {
        return None;
    }
    let encoded = match key.split('/').any(is_dots) {
        true => url_encode(key),
        false => url_encode_path(key),
    };
    Some(format!("/{encoded}"))
}

/// The request headers that store `headers` and `stamp` with an object, and the names of those that cannot be sent.
///
/// Much of it is not ours: whoever stored the object wrote it, and a write must not fail for it. What HTTP or COS would refuse is
/// left out, and of metadata beyond the limit of COS the longest.
pub(super) fn object_headers(headers: &Headers, stamp: Option<Stamp>) -> (Vec<(String, String)>, Vec<String>) {
    let user = headers.user.iter().filter(|(name, _)| *name != STAMP_META || stamp.is_none());
    let mut meta: Vec<(String, String)> = user.map(|(name, value)| (format!("{META}{name}"), value.clone())).collect();
    meta.extend(stamp.map(|stamp| (format!("{META}{STAMP_META}"), stamp.to_string())));
    let (mut meta, mut left_out): (Vec<_>, Vec<_>) = meta
        .into_iter()
        .partition(|(name, value)| name.strip_prefix(META).is_some_and(is_meta_name) && is_sendable(value));
    let size = |(name, value): &(String, String)| name.len() - META.len() + value.len();
    while meta.iter().map(size).sum::<usize>() > META_BYTES_MAX
        && let Some(longest) = (0..meta.len()).max_by_key(|at| size(&meta[*at]))
    {
        left_out.push(meta.remove(longest));
    }
    let named = headers.content_type.iter().map(|value| ("content-type".to_string(), value.clone()));
    let stored = headers.stored.iter().map(|(name, value)| (name.clone(), value.clone()));
    let (mut out, odd): (Vec<_>, Vec<_>) =
        named.chain(stored).partition(|(_, value)| is_sendable(value) && !value.is_empty());
    left_out.extend(odd);
    out.append(&mut meta);
    (out, left_out.into_iter().map(|(name, _)| name).collect())
}

fn is_meta_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Does it come back as it went out? Bytes that are not ASCII are sent as UTF-8, as they came.
fn is_sendable(value: &str) -> bool {
    !value.chars().any(char::is_control) && value.trim_matches([' ', '\t']) == value
}

/// A version id that identifies content. `null` and the empty text do not: the former is rewritten in place.
pub(super) fn version_id(text: &str) -> Option<VersionId> {
    (!text.is_empty() && text != "null").then(|| VersionId(text.to_string()))
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

pub(super) fn date(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

pub(super) fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(seconds) = number(headers, "retry-after") {
        return Some(Duration::from_secs(seconds));
    }
    let until = date(headers, "retry-after")?;
    Some(until.duration_since(date(headers, "date").unwrap_or_else(crate::clock::wall)).unwrap_or_default())
}

/// An object as the head of a GET or HEAD answer describes it. `None` without an ETag: then it cannot be identified.
pub(super) fn object_of(headers: &HeaderMap, size: u64) -> Option<Object> {
    let mut user = std::collections::BTreeMap::new();
    let mut stored = std::collections::BTreeMap::new();
    let mut stamp = None;
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        if STORED.contains(&name.as_str()) {
            stored.insert(name.to_string(), value.into_owned());
            continue;
        }
        let Some(name) = name.as_str().strip_prefix(META) else { continue };
        match value.parse::<Stamp>() {
            Ok(found) if name == STAMP_META => stamp = Some(found),
            _ => {
                user.insert(name.to_string(), value.into_owned());
            }
        }
    }
    let version = text(headers, VERSION_ID).and_then(version_id);
    let modified = date(headers, "last-modified");
    let token = Token {
        etag: ETag::parse(text(headers, "etag")?),
        size,
        crc64: number(headers, CRC64),
        modified_micros: modified.map(micros).or(version.as_ref().and_then(VersionId::commit_micros)).unwrap_or(0),
        version,
        stamp,
    };
    let content_type = headers.get("content-type").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Some(Object { token, headers: Headers { content_type, user, stored } })
}

/// `bytes first-last/total` as (first, end, total).
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let (range, total) = text(headers, "content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse::<u64>().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last + 1, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Epoch;

    #[test]
    fn every_key_reaches_the_wire_as_itself() {
        let keys = [
            "a",
            "a b",
            "a+b",
            "a%b",
            "a%2Fb",
            "%2e%2e/x",
            "a//b",
            "a/",
            "a//",
            "a/./b",
            "a/../b",
            "./a",
            "../a",
            "a/.",
            "a/..",
            "a/.hidden",
            "a/...",
            "目录/文件 (腾讯云)+~.dat",
            "q?x=1&y#z",
            "a\\b",
            "\\x/..\\y",
            "tab\tnl\n",
            "'\"<>`{}|^[]",
            ";,:@=$!*()",
            "a/%2e/b",
            "a/.%2e/b",
            "http://x/y",
        ];
        for key in keys.into_iter().filter(|k| !k.starts_with('\\')) {
            let path = wire_path(key).unwrap();
            let url = reqwest::Url::parse(&format!("http://b-1.cos.r.myqcloud.com{path}?versionId=x")).unwrap();
            assert_eq!(url.path(), path, "{key:?}: the URL library changed it");
            assert_eq!(crate::cos::sign::url_decode(&path[1..]).as_deref(), Some(key), "{path}");
        }
        assert_eq!(wire_path("."), None);
        assert_eq!(wire_path(".."), None);
        assert_eq!(wire_path("a/./b").unwrap(), "/a%2F.%2Fb");
        assert_eq!(wire_path("a/b").unwrap(), "/a/b");
    }

    proptest::proptest! {
        #[test]
        fn any_key_survives_the_url_library(key in "[a-z./%+ \\\\?#é-]{1,12}") {
            proptest::prop_assume!(key != "." && key != "..");
            let path = wire_path(&key).unwrap();
            let url = reqwest::Url::parse(&format!("https://b-1.cos.r.myqcloud.com{path}")).unwrap();
            proptest::prop_assert_eq!(url.path(), &path);
            proptest::prop_assert_eq!(crate::cos::sign::url_decode(&path[1..]), Some(key));
        }
    }

    #[test]
    fn queries_are_encoded_for_signature_and_wire_alike() {
        let request = Request::bucket("GET").param("uploads", "").param("prefix", "目录/a b+c&d");
        assert_eq!(request.wire_query(), "uploads&prefix=%E7%9B%AE%E5%BD%95%2Fa%20b%2Bc%26d");
        let url = reqwest::Url::parse(&format!("http://h/?{}", request.wire_query())).unwrap();
        assert_eq!(url.query(), Some(request.wire_query().as_str()));
        let back = crate::cos::sign::parse_query(url.query().unwrap()).unwrap();
        assert_eq!(back[1].1, "目录/a b+c&d");
    }

    #[test]
    fn addresses_keep_the_bucket_name() {
        let mut address = BucketAddress { bucket: "b-1".into(), region: "ap-x".into(), endpoint: None, https: true };
        assert_eq!(address.host(false), "b-1.cos.ap-x.myqcloud.com");
        assert_eq!(address.host(true), "b-1.cos.ap-x.tencentcos.cn");
        for (endpoint, https, scheme, authority) in [
            (None, true, "https", None),
            (None, false, "http", None),
            (Some("http://127.0.0.1:9100"), true, "http", Some("127.0.0.1:9100")),
            (Some("https://link.local/"), false, "https", Some("link.local")),
            (Some("127.0.0.1:9100"), true, "https", Some("127.0.0.1:9100")),
        ] {
            address.endpoint = endpoint.map(String::from);
            address.https = https;
            assert_eq!((address.scheme(), address.endpoint_authority()), (scheme, authority));
        }
    }

    #[test]
    fn what_is_signed_covers_a_strict_bucket() {
        let credentials = Credentials { secret_id: "i".into(), secret_key: "k".into(), token: Some("t".into()) };
        let request = Request::object("PUT", "a/b").header("x-cos-meta-mode", "33188").header("content-length", "0");
        let headers = request.signed_headers("h", &credentials, &ClockOffset::new());
        let (name, value) = headers.last().unwrap();
        assert_eq!(name, "authorization");
        assert!(value.contains("&q-header-list=host;x-cos-meta-mode;x-cos-security-token&"), "{value}");
        assert!(headers.contains(&("x-cos-security-token".into(), "t".into())));
    }

    #[test]
    fn object_headers_go_out_and_come_back() {
        let stamp = Stamp { mount: 7, epoch: Epoch(2), seq: 9 };
        let headers = Headers {
            content_type: Some("text/plain; charset=utf-8".into()),
            user: [("mode", "33188"), ("xattr", "%7B%22a%22%7D"), ("empty", "")]
                .map(|(n, v)| (n.into(), v.into()))
                .into(),
            stored: [("cache-control", "max-age=60"), ("content-encoding", "gzip")]
                .map(|(n, v)| (n.into(), v.into()))
                .into(),
        };
        let mut map = HeaderMap::new();
        let (out, left_out) = object_headers(&headers, Some(stamp));
        assert!(left_out.is_empty());
        for (name, value) in out {
            map.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        map.insert("etag", "\"e\"".parse().unwrap());
        map.insert(VERSION_ID, "null".parse().unwrap());
        map.insert("last-modified", "Fri, 10 Apr 2020 18:21:55 GMT".parse().unwrap());
        let object = object_of(&map, 5).unwrap();
        assert_eq!(object.headers, headers);
        let token = Token {
            version: None,
            etag: ETag("e".into()),
            size: 5,
            crc64: None,
            modified_micros: 1_586_542_915_000_000,
            stamp: Some(stamp),
        };
        assert_eq!(object.token, token);
        map.remove("etag");
        assert!(object_of(&map, 5).is_none());
    }

    #[test]
    fn metadata_that_would_change_on_the_way_is_left_out() {
        for (name, value, fits) in [
            ("a-1", "x y", true),
            ("a", "", true),
            ("a_b", "x", false),
            ("A", "x", false),
            ("", "x", false),
            ("a", "é 王", true),
            ("a", " x", false),
            ("a", "x ", false),
            ("a", "x\ny", false),
            ("a", "x\r\nx-cos-acl: public-read", false),
        ] {
            let headers = Headers { user: [(name.to_string(), value.to_string())].into(), ..Headers::default() };
            let (out, left_out) = object_headers(&headers, None);
            let full = format!("{META}{name}");
            match fits {
                true => assert_eq!((out, left_out), (vec![(full, value.to_string())], vec![]), "{name:?} {value:?}"),
                false => assert_eq!((out, left_out), (vec![], vec![full]), "{name:?} {value:?}"),
            }
        }
        for content_type in ["", "a\nb"] {
            let headers = Headers { content_type: Some(content_type.into()), ..Headers::default() };
            assert_eq!(object_headers(&headers, None), (vec![], vec!["content-type".to_string()]));
        }
    }

    #[test]
    fn of_too_much_metadata_the_longest_is_left_out() {
        let stamp = Stamp { mount: 7, epoch: Epoch(2), seq: 9 };
        let user = [("mode", "33188".to_string()), ("long", "x".repeat(1500)), ("longer", "x".repeat(1600))];
        let user = user.map(|(name, value)| (name.to_string(), value)).into();
        let (out, left_out) = object_headers(&Headers { user, ..Headers::default() }, Some(stamp));
        assert_eq!(left_out, ["x-cos-meta-longer"]);
        let names: Vec<&str> = out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-cos-meta-long", "x-cos-meta-mode", "x-cos-meta-ha"]);
    }

    #[test]
    fn ranges_and_delays_are_read() {
        let map = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
        };
        for (value, range) in [
            ("bytes 0-9/10", Some((0, 10, 10))),
            ("bytes 5-5/10", Some((5, 6, 10))),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes */10", None),
            ("5-9/10", None),
        ] {
            assert_eq!(content_range(&map("content-range", value)), range, "{value}");
        }
        assert_eq!(retry_after(&map("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&map("retry-after", "soon")), None);
    }
}
