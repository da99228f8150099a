//! The client itself: one bucket, one method for each request on objects.
//!
//! Every call is one try (plus one more where only our clock was wrong): retries need to know about the other bucket and about
//! writes with unknown outcome, and that is the store's business. Every call ends: each of its waits has a deadline in [`Attempt`].
//!
//! Owns: sending through [`super::transport`], understanding answers, checksums on whole transfers, the redirect loop. The
//! requests on lists and configuration are in `bucket`, multipart uploads in `multipart`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Url;
use serde::de::DeserializeOwned;

use super::attempt::{Attempt, Deadlines, Sent};
use super::body::Body;
use super::clock::ClockOffset;
use super::credentials::CredentialSource;
use super::error::{Context, Error, Facts, Kind, Target, classify};
use super::payload::Payload;
use super::redirect::Redirect;
use super::request::{
    self, BucketAddress, CRC64, Request, VERSION_ID, number, object_headers, object_of, text, version_id,
};
use super::sign::url_encode_path;
use super::transport::{Answer, Transport};
use super::wire::Wire;
use super::xml::{self, CopyObjectResult, Document, ErrorBody, XmlError};
use crate::object::{ETag, Headers, Key, Object, Stamp, Token, VersionId};

/// Error bodies are a few hundred bytes; more than this is not one.
const ERROR_BODY_MAX: usize = 64 << 10;
/// 1000 keys of 850 bytes, each byte as three characters, with their other elements: below 4 MiB.
pub(super) const XML_BODY_MAX: usize = 8 << 20;

/// Client of one bucket; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    address: BucketAddress,
    transport: Arc<Transport>,
    credentials: Arc<dyn CredentialSource>,
    clock: Arc<ClockOffset>,
    /// Requests go to `tencentcos.cn`, and those that ask for the alternate domain to `myqcloud.com`.
    swapped: Arc<AtomicBool>,
}

/// What [`Client::get`] asks for.
#[derive(Clone, Debug, Default)]
pub struct Get {
    pub version: Option<VersionId>,
    pub if_match: Option<ETag>,
    /// Not empty. Reaching past the end is fine, beginning there is [`Kind::InvalidRange`].
    pub range: Option<Range<u64>>,
}

/// An object and the bytes asked for.
#[derive(Debug)]
pub struct GetAnswer {
    /// Describes the whole object, whatever the range.
    pub object: Object,
    pub body: Body,
    /// Offset of the body's first byte in the object.
    pub offset: u64,
}

/// What [`Client::delete`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deleted {
    /// The new delete marker, or the version that was removed.
    pub version: Option<VersionId>,
    pub marker: bool,
}

/// What to copy, in this bucket or another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopySource {
    pub host: String,
    pub key: Key,
    pub version: Option<VersionId>,
    /// The copy is refused if the source has another ETag.
    pub etag: Option<ETag>,
    /// Size of the object if known; saves [`Client::copy`] a HEAD, because the answer to a copy does not tell it.
    pub size: Option<u64>,
}

impl CopySource {
    pub fn sized(self, size: u64) -> CopySource {
        CopySource { size: Some(size), ..self }
    }

    pub fn matching(self, etag: ETag) -> CopySource {
        CopySource { etag: Some(etag), ..self }
    }

    /// The headers that name it.
    pub(super) fn on(&self, request: Request) -> Request {
        let request = request.header("x-cos-copy-source", self.header());
        match &self.etag {
            Some(etag) => request.header("x-cos-copy-source-If-Match", format!("\"{etag}\"")),
            None => request,
        }
    }

    pub(super) fn header(&self) -> String {
        let path = url_encode_path(self.key.as_str());
        match &self.version {
            Some(version) => format!("{}/{path}?versionId={}", self.host, super::sign::url_encode(&version.0)),
            None => format!("{}/{path}", self.host),
        }
    }
}

