//! Signed URLs of a CDN domain, types A to D, as Tencent's CDN documents them ("URL authentication").
//!
//! The CDN in front of a private bucket answers everybody; this hash in the URL is what keeps strangers out. It covers the path as it is
//! requested (encoded, without query) and a time, with a key that the domain and its clients share. Which part of a URL a type uses:
//!
//! ```text
//! A   /path?sign=<time>-<random>-<uid>-<hash>     hash of path-time-random-uid-key
//! B   /<YYYYMMDDHHMM, UTC+8>/<hash>/path          hash of key time path
//! C   /<hash>/<time>/path                         hash of key path time
//! D   /path?sign=<hash>&t=<time>                  hash of key path time
//! ```
//!
//! Used from both ends: the mount signs, the emulator's CDN verifies. Pure; the published examples are the tests.

use std::fmt;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use time::OffsetDateTime;
use time::macros::{format_description, offset};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Type {
    A,
    B,
    C,
    D,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    #[default]
    Md5,
    Sha256,
}

/// How C and D write the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeFormat {
    Dec,
    Hex,
}

/// What a domain and its clients agree on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlAuth {
    #[serde(rename = "type")]
    pub kind: Type,
    pub key: String,
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Parameter with the hash (A and D).
    #[serde(default = "sign")]
    pub sign_param: String,
    /// Parameter with the time (D).
    #[serde(default = "t")]
    pub time_param: String,
    /// Default: hexadecimal for C, decimal for D.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_format: Option<TimeFormat>,
    /// Seconds that a signed URL lives.
    #[serde(default = "half_an_hour")]
    pub expire_s: u64,
}

fn sign() -> String {
    "sign".into()
}

fn t() -> String {
    "t".into()
}

fn half_an_hour() -> u64 {
    1800
}

/// Keys are secrets.
impl fmt::Debug for UrlAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlAuth").field("type", &self.kind).finish_non_exhaustive()
    }
}

/// A request that is let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admitted {
    /// Without what B and C put in front.
    pub path: String,
    /// Without the parameters of A and D: for the cache key.
    pub query: String,
    /// As the origin gets it: A and D leave their parameters in.
    pub origin_query: String,
}

/// Why a request is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("the URL is not signed")]
    Unsigned,
    #[error("the signature does not match")]
    Mismatch,
    #[error("the signature has expired")]
    Expired,
}

impl UrlAuth {
    pub fn new(kind: Type, key: &str) -> UrlAuth {
        let key = key.to_owned();
        let (sign_param, time_param) = (sign(), t());
        let expire_s = half_an_hour();
        UrlAuth { kind, key, algorithm: Algorithm::default(), sign_param, time_param, time_format: None, expire_s }
    }

    fn hash(&self, input: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.algorithm {
            Algorithm::Md5 => hex(&Md5::digest(input)),
            Algorithm::Sha256 => hex(&Sha256::digest(input)),
        }
    }

    fn write_time(&self, unix_seconds: u64) -> String {
        match (self.kind, self.time_format) {
            (Type::B, _) => minutes(unix_seconds),
            (Type::C, None) | (Type::C | Type::D, Some(TimeFormat::Hex)) => format!("{unix_seconds:x}"),
            _ => unix_seconds.to_string(),
        }
    }

    fn read_time(&self, text: &str) -> Option<u64> {
        match (self.kind, self.time_format) {
            (Type::B, _) => parse_minutes(text),
            (Type::C, None) | (Type::C | Type::D, Some(TimeFormat::Hex)) => u64::from_str_radix(text, 16).ok(),
            _ => text.parse().ok(),
        }
    }

    fn expected(&self, path: &str, time: &str, random_and_uid: &str) -> String {
        let key = &self.key;
        match self.kind {
            Type::A => self.hash(&format!("{path}-{time}-{random_and_uid}-{key}")),
            Type::B => self.hash(&format!("{key}{time}{path}")),
            Type::C | Type::D => self.hash(&format!("{key}{path}{time}")),
        }
    }

    /// The request target for a path (encoded, beginning with `/`) and a query (without `?`, may be empty). `random`: up to 100 letters
    /// and digits, for A only.
    pub fn sign(&self, path: &str, query: &str, unix_seconds: u64, random: &str) -> String {
        let time = self.write_time(unix_seconds);
        let random_and_uid = format!("{random}-0");
        let hash = self.expected(path, &time, &random_and_uid);
        let with =
            |own: String| if query.is_empty() { format!("{path}?{own}") } else { format!("{path}?{query}&{own}") };
        let after =
            |front: String| if query.is_empty() { format!("{front}{path}") } else { format!("{front}{path}?{query}") };
        match self.kind {
            Type::A => with(format!("{}={time}-{random_and_uid}-{hash}", self.sign_param)),
            Type::B => after(format!("/{time}/{hash}")),
            Type::C => after(format!("/{hash}/{time}")),
            Type::D => with(format!("{}={hash}&{}={time}", self.sign_param, self.time_param)),
        }
    }

