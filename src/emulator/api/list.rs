//! The three listings of a bucket.

use base64::Engine;

use super::archive::{Progress, progress};
use super::{OWNER, quoted, shown};
use crate::emulator::clock::list_date;
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::s3::Dialect;
use crate::emulator::http::send::Reply;
use crate::emulator::site::Version;
use crate::emulator::site::page::{PAGE_KEYS_MAX, Page, Query};
use crate::emulator::world::Bucket;
use crate::emulator::xml::Xml;

/// `max-keys` and its relatives: default and most 1000.
pub fn page_size(call: &Call, name: &'static str) -> Result<usize, Failure> {
    match call.param(name) {
        None | Some("") => Ok(PAGE_KEYS_MAX),
        Some(text) => {
            let size: usize =
                text.parse().map_err(|_| Failure::argument(format!("{name} must be a number from 0 to 1000.")))?;
            Ok(size.min(PAGE_KEYS_MAX))
        }
    }
}

fn query(call: &Call, marker: &str) -> Result<Query, Failure> {
    let text = |name: &str| call.param(name).unwrap_or("").to_owned();
    let delimiter = text("delimiter");
    let mut letters = delimiter.chars();
    let first = letters.next();
    if letters.next().is_some() {
        return Err(Failure::new(400, "InvalidDelimiter", "The delimiter must be a single character."));
    }
    Ok(Query {
        prefix: text("prefix"),
        delimiter: first,
        marker: text(marker),
        version_marker: text("version-id-marker"),
        max_keys: page_size(call, "max-keys")?,
    })
}

pub fn owner(xml: &mut Xml, element: &'static str) {
    xml.begin(element);
    xml.text("ID", OWNER);
    xml.text("DisplayName", OWNER);
    xml.close();
}

fn groups(xml: &mut Xml, groups: &[String], shown: impl Fn(&str) -> String) {
    for group in groups {
        xml.begin("CommonPrefixes");
        xml.text("Prefix", &shown(group));
        xml.close();
    }
}

fn truncated(page: &Page) -> &'static str {
    if page.truncated { "true" } else { "false" }
}

fn storage_class(version: &Version) -> &str {
    let headers = version.content.as_ref().map(|c| &c.headers);
    headers.and_then(|h| h.get("x-cos-storage-class")).map_or("STANDARD", |c| c.as_str())
}

pub fn objects(bucket: &Bucket, call: &Call, now: u64) -> Result<Reply, Failure> {
    let shown = shown(call)?;
    let query = query(call, "marker")?;
    let page = bucket.read().shelf.list(&query);
    let mut xml = Xml::document("ListBucketResult");
    xml.text("Name", &bucket.name);
    xml.some("EncodingType", call.param("encoding-type"));
    xml.text("Prefix", &shown(&query.prefix));
    xml.text("Marker", &shown(&query.marker));
    xml.text("MaxKeys", &query.max_keys.to_string());
    xml.some("Delimiter", call.param("delimiter").filter(|d| !d.is_empty()));
    xml.text("IsTruncated", truncated(&page));
    if page.truncated {
        xml.text("NextMarker", &shown(&page.next));
    }
    groups(&mut xml, &page.groups, &shown);
    contents(&mut xml, &page, &shown, true, now);
    Ok(Reply::new(200).with("x-cos-bucket-region", &bucket.region).document(xml.end()))
}

fn contents(xml: &mut Xml, page: &Page, shown: impl Fn(&str) -> String, owned: bool, now: u64) {
    for (key, version, _) in &page.entries {
        let Some(content) = &version.content else { continue };
        xml.begin("Contents");
        xml.text("Key", &shown(key));
        xml.text("LastModified", &list_date(version.micros));
        xml.text("ETag", &quoted(&content.etag));
        xml.text("Size", &content.blob.len().to_string());
        if owned {
            owner(xml, "Owner");
        }
        xml.text("StorageClass", storage_class(version));
        if storage_class(version) == "INTELLIGENT_TIERING" {
            xml.text("StorageTier", "FREQUENT");
        }
        match progress(content, now) {
            Some(Progress::Ongoing) => xml.text("RestoreStatus", "ONGOING"),
            Some(Progress::Done) => xml.text("RestoreStatus", "DONE"),
            None => {}
        }
        xml.close();
    }
}

/// `list-type=2` of the S3 dialect; the API of COS does not have it. The token is the last key of the page before, in base64, so that
/// nobody takes it for a key.
pub fn objects_v2(bucket: &Bucket, call: &Call, now: u64) -> Result<Reply, Failure> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as TOKEN;
    let shown = shown(call)?;
    let mut query = query(call, "start-after")?;
    let token = call.param("continuation-token").filter(|t| !t.is_empty());
    if let Some(token) = token {
        let key = TOKEN.decode(token).ok().and_then(|key| String::from_utf8(key).ok());
        query.marker = key.ok_or_else(|| Failure::argument("The continuation token is not one of this bucket."))?;
    }
    let page = bucket.read().shelf.list(&query);
    let mut xml = Xml::document("ListBucketResult");
    xml.text("Name", &bucket.name);
    xml.some("EncodingType", call.param("encoding-type"));
    xml.text("Prefix", &shown(&query.prefix));
    xml.some("StartAfter", call.param("start-after").map(&shown).as_deref());
    xml.some("ContinuationToken", token);
    xml.text("MaxKeys", &query.max_keys.to_string());
    xml.text("KeyCount", &(page.entries.len() + page.groups.len()).to_string());
    xml.some("Delimiter", call.param("delimiter").filter(|d| !d.is_empty()));
    xml.text("IsTruncated", truncated(&page));
    if page.truncated {
        xml.text("NextContinuationToken", &TOKEN.encode(&page.next));
    }
    groups(&mut xml, &page.groups, &shown);
    contents(&mut xml, &page, &shown, call.param("fetch-owner") == Some("true"), now);
    Ok(Reply::new(200).with("x-cos-bucket-region", &bucket.region).document(xml.end()))
}

