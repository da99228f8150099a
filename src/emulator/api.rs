//! The object API: which operation a request means, and its answer. Synchronous; the body has been received.
//!
//! One function an operation, after the sections of docs/cos-protocol.md. What is not built answers `501 NotImplemented`
//! and never pretends.

use super::failure::Failure;
use super::http::call::Call;
use super::http::s3::Dialect;
use super::http::send::Reply;
use super::world::{Bucket, Received, World};
use crate::cos::sign::url_encode_path;
use crate::cos::xml::{Document, from_xml};

mod acl;
mod append;
mod archive;
mod bucket;
mod encryption;
mod list;
mod multipart;
pub mod object;
mod tagging;

/// Sub-resources of objects that are not built.
const OBJECT_GAPS: [&str; 2] = ["symlink", "rename"];
/// Configurations that are kept as they were put, and the answer where there is none.
pub const KEPT: [(&str, &str); 12] = [
    ("origin", "OriginConfigurationNotFoundError"),
    ("domain", "DomainConfigNotFoundError"),
    ("tagging", "NoSuchTagSetError"),
    ("cors", "NoSuchCORSConfiguration"),
    ("policy", "NoSuchBucketPolicy"),
    ("website", "NoSuchWebsiteConfiguration"),
    ("encryption", "NoSuchEncryptionConfiguration"),
    ("inventory", "NoSuchConfiguration"),
    ("referer", ""),
    ("logging", ""),
    ("accelerate", ""),
    ("intelligenttiering", ""),
];

pub fn perform(world: &World, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    if call.service {
        return bucket::service(world, call);
    }
    let bucket = world.bucket(call.site);
    let has = |name: &str| call.param(name).is_some();
    if call.key.is_empty() {
        return bucket_operation(world, bucket, call, received);
    }
    if let Some(gap) = OBJECT_GAPS.iter().find(|gap| has(gap)) {
        return Err(not_implemented(gap));
    }
    match call.method.as_str() {
        "GET" if has("uploadId") => multipart::list_parts(bucket, call),
        _ if has("tagging") => tagging::object(world, bucket, call, received),
        _ if has("acl") => acl::of_object(world, bucket, call, received),
        "GET" | "HEAD" => object::get(bucket, call, world.now()),
        "PUT" if has("uploadId") || has("partNumber") => match received {
            _ if call.is_copy() => multipart::copy_part(world, bucket, call),
            received => multipart::put_part(world, bucket, call, received),
        },
        "PUT" if call.is_copy() => object::copy(world, bucket, call),
        "PUT" => object::put(world, bucket, call, received),
        "POST" if has("uploads") => multipart::initiate(world, bucket, call),
        "POST" if has("append") => append::append(world, bucket, call, received),
        "POST" if has("restore") => archive::restore(world, bucket, call, received),
        "POST" if has("uploadId") => multipart::complete(world, bucket, call, received),
        "DELETE" if has("uploadId") => multipart::abort(world, bucket, call),
        "DELETE" => object::delete(world, bucket, call),
        _ => Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource.")),
    }
}

fn bucket_operation(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let has = |name: &str| call.param(name).is_some();
    let method = call.method.as_str();
    for name in ["versioning", "replication", "lifecycle"] {
        if has(name) {
            return bucket::configuration(world, bucket, call, name, received);
        }
    }
    if let Some((name, none)) = KEPT.iter().find(|(name, _)| has(name)) {
        return bucket::kept(world, bucket, call, name, none, received);
    }
    match method {
        "HEAD" => Ok(bucket::head(bucket)),
        _ if has("acl") => acl::of_bucket(world, bucket, call, received),
        "GET" if has("location") => Ok(bucket::location(bucket)),
        "GET" if has("versions") => list::versions(bucket, call),
        "GET" if has("uploads") => list::uploads(bucket, call),
        "GET" => list_objects(bucket, call, world.now()),
        "POST" if has("delete") => object::delete_many(world, bucket, call, received),
        "OPTIONS" => Err(Failure::new(403, "AccessForbidden", "No rule allows this request across origins.")),
        "PUT" => Err(Failure::new(409, "BucketAlreadyOwnedByYou", "The bucket exists.")),
        "DELETE" => Err(Failure::new(409, "BucketNotEmpty", "The buckets of the emulator stay.")),
        _ => Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource.")),
    }
}

/// A listing, of a bucket that need not be one of the world's: its past, for example.
pub fn list_objects(bucket: &Bucket, call: &Call, now: u64) -> Result<Reply, Failure> {
    if call.dialect == Dialect::S3 && call.param("list-type") == Some("2") {
        return list::objects_v2(bucket, call, now);
    }
    list::objects(bucket, call, now)
}

fn not_implemented(what: &str) -> Failure {
    Failure::new(501, "NotImplemented", format!("The emulator does not have ?{what}."))
}

/// The XML document in a request's body.
fn document<T: Document + serde::de::DeserializeOwned>(received: Option<&Received>) -> Result<T, Failure> {
    let malformed = |why: String| Failure::new(400, "MalformedXML", why);
    let text = document_text(received)?;
    from_xml(text.as_bytes()).map_err(|e| malformed(e.to_string()))
}

fn document_text(received: Option<&Received>) -> Result<String, Failure> {
    let malformed = || Failure::new(400, "MalformedXML", "The body is not a UTF-8 document.");
    let mut bytes = Vec::new();
    let blob = &received.ok_or_else(malformed)?.blob;
    blob.for_each(|piece| bytes.extend_from_slice(piece)).map_err(|e| Failure::internal(e.to_string()))?;
    String::from_utf8(bytes).map_err(|_| malformed())
}

fn need_md5(call: &Call) -> Result<(), Failure> {
    call.header("content-md5")
        .map(drop)
        .ok_or_else(|| Failure::new(400, "InvalidDigest", "Content-MD5 is required here."))
}

/// How keys appear in a listing.
fn shown(call: &Call) -> Result<impl Fn(&str) -> String + use<>, Failure> {
    let encode = match call.param("encoding-type") {
        None | Some("") => false,
        Some("url") => true,
        Some(_) => return Err(Failure::argument("encoding-type can only be url.")),
    };
    Ok(move |text: &str| if encode { url_encode_path(text) } else { text.to_owned() })
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// Owner of everything, after the APPID in the buckets' names.
const OWNER: &str = "1250000000";
