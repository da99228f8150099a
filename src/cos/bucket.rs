//! Requests on the bucket as a whole: listings, and the configuration that replication rests on.
//!
//! Listings always ask for `encoding-type=url`: a control character in a key would otherwise make the whole page unreadable. A page that
//! cannot be read completely is an error; a listing never gets shorter by itself.

use super::attempt::Attempt;
use super::client::Client;
use super::error::{Error, Kind};
use super::request::{Request, version_id};
use super::transport::Answer;
use super::xml::{
    self, ListBucketResult, ListVersionsResult, ReplicationConfiguration, Toggle, VersionOrMarker,
    VersioningConfiguration,
};
use crate::object::{ETag, Token, VersionId};

/// What [`Client::list`] asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List {
    pub prefix: String,
    pub delimiter: Option<char>,
    /// Exclusive start: a key, a common prefix, or [`ListPage::next`].
    pub marker: Option<String>,
    /// At most 1000.
    pub max_keys: u32,
}

/// One page of current objects, sorted by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListPage {
    pub objects: Vec<Listed>,
    pub prefixes: Vec<String>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub key: String,
    /// Without version, checksum and stamp: listings do not tell them.
    pub token: Token,
}

/// What [`Client::list_versions`] asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListVersions {
    pub prefix: String,
    pub key_marker: Option<String>,
    /// Only together with `key_marker`.
    pub version_marker: Option<String>,
    /// At most 1000.
    pub max_keys: u32,
}

/// One page of versions and delete markers: keys ascending, within a key newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionsPage {
    pub entries: Vec<VersionEntry>,
    /// `key_marker` and `version_marker` of the next page.
    pub next: Option<(String, Option<String>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionEntry {
    pub key: String,
    /// `null` for content from before versioning.
    pub version: VersionId,
    pub latest: bool,
    /// A delete marker.
    pub marker: bool,
    /// `None` for a delete marker.
    pub token: Option<Token>,
}

/// The version that the bucket shows now, among those of one key, newest first.
pub fn current<'a>(entries: impl IntoIterator<Item = &'a VersionEntry>) -> Option<&'a VersionEntry> {
    let mut first = None;
    for entry in entries {
        if entry.latest {
            return Some(entry);
        }
        first = first.or(Some(entry));
    }
    first
}

impl Client {
    pub async fn list(&self, q: &List, at: &Attempt<'_>) -> Result<ListPage, Error> {
        let mut request = Request::bucket("GET")
            .param("prefix", &q.prefix)
            .param("max-keys", q.max_keys.to_string())
            .param("encoding-type", "url");
        if let Some(delimiter) = q.delimiter {
            request = request.param("delimiter", delimiter);
        }
        if let Some(marker) = &q.marker {
            request = request.param("marker", marker);
        }
        let answer = self.call(&request, at).await?;
        let (answer, result) = self.read_xml::<ListBucketResult>(answer, &request, at).await?;
        let encoded = result.encoding_type.is_some();
        let decode = |text: &str| decoded(&answer, encoded, text);
        let mut page = ListPage::default();
        for item in &result.contents {
            let token = listed_token(&answer, &item.etag, item.size, &item.last_modified)?;
            page.objects.push(Listed { key: decode(&item.key)?, token });
        }
        for item in &result.common_prefixes {
            page.prefixes.push(decode(&item.prefix)?);
        }
        if result.is_truncated {
            let last = || page.objects.last().map(|o| &o.key).max(page.prefixes.last()).cloned();
            let next = match &result.next_marker {
                Some(marker) if !marker.is_empty() => Some(decode(marker)?),
                _ => last(),
            };
            // A marker that does not advance would list for ever.
            let next = next.filter(|n| Some(n) > q.marker.as_ref());
            page.next =
                Some(next.ok_or_else(|| answer.error(Kind::BadAnswer, "truncated list that does not advance"))?);
        }
        Ok(page)
    }

