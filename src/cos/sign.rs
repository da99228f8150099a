//! The COS request signature: computing it and checking it. Pure.
//!
//! A request is reduced to an `HttpString` (method, *decoded* path, chosen parameters, chosen headers), hashed with SHA-1, and
//! signed with a key that is itself an HMAC over a time window. Only headers and parameters that the request names in its
//! two lists are covered. Source: "Request Signature", Tencent Cloud COS documentation; the vectors in
//! `tests/data/cos-signature-vectors.json` come from the official Python SDK and from that page.
//!
//! Client and emulator share this file, so a mistake here would agree with itself: every function is therefore checked against
//! those vectors and not only against its counterpart.
//!
//! Owns: the canonical form, the text of `Authorization`, the parse of both presented forms. Owns not: the choice of what to
//! sign (`request`), the clock (`credentials`).

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::{Digest, Sha1};

/// What stays as it is: letters, digits and `- _ . ~`.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// As [`UNRESERVED`], and the slash: paths, and values under `encoding-type=url`.
const UNRESERVED_AND_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

/// `UrlEncode` of the signature: upper-case hex, space as `%20`.
pub fn url_encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// As [`url_encode`], but a slash stays a slash.
pub fn url_encode_path(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED_AND_SLASH).to_string()
}

/// Undoes percent-encoding; `+` stays `+`. `None` if the result is not UTF-8.
pub fn url_decode(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|t| t.into_owned())
}

/// The decoded pairs of a raw query string, in order. In a query, `+` is a space (the Python SDK sends it so).
///
/// `None` if a name or value is not UTF-8.
pub fn parse_query(raw: &str) -> Option<Vec<(String, String)>> {
    raw.split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((url_decode(&name.replace('+', " "))?, url_decode(&value.replace('+', " "))?))
        })
        .collect()
}

/// A validity window in Unix seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyTime {
    pub start: u64,
    pub end: u64,
}

impl KeyTime {
    pub fn parse(text: &str) -> Option<KeyTime> {
        let (start, end) = text.split_once(';')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        (start < end).then_some(KeyTime { start, end })
    }

    pub fn contains(&self, unix_seconds: u64) -> bool {
        (self.start..=self.end).contains(&unix_seconds)
    }
}

impl std::fmt::Display for KeyTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{};{}", self.start, self.end)
    }
}

/// Signed parameters or headers in canonical form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Canonical {
    /// `k=v&k=v`, sorted by name.
    pub pairs: String,
    /// `k;k`, in the same order.
    pub list: String,
}

/// Sorts and encodes decoded pairs.
pub fn canonical<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> Canonical {
    let mut encoded: Vec<(String, String)> = pairs
        .iter()
        .map(|(name, value)| (url_encode(name.as_ref()).to_ascii_lowercase(), url_encode(value.as_ref())))
        .collect();
    encoded.sort();
    let mut out = Canonical { pairs: String::new(), list: String::new() };
    for (index, (name, value)) in encoded.iter().enumerate() {
        if index > 0 {
            out.pairs.push('&');
            out.list.push(';');
        }
        out.pairs.push_str(name);
        out.pairs.push('=');
        out.pairs.push_str(value);
        out.list.push_str(name);
    }
    out
}

/// `HttpString`. `decoded_path` begins with a slash and holds the raw key.
pub fn http_string(method: &str, decoded_path: &str, params: &Canonical, headers: &Canonical) -> String {
    format!("{}\n{}\n{}\n{}\n", method.to_ascii_lowercase(), decoded_path, params.pairs, headers.pairs)
}

/// `StringToSign`. `key_time` is taken as text because a verifier must use it exactly as presented.
pub fn string_to_sign(key_time: &str, http_string: &str) -> String {
    format!("sha1\n{key_time}\n{}\n", hex(&Sha1::digest(http_string.as_bytes())))
}

/// `SignKey`: lower-case hex.
pub fn sign_key(secret_key: &str, key_time: &str) -> String {
    hex(&hmac_sha1(secret_key.as_bytes(), key_time.as_bytes()).finalize().into_bytes())
}

/// `Signature`: lower-case hex. The key is the *text* of the sign key.
pub fn signature(sign_key: &str, string_to_sign: &str) -> String {
    hex(&hmac_sha1(sign_key.as_bytes(), string_to_sign.as_bytes()).finalize().into_bytes())
}