    /// Judges a request target as it came.
    pub fn verify(&self, path: &str, query: &str, now: u64) -> Result<Admitted, Refused> {
        let value = |name: &str| {
            query.split('&').filter_map(|item| item.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
        };
        let (rest, time, random_and_uid, hash) = match self.kind {
            Type::A => {
                let mut parts = value(&self.sign_param).ok_or(Refused::Unsigned)?.splitn(2, '-');
                let (time, rest) = (parts.next().unwrap_or(""), parts.next().ok_or(Refused::Unsigned)?);
                let (random_and_uid, hash) = rest.rsplit_once('-').ok_or(Refused::Unsigned)?;
                (path, time, random_and_uid, hash)
            }
            Type::D => {
                let sign = value(&self.sign_param).ok_or(Refused::Unsigned)?;
                (path, value(&self.time_param).ok_or(Refused::Unsigned)?, "", sign)
            }
            Type::B | Type::C => {
                let (first, rest) = path[1..].split_once('/').ok_or(Refused::Unsigned)?;
                let end = rest.find('/').ok_or(Refused::Unsigned)?;
                let (second, rest) = rest.split_at(end);
                let (time, hash) = if self.kind == Type::B { (first, second) } else { (second, first) };
                (rest, time, "", hash)
            }
        };
        let moment = self.read_time(time).ok_or(Refused::Unsigned)?;
        if self.expected(rest, time, random_and_uid) != hash.to_ascii_lowercase() {
            return Err(Refused::Mismatch);
        }
        if now > moment.saturating_add(self.expire_s) {
            return Err(Refused::Expired);
        }
        let own = |item: &&str| {
            let name = item.split_once('=').map_or(*item, |(name, _)| name);
            (name == self.sign_param && matches!(self.kind, Type::A | Type::D))
                || (name == self.time_param && self.kind == Type::D)
        };
        let left: Vec<&str> = query.split('&').filter(|item| !own(item)).collect();
        Ok(Admitted { path: rest.to_owned(), query: left.join("&"), origin_query: query.to_owned() })
    }
}

/// `202002271610`: type B counts in minutes of Beijing.
fn minutes(unix_seconds: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(unix_seconds as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let form = format_description!("[year][month][day][hour][minute]");
    moment.to_offset(offset!(+8)).format(form).unwrap_or_default()
}

fn parse_minutes(text: &str) -> Option<u64> {
    let form = format_description!("[year][month][day][hour][minute]");
    let moment = time::PrimitiveDateTime::parse(text, form).ok()?.assume_offset(offset!(+8));
    u64::try_from(moment.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published with the documentation of the types.
    const KEY: &str = "dimtm5evg50ijsx2hvuwyfoiu65";
    const NOW: u64 = 1_582_791_032;

    #[test]
    fn published_examples() {
        let sign = |kind| UrlAuth::new(kind, KEY).sign("/test.jpg", "", NOW, "im1acp76sx9sdqe601v");
        assert_eq!(sign(Type::A), "/test.jpg?sign=1582791032-im1acp76sx9sdqe601v-0-3fbb88382c9356b6faaf9d68c7b2ae3a");
        assert_eq!(sign(Type::B), "/202002271610/2e03a07cfa55a47768226d3e5ea82a8d/test.jpg");
        assert_eq!(sign(Type::D), "/test.jpg?sign=900a5049aa8ac1ab144527d9c2be4cea&t=1582791032");
        // The page on type C prints a hash of key, decimal time, path, in that order; the API and this example of EdgeOne put the path before
        // the (hexadecimal) time, as D does.
        let edge_one = UrlAuth::new(Type::C, "DvYmqE81E1F9R791H6lmht").sign("/foo.jpg", "", 0x6694_d30a, "");
        assert_eq!(edge_one, "/6688749e8906a726c12fe1be3aacd016/6694d30a/foo.jpg");
        let decimal = UrlAuth { time_format: Some(TimeFormat::Dec), ..UrlAuth::new(Type::C, KEY) };
        assert_eq!(decimal.sign("/test.jpg", "", NOW, ""), "/900a5049aa8ac1ab144527d9c2be4cea/1582791032/test.jpg");
    }

    #[test]
    fn what_is_signed_is_let_in_and_nothing_else() {
        for kind in [Type::A, Type::B, Type::C, Type::D] {
            for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
                let auth = UrlAuth { algorithm, ..UrlAuth::new(kind, KEY) };
                let split = |target: &str| {
                    let (path, query) = target.split_once('?').unwrap_or((target, ""));
                    (path.to_owned(), query.to_owned())
                };
                let (path, query) = split(&auth.sign("/dir/a%20b", "versionId=x", NOW, "r"));
                let admitted = auth.verify(&path, &query, NOW).expect("signed");
                assert_eq!(
                    (admitted.path.as_str(), admitted.query.as_str()),
                    ("/dir/a%20b", "versionId=x"),
                    "{kind:?}"
                );
                assert_eq!(admitted.origin_query, query, "{kind:?}");
                let late = auth.verify(&path, &query, NOW + auth.expire_s + 1);
                // B drops the seconds, so it may end a minute early.
                assert_eq!(late, Err(Refused::Expired), "{kind:?}");
                let other = UrlAuth { algorithm, ..UrlAuth::new(kind, "anotherkey") };
                assert_eq!(other.verify(&path, &query, NOW), Err(Refused::Mismatch), "{kind:?}");
                assert_eq!(auth.verify("/dir/a", "versionId=x", NOW), Err(Refused::Unsigned), "{kind:?}");
                let (path, query) = (path.replace("a%20b", "c"), query.replace("a%20b", "c"));
                assert_eq!(auth.verify(&path, &query, NOW), Err(Refused::Mismatch), "{kind:?}");
            }
        }
        assert!(!format!("{:?}", UrlAuth::new(Type::A, KEY)).contains(KEY));
    }
}
