//! The client for one COS bucket: sign, send, understand.
//!
//! COS speaks HTTP/1.1 with XML bodies and its own signature. What makes a client for a file system different from an SDK is
//! what it does when things go wrong: every wait has a deadline ([`attempt`]), every outcome is classified once ([`error`]),
//! nothing is retried behind the caller's back, and an answer that COS did not give is never believed.
//!
//! Owns: requests, answers, checksums, credentials. Owns not: retries, the choice of a bucket, freshness (`store`), the
//! judgement whether a bucket is alive (`failover`).

pub mod attempt;
pub mod body;
pub mod bucket;
pub mod checksum;
pub mod client;
pub mod clock;
pub mod configuration;
pub mod credentials;
pub mod error;
pub mod multipart;
pub mod payload;
pub mod redirect;
pub mod request;
pub mod sign;
mod transport;
pub mod url_auth;
pub mod wire;
pub mod xml;

pub use attempt::{Attempt, Deadlines, Progress, Sent};
pub use body::Body;
pub use bucket::{List, ListPage, ListVersions, Listed, VersionEntry, VersionsPage, current};
pub use client::{Client, CopySource, Deleted, Get, GetAnswer};
pub use clock::ClockOffset;
pub use configuration::Resource;
pub use credentials::{CredentialSource, Credentials};
pub use error::{Error, Kind};
pub use multipart::{Part, UploadId};
pub use payload::Payload;
pub use request::BucketAddress;
pub use wire::Wire;
pub use xml::ReplicationConfiguration;
pub use xml::tree::Element;
