//! PUT, GET, HEAD, DELETE, copy of one object, and delete of many.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::encryption::is_encryption;
use super::{acl, archive, document, encryption, need_md5, quoted, tagging};
use crate::cos::sign::url_decode;
use crate::cos::xml::Delete;
use crate::emulator::blob::Blob;
use crate::emulator::clock::{copy_date, http_date, parse_http_date};
use crate::emulator::failure::Failure;
use crate::emulator::http::call::{Call, cos_host};
use crate::emulator::http::send::Reply;
use crate::emulator::site::{ACL, Content, Deleted, RESTORE, TAGS, Version};
use crate::emulator::world::{Bucket, Received, World, hex};
use crate::emulator::xml::Xml;

/// Names and values of `x-cos-meta-*` together. The documentation says "2 KB" and no more; this is the strict reading.
const META_BYTES_MAX: usize = 2048;
/// Source of a simple copy.
const COPY_BYTES_MAX: u64 = 5 << 30;
const DELETE_KEYS_MAX: usize = 1000;
/// Headers kept with an object and given back.
const STORED: [&str; 5] = ["cache-control", "content-disposition", "content-encoding", "content-type", "expires"];

/// What a request wants stored with the object.
pub fn stored_headers(call: &Call) -> Result<BTreeMap<String, String>, Failure> {
    let mut headers = BTreeMap::new();
    let mut meta_bytes = 0;
    for (name, value) in &call.headers {
        let meta = name.strip_prefix("x-cos-meta-");
        if meta.is_some_and(|meta| meta.contains('_')) {
            return Err(Failure::argument("The name of a metadata header must not contain an underscore."));
        }
        meta_bytes += meta.map_or(0, |m| m.len() + value.len());
        if meta.is_some() || STORED.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if meta_bytes > META_BYTES_MAX {
        return Err(Failure::new(400, "MetadataTooLarge", "User metadata is larger than 2 KB."));
    }
    headers.entry("content-type".into()).or_insert_with(|| "application/octet-stream".into());
    if let Some(tags) = call.header("x-cos-tagging") {
        headers.insert(TAGS.into(), tagging::from_header(tags)?);
    }
    add_properties(call, &mut headers)?;
    check_traffic_limit(call)?;
    Ok(headers)
}

/// Class, access list and encryption: never inherited by a copy, whatever its directives.
fn add_properties(call: &Call, headers: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    headers.retain(|name, _| name != archive::CLASS && name != ACL && name != RESTORE && !is_encryption(name));
    headers.extend(archive::wanted_class(call)?.map(|class| (archive::CLASS.to_owned(), class)));
    headers.extend(acl::wanted(call)?.map(|acl| (ACL.to_owned(), acl)));
    headers.extend(encryption::wanted(call)?);
    Ok(())
}

/// Bits a second.
fn check_traffic_limit(call: &Call) -> Result<(), Failure> {
    let Some(limit) = call.header("x-cos-traffic-limit") else { return Ok(()) };
    match limit.parse() {
        Ok(819_200..=838_860_800u64) => Ok(()),
        _ => Err(Failure::argument("x-cos-traffic-limit must be between 819200 and 838860800.")),
    }
}

pub fn is_exclusive(call: &Call) -> bool {
    call.header("x-cos-forbid-overwrite").is_some_and(|v| v.eq_ignore_ascii_case("true"))
}

/// The version header is left out on a suspended bucket, as documented for PUT.
fn shown_on_put(id: Option<String>) -> Option<String> {
    id.filter(|id| id != "null")
}

pub fn put(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let received = received.ok_or_else(|| Failure::new(411, "MissingContentLength", "Content-Length is missing."))?;
    let headers = stored_headers(call)?;
    let etag = match encryption::hides_md5(&headers) {
        true => world.arbitrary_hex(&call.key),
        false => hex(&received.md5),
    };
    let content = Content { blob: received.blob, etag: etag.clone(), crc64: received.crc64, headers };
    let written = world.put(bucket, &call.key, content, is_exclusive(call))?;
    let reply = Reply::new(200);
    let reply = written.version.content.iter().fold(reply, |reply, content| encryption::echo(reply, content));
    Ok(reply
        .with("etag", quoted(&etag))
        .with("x-cos-hash-crc64ecma", received.crc64.to_string())
        .with_some("x-cos-version-id", shown_on_put(written.id)))
}

/// GET and HEAD.
pub fn get(bucket: &Bucket, call: &Call, now: u64) -> Result<Reply, Failure> {
    let (version, content, id) = {
        let state = bucket.read();
        let (version, content) = state.shelf.get(&call.key, version_param(call))?;
        let id = state.shelf.shown_id(&version);
        (version, content, id)
    };
    let head = call.method == "HEAD";
    check_conditions(|name| call.header(name), &version, &content).map_err(|failure| match failure.status {
        304 if !head => failure
            .with("etag", quoted(&content.etag))
            .with("x-cos-hash-crc64ecma", content.crc64.to_string())
            .with("content-type", content.headers.get("content-type").cloned().unwrap_or_default()),
        304 => failure.with("content-type", "application/xml"),
        _ => failure,
    })?;
    encryption::readable(call, &content)?;
    if !head {
        check_traffic_limit(call)?;
        archive::readable(&content, now)?;
    }
    let size = content.blob.len();
    let range = if head { None } else { call.header("range").and_then(|text| parse_range(text, size)) };
    let (status, blob) = match range {
        None => (200, content.blob.clone()),
        Some(Some((first, last))) => (206, content.blob.slice(first, last + 1)),
        Some(None) => {
            return Err(Failure::new(416, "InvalidRange", "The requested range is not satisfiable.")
                .with("content-range", format!("bytes */{size}")));
        }
    };
    let mut reply = Reply::new(status);
    let overridden = |name: &str| (!head).then(|| call.param(&format!("response-{name}"))).flatten();
    for (name, value) in &content.headers {
        if overridden(name).is_none() && !name.starts_with(':') {
            reply = reply.with(name.as_str(), value.as_str());
        }
    }
    for name in STORED.into_iter().chain(["content-language"]) {
        reply = reply.with_some(name, overridden(name));
    }
    if let Some(Some((first, last))) = range {
        reply = reply.with("content-range", format!("bytes {first}-{last}/{size}"));
    }
    if !head {
        reply = reply.with("accept-ranges", "bytes");
    }
    Ok(archive::describe(reply, &content, now)
        .with("etag", quoted(&content.etag))
        .with("last-modified", http_date(version.micros))
        .with("x-cos-hash-crc64ecma", content.crc64.to_string())
        .with_some("x-cos-version-id", id)
        .with_some("x-cos-replication-status", version.replica.then_some("Replica"))
        .blob(blob))
}

fn version_param(call: &Call) -> Option<&str> {
    call.param("versionId").filter(|id| !id.is_empty())
}

/// `None`: no range that counts. `Some(None)`: one that cannot be satisfied. Both ends inclusive.
pub fn parse_range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let count = suffix.parse::<u64>().ok()?;
            (if count == 0 { size } else { size.saturating_sub(count) }, u64::MAX)
        }
        (first, "") => (first.parse().ok()?, u64::MAX),
        (first, last) => (first.parse().ok()?, last.parse().ok()?),
    };
    if first > last {
        return None;
    }
    Some((first < size).then(|| (first, last.min(size - 1))))
}

