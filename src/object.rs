//! The words every layer shares: key, version, token, stamp, site, class.
//!
//! One file is one object under one key. The same key lives in two buckets, and each overwrite makes a new
//! *version* of it. The cloud copies the version id together with the bytes, so a version id names the same content
//! on both sides, while a bare key does not. Everything in this crate that says "the same" or "newer" about two
//! copies says it through [`Token`], so that the rule stands in one place.
//!
//! Owns: names, their limits, their order. Owns not: requests, files, decisions. Depends on nothing in this crate.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Longest key COS accepts, in bytes of UTF-8 ("Object Overview": 1 to 850 bytes).
pub const KEY_BYTES_MAX: usize = 850;

/// One of the two buckets. `A` is the master at first mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    A,
    B,
}

impl Site {
    pub const ALL: [Site; 2] = [Site::A, Site::B];

    pub fn other(self) -> Site {
        match self {
            Site::A => Site::B,
            Site::B => Site::A,
        }
    }

    /// Position in arrays of two: A is 0, B is 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Site::A => "a",
            Site::B => "b",
        })
    }
}

/// Reads (GET, HEAD, LIST) and writes (PUT, POST, DELETE) of one site can fail apart from each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Read,
    Write,
}

impl Class {
    pub const ALL: [Class; 2] = [Class::Read, Class::Write];

    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Read => "read",
            Class::Write => "write",
        })
    }
}

/// Number of a reign of one master; grows by one at each change of master.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text cannot be an object key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    #[error("empty key")]
    Empty,
    #[error("key longer than {KEY_BYTES_MAX} bytes")]
    TooLong,
    #[error("key begins with '/' or '\\'")]
    LeadingSlash,
    #[error("key contains a control character that COS refuses (0x18 to 0x1B, or NUL)")]
    Control,
}

/// The folder of this program's own objects (probes, test objects), below the mounted one. Nobody else may use the name.
pub const OWN: &str = ".cosfs-ha/";

/// A valid object key: 1 to 850 bytes of UTF-8, no leading slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Box<str>);

/// An object of this program itself; `prefix` is empty or ends in `/`.
pub fn own(prefix: &str, name: &str) -> Result<Key, KeyError> {
    Key::new(format!("{prefix}{OWN}{name}"))
}

