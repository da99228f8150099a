//! Multipart uploads on the wire.

use crc_fast::CrcAlgorithm::Crc64Xz;
use md5::{Digest, Md5};

use super::object::{copy_source, is_exclusive, stored_headers};
use super::{OWNER, document, quoted, shown};
use crate::cos::sign::url_encode_path;
use crate::cos::xml::CompleteMultipartUpload;
use crate::emulator::clock::{copy_date, list_date};
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::Reply;
use crate::emulator::site::Versioning;
use crate::emulator::world::upload::{PARTS_MAX, Part, part_etag};
use crate::emulator::world::{Bucket, Received, World};
use crate::emulator::xml::Xml;
use crate::object::ETag;

fn upload_id(call: &Call) -> Result<&str, Failure> {
    call.param("uploadId").filter(|id| !id.is_empty()).ok_or_else(|| Failure::argument("uploadId is missing."))
}

fn part_number(call: &Call) -> Result<u32, Failure> {
    let number = call.param("partNumber").and_then(|n| n.parse().ok());
    number
        .filter(|n| (1..=PARTS_MAX).contains(n))
        .ok_or_else(|| Failure::argument("partNumber must be between 1 and 10000."))
}

pub fn initiate(world: &World, bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let state = bucket.read();
    if is_exclusive(call) && state.shelf.versioning() == Versioning::Never && state.shelf.current(&call.key).is_some() {
        return Err(Failure::new(409, "FileAlreadyExists", "The object already exists."));
    }
    drop(state);
    let id = world.initiate(bucket, &call.key, stored_headers(call)?, is_exclusive(call));
    let mut xml = Xml::document("InitiateMultipartUploadResult");
    xml.text("Bucket", &bucket.name);
    xml.text("Key", &call.key);
    xml.text("UploadId", &id);
    Ok(Reply::new(200).document(xml.end()))
}

pub fn put_part(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let received = received.ok_or_else(|| Failure::new(411, "MissingContentLength", "Content-Length is missing."))?;
    let etag = part_etag(&received.md5);
    let part = Part { blob: received.blob, etag: etag.clone(), crc64: received.crc64, micros: world.clock.next() };
    world.put_part(bucket, &call.key, upload_id(call)?, part_number(call)?, part)?;
    Ok(Reply::new(200).with("etag", quoted(&etag)).with("x-cos-hash-crc64ecma", received.crc64.to_string()))
}

pub fn copy_part(world: &World, bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let source = copy_source(world, call)?;
    let size = source.content.blob.len();
    // The Python SDK sends the header empty when it wants everything.
    let blob = match call.header("x-cos-copy-source-range").filter(|range| !range.is_empty()) {
        None => source.content.blob.clone(),
        Some(text) => {
            let bounds = text.trim().strip_prefix("bytes=").and_then(|r| r.split_once('-'));
            let bounds = bounds.and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
            let (first, last) = bounds.filter(|(first, last)| first <= last && *last < size).ok_or_else(|| {
                Failure::new(416, "InvalidRange", "x-cos-copy-source-range is outside of the source.")
            })?;
            source.content.blob.slice(first, last + 1)
        }
    };
    let (mut md5, mut crc) = (Md5::new(), crc_fast::Digest::new(Crc64Xz));
    let summed = blob.for_each(|piece| {
        md5.update(piece);
        crc.update(piece);
    });
    summed.map_err(|e| Failure::internal(e.to_string()))?;
    let (etag, crc64) = (part_etag(&md5.finalize().into()), crc.finalize());
    let part = Part { blob, etag: etag.clone(), crc64, micros: world.clock.next() };
    let micros = part.micros;
    world.put_part(bucket, &call.key, upload_id(call)?, part_number(call)?, part)?;
    let mut xml = Xml::bare("CopyPartResult");
    xml.text("ETag", &quoted(&etag));
    xml.text("LastModified", &copy_date(micros));
    Ok(Reply::new(200)
        .with("x-cos-hash-crc64ecma", crc64.to_string())
        .with_some("x-cos-copy-source-version-id", source.named.map(|_| source.version.id_text()))
        .slow_document(xml.end()))
}

pub fn complete(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let request: CompleteMultipartUpload = document(received.as_ref())?;
    let listed: Vec<(u64, String)> = request.parts.iter().map(|p| (p.number, ETag::parse(&p.etag).0)).collect();
    let written = world.complete(bucket, &call.key, upload_id(call)?, &listed, is_exclusive(call))?;
    let content = written.version.content.as_ref().ok_or_else(|| Failure::internal("a version without content"))?;
    let mut xml = Xml::bare("CompleteMultipartUploadResult xmlns=\"http://www.qcloud.com/document/product/436/7751\"");
    let host = format!("{}.cos.{}.myqcloud.com", bucket.name, bucket.region);
    xml.text("Location", &format!("http://{host}/{}", url_encode_path(&call.key)));
    xml.text("Bucket", &bucket.name);
    xml.text("Key", &call.key);
    xml.text("ETag", &quoted(&content.etag));
    Ok(Reply::new(200)
        .with("x-cos-hash-crc64ecma", content.crc64.to_string())
        .with_some("x-cos-version-id", written.id)
        .slow_document(xml.end()))
}

pub fn abort(world: &World, bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    world.abort(bucket, &call.key, upload_id(call)?)?;
    Ok(Reply::new(204))
}

pub fn list_parts(bucket: &Bucket, call: &Call) -> Result<Reply, Failure> {
    let shown = shown(call)?;
    let id = upload_id(call)?;
    let max = super::list::page_size(call, "max-parts")?;
    let after: u32 = call.param("part-number-marker").unwrap_or("0").parse().unwrap_or(0);
    let state = bucket.read();
    let upload = state.uploads.get(&(call.key.clone(), id.to_owned())).ok_or_else(Failure::no_such_upload)?;
    let mut xml = Xml::document("ListPartsResult");
    xml.text("Bucket", &bucket.name);
    xml.some("EncodingType", call.param("encoding-type"));
    xml.text("Key", &shown(&call.key));
    xml.text("UploadId", id);
    super::list::owner(&mut xml, "Owner");
    xml.text("PartNumberMarker", &after.to_string());
    xml.begin("Initiator");
    xml.text("ID", &format!("qcs::cam::uin/{OWNER}:uin/{OWNER}"));
    xml.text("DisplayName", OWNER);
    xml.close();
    let mut parts = upload.parts.range(after.saturating_add(1)..);
    let mut last = after;
    for (number, part) in parts.by_ref().take(max) {
        xml.begin("Part");
        xml.text("PartNumber", &number.to_string());
        xml.text("LastModified", &list_date(part.micros));
        xml.text("ETag", &quoted(&part.etag));
        xml.text("Size", &part.blob.len().to_string());
        xml.close();
        last = *number;
    }
    let truncated = parts.next().is_some();
    if truncated {
        xml.text("NextPartNumberMarker", &last.to_string());
    }
    xml.text("StorageClass", upload.headers.get("x-cos-storage-class").map_or("STANDARD", |c| c.as_str()));
    xml.text("MaxParts", &max.to_string());
    xml.text("IsTruncated", if truncated { "true" } else { "false" });
    Ok(Reply::new(200).document(xml.end()))
}