/// 304 or 412 where a condition does not hold. Of a pair, the ETag decides.
pub fn check_conditions<'a>(
    header: impl Fn(&'static str) -> Option<&'a str>,
    version: &Version,
    content: &Content,
) -> Result<(), Failure> {
    let named = |list: &str| {
        list.split(',').map(|e| e.trim().trim_matches('"')).any(|etag| etag == "*" || etag == content.etag)
    };
    let second = version.micros / 1_000_000;
    let date = |name| header(name).and_then(parse_http_date).map(|micros| micros / 1_000_000);
    match header("if-match") {
        Some(list) if !named(list) => return Err(Failure::precondition()),
        None if date("if-unmodified-since").is_some_and(|date| second > date) => return Err(Failure::precondition()),
        _ => {}
    }
    let not_modified = || Err(Failure::new(304, "NotModified", "Not modified."));
    match header("if-none-match") {
        Some(list) if named(list) => not_modified(),
        None if date("if-modified-since").is_some_and(|date| second <= date) => not_modified(),
        _ => Ok(()),
    }
}

pub fn delete(world: &World, bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let deleted = match version_param(call) {
        Some(id) => world.delete_version(bucket, &call.key, id)?,
        None => world.delete(bucket, &call.key),
    };
    let reply = Reply::new(204);
    Ok(match (version_param(call), deleted) {
        (Some(id), Deleted { removed, .. }) => {
            let marker = removed.is_some_and(|v| v.is_marker()).then_some("true");
            reply.with("x-cos-version-id", id).with_some("x-cos-delete-marker", marker)
        }
        (None, Deleted { marker: Some(marker), .. }) => {
            reply.with("x-cos-version-id", marker.id_text()).with("x-cos-delete-marker", "true")
        }
        (None, _) => reply,
    })
}