/// The value of the `Authorization` header for a request that signs exactly these decoded parameters and headers.
pub fn authorization<N: AsRef<str>, V: AsRef<str>, M: AsRef<str>, W: AsRef<str>>(
    secret_id: &str,
    secret_key: &str,
    key_time: KeyTime,
    method: &str,
    decoded_path: &str,
    params: &[(N, V)],
    headers: &[(M, W)],
) -> String {
    let (params, headers) = (canonical(params), canonical(headers));
    let time = key_time.to_string();
    let text = string_to_sign(&time, &http_string(method, decoded_path, &params, &headers));
    let signature = signature(&sign_key(secret_key, &time), &text);
    format!(
        "q-sign-algorithm=sha1&q-ak={secret_id}&q-sign-time={time}&q-key-time={time}&q-header-list={}&q-url-param-list={}&q-signature={signature}",
        headers.list, params.list
    )
}

/// Why a presented signature cannot even be checked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    #[error("signature item {0} is missing")]
    Missing(&'static str),
    #[error("signature item {0} cannot be read")]
    Unreadable(&'static str),
    #[error("signature algorithm is not sha1")]
    Algorithm,
}

/// A signature as a request presents it, in the header or in the query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Presented {
    pub secret_id: String,
    pub sign_time: KeyTime,
    /// As presented; [`Presented::key_window`] is the parsed form.
    pub key_time: String,
    pub key_window: KeyTime,
    /// Encoded lower-case names.
    pub header_list: Vec<String>,
    /// Encoded lower-case names.
    pub param_list: Vec<String>,
    pub signature: String,
}

/// Outcome of [`Presented::verify`] when the signature does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// What the verifier signed; COS prints it in the error body, and it shows the client's mistake.
    pub http_string: String,
    pub string_to_sign: String,
}

impl Presented {
    /// Parses the value of `Authorization`.
    pub fn from_header(value: &str) -> Result<Presented, Malformed> {
        let pairs: Vec<(&str, &str)> = value.trim().split('&').filter_map(|p| p.split_once('=')).collect();
        Presented::from_items(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| *v))
    }

    /// Parses a presigned URL's decoded query; `None` if it carries no signature at all.
    pub fn from_query(params: &[(String, String)]) -> Option<Result<Presented, Malformed>> {
        params
            .iter()
            .any(|(n, _)| n == "q-signature" || n == "q-sign-algorithm")
            .then(|| Presented::from_items(|name| params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())))
    }

    fn from_items<'a>(get: impl Fn(&'static str) -> Option<&'a str>) -> Result<Presented, Malformed> {
        let need = |name: &'static str| get(name).ok_or(Malformed::Missing(name));
        if need("q-sign-algorithm")? != "sha1" {
            return Err(Malformed::Algorithm);
        }
        let names = |text: &str| text.split(';').filter(|n| !n.is_empty()).map(|n| n.to_ascii_lowercase()).collect();
        let key_time = need("q-key-time")?;
        Ok(Presented {
            secret_id: need("q-ak")?.to_string(),
            sign_time: KeyTime::parse(need("q-sign-time")?).ok_or(Malformed::Unreadable("q-sign-time"))?,
            key_window: KeyTime::parse(key_time).ok_or(Malformed::Unreadable("q-key-time"))?,
            key_time: key_time.to_string(),
            header_list: names(need("q-header-list")?),
            param_list: names(need("q-url-param-list")?),
            signature: need("q-signature")?.to_string(),
        })
    }

    /// Does the signature fit the request? `params` and `headers` are all that arrived, decoded; the lists choose among them.
    ///
    /// A signed `host` fits with and without its port, because the Python SDK leaves the port out and the Node SDK keeps it.
    /// A name in a list that did not arrive makes the signature wrong, as it must: the client signed something else. The
    /// time window is not judged here.
    pub fn verify(
        &self,
        secret_key: &str,
        method: &str,
        decoded_path: &str,
        params: &[(String, String)],
        headers: &[(String, String)],
    ) -> Result<(), Mismatch> {
        // A presigned URL's own items are never part of what they sign.
        let own = |name: &str| {
            matches!(
                name,
                "q-sign-algorithm"
                    | "q-ak"
                    | "q-sign-time"
                    | "q-key-time"
                    | "q-header-list"
                    | "q-url-param-list"
                    | "q-signature"
            )
        };
        let chosen = |pairs: &[(String, String)], list: &[String]| -> Vec<(String, String)> {
            pairs
                .iter()
                .filter(|(n, _)| !own(n) && list.contains(&url_encode(n).to_ascii_lowercase()))
                .cloned()
                .collect()
        };
        let params = canonical(&chosen(params, &self.param_list));
        let with_port = chosen(headers, &self.header_list);
        let without_port: Vec<(String, String)> = with_port
            .iter()
            .map(|(n, v)| {
                if n.eq_ignore_ascii_case("host") { (n.clone(), host_without_port(v)) } else { (n.clone(), v.clone()) }
            })
            .collect();
        let sign_key = sign_key(secret_key, &self.key_time);
        let listed = |canonical: &Canonical, list: &[String]| {
            list.iter().all(|n| canonical.list.split(';').any(|have| have == n))
        };
        let mut mismatch = None;
        for headers in [&with_port, &without_port] {
            let headers = canonical(headers);
            let http_string = http_string(method, decoded_path, &params, &headers);
            let string_to_sign = string_to_sign(&self.key_time, &http_string);
            let complete = listed(&headers, &self.header_list) && listed(&params, &self.param_list);
            if complete && signature_matches(&sign_key, &string_to_sign, &self.signature) {
                return Ok(());
            }
            mismatch.get_or_insert(Mismatch { http_string, string_to_sign });
        }
        mismatch.map_or(Ok(()), Err)
    }
}