impl Key {
    pub fn new(text: impl Into<String>) -> Result<Key, KeyError> {
        let text: String = text.into();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong);
        }
        if text.starts_with('/') || text.starts_with('\\') {
            return Err(KeyError::LeadingSlash);
        }
        if text.bytes().any(|b| b == 0 || (0x18..=0x1B).contains(&b)) {
            return Err(KeyError::Control);
        }
        Ok(Key(text.into_boxed_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does the key name a directory marker (`dir/`)?
    pub fn is_dir_marker(&self) -> bool {
        self.0.ends_with('/')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Key, KeyError> {
        Key::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0.into_string()
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Opaque id of one version of one key, kept by replication.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionId(pub String);

impl VersionId {
    /// The moment of commit that the id encodes, as microseconds since 1970, or `None` if the id has another form.
    ///
    /// Observed, not promised by COS (docs/cos-protocol.md, "Version ids"): unpadded base64 of the decimal text of
    /// 2^64 - microseconds. A hint for ordering; ids are never made by us.
    pub fn commit_micros(&self) -> Option<u64> {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.decode(self.0.trim_end_matches('=')).ok()?;
        let text = std::str::from_utf8(&text).ok()?;
        if text.len() != 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let micros = (u64::MAX - text.parse::<u64>().ok()?).checked_add(1)?;
        // Plausible dates only (2001 to 2100): anything else is some other kind of id.
        (1_000_000_000_000_000..4_102_444_800_000_000).contains(&micros).then_some(micros)
    }

    /// The id that the observed formula gives for a moment. For the emulator and for tests only.
    pub fn from_micros(micros: u64) -> VersionId {
        use base64::Engine;
        let text = (u64::MAX - micros + 1).to_string();
        VersionId(base64::engine::general_purpose::STANDARD_NO_PAD.encode(text))
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An ETag without its quotes. MD5 of the content for simple uploads, arbitrary for multipart ones.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ETag(pub String);

impl ETag {
    /// Takes the header's form, with or without quotes.
    pub fn parse(text: &str) -> ETag {
        ETag(text.trim().trim_start_matches("W/").trim_matches('"').to_string())
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Our mark on every object we write (`x-cos-meta-ha`): who wrote it, in which reign, as which of its writes.
///
/// Text form `<mount>.<epoch>.<seq>`, mount as 16 hex digits, the others decimal. It survives replication, so a lost answer can
/// be settled by looking at the object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Stamp {
    pub mount: u64,
    pub epoch: Epoch,
    pub seq: u64,
}

/// Metadata name (after `x-cos-meta-`) that carries the [`Stamp`].
pub const STAMP_META: &str = "ha";

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}.{}", self.mount, self.epoch, self.seq)
    }
}

/// The text is not a [`Stamp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a cosfs-ha stamp")]
pub struct NotAStamp;

impl FromStr for Stamp {
    type Err = NotAStamp;
    fn from_str(text: &str) -> Result<Stamp, NotAStamp> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(NotAStamp);
        let (mount, epoch, seq) = (next()?, next()?, next()?);
        Ok(Stamp {
            mount: u64::from_str_radix(mount, 16).map_err(|_| NotAStamp)?,
            epoch: Epoch(epoch.parse().map_err(|_| NotAStamp)?),
            seq: seq.parse().map_err(|_| NotAStamp)?,
        })
    }
}

/// What identifies the content of one key at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// `None` on a bucket without versioning, or where the answer did not say (LIST).
    pub version: Option<VersionId>,
    pub etag: ETag,
    pub size: u64,
    /// CRC-64/XZ of the whole content (`x-cos-hash-crc64ecma`).
    pub crc64: Option<u64>,
    /// Microseconds since 1970; COS gives seconds (headers) or milliseconds (LIST).
    pub modified_micros: u64,
    pub stamp: Option<Stamp>,
}

impl Token {
    /// Same content, as far as both sides tell: the version id decides when both have one, else ETag or checksum with the size.
    pub fn same(&self, other: &Token) -> bool {
        if let (Some(a), Some(b)) = (&self.version, &other.version)
            && a == b
        {
            return true;
        }
        if self.size != other.size {
            return false;
        }
        if self.crc64.zip(other.crc64).is_some_and(|(a, b)| a != b) {
            return false;
        }
        match (self.stamp, other.stamp) {
            // A stamp is unique to one write: the same stamp in both buckets is the same write, uploaded twice. Of a write that no bucket
            // has taken yet it is all that is known.
            (Some(a), Some(b)) => a.mount == b.mount && a.seq == b.seq,
            _ => self.etag == other.etag,
        }
    }

    /// The same bytes, whoever wrote them under whichever key: checksum or else ETag, with the size.
    pub fn same_bytes(&self, other: &Token) -> bool {
        let sums = self.crc64.zip(other.crc64);
        self.size == other.size && sums.map_or_else(|| self.etag == other.etag, |(a, b)| a == b)
    }

    /// Which of two copies of one key was written later; `None` when it cannot be told.
    ///
    /// Two stamps of one mount order by their sequence number, whatever the servers' clocks said. Else the commit moment in
    /// the version ids decides, else `Last-Modified` where it differs by more than its resolution of a second.
    pub fn order(&self, other: &Token) -> Option<Ordering> {
        if self.same(other) {
            return Some(Ordering::Equal);
        }
        if let (Some(a), Some(b)) = (self.stamp, other.stamp)
            && a.mount == b.mount
        {
            return Some(a.seq.cmp(&b.seq));
        }
        let micros = |t: &Token| t.version.as_ref().and_then(VersionId::commit_micros);
        match (micros(self), micros(other)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            (a, b) => {
                let (a, b) = (a.unwrap_or(self.modified_micros), b.unwrap_or(other.modified_micros));
                (a.abs_diff(b) > 1_000_000).then(|| a.cmp(&b))
            }
        }
    }

    pub fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.modified_micros)
    }
}

