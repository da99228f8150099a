//! Who signed the request, and is the signature good?

use crate::cos::sign::{Malformed, Presented};
use crate::emulator::clock::{parse_http_date, wall_micros};
use crate::emulator::failure::Failure;
use crate::emulator::keyring::Keyring;
use crate::emulator::{SECRET_ID, SECRET_KEY};

use super::call::Call;
use super::s3::{Dialect, sign};

/// Beyond this distance COS calls the clock skewed ("Request Signature").
const SKEW_SECONDS_MAX: u64 = 15 * 60;

/// Of a request in the S3 dialect, the signature that the chunks of its body go on from.
///
/// `skew`: seconds that the clock of this region is ahead.
pub fn check(call: &Call, keys: &Keyring, skew: i64) -> Result<Option<sign::Seed>, Failure> {
    let now = (wall_micros() / 1_000_000).saturating_add_signed(skew);
    match call.dialect {
        Dialect::Cos => check_at(call, keys, now).map(|()| None),
        // In this dialect there is one identity, as long as it is not revoked.
        Dialect::S3 => {
            keys.find(SECRET_ID).ok_or_else(unknown)?;
            sign::check(call, SECRET_ID, SECRET_KEY, now).map(Some)
        }
    }
}

/// Without any signature. Whether that is enough is for `access` to say.
pub fn is_anonymous(call: &Call) -> bool {
    call.dialect == Dialect::Cos
        && call.header("authorization").is_none()
        && Presented::from_query(&call.params).is_none()
}

fn unknown() -> Failure {
    Failure::new(403, "InvalidAccessKeyId", "The access key id does not exist.")
}

fn check_at(call: &Call, keys: &Keyring, now: u64) -> Result<(), Failure> {
    let denied = |message: &'static str| Failure::new(403, "AccessDenied", message);
    let malformed = |e: Malformed| Failure::new(403, "AccessDenied", format!("Authorization: {e}"));
    let presented = match call.header("authorization") {
        Some(value) => Presented::from_header(value).map_err(malformed)?,
        None => Presented::from_query(&call.params)
            .ok_or_else(|| denied("Anonymous requests are not allowed on a private bucket."))?
            .map_err(malformed)?,
    };
    let identity = keys.find(&presented.secret_id).ok_or_else(unknown)?;
    if let Some(token) = &identity.token {
        let shown = call.header("x-cos-security-token").or_else(|| call.param("x-cos-security-token"));
        if shown != Some(token) {
            return Err(Failure::new(403, "InvalidToken", "The token does not belong to the access key id."));
        }
    }
    let skewed = || Failure::new(403, "RequestTimeTooSkewed", "The clock of the client is too far off.");
    let date = call.header("date").and_then(parse_http_date).map(|micros| micros / 1_000_000);
    if date.is_some_and(|date| date.abs_diff(now) > SKEW_SECONDS_MAX)
        || presented.key_window.start > now + SKEW_SECONDS_MAX
    {
        return Err(skewed());
    }
    if !presented.key_window.contains(now) || !presented.sign_time.contains(now) {
        return Err(denied("Request has expired"));
    }
    presented.verify(&identity.secret_key, &call.method, &call.path, &call.params, &call.headers).map_err(|mismatch| {
        let message = format!(
            "The signature does not match. Signed here: {:?}, string to sign {:?}",
            mismatch.http_string, mismatch.string_to_sign
        );
        Failure::new(403, "SignatureDoesNotMatch", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cos::sign::{KeyTime, authorization};
    use crate::object::Site;

    const NOW: u64 = 1_700_000_000;

    fn call(headers: &[(&str, &str)], params: &[(&str, &str)]) -> Call {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Call {
            method: "GET".into(),
            site: Site::A,
            key: "k".into(),
            path: "/k".into(),
            params: own(params),
            headers: own(headers),
            ..Call::default()
        }
    }

    fn signed(id: &str, key: &str, start: u64, end: u64, host: &str) -> String {
        let none: [(&str, &str); 0] = [];
        authorization(id, key, KeyTime { start, end }, "GET", "/k", &none, &[("host", host)])
    }

    #[test]
    fn signature_table() {
        let good = |host: &str| signed(SECRET_ID, SECRET_KEY, NOW - 60, NOW + 600, host);
        let rows: &[(&str, String, Option<&str>)] = &[
            ("host without port", good("h"), None),
            ("host with port", good("h:9100"), None),
            ("another host", good("x"), Some("SignatureDoesNotMatch")),
            ("wrong key", signed(SECRET_ID, "wrong", NOW - 60, NOW + 600, "h"), Some("SignatureDoesNotMatch")),
            ("unknown id", signed("AKIDnobody", SECRET_KEY, NOW - 60, NOW + 600, "h"), Some("InvalidAccessKeyId")),
            ("expired", signed(SECRET_ID, SECRET_KEY, NOW - 600, NOW - 1, "h"), Some("AccessDenied")),
            (
                "from the future",
                signed(SECRET_ID, SECRET_KEY, NOW + 1000, NOW + 2000, "h"),
                Some("RequestTimeTooSkewed"),
            ),
            ("not a signature", "Basic abc".into(), Some("AccessDenied")),
        ];
        for (what, value, expect) in rows {
            let call = call(&[("host", "h:9100"), ("authorization", value)], &[]);
            assert_eq!(check_at(&call, &Keyring::default(), NOW).err().map(|f| f.code), *expect, "{what}");
        }
        assert_eq!(
            check_at(&call(&[("host", "h")], &[]), &Keyring::default(), NOW).expect_err("anonymous").code,
            "AccessDenied"
        );
        let value = good("h");
        let late = call(&[("host", "h"), ("date", "Wed, 15 Nov 2023 00:00:00 GMT"), ("authorization", &value)], &[]);
        assert_eq!(check_at(&late, &Keyring::default(), NOW).expect_err("date header").code, "RequestTimeTooSkewed");
    }

    #[test]
    fn keys_come_and_go() {
        use crate::emulator::keyring::Identity;
        let keys = Keyring::default();
        let identity = Identity { secret_id: "tmp".into(), secret_key: "k".into(), token: Some("t".into()) };
        keys.replace(vec![identity]);
        let value = |id: &str, key: &str| signed(id, key, NOW - 60, NOW + 600, "h");
        let code = |value: &str, token: &str| {
            let headers = [("host", "h"), ("authorization", value), ("x-cos-security-token", token)];
            check_at(&call(&headers, &[]), &keys, NOW).err().map(|f| f.code)
        };
        assert_eq!(code(&value(SECRET_ID, SECRET_KEY), ""), Some("InvalidAccessKeyId"), "revoked");
        assert_eq!(code(&value("tmp", "k"), "t"), None);
        assert_eq!(code(&value("tmp", "k"), "x"), Some("InvalidToken"));
        assert_eq!(code(&value("tmp", "wrong"), "t"), Some("SignatureDoesNotMatch"));
    }

    #[test]
    fn signature_in_the_query() {
        let value = signed(SECRET_ID, SECRET_KEY, NOW - 60, NOW + 600, "h");
        let params: Vec<(&str, &str)> = value.split('&').filter_map(|p| p.split_once('=')).collect();
        assert!(check_at(&call(&[("host", "h")], &params), &Keyring::default(), NOW).is_ok());
        let mut extended = params.clone();
        extended.iter_mut().filter(|p| p.0 == "q-key-time").for_each(|p| p.1 = "1699999940;1800000000");
        assert!(check_at(&call(&[("host", "h")], &extended), &Keyring::default(), NOW).is_err());
    }
}
