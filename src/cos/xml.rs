//! The XML bodies of COS, in both directions.
//!
//! One type serves the client, which reads what the service writes, and the emulator, which writes it. Reading is lenient where
//! the documentation contradicts itself (`EncodingType`, `Encoding-Type`, `Encoding-type`; times with and without zone; numbers
//! that may be missing) and strict where leniency would lie: the root element must be the expected one, so that an `<Error>` inside
//! an answer 200 is never taken for a result, and a body that ends early is an error, never a short listing.
//!
//! Texts are kept as they stand on the wire; under `encoding-type=url` the caller decodes with [`decode_key`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::sign;

pub use configuration::{
    AbortIncompleteMultipartUpload, DeleteMarkerReplication, Destination, Expiration, LifecycleConfiguration,
    LifecycleFilter, LifecycleRule, NoncurrentVersionExpiration, ReplicationConfiguration, ReplicationRule, Toggle,
    VersioningConfiguration,
};

pub mod configuration;
pub mod tree;

/// A body with its root element.
pub trait Document {
    const ROOT: &'static str;
}

/// Why a body could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// The service said what went wrong.
    #[error("service error {}", .0.code)]
    Service(Box<ErrorBody>),
    #[error("expected <{expected}>, found <{found}>")]
    Root { expected: &'static str, found: String },
    #[error("XML cannot be read: {0}")]
    Syntax(String),
}

/// Serializes with the declaration that COS sends.
pub fn to_xml<T: Serialize>(body: &T) -> Result<String, XmlError> {
    let mut out = String::from("<?xml version='1.0' encoding='utf-8' ?>\n");
    quick_xml::se::to_writer(&mut out, body).map_err(|e| XmlError::Syntax(e.to_string()))?;
    Ok(out)
}

/// Parses a whole body. Leading white space is skipped (Complete Multipart sends it while it works).
pub fn from_xml<T: Document + DeserializeOwned>(body: &[u8]) -> Result<T, XmlError> {
    let text = std::str::from_utf8(body).map_err(|e| XmlError::Syntax(e.to_string()))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    let root = root_of(text)?;
    if root == T::ROOT {
        return quick_xml::de::from_str(text).map_err(|e| XmlError::Syntax(e.to_string()));
    }
    if root == ErrorBody::ROOT {
        return match quick_xml::de::from_str(text) {
            Ok(error) => Err(XmlError::Service(Box::new(error))),
            Err(e) => Err(XmlError::Syntax(e.to_string())),
        };
    }
    Err(XmlError::Root { expected: T::ROOT, found: root })
}

fn root_of(text: &str) -> Result<String, XmlError> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(text);
    loop {
        match reader.read_event().map_err(|e| XmlError::Syntax(e.to_string()))? {
            Event::Start(e) | Event::Empty(e) => {
                return Ok(String::from_utf8_lossy(e.local_name().as_ref()).into_owned());
            }
            Event::Eof => return Err(XmlError::Syntax("no element at all".into())),
            _ => {}
        }
    }
}

/// A key or prefix under `encoding-type=url`: percent-encoded, slash literal, space `%20`.
pub fn encode_key(key: &str) -> String {
    sign::url_encode_path(key)
}

/// Undoes [`encode_key`]. `None` if the result is not UTF-8.
pub fn decode_key(text: &str) -> Option<String> {
    sign::url_decode(text)
}

/// Microseconds since 1970 as COS lists them: `2020-12-10T03:37:30.000Z`.
pub fn format_time(micros: u64) -> String {
    let moment =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    // Formatting a valid date with a constant format fails only if the sink does, and a String does not.
    moment.format(&format).unwrap_or_default()
}

/// Reads the times in XML bodies, with or without fraction and zone; `None` for anything else.
pub fn parse_time(text: &str) -> Option<u64> {
    let text = text.trim();
    let zoned = text.ends_with('Z') || text.get(10..).is_some_and(|t| t.contains('+'));
    let moment = match zoned {
        true => OffsetDateTime::parse(text, &Rfc3339),
        false => OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339),
    };
    u64::try_from(moment.ok()?.unix_timestamp_nanos() / 1000).ok()
}

/// A number or truth value that may be absent, empty or odd: odd is an error, the others are `None`.
fn lenient<'de, D: Deserializer<'de>, T: std::str::FromStr>(from: D) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(from)?.unwrap_or_default();
    match text.trim() {
        "" => Ok(None),
        text => text
            .to_ascii_lowercase()
            .parse()
            .map(Some)
            .map_err(|_| serde::de::Error::custom(format!("odd value {text:?}"))),
    }
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    lenient(from)?.ok_or_else(|| serde::de::Error::custom("empty number"))
}

fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    lenient(from)?.ok_or_else(|| serde::de::Error::custom("empty truth value"))
}

macro_rules! documents {
    ($($type:ident = $root:literal),* $(,)?) => { $(impl Document for $type { const ROOT: &'static str = $root; })* };
}

documents! {
    ErrorBody = "Error",
    ListBucketResult = "ListBucketResult",
    ListVersionsResult = "ListVersionsResult",
    CopyObjectResult = "CopyObjectResult",
    CopyPartResult = "CopyPartResult",
    InitiateMultipartUploadResult = "InitiateMultipartUploadResult",
    CompleteMultipartUpload = "CompleteMultipartUpload",
    CompleteMultipartUploadResult = "CompleteMultipartUploadResult",
    ListPartsResult = "ListPartsResult",
    ListMultipartUploadsResult = "ListMultipartUploadsResult",
    Delete = "Delete",
    DeleteResult = "DeleteResult",
    VersioningConfiguration = "VersioningConfiguration",
    ReplicationConfiguration = "ReplicationConfiguration",
    LifecycleConfiguration = "LifecycleConfiguration",
    ListAllMyBucketsResult = "ListAllMyBucketsResult",
}

/// `<Error>`. Everything but the code may be missing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "Error", rename_all = "PascalCase", default)]
pub struct ErrorBody {
    pub code: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    pub request_id: String,
    pub trace_id: String,
    /// Given with `RequestTimeTooSkewed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_time: Option<String>,
    /// Given with `SignatureDoesNotMatch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub string_to_sign: Option<String>,
    /// Given with `SignatureDoesNotMatch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_string: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "DisplayName")]
    pub display_name: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CommonPrefix {
    pub prefix: String,
}

/// Answer of GET Bucket (List Objects, version 1).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "ListBucketResult", rename_all = "PascalCase")]
pub struct ListBucketResult {
    #[serde(default)]
    pub name: String,
    #[serde(default, alias = "Encoding-Type", alias = "Encoding-type", skip_serializing_if = "Option::is_none")]
    pub encoding_type: Option<String>,
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub marker: String,
    #[serde(default, deserialize_with = "lenient")]
    pub max_keys: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Required: a page that does not say whether it is the last one cannot be used.
    #[serde(deserialize_with = "truth")]
    pub is_truncated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    #[serde(default)]
    pub common_prefixes: Vec<CommonPrefix>,
    #[serde(default)]
    pub contents: Vec<Contents>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Contents {
    pub key: String,
    pub last_modified: String,
    #[serde(rename = "ETag")]
    pub etag: String,
    #[serde(deserialize_with = "number")]
    pub size: u64,
    #[serde(default)]
    pub owner: Owner,
    #[serde(default)]
    pub storage_class: String,
}

/// Answer of GET Bucket Object Versions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "ListVersionsResult", rename_all = "PascalCase")]
pub struct ListVersionsResult {
    #[serde(default, alias = "Encoding-Type", alias = "Encoding-type", skip_serializing_if = "Option::is_none")]
    pub encoding_type: Option<String>,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub key_marker: String,
    #[serde(default)]
    pub version_id_marker: String,
    #[serde(default, deserialize_with = "lenient")]
    pub max_keys: Option<u64>,
    #[serde(deserialize_with = "truth")]
    pub is_truncated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key_marker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_version_id_marker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    #[serde(default)]
    pub common_prefixes: Vec<CommonPrefix>,
    /// `Version` and `DeleteMarker` interleaved, in document order.
    #[serde(default, rename = "$value")]
    pub entries: Vec<VersionOrMarker>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VersionOrMarker {
    Version(Version),
    DeleteMarker(DeleteMarker),
    /// An element this program does not know; read over, never written.
    #[serde(other, skip_serializing)]
    Other,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    pub key: String,
    #[serde(default)]
    pub version_id: String,
    #[serde(deserialize_with = "truth")]
    pub is_latest: bool,
    pub last_modified: String,
    #[serde(rename = "ETag")]
    pub etag: String,
    #[serde(deserialize_with = "number")]
    pub size: u64,
    #[serde(default)]
    pub storage_class: String,
    #[serde(default)]
    pub owner: Owner,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteMarker {
    pub key: String,
    #[serde(default)]
    pub version_id: String,
    #[serde(deserialize_with = "truth")]
    pub is_latest: bool,
    pub last_modified: String,
    #[serde(default)]
    pub owner: Owner,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "CopyObjectResult")]
pub struct CopyObjectResult {
    #[serde(rename = "ETag")]
    pub etag: String,
    #[serde(default, rename = "CRC64", deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub crc64: Option<u64>,
    #[serde(default, rename = "LastModified")]
    pub last_modified: String,
    /// Only where the target bucket is versioned.
    #[serde(default, rename = "VersionId", skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "CopyPartResult")]
pub struct CopyPartResult {
    #[serde(rename = "ETag")]
    pub etag: String,
    #[serde(default, rename = "CRC64", deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub crc64: Option<u64>,
    #[serde(default, rename = "LastModified")]
    pub last_modified: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "InitiateMultipartUploadResult", rename_all = "PascalCase")]
pub struct InitiateMultipartUploadResult {
    #[serde(default)]
    pub bucket: String,
    #[serde(default)]
    pub key: String,
    pub upload_id: String,
}

/// Request body of Complete Multipart Upload.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "CompleteMultipartUpload")]
pub struct CompleteMultipartUpload {
    #[serde(default, rename = "Part")]
    pub parts: Vec<CompletePart>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CompletePart {
    #[serde(rename = "PartNumber", deserialize_with = "number")]
    pub number: u64,
    #[serde(rename = "ETag")]
    pub etag: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "CompleteMultipartUploadResult", rename_all = "PascalCase")]
pub struct CompleteMultipartUploadResult {
    #[serde(default)]
    pub location: String,
    #[serde(default)]
    pub bucket: String,
    #[serde(default)]
    pub key: String,
    #[serde(rename = "ETag")]
    pub etag: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "ListPartsResult", rename_all = "PascalCase")]
pub struct ListPartsResult {
    #[serde(default)]
    pub bucket: String,
    #[serde(default, alias = "Encoding-Type", alias = "Encoding-type", skip_serializing_if = "Option::is_none")]
    pub encoding_type: Option<String>,
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub upload_id: String,
    #[serde(default)]
    pub owner: Owner,
    #[serde(default, deserialize_with = "lenient")]
    pub part_number_marker: Option<u64>,
    #[serde(default)]
    pub initiator: Owner,
    #[serde(default, rename = "Part")]
    pub parts: Vec<ListedPart>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub next_part_number_marker: Option<u64>,
    #[serde(default)]
    pub storage_class: String,
    #[serde(default, deserialize_with = "lenient")]
    pub max_parts: Option<u64>,
    #[serde(deserialize_with = "truth")]
    pub is_truncated: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListedPart {
    #[serde(deserialize_with = "number")]
    pub part_number: u64,
    #[serde(default)]
    pub last_modified: String,
    #[serde(rename = "ETag")]
    pub etag: String,
    #[serde(deserialize_with = "number")]
    pub size: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "ListMultipartUploadsResult", rename_all = "PascalCase")]
pub struct ListMultipartUploadsResult {
    #[serde(default)]
    pub bucket: String,
    #[serde(
        default,
        rename = "Encoding-Type",
        alias = "EncodingType",
        alias = "Encoding-type",
        skip_serializing_if = "Option::is_none"
    )]
    pub encoding_type: Option<String>,
    #[serde(default)]
    pub key_marker: String,
    #[serde(default)]
    pub upload_id_marker: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key_marker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_upload_id_marker: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    pub max_uploads: Option<u64>,
    #[serde(default)]
    pub prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    #[serde(deserialize_with = "truth")]
    pub is_truncated: bool,
    #[serde(default, rename = "Upload")]
    pub uploads: Vec<Upload>,
    #[serde(default)]
    pub common_prefixes: Vec<CommonPrefix>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Upload {
    pub key: String,
    pub upload_id: String,
    #[serde(default)]
    pub initiator: Owner,
    #[serde(default)]
    pub owner: Owner,
    #[serde(default)]
    pub storage_class: String,
    #[serde(default)]
    pub initiated: String,
}

/// Request body of DELETE Multiple Objects. Keys are plain text here.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "Delete")]
pub struct Delete {
    #[serde(default, rename = "Quiet", deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub quiet: Option<bool>,
    #[serde(default, rename = "Object")]
    pub objects: Vec<DeleteObject>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteObject {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "DeleteResult")]
pub struct DeleteResult {
    #[serde(default, rename = "Deleted")]
    pub deleted: Vec<DeletedObject>,
    #[serde(default, rename = "Error")]
    pub errors: Vec<DeleteError>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeletedObject {
    pub key: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub delete_marker: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_marker_version_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeleteError {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    pub code: String,
    #[serde(default)]
    pub message: String,
}

/// Answer of GET Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename = "ListAllMyBucketsResult", rename_all = "PascalCase")]
pub struct ListAllMyBucketsResult {
    #[serde(default)]
    pub owner: Owner,
    #[serde(default)]
    pub buckets: Buckets,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Buckets {
    #[serde(default, rename = "Bucket")]
    pub list: Vec<BucketEntry>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BucketEntry {
    pub name: String,
    #[serde(default)]
    pub location: String,
    #[serde(default)]
    pub creation_date: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Document + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) -> String {
        let text = to_xml(&value).unwrap();
        assert!(text.contains(&format!("<{}", T::ROOT)), "{text}");
        assert_eq!(from_xml::<T>(text.as_bytes()).unwrap(), value, "{text}");
        text
    }

    #[test]
    fn documented_list_is_read() {
        let text = "<?xml version='1.0' encoding='utf-8' ?>
<ListBucketResult>
  <Name>examplebucket-1250000000</Name><EncodingType>url</EncodingType><Prefix/><Marker/><MaxKeys>1000</MaxKeys>
  <Delimiter>/</Delimiter><IsTruncated>true</IsTruncated><NextMarker>example-folder-3/</NextMarker>
  <CommonPrefixes><Prefix>example-folder-1/</Prefix></CommonPrefixes>
  <Contents><Key>%E7%85%A7%E7%89%87/a%20b</Key><LastModified>2020-12-10T03:37:30.000Z</LastModified>
    <ETag>&quot;f173c1199e3d3b53dd91223cae16fb42&quot;</ETag><Size>37</Size>
    <Owner><ID>1250000000</ID><DisplayName>1250000000</DisplayName></Owner><StorageClass>STANDARD</StorageClass>
    <StorageTier>FREQUENT</StorageTier></Contents>
  <CommonPrefixes><Prefix>example-folder-3/</Prefix></CommonPrefixes>
</ListBucketResult>";
        let list: ListBucketResult = from_xml(text.as_bytes()).unwrap();
        assert!(list.is_truncated);
        assert_eq!(list.common_prefixes.len(), 2);
        assert_eq!(decode_key(&list.contents[0].key).unwrap(), "照片/a b");
        assert_eq!(list.contents[0].etag, "\"f173c1199e3d3b53dd91223cae16fb42\"");
        assert_eq!(parse_time(&list.contents[0].last_modified), Some(1_607_571_450_000_000));
        round_trip(list);
    }

    #[test]
    fn a_list_that_ends_early_or_does_not_say_so_is_an_error() {
        let whole = to_xml(&ListBucketResult {
            contents: vec![Contents { key: "a".into(), ..Default::default() }],
            ..Default::default()
        })
        .unwrap();
        for cut in (40..whole.len()).step_by(7) {
            assert!(from_xml::<ListBucketResult>(&whole.as_bytes()[..cut]).is_err(), "{}", &whole[..cut]);
        }
        let silent = whole.replace("<IsTruncated>false</IsTruncated>", "");
        assert_ne!(silent, whole);
        assert!(from_xml::<ListBucketResult>(silent.as_bytes()).is_err());
    }

    #[test]
    fn versions_and_markers_keep_their_order() {
        let version =
            |key: &str| VersionOrMarker::Version(Version { key: key.into(), is_latest: true, ..Default::default() });
        let marker = |key: &str| VersionOrMarker::DeleteMarker(DeleteMarker { key: key.into(), ..Default::default() });
        let list = ListVersionsResult {
            entries: vec![version("a"), marker("a"), version("b"), marker("c")],
            ..Default::default()
        };
        let text = round_trip(list);
        // An element that nobody knows in the middle, and the flag at the end.
        let odd = text
            .replace("<DeleteMarker><Key>c", "<Novelty><x/></Novelty><DeleteMarker><Key>c")
            .replace("<IsTruncated>false</IsTruncated>", "")
            .replace("</ListVersionsResult>", "<IsTruncated>false</IsTruncated></ListVersionsResult>");
        let read: ListVersionsResult = from_xml(odd.as_bytes()).unwrap();
        let known: Vec<_> = read.entries.iter().filter(|e| **e != VersionOrMarker::Other).collect();
        assert_eq!(known.len(), 4);
        assert_eq!(known[3], &marker("c"));
        let none: ListVersionsResult =
            from_xml(b"<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>").unwrap();
        assert!(none.entries.is_empty());
    }

    #[test]
    fn an_error_in_place_of_a_result_is_an_error() {
        let body = b"  \n <?xml version='1.0' encoding='utf-8' ?>\n<Error><Code>InternalError</Code><Message>m</Message></Error>";
        match from_xml::<CopyObjectResult>(&body[4..]) {
            Err(XmlError::Service(e)) => assert_eq!((e.code.as_str(), e.message.as_str()), ("InternalError", "m")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(from_xml::<CopyObjectResult>(b"<html><body/></html>"), Err(XmlError::Root { .. })));
        assert!(matches!(from_xml::<CopyObjectResult>(b"   "), Err(XmlError::Syntax(_))));
        assert!(matches!(from_xml::<CopyObjectResult>(b"<CopyObjectResult/>"), Err(XmlError::Syntax(_))), "no ETag");
    }

    #[test]
    fn white_space_before_complete_is_skipped() {
        let text = "  \n\n  <?xml version=\"1.0\" encoding=\"UTF-8\"?>
<CompleteMultipartUploadResult xmlns=\"http://www.qcloud.com/document/product/436/7751\">
  <Location>http://b.cos.ap-beijing.myqcloud.com/o</Location><Bucket>b</Bucket><Key>o</Key>
  <ETag>&quot;aa259a62513358f69e98e72e59856d88-3&quot;</ETag></CompleteMultipartUploadResult>";
        let read: CompleteMultipartUploadResult = from_xml(text.as_bytes()).unwrap();
        assert_eq!(read.etag, "\"aa259a62513358f69e98e72e59856d88-3\"");
    }

    #[test]
    fn keys_survive_a_delete_request() {
        for key in ["a<b>&\"c'", " lead and trail ", "ü/目录", "a\nb", "a&amp;b", "]]>"] {
            let object = DeleteObject { key: key.into(), version_id: None };
            round_trip(Delete { quiet: Some(true), objects: vec![object] });
        }
    }

    #[test]
    fn configurations_are_read_and_written() {
        let text = "<ReplicationConfiguration><Role>qcs::cam::uin/1:uin/1</Role><Rule><ID>to-b</ID><Status>Enabled</Status><Prefix></Prefix>
<Destination><Bucket>qcs::cos:ap-shanghai::bucketb-1250000000</Bucket><StorageClass>STANDARD</StorageClass></Destination>
<DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication></Rule></ReplicationConfiguration>";
        let read: ReplicationConfiguration = from_xml(text.as_bytes()).unwrap();
        assert_eq!(read.rules[0].destination.bucket, "qcs::cos:ap-shanghai::bucketb-1250000000");
        assert_eq!(read.rules[0].delete_marker_replication.as_ref().unwrap().status, Toggle::Enabled);
        round_trip(read);

        for (text, status) in [
            ("<VersioningConfiguration/>", None),
            ("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>", Some(Toggle::Enabled)),
            ("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>", Some(Toggle::Suspended)),
        ] {
            assert_eq!(from_xml::<VersioningConfiguration>(text.as_bytes()).unwrap().status, status);
        }
        let text = "<LifecycleConfiguration><Rule><ID>gc</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>
<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>
<NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration>
<AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>";
        round_trip(from_xml::<LifecycleConfiguration>(text.as_bytes()).unwrap());
    }

    #[test]
    fn multipart_listings_take_every_spelling() {
        for spelling in ["EncodingType", "Encoding-type", "Encoding-Type"] {
            let text = format!(
                "<ListPartsResult><{spelling}>url</{spelling}><Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>5</Size></Part><IsTruncated>false</IsTruncated></ListPartsResult>"
            );
            let read: ListPartsResult = from_xml(text.as_bytes()).unwrap();
            assert_eq!((read.encoding_type.as_deref(), read.parts[0].size), (Some("url"), 5));
            let text = format!(
                "<ListMultipartUploadsResult><{spelling}>url</{spelling}><KeyMarker/><IsTruncated>false</IsTruncated><Upload><Key>k</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>"
            );
            let read: ListMultipartUploadsResult = from_xml(text.as_bytes()).unwrap();
            assert_eq!((read.encoding_type.as_deref(), read.uploads[0].upload_id.as_str()), (Some("url"), "u"));
        }
    }

    #[test]
    fn times_are_read_in_every_documented_form() {
        for (text, micros) in [
            ("2020-04-10T18:21:55Z", Some(1_586_542_915_000_000)),
            ("2020-04-10T18:21:55.123Z", Some(1_586_542_915_123_000)),
            ("2017-09-04T04:45:45", Some(1_504_500_345_000_000)),
            ("2020-04-11T02:21:55+08:00", Some(1_586_542_915_000_000)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), micros, "{text}");
        }
        assert_eq!(format_time(1_586_542_915_123_456), "2020-04-10T18:21:55.123Z");
    }
}