/// The headers stored with an object, as given at PUT and returned by HEAD.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Headers {
    pub content_type: Option<String>,
    /// `x-cos-meta-<name>`, names lower case and without the prefix. The stamp is not in here.
    pub user: BTreeMap<String, String>,
    /// What else a bucket keeps with an object: `cache-control`, `content-disposition`, `content-encoding`, `expires`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stored: BTreeMap<String, String>,
}

/// One existing object: which content, with which headers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Object {
    pub token: Token,
    pub headers: Headers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_cos_refuses_are_refused_here() {
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert_eq!(Key::new("/a"), Err(KeyError::LeadingSlash));
        assert_eq!(Key::new("\\a"), Err(KeyError::LeadingSlash));
        assert_eq!(Key::new("a\u{1b}"), Err(KeyError::Control));
        assert!(Key::new("é".repeat(425)).is_ok());
        assert_eq!(Key::new("é".repeat(425) + "x"), Err(KeyError::TooLong));
    }

    #[test]
    fn published_version_id_decodes_to_its_commit_time() {
        // Tencent's documentation, "PUT Object - Copy": last modified 2020-04-10T09:36:35Z.
        let id = VersionId("MTg0NDUxNTc1NjIzMTQ1MDAwODg".into());
        assert_eq!(id.commit_micros(), Some(1_586_511_395_051_528));
        assert_eq!(VersionId::from_micros(1_586_511_395_051_528), id);
        assert_eq!(VersionId("null".into()).commit_micros(), None);
        assert_eq!(VersionId(String::new()).commit_micros(), None);
    }

    #[test]
    fn stamp_survives_its_text_form() {
        let stamp = Stamp { mount: 0xdead_beef, epoch: Epoch(3), seq: 99 };
        assert_eq!(stamp.to_string().parse(), Ok(stamp));
        assert_eq!("x.1.2".parse::<Stamp>(), Err(NotAStamp));
        assert_eq!("1.2".parse::<Stamp>(), Err(NotAStamp));
    }

    fn token(micros: u64, etag: &str, stamp: Option<Stamp>) -> Token {
        Token {
            version: Some(VersionId::from_micros(micros)),
            etag: ETag(etag.into()),
            size: 1,
            crc64: None,
            modified_micros: micros / 1_000_000 * 1_000_000,
            stamp,
        }
    }

    #[test]
    fn order_of_two_copies() {
        const T: u64 = 1_700_000_000_000_000;
        let stamp = |seq| Some(Stamp { mount: 7, epoch: Epoch(1), seq });
        let rows = [
            ("version ids order foreign writes", token(T, "x", None), token(T + 1, "y", None), Some(Ordering::Less)),
            (
                "our own sequence beats the clocks",
                token(T + 9, "x", stamp(1)),
                token(T, "y", stamp(2)),
                Some(Ordering::Less),
            ),
            ("same version", token(T, "x", None), token(T, "x", None), Some(Ordering::Equal)),
            (
                "two writes of ours that no bucket has taken yet",
                Token { version: None, ..token(T, "", stamp(1)) },
                Token { version: None, ..token(T, "", stamp(2)) },
                Some(Ordering::Less),
            ),
            (
                "one write, sent to both buckets",
                token(T, "x", stamp(1)),
                token(T + 9, "x", stamp(1)),
                Some(Ordering::Equal),
            ),
        ];
        for (what, a, b, expect) in rows {
            assert_eq!(a.order(&b), expect, "{what}");
            assert_eq!(b.order(&a), expect.map(Ordering::reverse), "{what}, turned round");
        }
        let mut listed = token(T, "x", None);
        listed.version = None;
        assert_eq!(
            listed.order(&token(T + 300_000, "y", None)),
            None,
            "within the resolution of a second nothing is claimed"
        );
    }
}