pub fn delete_many(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    need_md5(call)?;
    let request: Delete = document(received.as_ref())?;
    if request.objects.is_empty() || request.objects.len() > DELETE_KEYS_MAX {
        return Err(Failure::new(400, "MalformedXML", "A request deletes 1 to 1000 keys."));
    }
    let quiet = request.quiet.unwrap_or(false);
    let mut xml = Xml::document("DeleteResult");
    for object in &request.objects {
        let version = object.version_id.as_deref().filter(|id| !id.is_empty());
        let outcome = match version {
            Some(id) => world.delete_version(bucket, &object.key, id),
            None => Ok(world.delete(bucket, &object.key)),
        };
        match outcome {
            Ok(_) if quiet => {}
            Ok(deleted) => {
                let removed_marker = deleted.removed.filter(|v| v.is_marker() && version.is_some());
                xml.begin("Deleted");
                xml.text("Key", &object.key);
                if let Some(marker) = deleted.marker.or(removed_marker) {
                    xml.text("DeleteMarker", "true");
                    xml.text("DeleteMarkerVersionId", &marker.id_text());
                }
                xml.some("VersionId", version);
                xml.close();
            }
            Err(failure) => {
                xml.begin("Error");
                xml.text("Key", &object.key);
                xml.some("VersionId", version);
                xml.text("Code", failure.code);
                xml.text("Message", &failure.message);
                xml.close();
            }
        }
    }
    Ok(Reply::new(200).document(xml.end()))
}

/// Where a copy comes from.
pub struct Source {
    pub site: crate::object::Site,
    pub key: String,
    pub version: Arc<Version>,
    pub content: Arc<Content>,
    /// The version id that the request named.
    pub named: Option<String>,
}

/// Finds and checks `x-cos-copy-source`: `<host>/<key>` or `/<bucket>/<key>`, either with `?versionId=`.
pub fn copy_source(world: &World, call: &Call) -> Result<Source, Failure> {
    let invalid = || Failure::new(400, "InvalidCopySource", "x-cos-copy-source cannot be read.");
    let text = call.header("x-cos-copy-source").ok_or_else(invalid)?;
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let named = query.split('&').find_map(|item| item.strip_prefix("versionId=")).filter(|id| !id.is_empty());
    let path = url_decode(path).ok_or_else(invalid)?;
    let (host, key) = path.strip_prefix('/').unwrap_or(&path).split_once('/').ok_or_else(invalid)?;
    let name = cos_host(host).map_or(host, |h| h.bucket.unwrap_or(host));
    // A client that names the emulator by its address means the bucket that it talks to.
    let by_address = host.contains(':') && world.by_name(name).is_none();
    let bucket = if by_address { Some(world.bucket(call.site)) } else { world.by_name(name) };
    let bucket = bucket.ok_or_else(Failure::no_such_bucket)?;
    let named = named.and_then(url_decode);
    let found = bucket.read().shelf.get(key, named.as_deref());
    let (version, content) = found.map_err(|failure| {
        let marker = failure.headers.iter().any(|(name, _)| *name == "x-cos-delete-marker");
        if marker && named.is_some() { Failure::argument("The source version is a delete marker.") } else { failure }
    })?;
    let header = |name: &'static str| {
        call.header(match name {
            "if-match" => "x-cos-copy-source-if-match",
            "if-none-match" => "x-cos-copy-source-if-none-match",
            "if-modified-since" => "x-cos-copy-source-if-modified-since",
            _ => "x-cos-copy-source-if-unmodified-since",
        })
    };
    let has = |name| header(name).is_some();
    if (has("if-match") || has("if-unmodified-since")) && (has("if-none-match") || has("if-modified-since")) {
        return Err(Failure::argument("These conditions on the source cannot be combined."));
    }
    check_conditions(header, &version, &content).map_err(|_| Failure::precondition())?;
    if content.is_appendable() {
        return Err(Failure::new(400, "InvalidRequest", "An appendable object cannot be copied."));
    }
    archive::readable(&content, world.now())?;
    Ok(Source { site: bucket.site, key: key.to_owned(), version, content, named })
}

fn is_replaced(call: &Call, directive: &'static str) -> Result<bool, Failure> {
    match call.header(directive).unwrap_or("Copy").to_ascii_lowercase().as_str() {
        "copy" => Ok(false),
        "replace" | "replaced" => Ok(true),
        _ => Err(Failure::argument(format!("{directive} is Copy or Replaced."))),
    }
}