    pub async fn list_versions(&self, q: &ListVersions, at: &Attempt<'_>) -> Result<VersionsPage, Error> {
        let mut request = Request::bucket("GET")
            .param("versions", "")
            .param("prefix", &q.prefix)
            .param("max-keys", q.max_keys.to_string())
            .param("encoding-type", "url");
        if let Some(marker) = &q.key_marker {
            request = request.param("key-marker", marker);
            if let Some(version) = q.version_marker.as_ref().filter(|v| !v.is_empty()) {
                request = request.param("version-id-marker", version);
            }
        }
        let answer = self.call(&request, at).await?;
        let (answer, result) = self.read_xml::<ListVersionsResult>(answer, &request, at).await?;
        let encoded = result.encoding_type.is_some();
        let decode = |text: &str| decoded(&answer, encoded, text);
        let mut page = VersionsPage::default();
        for entry in result.entries {
            page.entries.push(match entry {
                VersionOrMarker::Version(v) => {
                    let mut token = listed_token(&answer, &v.etag, v.size, &v.last_modified)?;
                    token.version = version_id(&v.version_id);
                    let version = VersionId(v.version_id);
                    VersionEntry {
                        key: decode(&v.key)?,
                        version,
                        latest: v.is_latest,
                        marker: false,
                        token: Some(token),
                    }
                }
                VersionOrMarker::DeleteMarker(m) => {
                    let version = VersionId(m.version_id);
                    VersionEntry { key: decode(&m.key)?, version, latest: m.is_latest, marker: true, token: None }
                }
                VersionOrMarker::Other => continue,
            });
        }
        if result.is_truncated {
            let key = decode(&result.next_key_marker.unwrap_or_default())?;
            let version = decode(&result.next_version_id_marker.unwrap_or_default())?;
            let version = (!version.is_empty()).then_some(version);
            let asked = (q.key_marker.as_deref(), q.version_marker.as_deref());
            if key.is_empty() || asked == (Some(key.as_str()), version.as_deref()) {
                return Err(answer.error(Kind::BadAnswer, "truncated list that does not advance"));
            }
            page.next = Some((key, version));
        }
        Ok(page)
    }

    /// Is the bucket there, and may we read it?
    pub async fn head_bucket(&self, at: &Attempt<'_>) -> Result<(), Error> {
        self.call(&Request::bucket("HEAD"), at).await.map(drop)
    }

    /// `None`: never had versioning. `Some(false)`: suspended.
    pub async fn versioning(&self, at: &Attempt<'_>) -> Result<Option<bool>, Error> {
        let request = Request::bucket("GET").param("versioning", "");
        let answer = self.call(&request, at).await?;
        let (_, result) = self.read_xml::<VersioningConfiguration>(answer, &request, at).await?;
        Ok(result.status.map(|s| s == Toggle::Enabled))
    }

    /// `None`: no rules.
    pub async fn replication(&self, at: &Attempt<'_>) -> Result<Option<ReplicationConfiguration>, Error> {
        let request = Request::bucket("GET").param("replication", "");
        let answer = match self.call(&request, at).await {
            Err(e) if e.code.as_deref() == Some("ReplicationConfigurationNotFoundError") => return Ok(None),
            answer => answer?,
        };
        self.read_xml::<ReplicationConfiguration>(answer, &request, at).await.map(|(_, r)| Some(r))
    }
}

/// A text of a listing, decoded if the answer says that it is encoded.
pub(super) fn decoded(answer: &Answer, encoded: bool, text: &str) -> Result<String, Error> {
    if !encoded {
        return Ok(text.to_string());
    }
    xml::decode_key(text).ok_or_else(|| answer.error(Kind::BadAnswer, "listed name is not UTF-8"))
}

fn listed_token(answer: &Answer, etag: &str, size: u64, modified: &str) -> Result<Token, Error> {
    let modified_micros = xml::parse_time(modified)
        .ok_or_else(|| answer.error(Kind::BadAnswer, format!("unreadable time {modified:?}")))?;
    Ok(Token { version: None, etag: ETag::parse(etag), size, crc64: None, modified_micros, stamp: None })
}
