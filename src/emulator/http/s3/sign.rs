//! Amazon's signature, version 4: who signed, what the signature covers, and whether it is right.
//!
//! Written from "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API reference, and checked against the
//! examples there, and by the real clients of `tests/wire`. The region in a scope is taken as it is given: COS does not say
//! what it expects there, and clients send anything from `us-east-1` to `auto`.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use time::PrimitiveDateTime;
use time::macros::format_description;

use crate::cos::sign::{url_encode, url_encode_path};
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::world::hex;

pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// In place of a body's hash: the body is not covered.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// Longest life of a presigned URL: seven days.
const EXPIRES_SECONDS_MAX: u64 = 7 * 24 * 3600;
const SKEW_SECONDS_MAX: u64 = 15 * 60;

/// What a request presents.
#[derive(Debug)]
struct Presented {
    access_key: String,
    /// `<date>/<region>/s3/aws4_request`
    scope: String,
    /// `20130524T000000Z`
    moment: String,
    signed_headers: Vec<String>,
    signature: String,
    /// Of a presigned URL.
    expires: Option<u64>,
}

/// The key and the signature that the chunks of a body go on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    pub key: [u8; 32],
    pub scope: String,
    pub moment: String,
    pub signature: String,
}

fn denied(message: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::new(403, "AccessDenied", message)
}

impl Presented {
    fn read(call: &Call) -> Result<Presented, Failure> {
        let missing = |what: &str| denied(format!("The signature has no readable {what}."));
        let (credential, signed, signature, moment, expires) = match call.header("authorization") {
            Some(text) => {
                let items = text.strip_prefix(ALGORITHM).unwrap_or("");
                let item = |name: &str| items.split(',').find_map(|i| i.trim().strip_prefix(name)?.strip_prefix('='));
                let moment = call.header("x-amz-date").map(str::to_owned);
                (item("Credential"), item("SignedHeaders"), item("Signature"), moment, None)
            }
            None => {
                let item = |name: &str| call.param(name);
                let expires = item("X-Amz-Expires").and_then(|e| e.parse::<u64>().ok());
                let expires = expires.filter(|e| *e <= EXPIRES_SECONDS_MAX).ok_or_else(|| missing("expiry"))?;
                let moment = item("X-Amz-Date").map(str::to_owned);
                let signed = item("X-Amz-SignedHeaders");
                (item("X-Amz-Credential"), signed, item("X-Amz-Signature"), moment, Some(expires))
            }
        };
        let (access_key, scope) = credential.and_then(|c| c.split_once('/')).ok_or_else(|| missing("Credential"))?;
        let mut parts = scope.split('/').skip(2);
        if (parts.next(), parts.next(), parts.next()) != (Some("s3"), Some("aws4_request"), None) {
            return Err(missing("scope"));
        }
        let signed_headers = signed.ok_or_else(|| missing("SignedHeaders"))?.split(';').map(str::to_owned).collect();
        Ok(Presented {
            access_key: access_key.into(),
            scope: scope.into(),
            moment: moment.ok_or_else(|| missing("date"))?,
            signed_headers,
            signature: signature.ok_or_else(|| missing("Signature"))?.into(),
            expires,
        })
    }

    fn check_time(&self, now: u64) -> Result<(), Failure> {
        let form = format_description!("[year][month][day]T[hour][minute][second]Z");
        let moment = PrimitiveDateTime::parse(&self.moment, form).map_err(|_| denied("The date cannot be read."))?;
        let moment = moment.assume_utc().unix_timestamp().max(0) as u64;
        let skewed = || Failure::new(403, "RequestTimeTooSkewed", "The clock of the client is too far off.");
        if !self.scope.starts_with(&self.moment[..8]) {
            return Err(denied("The scope is of another day."));
        }
        match self.expires {
            Some(_) if moment > now + SKEW_SECONDS_MAX => Err(skewed()),
            Some(expires) if now > moment + expires => Err(denied("Request has expired")),
            None if moment.abs_diff(now) > SKEW_SECONDS_MAX => Err(skewed()),
            _ => Ok(()),
        }
    }

    fn canonical_request(&self, call: &Call, payload: &str) -> String {
        let mut params: Vec<(String, String)> = call
            .params
            .iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (url_encode(name), url_encode(value)))
            .collect();
        params.sort();
        let query: Vec<String> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut headers = String::new();
        for name in &self.signed_headers {
            let values = call.signed_headers().filter(|(n, _)| n == name);
            let values: Vec<String> = values.map(|(_, v)| v.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            headers += &format!("{name}:{}\n", values.join(","));
        }
        let path = url_encode_path(&call.path);
        let signed = self.signed_headers.join(";");
        format!("{}\n{path}\n{}\n{headers}\n{signed}\n{payload}", call.method, query.join("&"))
    }
}

