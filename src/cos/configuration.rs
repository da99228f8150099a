//! The configurations of a bucket, read and written whole.
//!
//! One method reads and one writes, for every kind: COS treats them alike (a sub-resource, an XML body, `Content-MD5`, a code of its own for
//! "there is none"). They carry trees ([`Element`]), so that what somebody else configured goes back unharmed.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::{Digest, Md5};

use super::attempt::Attempt;
use super::client::{Client, XML_BODY_MAX, misread};
use super::error::Error;
use super::request::{self, Request};
use super::xml::tree::Element;

/// A configuration that a bucket can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    Versioning,
    Replication,
    Lifecycle,
    Origin,
    Accelerate,
    Encryption,
    /// Read only here: names the owner of the bucket.
    Acl,
}

impl Resource {
    /// Name of the sub-resource.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Versioning => "versioning",
            Resource::Replication => "replication",
            Resource::Lifecycle => "lifecycle",
            Resource::Origin => "origin",
            Resource::Accelerate => "accelerate",
            Resource::Encryption => "encryption",
            Resource::Acl => "acl",
        }
    }

    /// Root element of the document.
    pub fn root(self) -> &'static str {
        match self {
            Resource::Versioning => "VersioningConfiguration",
            Resource::Replication => "ReplicationConfiguration",
            Resource::Lifecycle => "LifecycleConfiguration",
            Resource::Origin => "OriginConfiguration",
            Resource::Accelerate => "AccelerateConfiguration",
            Resource::Encryption => "ServerSideEncryptionConfiguration",
            Resource::Acl => "AccessControlPolicy",
        }
    }

    /// The codes with which COS says that the bucket has none.
    fn none(self, code: &str) -> bool {
        match self {
            Resource::Replication => code == "ReplicationConfigurationNotFoundError",
            Resource::Lifecycle => code == "NoSuchLifecycleConfiguration",
            Resource::Origin => code == "OriginConfigurationNotFoundError",
            // Documented under both names.
            Resource::Encryption => {
                matches!(code, "NoSuchEncryptionConfiguration" | "ServerSideEncryptionConfigurationNotFoundError")
            }
            Resource::Versioning | Resource::Accelerate | Resource::Acl => false,
        }
    }
}

impl Client {
    /// `None`: the bucket has no such configuration.
    pub async fn configuration(&self, what: Resource, at: &Attempt<'_>) -> Result<Option<Element>, Error> {
        let request = Request::bucket("GET").param(what.name(), "");
        let answer = match self.call(&request, at).await {
            Err(e) if e.code.as_deref().is_some_and(|code| what.none(code)) => return Ok(None),
            answer => answer?,
        };
        let patience = at.deadlines.progress.max(at.deadlines.first_byte);
        let (answer, body) = answer.read(XML_BODY_MAX, patience, true).await?;
        match Element::parse(&body, what.root()) {
            // A bucket that never had it answers an empty document.
            Ok(tree) if tree.children.is_empty() => Ok(None),
            Ok(tree) => Ok(Some(tree)),
            Err(e) => Err(misread(&answer, &request, e)),
        }
    }

    /// Replaces the whole configuration.
    pub async fn set_configuration(&self, what: Resource, to: &Element, at: &Attempt<'_>) -> Result<(), Error> {
        let body = to.document();
        let md5 = BASE64.encode(Md5::digest(body.as_bytes()));
        let request = Request::bucket("PUT")
            .param(what.name(), "")
            .header("content-type", "application/xml")
            .header("content-md5", md5)
            .payload(Bytes::from(body).into());
        self.call(&request, at).await.map(drop)
    }

    pub async fn remove_configuration(&self, what: Resource, at: &Attempt<'_>) -> Result<(), Error> {
        self.call(&Request::bucket("DELETE").param(what.name(), ""), at).await.map(drop)
    }

    /// The service's clock, from the answer to HEAD Bucket; `None` if it does not tell.
    pub async fn service_time(&self, at: &Attempt<'_>) -> Result<Option<SystemTime>, Error> {
        let answer = self.call(&Request::bucket("HEAD"), at).await?;
        Ok(request::date(answer.headers(), "date"))
    }
}