pub fn versions(bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let shown = shown(call)?;
    let query = query(call, "key-marker")?;
    let state = bucket.read();
    let page = state.shelf.list_versions(&query);
    let mut xml = Xml::document("ListVersionsResult");
    xml.some("EncodingType", call.param("encoding-type"));
    xml.text("Name", &bucket.name);
    xml.text("Prefix", &shown(&query.prefix));
    xml.text("KeyMarker", &shown(&query.marker));
    xml.text("VersionIdMarker", &query.version_marker);
    xml.text("MaxKeys", &query.max_keys.to_string());
    xml.text("IsTruncated", truncated(&page));
    if page.truncated {
        xml.text("NextKeyMarker", &shown(&page.next));
        xml.text("NextVersionIdMarker", &page.next_version);
    }
    xml.some("Delimiter", call.param("delimiter").filter(|d| !d.is_empty()));
    groups(&mut xml, &page.groups, &shown);
    for (key, version, latest) in &page.entries {
        xml.begin(if version.is_marker() { "DeleteMarker" } else { "Version" });
        xml.text("Key", &shown(key));
        xml.text("VersionId", state.shelf.shown_id(version).as_deref().unwrap_or(""));
        xml.text("IsLatest", if *latest { "true" } else { "false" });
        xml.text("LastModified", &list_date(version.micros));
        if let Some(content) = &version.content {
            xml.text("ETag", &quoted(&content.etag));
            xml.text("Size", &content.blob.len().to_string());
            xml.text("StorageClass", storage_class(version));
        }
        owner(&mut xml, "Owner");
        xml.close();
    }
    Ok(Reply::new(200).with("x-cos-bucket-region", &bucket.region).document(xml.end()))
}

pub fn uploads(bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let shown = shown(call)?;
    let Query { prefix, delimiter, marker, .. } = query(call, "key-marker")?;
    let max = page_size(call, "max-uploads")?;
    // Ignored without a key marker, as documented.
    let id_marker = call.param("upload-id-marker").filter(|_| !marker.is_empty()).unwrap_or("");
    let state = bucket.read();
    let mut xml = Xml::document("ListMultipartUploadsResult");
    xml.text("Bucket", &bucket.name);
    let encoding = if call.dialect == Dialect::S3 { "EncodingType" } else { "Encoding-Type" };
    xml.some(encoding, call.param("encoding-type"));
    xml.text("KeyMarker", &shown(&marker));
    xml.text("UploadIdMarker", id_marker);
    let begin = (marker.clone().max(prefix.clone()), String::new());
    let (mut found, mut folded, mut more) = (Vec::new(), Vec::<String>::new(), false);
    for ((key, id), upload) in state.uploads.range(begin..) {
        if !key.starts_with(&prefix) {
            break;
        }
        if *key == marker && (id_marker.is_empty() || id.as_str() <= id_marker) {
            continue;
        }
        let group =
            delimiter.and_then(|d| key[prefix.len()..].find(d).map(|at| &key[..prefix.len() + at + d.len_utf8()]));
        if group.is_some_and(|g| folded.last().is_some_and(|last| last == g) || marker == g) {
            continue;
        }
        if found.len() + folded.len() == max {
            more = true;
            break;
        }
        match group {
            Some(group) => folded.push(group.to_owned()),
            None => found.push((key, id, upload)),
        }
    }
    if more {
        let last = found.last().map(|(key, id, _)| (key.as_str(), id.as_str()));
        let next = last.into_iter().chain(folded.last().map(|g| (g.as_str(), ""))).max();
        let (key, id) = next.unwrap_or_default();
        xml.text("NextKeyMarker", &shown(key));
        xml.text("NextUploadIdMarker", id);
    }
    xml.text("MaxUploads", &max.to_string());
    xml.text("IsTruncated", if more { "true" } else { "false" });
    xml.text("Prefix", &shown(&prefix));
    xml.text("Delimiter", call.param("delimiter").unwrap_or(""));
    for (key, id, upload) in found {
        xml.begin("Upload");
        xml.text("Key", &shown(key));
        xml.text("UploadId", id);
        owner(&mut xml, "Initiator");
        owner(&mut xml, "Owner");
        xml.text("StorageClass", upload.headers.get("x-cos-storage-class").map_or("STANDARD", |c| c.as_str()));
        xml.text("Initiated", &list_date(upload.started));
        xml.close();
    }
    groups(&mut xml, &folded, &shown);
    Ok(Reply::new(200).document(xml.end()))
}