pub fn copy(world: &World, bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let source = copy_source(world, call)?;
    let replace = is_replaced(call, "x-cos-metadata-directive")?;
    if !replace && source.site == bucket.site && source.key == call.key {
        let message = "An object can be copied onto itself only with the directive Replaced.";
        return Err(Failure::new(400, "InvalidRequest", message));
    }
    if source.content.blob.len() > COPY_BYTES_MAX {
        return Err(Failure::new(400, "EntityTooLarge", "Sources above 5 GB need a multipart copy."));
    }
    let mut headers = if replace {
        stored_headers(call)?
    } else {
        let mut headers = source.content.headers.clone();
        add_properties(call, &mut headers)?;
        headers
    };
    headers.remove(TAGS);
    let tags = match is_replaced(call, "x-cos-tagging-directive")? {
        true => call.header("x-cos-tagging").map(tagging::from_header).transpose()?,
        false => source.content.headers.get(TAGS).cloned(),
    };
    headers.extend(tags.map(|tags| (TAGS.to_owned(), tags)));
    let blob: Blob = source.content.blob.clone();
    let (etag, crc64) = (source.content.etag.clone(), source.content.crc64);
    let content = Content { blob, etag: etag.clone(), crc64, headers };
    let written = world.put(bucket, &call.key, content, is_exclusive(call))?;
    let mut xml = Xml::bare("CopyObjectResult");
    xml.text("ETag", &quoted(&etag));
    xml.text("CRC64", &crc64.to_string());
    xml.text("LastModified", &copy_date(written.version.micros));
    let id = shown_on_put(written.id);
    xml.some("VersionId", id.as_deref());
    Ok(Reply::new(200)
        .with("x-cos-hash-crc64ecma", crc64.to_string())
        .with_some("x-cos-version-id", id)
        .with_some("x-cos-copy-source-version-id", source.named.map(|_| source.version.id_text()))
        .slow_document(xml.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_table() {
        type Row = (&'static str, u64, Option<Option<(u64, u64)>>);
        let rows: &[Row] = &[
            ("bytes=0-0", 10, Some(Some((0, 0)))),
            ("bytes=2-5", 10, Some(Some((2, 5)))),
            ("bytes=2-99", 10, Some(Some((2, 9)))),
            ("bytes=4-", 10, Some(Some((4, 9)))),
            ("bytes=-3", 10, Some(Some((7, 9)))),
            ("bytes=-30", 10, Some(Some((0, 9)))),
            ("bytes=-0", 10, Some(None)),
            ("bytes=10-", 10, Some(None)),
            ("bytes=0-", 0, Some(None)),
            ("bytes=5-2", 10, None),
            ("bytes=a-b", 10, None),
            ("lines=1-2", 10, None),
        ];
        for (text, size, expect) in rows {
            assert_eq!(parse_range(text, *size), *expect, "{text} of {size}");
        }
    }

    #[test]
    fn condition_table() {
        let version = Version { id: None, micros: 1_586_511_395_051_528, arrival: 1, replica: false, content: None };
        let content = Content { blob: Blob::default(), etag: "abc".into(), crc64: 0, headers: BTreeMap::new() };
        const SAME: &str = "Fri, 10 Apr 2020 09:36:35 GMT";
        const BEFORE: &str = "Fri, 10 Apr 2020 09:36:34 GMT";
        type Row = (&'static [(&'static str, &'static str)], Option<u16>);
        let rows: &[Row] = &[
            (&[("if-match", "\"abc\"")], None),
            (&[("if-match", "\"x\"")], Some(412)),
            (&[("if-match", "*")], None),
            (&[("if-none-match", "\"abc\"")], Some(304)),
            (&[("if-none-match", "\"x\", \"abc\"")], Some(304)),
            (&[("if-none-match", "\"x\"")], None),
            (&[("if-modified-since", SAME)], Some(304)),
            (&[("if-modified-since", BEFORE)], None),
            (&[("if-unmodified-since", SAME)], None),
            (&[("if-unmodified-since", BEFORE)], Some(412)),
            (&[("if-match", "\"abc\""), ("if-unmodified-since", BEFORE)], None),
            (&[("if-none-match", "\"x\""), ("if-modified-since", SAME)], None),
        ];
        for (headers, expect) in rows {
            let header = |name: &'static str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
            let got = check_conditions(header, &version, &content).err().map(|f| f.status);
            assert_eq!(got, *expect, "{headers:?}");
        }
    }
}
