//! Every way in which a request can fail, decided once.
//!
//! Status codes alone mislead: a 404 from a captive portal is not an absent file, a 503 that asks us to slow down is not a
//! sick region, a 200 can carry an error. So one table looks at the status, at the code in the body, and first of all at
//! `x-cos-request-id`: an answer without it was not given by COS, whatever it says.
//!
//! Owns: [`Kind`] and the table. Owns not: what follows from a kind (`linkage/outcome`, `store`). Promise: "no such key" is only
//! ever said by COS itself. Checked by the table tests below.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::Sent;
use super::redirect::Redirect;

/// What an outcome means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No connection, or it broke: refused, reset, closed, TLS or name resolution failed, connect deadline.
    Unreachable,
    /// The request was sent; no answer began within the deadline.
    FirstByteTimeout,
    /// A body stopped moving.
    Stalled,
    /// COS says it failed (5xx, 424).
    Server,
    /// Somebody else answered: no `x-cos-request-id`.
    Middlebox,
    /// COS asks for fewer requests.
    Throttled {
        retry_after: Option<Duration>,
    },
    /// Our clock is wrong, and signing again with the corrected time did not help.
    ClockSkew,
    /// The identity or its rights are wrong.
    Auth,
    /// The account or bucket is locked: unpaid, frozen by law.
    Admin,
    NoSuchKey,
    NoSuchVersion,
    NoSuchUpload,
    NoSuchBucket,
    /// 409.
    Conflict,
    PreconditionFailed,
    InvalidRange,
    /// Checksum or length of a transfer do not fit.
    Corrupt,
    /// This host's fault: no descriptors, no memory, no network interface, unreadable file.
    Local,
    /// The request itself is wrong, or not allowed by our own rules; repeating it is useless.
    Rejected,
    /// The bucket does not hold what was asked for and names another place ([`Error::redirect`]): an origin-pull rule.
    Redirected,
    /// COS answered something that cannot be understood.
    BadAnswer,
}

/// A failed request.
#[derive(Clone, Debug)]
pub struct Error {
    pub kind: Kind,
    /// How much was sent when it failed.
    pub sent: Sent,
    pub status: Option<u16>,
    pub code: Option<String>,
    pub request_id: Option<String>,
    detail: Box<Detail>,
}

#[derive(Clone, Debug)]
struct Detail {
    context: Arc<Context>,
    cause: String,
    redirect: Option<Redirect>,
}

/// Which request an error belongs to.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Context {
    pub method: &'static str,
    pub host: String,
    pub key: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { context, cause, .. } = &*self.detail;
        write!(f, "{} {}/{}: {cause}", context.method, context.host, context.key)?;
        if let Some(status) = self.status {
            write!(f, " (status {status}")?;
            if let Some(code) = &self.code {
                write!(f, ", {code}")?;
            }
            if let Some(id) = &self.request_id {
                write!(f, ", request {id}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn new(context: &Arc<Context>, kind: Kind, sent: Sent, cause: impl Into<String>) -> Error {
        let detail = Box::new(Detail { context: context.clone(), cause: cause.into(), redirect: None });
        Error { kind, sent, status: None, code: None, request_id: None, detail }
    }

    /// An error that no request caused, for tests of other layers.
    pub fn made(kind: Kind, sent: Sent, cause: impl Into<String>) -> Error {
        let context = Context { method: "-", host: String::new(), key: String::new() };
        Error::new(&Arc::new(context), kind, sent, cause)
    }

    /// What happened, without the request.
    pub fn cause(&self) -> &str {
        &self.detail.cause
    }

    /// Where the bucket sends us instead; with [`Kind::Redirected`]. Nothing of the request may go there but the range.
    pub fn redirect(&self) -> Option<&Redirect> {
        self.detail.redirect.as_ref()
    }

    pub(super) fn towards(mut self, redirect: Redirect) -> Error {
        self.detail.redirect = Some(redirect);
        self
    }

    /// From a failure below HTTP.
    pub(super) fn transport(context: &Arc<Context>, sent: Sent, error: &(dyn std::error::Error + 'static)) -> Error {
        Error::new(context, transport_kind(error), sent, chain(error))
    }
}

/// What the classification looks at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub status: u16,
    /// Does the answer carry `x-cos-request-id`?
    pub by_cos: bool,
    pub code: Option<&'a str>,
    pub message: Option<&'a str>,
    pub retry_after: Option<Duration>,
    pub target: Target,
    /// HEAD answers have no body, so the code is unknown.
    pub headers_only: bool,
}

/// What the request was about; decides what a 404 without a code means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Bucket,
    Object,
    Version,
}