impl Client {
    /// Makes no connection yet.
    pub fn new(
        address: BucketAddress,
        credentials: Arc<dyn CredentialSource>,
        clock: Arc<ClockOffset>,
    ) -> Result<Client, Error> {
        let transport = Transport::new(&address).map_err(|e| {
            let context = Context { method: "-", host: address.host(false), key: String::new() };
            Error::transport(&Arc::new(context), Sent::No, &e)
        })?;
        Ok(Client::with(address, transport, credentials, clock))
    }

    /// The same over something else than a network.
    pub fn over(
        wire: Arc<dyn Wire>,
        address: BucketAddress,
        credentials: Arc<dyn CredentialSource>,
        clock: Arc<ClockOffset>,
    ) -> Client {
        Client::with(address, Transport::over(wire), credentials, clock)
    }

    fn with(
        address: BucketAddress,
        transport: Transport,
        credentials: Arc<dyn CredentialSource>,
        clock: Arc<ClockOffset>,
    ) -> Client {
        let transport = Arc::new(transport);
        let inner = Inner { address, transport, credentials, clock, swapped: Arc::default() };
        Client { inner: Arc::new(inner) }
    }

    /// Makes `tencentcos.cn` the domain of ordinary requests (or `myqcloud.com` again), for all clones.
    pub fn swap_domains(&self, swapped: bool) {
        self.inner.swapped.store(swapped, Ordering::Relaxed);
    }

    /// Where a request goes: to `tencentcos.cn`?
    pub fn is_alternate(&self, at_alternate: bool) -> bool {
        self.inner.swapped.load(Ordering::Relaxed) != at_alternate
    }

    pub fn address(&self) -> &BucketAddress {
        &self.inner.address
    }

    pub fn credentials(&self) -> &Arc<dyn CredentialSource> {
        &self.inner.credentials
    }

    pub fn clock(&self) -> &Arc<ClockOffset> {
        &self.inner.clock
    }

    /// Names an object of this bucket as the source of a copy.
    pub fn copy_source(&self, key: &Key, version: Option<&VersionId>) -> CopySource {
        CopySource {
            host: self.inner.address.host(false),
            key: key.clone(),
            version: version.cloned(),
            etag: None,
            size: None,
        }
    }

    pub async fn head(&self, key: &Key, version: Option<&VersionId>, at: &Attempt<'_>) -> Result<Object, Error> {
        let answer = self.call(&Request::object("HEAD", key.as_str()).version(version), at).await?;
        let object = number(answer.headers(), "content-length").and_then(|size| object_of(answer.headers(), size));
        let object = object.ok_or_else(|| answer.error(Kind::BadAnswer, "no ETag or no length"))?;
        same_version(&answer, version, &object)?;
        Ok(object)
    }

