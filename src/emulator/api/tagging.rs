//! Tags of objects, and of the bucket.
//!
//! An object's tags are kept in the form of the header `x-cos-tagging`, `k=v&k=v`, percent-encoded.

use serde::{Deserialize, Serialize};

use super::{document, document_text};
use crate::cos::sign::{parse_query, url_encode};
use crate::cos::xml::Document;
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::Reply;
use crate::emulator::site::TAGS;
use crate::emulator::world::{Bucket, Received, World};
use crate::emulator::xml::Xml;

/// Limits: number of tags of an object and of a bucket, bytes of a key and of a value.
const OBJECT_TAGS_MAX: usize = 10;
pub const BUCKET_TAGS_MAX: usize = 50;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 256;

type Tags = Vec<(String, String)>;

#[derive(Debug, Serialize, Deserialize)]
struct Tagging {
    #[serde(rename = "TagSet", default)]
    set: TagSet,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct TagSet {
    #[serde(rename = "Tag", default)]
    tags: Vec<Tag>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
}

impl Document for Tagging {
    const ROOT: &'static str = "Tagging";
}

fn check(tags: Tags, most: usize) -> Result<Tags, Failure> {
    let invalid = |why: &'static str| Err(Failure::new(400, "InvalidTag", why));
    if tags.len() > most {
        return invalid("Too many tags.");
    }
    if tags.iter().any(|(key, value)| key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX) {
        return invalid("A key has 1 to 128 bytes, a value up to 256.");
    }
    if tags.iter().enumerate().any(|(n, tag)| tags[..n].iter().any(|other| other.0 == tag.0)) {
        return invalid("A key occurs twice.");
    }
    Ok(tags)
}

fn encode(tags: &Tags) -> String {
    tags.iter().map(|(k, v)| format!("{}={}", url_encode(k), url_encode(v))).collect::<Vec<_>>().join("&")
}

fn decode(text: &str) -> Tags {
    parse_query(text).unwrap_or_default()
}

/// From the header `x-cos-tagging`, in the form in which they are kept.
pub fn from_header(text: &str) -> Result<String, Failure> {
    let tags = parse_query(text).ok_or_else(|| Failure::new(400, "InvalidTag", "x-cos-tagging cannot be read."))?;
    Ok(encode(&check(tags, OBJECT_TAGS_MAX)?))
}

/// From a `<Tagging>` document.
fn from_document(received: Option<&Received>, most: usize) -> Result<Tags, Failure> {
    let tagging: Tagging = document(received)?;
    check(tagging.set.tags.into_iter().map(|tag| (tag.key, tag.value)).collect(), most)
}

/// `?tagging` on an object: read, replace, remove. No new version.
pub fn object(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let version = call.param("versionId").filter(|id| !id.is_empty());
    let replace = |tags: Option<String>| {
        world.amend(bucket, &call.key, version, |headers| {
            headers.remove(TAGS);
            headers.extend(tags.filter(|tags| !tags.is_empty()).map(|tags| (TAGS.to_owned(), tags)));
            Ok(())
        })
    };
    match call.method.as_str() {
        "GET" => {
            let (_, content) = bucket.read().shelf.get(&call.key, version)?;
            let mut xml = Xml::document("Tagging");
            xml.begin("TagSet");
            for (key, value) in content.headers.get(TAGS).map(|text| decode(text)).unwrap_or_default() {
                xml.begin("Tag");
                xml.text("Key", &key);
                xml.text("Value", &value);
                xml.close();
            }
            Ok(Reply::new(200).document(xml.end()))
        }
        // The documentation asks for Content-MD5; the official SDK sends none.
        "PUT" => {
            replace(Some(encode(&from_document(received.as_ref(), OBJECT_TAGS_MAX)?)))?;
            Ok(Reply::new(200))
        }
        "DELETE" => {
            replace(None)?;
            Ok(Reply::new(204))
        }
        _ => Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource.")),
    }
}

/// A bucket's tags are kept as they came; this only refuses what is none.
pub fn check_bucket(received: Option<&Received>) -> Result<String, Failure> {
    from_document(received, BUCKET_TAGS_MAX)?;
    document_text(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked_and_kept_in_one_form() {
        let good = from_header("a=1&b+c=%E7%9B%AE&d=").expect("good");
        assert_eq!(good, "a=1&b%20c=%E7%9B%AE&d=");
        assert_eq!(decode(&good)[1], ("b c".into(), "目".into()));
        let eleven: Vec<String> = (0..11).map(|n| format!("k{n}=v")).collect();
        for bad in
            [&eleven.join("&"), "=v", "a=1&a=2", &format!("{}=v", "k".repeat(129)), &format!("k={}", "v".repeat(257))]
        {
            assert_eq!(from_header(bad).expect_err(bad).code, "InvalidTag");
        }
    }
}