/// Checks a request. The answer is what the parts of a chunked body are signed with.
pub fn check(call: &Call, id: &str, secret: &str, now: u64) -> Result<Seed, Failure> {
    let presented = Presented::read(call)?;
    if presented.access_key != id {
        return Err(Failure::new(403, "InvalidAccessKeyId", "The access key id does not exist."));
    }
    presented.check_time(now)?;
    // A header that is not covered could be changed on the way.
    let covered = |name: &str| presented.signed_headers.iter().any(|signed| signed == name);
    let open = call
        .signed_headers()
        .map(|(name, _)| name)
        .find(|name| (*name == "host" || name.starts_with("x-amz-")) && !covered(name));
    if let Some(name) = open {
        return Err(denied(format!("The header {name} must be signed.")));
    }
    let payload = if presented.expires.is_some() { UNSIGNED } else { payload_hash(call) };
    let request = presented.canonical_request(call, payload);
    let text =
        format!("{ALGORITHM}\n{}\n{}\n{}", presented.moment, presented.scope, hex(&Sha256::digest(request.as_bytes())));
    let key = signing_key(secret, &presented.scope);
    if signature(&key, &text) != presented.signature {
        let message = format!("The signature does not match. Signed here: {request:?}, string to sign {text:?}");
        return Err(Failure::new(403, "SignatureDoesNotMatch", message));
    }
    Ok(Seed { key, scope: presented.scope, moment: presented.moment, signature: presented.signature })
}

/// What stands for the body in the canonical request.
pub fn payload_hash(call: &Call) -> &str {
    call.header("x-amz-content-sha256").unwrap_or(UNSIGNED)
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length; the error type exists for MACs with a fixed one.
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC accepts keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The secret key narrowed down to a scope, item by item.
fn signing_key(secret: &str, scope: &str) -> [u8; 32] {
    let mut items = scope.split('/');
    let first = mac(format!("AWS4{secret}").as_bytes(), items.next().unwrap_or("").as_bytes());
    items.fold(first, |key, item| mac(&key, item.as_bytes()))
}

pub fn signature(key: &[u8; 32], text: &str) -> String {
    hex(&mac(key, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Site;

    /// The key pair of the examples in the reference.
    const ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const NOW: u64 = 1_369_353_600;
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn call(method: &str, path: &str, params: &[(&str, &str)], headers: &[(&str, &str)]) -> Call {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let mut headers: Vec<(String, String)> = own(headers);
        headers.push(("host".into(), "examplebucket.s3.amazonaws.com".into()));
        headers.push(("x-amz-date".into(), "20130524T000000Z".into()));
        Call {
            method: method.into(),
            site: Site::A,
            key: String::new(),
            path: path.into(),
            params: own(params),
            headers,
            ..Call::default()
        }
    }

    fn signed(mut call: Call, names: &str, signature: &str) -> Call {
        let value = format!(
            "{ALGORITHM} Credential={ID}/20130524/us-east-1/s3/aws4_request,SignedHeaders={names},Signature={signature}"
        );
        call.headers.push(("authorization".into(), value));
        call
    }

    #[test]
    fn published_examples_verify() {
        let get = call("GET", "/test.txt", &[], &[("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY)]);
        let get = signed(
            get,
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        );
        let put = call(
            "PUT",
            "/test$file.text",
            &[],
            &[
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
            ],
        );
        let put = signed(
            put,
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        );
        let list = call("GET", "/", &[("max-keys", "2"), ("prefix", "J")], &[("x-amz-content-sha256", EMPTY)]);
        let list = signed(
            list,
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        );
        let lifecycle = call("GET", "/", &[("lifecycle", "")], &[("x-amz-content-sha256", EMPTY)]);
        let lifecycle = signed(
            lifecycle,
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        );
        for good in [&get, &put, &list, &lifecycle] {
            check(good, ID, SECRET, NOW).unwrap_or_else(|failure| panic!("{} {}: {failure}", good.method, good.path));
        }
        let code = |call: &Call, id: &str, secret: &str, now: u64| check(call, id, secret, now).expect_err("bad").code;
        assert_eq!(code(&get, ID, "wrong", NOW), "SignatureDoesNotMatch");
        assert_eq!(code(&get, "other", SECRET, NOW), "InvalidAccessKeyId");
        assert_eq!(code(&get, ID, SECRET, NOW + 901), "RequestTimeTooSkewed");
        assert_eq!(code(&Call { path: "/other".into(), ..get.clone() }, ID, SECRET, NOW), "SignatureDoesNotMatch");
        let mut added = get.clone();
        added.headers.push(("x-amz-acl".into(), "public-read".into()));
        assert_eq!(code(&added, ID, SECRET, NOW), "AccessDenied", "an x-amz header that is not signed");
    }

    #[test]
    fn published_presigned_url_verifies() {
        let params = [
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"),
            ("X-Amz-Date", "20130524T000000Z"),
            ("X-Amz-Expires", "86400"),
            ("X-Amz-SignedHeaders", "host"),
            ("X-Amz-Signature", "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
        ];
        let mut url = call("GET", "/test.txt", &params, &[]);
        url.headers.retain(|(name, _)| name != "x-amz-date");
        assert!(check(&url, ID, SECRET, NOW).is_ok());
        assert_eq!(check(&url, ID, SECRET, NOW + 86_401).expect_err("late").message, "Request has expired");
        url.params[3].1 = "86401".into();
        assert_eq!(check(&url, ID, SECRET, NOW).expect_err("stretched").code, "SignatureDoesNotMatch");
    }
}