    pub async fn get(&self, key: &Key, want: &Get, at: &Attempt<'_>) -> Result<GetAnswer, Error> {
        let mut request = Request::object("GET", key.as_str()).version(want.version.as_ref());
        if let Some(etag) = &want.if_match {
            request = request.header("if-match", format!("\"{etag}\""));
        }
        if let Some(range) = &want.range {
            if range.is_empty() {
                return Err(self.refuse(&request, at, "empty range"));
            }
            request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        let answer = self.call(&request, at).await?;
        let headers = answer.headers();
        let length = number(headers, "content-length");
        let placed = match (answer.status(), &want.range) {
            (200, None) => length.map(|len| (0, len, len)),
            (206, Some(range)) => request::content_range(headers)
                .filter(|(start, end, total)| *start == range.start && *end == range.end.min(*total))
                .filter(|(start, end, _)| length.is_none_or(|len| len == end - start)),
            _ => None,
        };
        let Some((start, end, total)) = placed else {
            return Err(
                answer.error(Kind::BadAnswer, "the answer does not hold the bytes asked for, or hides its length")
            );
        };
        let object = object_of(headers, total).ok_or_else(|| answer.error(Kind::BadAnswer, "no ETag"))?;
        same_version(&answer, want.version.as_ref(), &object)?;
        if want.if_match.as_ref().is_some_and(|e| *e != object.token.etag) {
            return Err(answer.error(Kind::BadAnswer, "another ETag than the one asked for"));
        }
        let whole = object.token.crc64.filter(|_| end - start == total);
        let body = Body::new(answer, end - start, whole, at.deadlines.progress)?;
        Ok(GetAnswer { object, body, offset: start })
    }

    /// Stores an object and compares checksums. After [`Kind::Corrupt`] the damaged object is in the bucket.
    pub async fn put(
        &self,
        key: &Key,
        body: Payload,
        headers: &Headers,
        stamp: Option<Stamp>,
        at: &Attempt<'_>,
    ) -> Result<Token, Error> {
        let request = self.storing(Request::object("PUT", key.as_str()), headers, stamp).payload(body);
        let answer = self.call(&request, at).await?;
        let crc64 = uploaded_crc(&answer)?;
        let etag = need_etag(&answer)?;
        let version = text(answer.headers(), VERSION_ID).and_then(version_id);
        let modified_micros = self.moment_of(&answer, version.as_ref());
        Ok(Token { version, etag, size: request.payload.len(), crc64: Some(crc64), modified_micros, stamp })
    }

    /// Without `version`: hides the key behind a delete marker (versioned bucket) or removes it.
    pub async fn delete(&self, key: &Key, version: Option<&VersionId>, at: &Attempt<'_>) -> Result<Deleted, Error> {
        let answer = self.call(&Request::object("DELETE", key.as_str()).version(version), at).await?;
        let marker = text(answer.headers(), "x-cos-delete-marker").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        Ok(Deleted { version: text(answer.headers(), VERSION_ID).and_then(version_id), marker })
    }

    /// Copies inside the service. `replace` gives the target other headers; without it, it keeps the source's, its stamp included.
    ///
    /// A large copy takes its time before and inside the answer: give `first_byte` and `progress` that much.
    pub async fn copy(
        &self,
        from: &CopySource,
        to: &Key,
        replace: Option<(&Headers, Option<Stamp>)>,
        at: &Attempt<'_>,
    ) -> Result<Token, Error> {
        let directive = if replace.is_some() { "Replaced" } else { "Copy" };
        let mut request = from.on(Request::object("PUT", to.as_str())).header("x-cos-metadata-directive", directive);
        if let Some((headers, stamp)) = replace {
            request = self.storing(request, headers, stamp);
        }
        let answer = self.call(&request, at).await?;
        let (answer, result) = self.read_xml::<CopyObjectResult>(answer, &request, at).await?;
        let etag = ETag::parse(&result.etag);
        if etag.0.is_empty() {
            return Err(answer.error(Kind::BadAnswer, "no ETag"));
        }
        let named = result.version_id.as_deref().or_else(|| text(answer.headers(), VERSION_ID));
        let version = named.and_then(version_id);
        let Some(size) = from.size else {
            let object = self.head(to, version.as_ref(), at).await.map_err(|mut e| {
                // The copy is made; only its size is not known.
                e.sent = Sent::Fully;
                e
            })?;
            return Ok(object.token);
        };
        let modified_micros =
            xml::parse_time(&result.last_modified).unwrap_or_else(|| self.moment_of(&answer, version.as_ref()));
        let stamp = replace.and_then(|(_, stamp)| stamp);
        Ok(Token { version, etag, size, crc64: result.crc64, modified_micros, stamp })
    }

    /// Adds the headers of an object to a request that stores one.
    pub(super) fn storing(&self, mut request: Request, headers: &Headers, stamp: Option<Stamp>) -> Request {
        let (stored, left_out) = object_headers(headers, stamp);
        if !left_out.is_empty() {
            log::warn!("{}: stored without {}, which COS would refuse", request.key, left_out.join(", "));
        }
        request.headers.extend(stored);
        request
    }

    /// When a write happened, by the best account the answer gives.
    pub(super) fn moment_of(&self, answer: &Answer, version: Option<&VersionId>) -> u64 {
        let date = || request::date(answer.headers(), "date").unwrap_or_else(|| self.inner.clock.now());
        version.and_then(VersionId::commit_micros).unwrap_or_else(|| request::micros(date()))
    }

    fn context(&self, request: &Request, at: &Attempt<'_>) -> Arc<Context> {
        let host = self.inner.address.host(self.is_alternate(at.alternate_domain));
        Arc::new(Context { method: request.method, host, key: request.key.clone() })
    }

    /// An error of the caller, found before anything was sent.
    pub(super) fn refuse(&self, request: &Request, at: &Attempt<'_>, cause: impl Into<String>) -> Error {
        Error::new(&self.context(request, at), Kind::Rejected, Sent::No, cause)
    }

    /// Sends; returns only answers of COS that announce success.
    pub(super) async fn call(&self, request: &Request, at: &Attempt<'_>) -> Result<Answer, Error> {
        let (mut signed_again, mut renewed) = (false, false);
        loop {
            let (used, offset) = (self.inner.credentials.current(), self.inner.clock.milliseconds());
            let answer = self.send(request, at).await?;
            if answer.request_id.is_some() && answer.response.status().is_success() {
                return Ok(answer);
            }
            let (error, clock_corrected) = self.understand(answer, request, at, offset).await;
            if clock_corrected && !signed_again {
                log::warn!("{error}; clock offset is now {} ms, signing again", self.inner.clock.milliseconds());
                signed_again = true;
                continue;
            }
            if error.kind == Kind::Auth && !renewed && used.is_ok_and(|used| self.inner.credentials.renewed(&used)) {
                log::info!("{error}; there are newer credentials, signing again");
                renewed = true;
                continue;
            }
            return Err(error);
        }
    }

    /// Signs and sends, whatever the answer.
    async fn send(&self, request: &Request, at: &Attempt<'_>) -> Result<Answer, Error> {
        let Inner { address, transport, credentials, clock, .. } = &*self.inner;
        let context = self.context(request, at);
        let path = request.wire_path().ok_or_else(|| self.refuse(request, at, "no URL can name this key"))?;
        let query = request.wire_query();
        let mark = if query.is_empty() { "" } else { "?" };
        let url = Url::parse(&format!("{}://{}{path}{mark}{query}", address.scheme(), context.host))
            .map_err(|e| self.refuse(request, at, format!("address makes no URL: {e}")))?;
        if url.path() != path || url.query().unwrap_or_default() != query {
            return Err(self.refuse(request, at, "the key would change on its way into a URL"));
        }
        let credentials =
            credentials.current().map_err(|e| Error::new(&context, Kind::Auth, Sent::No, e.to_string()))?;
        let headers = request.signed_headers(&context.host, &credentials, clock);
        transport.exchange(&context, url, &headers, &request.payload, at).await
    }

    /// Turns an answer that is no success into an error. True if the clock was off when it was signed, with `offset`, and is corrected now.
    async fn understand(&self, answer: Answer, request: &Request, at: &Attempt<'_>, offset: i64) -> (Error, bool) {
        if let Some(redirect) = redirected(&answer, request) {
            let cause = format!("not in the bucket, which redirects to {}", redirect.location);
            return (answer.error(Kind::Redirected, cause).towards(redirect), false);
        }
        let headers_only = request.method == "HEAD";
        let facts = (answer.status(), answer.request_id.clone(), request::retry_after(answer.headers()));
        let (status, request_id, retry_after) = facts;
        let named = text(answer.headers(), "x-cos-error-code").map(String::from);
        let date = request::date(answer.headers(), "date");
        let (sent, context) = (answer.sent, answer.context.clone());
        let body = match answer.read(ERROR_BODY_MAX, at.deadlines.progress, true).await {
            Ok((_, body)) => xml::from_xml::<ErrorBody>(&body).unwrap_or_default(),
            Err(_) => ErrorBody::default(),
        };
        let code = Some(body.code).filter(|c| !c.is_empty()).or(named);
        let mut kind = classify(&Facts {
            status,
            by_cos: request_id.is_some(),
            code: code.as_deref(),
            message: Some(&body.message),
            retry_after,
            target: request.target,
            headers_only,
        });
        // A refused HEAD has no code. If the clocks disagree, that is the likelier reason, and trying again settles it.
        let suspect = kind == Kind::ClockSkew || (kind == Kind::Auth && headers_only && code.is_none());
        let corrected = suspect && date.is_some_and(|date| self.inner.clock.correct(date, offset));
        if corrected {
            kind = Kind::ClockSkew;
        }
        let cause = match body.message.is_empty() {
            false => body.message,
            true if request_id.is_none() => "the answer does not come from COS".into(),
            true => "refused".into(),
        };
        let mut error = Error::new(&context, kind, sent, cause);
        (error.status, error.code, error.request_id) = (Some(status), code, request_id);
        (error, corrected)
    }

    /// Reads the body of a successful answer; an error inside it is an error.
    pub(super) async fn read_xml<T: Document + DeserializeOwned>(
        &self,
        answer: Answer,
        request: &Request,
        at: &Attempt<'_>,
    ) -> Result<(Answer, T), Error> {
        let patience: Duration = at.deadlines.progress.max(at.deadlines.first_byte);
        // What needs no work of the bucket comes at once, or is broken; else it may keep us waiting between two bytes.
        let steady = request.method == "GET" || at.deadlines.progress <= Deadlines::default().progress;
        let (answer, body) = answer.read(XML_BODY_MAX, patience, steady).await?;
        match xml::from_xml::<T>(&body) {
            Ok(result) => Ok((answer, result)),
            Err(e) => Err(misread(&answer, request, e)),
        }
    }
}

/// What the body of a successful answer says when it is not the expected document: an error of COS, or nothing that can be used.
pub(super) fn misread(answer: &Answer, request: &Request, why: XmlError) -> Error {
    let XmlError::Service(inside) = why else { return answer.error(Kind::BadAnswer, why.to_string()) };
    let kind = classify(&Facts {
        status: answer.status(),
        by_cos: true,
        code: Some(&inside.code),
        message: Some(&inside.message),
        retry_after: request::retry_after(answer.headers()),
        target: request.target,
        headers_only: false,
    });
    let mut error = answer.error(kind, format!("error inside a successful answer: {}", inside.message));
    error.code = Some(inside.code);
    error
}

/// An origin-pull rule answers the GET of an object that the bucket does not hold with a redirect. Any other redirect is no answer of COS.
fn redirected(answer: &Answer, request: &Request) -> Option<Redirect> {
    let about_object = request.method == "GET" && request.target != Target::Bucket;
    let by_rule = about_object && answer.request_id.is_some() && matches!(answer.status(), 301 | 302 | 307);
    let location = text(answer.headers(), "location").filter(|_| by_rule)?.to_string();
    Some(Redirect { from: answer.response.url().clone(), location })
}

/// The checksum of what was sent, compared with the one in the answer.
pub(super) fn uploaded_crc(answer: &Answer) -> Result<u64, Error> {
    let Some(sent) = *answer.trace.crc64.lock() else {
        return Err(answer.error(Kind::BadAnswer, "success before everything was sent"));
    };
    match number(answer.headers(), CRC64) {
        Some(stored) if stored != sent => {
            Err(answer
                .error(Kind::Corrupt, format!("checksum of the stored data is {stored}, of the sent data {sent}")))
        }
        _ => Ok(sent),
    }
}

pub(super) fn need_etag(answer: &Answer) -> Result<ETag, Error> {
    let etag = text(answer.headers(), "etag").map(ETag::parse).filter(|e| !e.0.is_empty());
    etag.ok_or_else(|| answer.error(Kind::BadAnswer, "no ETag"))
}

fn same_version(answer: &Answer, asked: Option<&VersionId>, object: &Object) -> Result<(), Error> {
    match (asked, &object.token.version) {
        (Some(asked), Some(got)) if asked != got => {
            Err(answer.error(Kind::BadAnswer, format!("version {got} in place of {asked}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
