//! Multipart uploads: large objects in parts, each on its own, nothing visible before the end.
//!
//! The ETag of the result says nothing about its content, so the checksums of the parts are combined and compared with the one the
//! service gives. An upload belongs to the bucket it began in.

use std::ops::Range;

use bytes::Bytes;

use super::attempt::Attempt;
use super::checksum;
use super::client::{Client, CopySource, need_etag, uploaded_crc};
use super::error::{Error, Kind};
use super::payload::Payload;
use super::request::{CRC64, Request, VERSION_ID, number, text, version_id};
use super::xml::{
    self, CompleteMultipartUpload, CompleteMultipartUploadResult, CompletePart, CopyPartResult,
    InitiateMultipartUploadResult, ListMultipartUploadsResult,
};
use crate::object::{ETag, Headers, Key, Stamp, Token};

/// Pages of [`Client::list_uploads`]; 1000 uploads each. More unfinished uploads than that need a lifecycle rule, not a list.
const UPLOAD_PAGES_MAX: usize = 10;

/// Names one upload of one key in one bucket.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UploadId(pub String);

/// A part that the service holds.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// 1 to 10000.
    pub number: u32,
    pub etag: ETag,
    pub size: u64,
    /// Unknown for copied parts if the service does not tell.
    pub crc64: Option<u64>,
}

impl Client {
    pub async fn initiate(
        &self,
        key: &Key,
        headers: &Headers,
        stamp: Option<Stamp>,
        at: &Attempt<'_>,
    ) -> Result<UploadId, Error> {
        let request = self.storing(Request::object("POST", key.as_str()).param("uploads", ""), headers, stamp);
        let answer = self.call(&request, at).await?;
        let (answer, result) = self.read_xml::<InitiateMultipartUploadResult>(answer, &request, at).await?;
        match result.upload_id.is_empty() {
            true => Err(answer.error(Kind::BadAnswer, "no upload id")),
            false => Ok(UploadId(result.upload_id)),
        }
    }

    /// Sends one part. The same number again replaces it.
    pub async fn upload_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: u32,
        body: Payload,
        at: &Attempt<'_>,
    ) -> Result<Part, Error> {
        let request = part_request(key, upload, number).payload(body);
        let answer = self.call(&request, at).await?;
        let crc64 = Some(uploaded_crc(&answer)?);
        Ok(Part { number, etag: need_etag(&answer)?, size: request.payload.len(), crc64 })
    }

    /// Makes a part from bytes that the service already has.
    pub async fn upload_part_copy(
        &self,
        key: &Key,
        upload: &UploadId,
        number: u32,
        from: &CopySource,
        range: Range<u64>,
        at: &Attempt<'_>,
    ) -> Result<Part, Error> {
        let mut request = from.on(part_request(key, upload, number));
        if range.is_empty() {
            return Err(self.refuse(&request, at, "empty range"));
        }
        request = request.header("x-cos-copy-source-range", format!("bytes={}-{}", range.start, range.end - 1));
        let answer = self.call(&request, at).await?;
        let (answer, result) = self.read_xml::<CopyPartResult>(answer, &request, at).await?;
        let etag = ETag::parse(&result.etag);
        if etag.0.is_empty() {
            return Err(answer.error(Kind::BadAnswer, "no ETag"));
        }
        Ok(Part { number, etag, size: range.end - range.start, crc64: result.crc64 })
    }

    /// Makes the object from its parts, ascending by number.
    ///
    /// A failure after the request was sent is ambiguous, and a repetition then finds no upload any more: look at the key. The
    /// token has no stamp, because only [`Client::initiate`] knew it. A large object takes its time inside the answer.
    pub async fn complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[Part],
        at: &Attempt<'_>,
    ) -> Result<Token, Error> {
        let list = parts.iter().map(|p| CompletePart { number: p.number.into(), etag: format!("\"{}\"", p.etag) });
        let request = Request::object("POST", key.as_str()).param("uploadId", &upload.0);
        let body = xml::to_xml(&CompleteMultipartUpload { parts: list.collect() })
            .map_err(|e| self.refuse(&request, at, e.to_string()))?;
        let request = request.header("content-type", "application/xml").payload(Bytes::from(body).into());
        let answer = self.call(&request, at).await?;
        let (answer, result) = self.read_xml::<CompleteMultipartUploadResult>(answer, &request, at).await?;
        let etag = ETag::parse(&result.etag);
        if etag.0.is_empty() {
            return Err(answer.error(Kind::BadAnswer, "no ETag"));
        }
        let told = number(answer.headers(), CRC64);
        let summed = combined(parts);
        if let (Some(told), Some(summed)) = (told, summed)
            && told != summed
        {
            let cause = format!("checksum of the object is {told}, of its parts {summed}");
            return Err(answer.error(Kind::Corrupt, cause));
        }
        let version = text(answer.headers(), VERSION_ID).and_then(version_id);
        let modified_micros = self.moment_of(&answer, version.as_ref());
        let size = parts.iter().map(|p| p.size).sum();
        Ok(Token { version, etag, size, crc64: summed.or(told), modified_micros, stamp: None })
    }

    pub async fn abort(&self, key: &Key, upload: &UploadId, at: &Attempt<'_>) -> Result<(), Error> {
        self.call(&Request::object("DELETE", key.as_str()).param("uploadId", &upload.0), at).await.map(drop)
    }

    /// Unfinished uploads below `prefix`, at most 10000.
    pub async fn list_uploads(&self, prefix: &str, at: &Attempt<'_>) -> Result<Vec<(String, UploadId)>, Error> {
        let mut found = Vec::new();
        let mut markers: Option<(String, String)> = None;
        for _ in 0..UPLOAD_PAGES_MAX {
            let mut request = Request::bucket("GET")
                .param("uploads", "")
                .param("encoding-type", "url")
                .param("max-uploads", "1000")
                .param("prefix", prefix);
            if let Some((key, upload)) = &markers {
                request = request.param("key-marker", key).param("upload-id-marker", upload);
            }
            let answer = self.call(&request, at).await?;
            let (answer, page) = self.read_xml::<ListMultipartUploadsResult>(answer, &request, at).await?;
            let encoded = page.encoding_type.is_some();
            let decode = |text: &str| super::bucket::decoded(&answer, encoded, text);
            for upload in &page.uploads {
                found.push((decode(&upload.key)?, UploadId(upload.upload_id.clone())));
            }
            if !page.is_truncated {
                break;
            }
            let next = decode(&page.next_key_marker.unwrap_or_default())?;
            if next.is_empty() {
                return Err(answer.error(Kind::BadAnswer, "truncated list without a marker"));
            }
            markers = Some((next, page.next_upload_id_marker.unwrap_or_default()));
        }
        Ok(found)
    }
}

fn part_request(key: &Key, upload: &UploadId, number: u32) -> Request {
    Request::object("PUT", key.as_str()).param("partNumber", number.to_string()).param("uploadId", &upload.0)
}

/// Checksum of all parts in order; `None` if one is unknown.
fn combined(parts: &[Part]) -> Option<u64> {
    parts.iter().try_fold(0, |sum, part| Some(checksum::combine(sum, part.crc64?, part.size)))
}