/// The table. For every answer that is not the expected success, including an error body inside an answer 200.
pub fn classify(facts: &Facts<'_>) -> Kind {
    if !facts.by_cos {
        return Kind::Middlebox;
    }
    if let Some(kind) = facts.code.and_then(|code| by_code(code, facts)) {
        return kind;
    }
    match facts.status {
        429 => Kind::Throttled { retry_after: facts.retry_after },
        // The answer to a HEAD cannot name its code. Of the two that 503 has, asking to slow down is the one that must not move anybody;
        // where the service is unavailable the other methods say so.
        503 if facts.retry_after.is_some() || facts.headers_only => Kind::Throttled { retry_after: facts.retry_after },
        424 | 500 | 502..=599 => Kind::Server,
        401 | 403 => Kind::Auth,
        402 | 451 => Kind::Admin,
        // A body that should name the code and does not is no proof of absence.
        404 if !facts.headers_only => Kind::BadAnswer,
        404 => match facts.target {
            Target::Bucket => Kind::NoSuchBucket,
            Target::Object => Kind::NoSuchKey,
            Target::Version => Kind::NoSuchVersion,
        },
        409 => Kind::Conflict,
        412 => Kind::PreconditionFailed,
        416 => Kind::InvalidRange,
        408 => Kind::Stalled,
        400..=499 | 501 => Kind::Rejected,
        _ => Kind::BadAnswer,
    }
}

fn by_code(code: &str, facts: &Facts<'_>) -> Option<Kind> {
    Some(match code {
        "SlowDown" | "KmsFreqControl" | "RequestLimitExceeded" | "TooManyRequests" => {
            Kind::Throttled { retry_after: facts.retry_after }
        }
        "RequestTimeTooSkewed" => Kind::ClockSkew,
        "AccessDenied" if facts.message.is_some_and(|m| m.to_ascii_lowercase().contains("request has expired")) => {
            Kind::ClockSkew
        }
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AccessForbidden"
        | "ExpiredToken"
        | "InvalidToken" => Kind::Auth,
        "PaymentRequired" | "UnavailableForLegalReasons" => Kind::Admin,
        "NoSuchKey" => Kind::NoSuchKey,
        "NoSuchVersion" => Kind::NoSuchVersion,
        "NoSuchUpload" => Kind::NoSuchUpload,
        "NoSuchBucket" => Kind::NoSuchBucket,
        "NoSuchCopySource" => Kind::NoSuchKey,
        "PreconditionFailed" => Kind::PreconditionFailed,
        "InvalidRange" => Kind::InvalidRange,
        "BadDigest" | "InvalidDigest" | "IncompleteBody" | "EntitySizeNotMatch" => Kind::Corrupt,
        "RequestTimeout" | "UserNetworkTooSlow" => Kind::Stalled,
        "InternalError" | "ServiceUnavailable" | "KmsInternalException" => Kind::Server,
        // Archived: the object is there, but not readable without a restore.
        "InvalidObjectState" => Kind::Rejected,
        // A configuration that is not there; only configuration requests meet it.
        code if facts.status == 404 && (code.ends_with("NotFoundError") || code == "NoSuchLifecycleConfiguration") => {
            Kind::NoSuchKey
        }
        // Any other code in a 404 says that something is absent, but not that the key is.
        _ if facts.status == 404 => Kind::Rejected,
        _ => return None,
    })
}

/// The kind of a failure below HTTP, from the causes it wraps.
pub fn transport_kind(error: &(dyn std::error::Error + 'static)) -> Kind {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(kind) = local_fault(io)
        {
            return kind;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>()
            && hyper.is_parse()
        {
            return Kind::Middlebox;
        }
        next = error.source();
    }
    Kind::Unreachable
}

/// Errors of this host, which say nothing about the other end.
fn local_fault(error: &io::Error) -> Option<Kind> {
    const LOCAL: [i32; 8] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::EADDRNOTAVAIL,
        libc::EAFNOSUPPORT,
    ];
    error.raw_os_error().is_some_and(|code| LOCAL.contains(&code)).then_some(Kind::Local)
}

