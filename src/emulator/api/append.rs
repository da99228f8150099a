//! Append: objects that grow at their end, outside of versioning and replication.
//!
//! Nothing in this project writes them; they are here because a bucket may hold some, and because clients try.

use base64::Engine;

use super::object::stored_headers;
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::Reply;
use crate::emulator::world::{Bucket, Received, World, hex};

pub fn append(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let received = received.ok_or_else(|| Failure::new(411, "MissingContentLength", "Content-Length is missing."))?;
    let position = call.param("position").and_then(|p| p.parse::<u64>().ok());
    let position = position.ok_or_else(|| Failure::argument("position must be a number."))?;
    let mut headers = stored_headers(call)?;
    if headers.get("x-cos-storage-class").is_some_and(|class| class.contains("INTELLIGENT")) {
        return Err(Failure::new(400, "NotSupportedStorageClass", "Appendable objects have no intelligent tiering."));
    }
    headers.insert("x-cos-object-type".into(), "appendable".into());
    let md5 = received.md5;
    let content = world.append(bucket, &call.key, position, received, headers)?;
    // Unquoted, and a "sha1" that is none: as in the documentation and as the Go SDK expects.
    Ok(Reply::new(200)
        .with("etag", content.etag.as_str())
        .with("x-cos-next-append-position", content.blob.len().to_string())
        .with("x-cos-hash-crc64ecma", content.crc64.to_string())
        .with("x-cos-content-sha1", hex(&md5))
        .with("content-md5", base64::engine::general_purpose::STANDARD.encode(md5)))
}
