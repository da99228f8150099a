//! What a refused request is answered with: status, code, message, as in the error table of COS.

use std::borrow::Cow;

/// An answer with an error body (`<Error>`), see docs/cos-protocol.md, "Error model".
#[derive(Clone, Debug, thiserror::Error)]
#[error("{status} {code}: {message}")]
pub struct Failure {
    pub status: u16,
    pub code: &'static str,
    pub message: Cow<'static, str>,
    /// Further headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

impl Failure {
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Failure {
        Failure { status, code, message: message.into(), headers: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Failure {
        self.headers.push((name, value.into()));
        self
    }

    pub fn no_such_key() -> Failure {
        Failure::new(404, "NoSuchKey", "The specified key does not exist.")
    }

    pub fn no_such_version() -> Failure {
        Failure::new(404, "NoSuchVersion", "The specified version does not exist.")
    }

    pub fn no_such_bucket() -> Failure {
        Failure::new(404, "NoSuchBucket", "The specified bucket does not exist.")
    }

    pub fn no_such_upload() -> Failure {
        Failure::new(404, "NoSuchUpload", "The specified multipart upload does not exist.")
    }

    pub fn argument(message: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(400, "InvalidArgument", message)
    }

    pub fn precondition() -> Failure {
        Failure::new(412, "PreconditionFailed", "Precondition not match.")
    }

    pub fn internal(message: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(500, "InternalError", message)
    }
}