/// An error with its causes on one line. URLs are left out by the caller (`without_url`): they are no secret here, but long.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = error.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: u16, code: &'static str) -> Facts<'static> {
        Facts {
            status,
            by_cos: true,
            code: (!code.is_empty()).then_some(code),
            message: None,
            retry_after: None,
            target: Target::Object,
            headers_only: code.is_empty(),
        }
    }

    #[test]
    fn the_table() {
        let throttled = Kind::Throttled { retry_after: None };
        for (status, code, kind) in [
            (200, "InternalError", Kind::Server),
            (200, "SlowDown", throttled),
            (400, "BadDigest", Kind::Corrupt),
            (400, "IncompleteBody", Kind::Corrupt),
            (400, "RequestTimeout", Kind::Stalled),
            (400, "ExpiredToken", Kind::Auth),
            (400, "InvalidArgument", Kind::Rejected),
            (400, "KeyTooLong", Kind::Rejected),
            (400, "", Kind::Rejected),
            (402, "PaymentRequired", Kind::Admin),
            (403, "", Kind::Auth),
            (403, "AccessDenied", Kind::Auth),
            (403, "SignatureDoesNotMatch", Kind::Auth),
            (403, "InvalidAccessKeyId", Kind::Auth),
            (403, "RequestTimeTooSkewed", Kind::ClockSkew),
            (403, "InvalidObjectState", Kind::Rejected),
            (404, "NoSuchKey", Kind::NoSuchKey),
            (404, "NoSuchVersion", Kind::NoSuchVersion),
            (404, "NoSuchUpload", Kind::NoSuchUpload),
            (404, "NoSuchBucket", Kind::NoSuchBucket),
            (404, "NoSuchWebsiteConfiguration", Kind::Rejected),
            (404, "", Kind::NoSuchKey),
            (405, "MethodNotAllowed", Kind::Rejected),
            (409, "PathConflict", Kind::Conflict),
            (409, "", Kind::Conflict),
            (412, "", Kind::PreconditionFailed),
            (412, "PreconditionFailed", Kind::PreconditionFailed),
            (416, "InvalidRange", Kind::InvalidRange),
            (424, "", Kind::Server),
            (429, "", throttled),
            (451, "UnavailableForLegalReasons", Kind::Admin),
            (500, "InternalError", Kind::Server),
            (500, "", Kind::Server),
            (501, "NotImplemented", Kind::Rejected),
            (503, "ServiceUnavailable", Kind::Server),
            (503, "", throttled),
            (503, "SlowDown", throttled),
            (520, "", Kind::Server),
            (304, "", Kind::BadAnswer),
        ] {
            assert_eq!(classify(&facts(status, code)), kind, "{status} {code}");
            let foreign = Facts { by_cos: false, ..facts(status, code) };
            assert_eq!(classify(&foreign), Kind::Middlebox, "{status} {code} without request id");
        }
    }

    #[test]
    fn absence_depends_on_what_was_asked_and_needs_its_code() {
        for (target, kind) in [
            (Target::Bucket, Kind::NoSuchBucket),
            (Target::Object, Kind::NoSuchKey),
            (Target::Version, Kind::NoSuchVersion),
        ] {
            assert_eq!(classify(&Facts { target, ..facts(404, "") }), kind);
        }
        let no_code = Facts { headers_only: false, ..facts(404, "") };
        assert_eq!(classify(&no_code), Kind::BadAnswer, "a body without a code proves nothing");
    }

    #[test]
    fn details_that_change_the_kind() {
        let with_body = Facts { headers_only: false, ..facts(503, "") };
        assert_eq!(classify(&with_body), Kind::Server, "only a HEAD cannot say which 503 it is");
        let expired = Facts { message: Some("Request has expired"), ..facts(403, "AccessDenied") };
        assert_eq!(classify(&expired), Kind::ClockSkew);
        let retry_after = Some(Duration::from_secs(3));
        for (status, code) in [(503, "SlowDown"), (503, ""), (429, "")] {
            let slow = Facts { retry_after, ..facts(status, code) };
            assert_eq!(classify(&slow), Kind::Throttled { retry_after });
        }
        let busy = Facts { retry_after, ..facts(503, "ServiceUnavailable") };
        assert_eq!(classify(&busy), Kind::Server);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn faults_of_this_host_are_told_from_those_of_the_network() {
        for (code, kind) in [
            (libc::EMFILE, Kind::Local),
            (libc::ENETUNREACH, Kind::Local),
            (libc::ENETDOWN, Kind::Local),
            (libc::ECONNREFUSED, Kind::Unreachable),
            (libc::ECONNRESET, Kind::Unreachable),
            (libc::EHOSTUNREACH, Kind::Unreachable),
            (libc::ETIMEDOUT, Kind::Unreachable),
        ] {
            assert_eq!(transport_kind(&Wrapped(io::Error::from_raw_os_error(code))), kind, "{code}");
        }
    }

    #[test]
    fn an_error_is_small_and_says_what_matters() {
        assert!(std::mem::size_of::<Error>() <= 104, "{}", std::mem::size_of::<Error>());
        let context = Context { method: "GET", host: "b.cos.r.myqcloud.com".into(), key: "dir/k".into() };
        let mut error = Error::new(&Arc::new(context), Kind::Server, Sent::Fully, "internal error");
        error.status = Some(500);
        error.code = Some("InternalError".into());
        error.request_id = Some("NWU5".into());
        let text = "GET b.cos.r.myqcloud.com/dir/k: internal error (status 500, InternalError, request NWU5)";
        assert_eq!(error.to_string(), text);
    }
}