/// Compares in constant time (the MAC's own comparison).
pub fn signature_matches(sign_key: &str, string_to_sign: &str, presented_hex: &str) -> bool {
    match unhex(presented_hex) {
        Some(bytes) => hmac_sha1(sign_key.as_bytes(), string_to_sign.as_bytes()).verify_slice(&bytes).is_ok(),
        None => false,
    }
}

fn host_without_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name.to_string(),
        _ => host.to_string(),
    }
}

fn hmac_sha1(key: &[u8], message: &[u8]) -> Hmac<Sha1> {
    // HMAC takes keys of every length; the error type exists for MACs with a fixed one.
    let mut mac = <Hmac<Sha1> as Mac>::new_from_slice(key).expect("HMAC accepts keys of any length");
    mac.update(message);
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    type Pairs = Vec<(String, String)>;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/data/cos-signature-vectors.json")).unwrap()
    }

    fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
        vector[name].as_str().unwrap_or_else(|| panic!("{name} is not a text"))
    }

    fn pairs(value: &Value) -> Vec<(String, String)> {
        let own = |v: &Value| v.as_str().unwrap().to_string();
        match value {
            Value::Array(list) => list.iter().map(|p| (own(&p[0]), own(&p[1]))).collect(),
            Value::Object(map) => map.iter().map(|(n, v)| (n.clone(), own(v))).collect(),
            other => panic!("{other}"),
        }
    }

    /// What the vector signs, and everything it sends.
    fn headers_of(vector: &Value) -> (Pairs, Pairs) {
        let unsigned: Vec<&str> =
            vector["unsigned_headers"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        let mut all = pairs(&vector["request_headers"]);
        let mut signed: Vec<_> =
            all.iter().filter(|(n, _)| !unsigned.iter().any(|u| u.eq_ignore_ascii_case(n))).cloned().collect();
        if let Some(host) = vector["signed_host"].as_str() {
            signed.push(("host".into(), host.into()));
        }
        all.push(("Host".into(), text(vector, "host").into()));
        (signed, all)
    }

    #[test]
    fn header_vectors_sign_and_verify() {
        let vectors = vectors();
        let vectors = vectors["header_vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 18);
        for v in vectors {
            let name = text(v, "name");
            let (signed, all) = headers_of(v);
            let params = pairs(&v["query_params"]);
            let path = text(v, "uri_pathname");
            let (c_params, c_headers) = (canonical(&params), canonical(&signed));
            assert_eq!(c_params.pairs, text(v, "http_parameters"), "{name}");
            assert_eq!(c_params.list, text(v, "url_param_list"), "{name}");
            assert_eq!(c_headers.pairs, text(v, "http_headers"), "{name}");
            assert_eq!(c_headers.list, text(v, "header_list"), "{name}");
            let http = http_string(text(v, "method"), path, &c_params, &c_headers);
            assert_eq!(http, text(v, "http_string"), "{name}");
            assert_eq!(sign_key(text(v, "secret_key"), text(v, "key_time")), text(v, "sign_key"), "{name}");
            let time = KeyTime::parse(text(v, "key_time")).unwrap();
            let (id, key) = (text(v, "secret_id"), text(v, "secret_key"));
            let value = authorization(id, key, time, text(v, "method"), path, &params, &signed);
            assert_eq!(value, text(v, "authorization"), "{name}");

            let wire_params = parse_query(text(v, "wire_query")).unwrap();
            let wire_path = url_decode(text(v, "wire_path")).unwrap();
            assert_eq!(wire_path, path, "{name}");
            let presented = Presented::from_header(&value).unwrap();
            assert_eq!(presented.secret_id, id);
            assert_eq!(presented.verify(key, text(v, "method"), &wire_path, &wire_params, &all), Ok(()), "{name}");
            assert!(presented.verify("other", text(v, "method"), &wire_path, &wire_params, &all).is_err(), "{name}");
            assert!(presented.verify(key, "PATCH", &wire_path, &wire_params, &all).is_err(), "{name}");
            assert!(presented.verify(key, text(v, "method"), "/no", &wire_params, &all).is_err(), "{name}");
            if !presented.header_list.is_empty() {
                assert!(presented.verify(key, text(v, "method"), path, &wire_params, &[]).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn presigned_vectors_sign_and_verify() {
        let vectors = vectors();
        let vectors = vectors["presigned_vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 4);
        for v in vectors {
            let name = text(v, "name");
            let (_, rest) = text(v, "url").split_once("://").unwrap();
            let (host, rest) = rest.split_once('/').unwrap();
            let (path, query) = rest.split_once('?').unwrap();
            let path = format!("/{}", url_decode(path).unwrap());
            assert_eq!(path, format!("/{}", text(v, "object_key")), "{name}");
            let params = parse_query(query).unwrap();
            let mut headers = pairs(&v["headers_signed"]);
            let mut signed = headers.clone();
            headers.push(("host".into(), format!("{host}:9000")));
            if v["sign_host"].as_bool().unwrap() {
                signed.push(("host".into(), host.into()));
            }
            let http =
                http_string(text(v, "method"), &path, &canonical(&pairs(&v["params_signed"])), &canonical(&signed));
            assert_eq!(http, text(v, "http_string"), "{name}");
            let presented = Presented::from_query(&params).unwrap().unwrap();
            assert_eq!(presented.signature, text(v, "signature"), "{name}");
            assert_eq!(
                presented.verify(text(v, "secret_key"), text(v, "method"), &path, &params, &headers),
                Ok(()),
                "{name}"
            );
        }
    }

    #[test]
    fn documented_examples_sign() {
        let vectors = vectors();
        let vectors = vectors["doc_vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for v in vectors {
            let to_sign = string_to_sign(text(v, "key_time"), text(v, "http_string"));
            assert_eq!(to_sign, text(v, "string_to_sign"));
            let signature = signature(text(v, "sign_key"), &to_sign);
            assert_eq!(signature, text(v, "signature"));
            assert!(signature.starts_with(text(v, "published_signature_prefix")));
        }
    }

    #[test]
    fn broken_presentations_are_named() {
        let good = text(&vectors()["header_vectors"][0], "authorization").to_string();
        for (change, expected) in [
            (good.replace("q-sign-algorithm=sha1", "q-sign-algorithm=md5"), Malformed::Algorithm),
            (good.replace("q-ak=", "ak="), Malformed::Missing("q-ak")),
            (good.replace("q-key-time=1", "q-key-time=x"), Malformed::Unreadable("q-key-time")),
            (String::new(), Malformed::Missing("q-sign-algorithm")),
        ] {
            assert_eq!(Presented::from_header(&change), Err(expected));
        }
        assert!(Presented::from_query(&[("prefix".into(), "a".into())]).is_none());
    }

    #[test]
    fn a_signature_is_compared_whole() {
        let key = sign_key("secret", "1;2");
        let good = signature(&key, "text");
        assert!(signature_matches(&key, "text", &good));
        for bad in [&good[..38], "", &good.to_uppercase(), "zz", &format!("{good}00")] {
            assert!(!signature_matches(&key, "text", bad), "{bad}");
        }
    }

    #[test]
    fn plus_is_a_space_in_a_query_only() {
        assert_eq!(
            parse_query("a=b+c%2Bd&uploads&x="),
            Some(vec![("a".into(), "b c+d".into()), ("uploads".into(), String::new()), ("x".into(), String::new()),])
        );
        assert_eq!(url_decode("b+c%2Bd").as_deref(), Some("b+c+d"));
        assert_eq!(url_decode("%ff"), None);
        assert_eq!(url_encode_path("a/ü +~"), "a/%C3%BC%20%2B~");
    }
}
