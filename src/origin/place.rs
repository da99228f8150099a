//! The kinds of origin: a plain web server through our own client (which streams, and keeps keys as they are), everything else through
//! `object_store`, whose own repetitions are switched off.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};

use super::{Error, Pieces};
use crate::config;
use crate::cos::sign::url_encode_path;
use crate::object::Key;
use crate::web;

const CONNECT: Duration = Duration::from_secs(2);
/// An answer to a request without a body, or after all of the body.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const PROGRESS: Duration = Duration::from_secs(5);
/// Larger contents go to a cloud in parts of this size. S3 takes no smaller ones than 5 MiB.
const PART: usize = 8 << 20;
/// One request to a cloud, a part included.
const CLOUD: Duration = Duration::from_secs(60);

/// Bytes and what the origin says about them.
pub struct Found {
    pub etag: Option<String>,
    pub total: u64,
    pub bytes: Bytes,
}

/// What a web server answered to a GET.
pub enum Answered {
    Found(Found),
    /// The `Location` of a redirect.
    Elsewhere(String),
}

#[derive(Debug)]
pub enum Place {
    Http { client: reqwest::Client, base: String },
    Cloud { store: Arc<dyn ObjectStore>, folder: String },
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}

fn cloud_error(error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::Missing,
        other => failed(other),
    }
}

async fn within<T, E>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
    map: impl FnOnce(E) -> Error,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(map),
        Err(_) => Err(Error::Failed(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn http_error(error: reqwest::Error) -> Error {
    use std::error::Error as _;
    let error = error.without_url();
    match error.source() {
        Some(cause) => Error::Failed(format!("{error}: {cause}")),
        None => failed(error),
    }
}

impl Place {
    pub fn new(url: &str, config: &config::Origin) -> Result<Place, String> {
        let (scheme, rest) = url.split_once("://").ok_or("url has no scheme")?;
        if matches!(scheme, "http" | "https") {
            return Place::http(url);
        }
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let folder = folder.trim_matches('/').to_string();
        let wrong = |error: object_store::Error| error.to_string();
        let retry = RetryConfig { max_retries: 0, retry_timeout: CLOUD, ..RetryConfig::default() };
        let plain = config.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(CLOUD).with_allow_http(plain);
        let keys = config.access_key.as_ref().zip(config.secret_key.as_ref());
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" => {
                let mut builder = object_store::aws::AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry)
                    .with_client_options(client);
                if let Some(region) = &config.region {
                    builder = builder.with_region(region);
                }
                if let Some(endpoint) = &config.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some((id, key)) = keys {
                    builder = builder.with_access_key_id(&id.0).with_secret_access_key(&key.0);
                }
                Arc::new(builder.build().map_err(wrong)?)
            }
            "gs" => {
                let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                Arc::new(builder.with_retry(retry).with_client_options(client).build().map_err(wrong)?)
            }
            "az" => {
                let mut builder = object_store::azure::MicrosoftAzureBuilder::from_env()
                    .with_container_name(bucket)
                    .with_retry(retry)
                    .with_client_options(client);
                if let Some(endpoint) = &config.endpoint {
                    builder = builder.with_endpoint(endpoint.clone());
                }
                if let Some((account, key)) = keys {
                    builder = builder.with_account(&account.0).with_access_key(&key.0);
                }
                Arc::new(builder.build().map_err(wrong)?)
            }
            "file" => {
                std::fs::create_dir_all(rest).map_err(|error| format!("{rest}: {error}"))?;
                let store = object_store::local::LocalFileSystem::new_with_prefix(rest).map_err(wrong)?;
                return Ok(Place::Cloud { store: Arc::new(store), folder: String::new() });
            }
            other => return Err(format!("there is no origin of kind {other}")),
        };
        Ok(Place::Cloud { store, folder })
    }

    fn http(url: &str) -> Result<Place, String> {
        let parsed: reqwest::Url = url.parse().map_err(|error| format!("url: {error}"))?;
        let base = format!("{}/", parsed.as_str().trim_end_matches('/'));
        Ok(Place::Http { client: http_client(parsed.scheme())?, base })
    }

    /// Stores a content and returns its ETag, if the origin tells one.
    pub async fn put(
        &self,
        key: &Key,
        size: u64,
        content_type: Option<&str>,
        mut pieces: Pieces,
    ) -> Result<Option<String>, Error> {
        match self {
            Place::Http { client, base } => {
                let url = http_url(base, key)?;
                let mut request = client.put(url.clone()).header("content-length", size);
                if let Some(content_type) = content_type {
                    request = request.header("content-type", content_type);
                }
                // The body has a pace of its own; what bounds the whole is that it must keep moving.
                let pieces = pieces.map(|piece| piece.map_err(std::io::Error::other));
                let request = request.body(reqwest::Body::wrap_stream(pieces));
                let limit = ANSWER + PROGRESS * u32::try_from(size >> 18).unwrap_or(u32::MAX).min(10_000);
                let answer = within(limit, request.send(), http_error).await?;
                if !answer.status().is_success() {
                    return Err(Error::Failed(format!("PUT was answered {}", answer.status())));
                }
                let etag = |answer: &reqwest::Response| Some(answer.headers().get("etag")?.to_str().ok()?.to_string());
                if let Some(etag) = etag(&answer) {
                    return Ok(Some(etag));
                }
                let head = within(ANSWER, client.head(url).send(), http_error).await?;
                Ok(etag(&head).filter(|_| head.status().is_success()))
            }
            Place::Cloud { store, folder } => {
                let path = object_path(folder, key)?;
                let mut part = BytesMut::new();
                let mut upload = None;
                while let Some(piece) = pieces.next().await {
                    part.extend_from_slice(&piece.map_err(Error::Failed)?);
                    if part.len() >= PART && size > PART as u64 {
                        if upload.is_none() {
                            upload = Some(within(CLOUD, store.put_multipart(&path), cloud_error).await?);
                        }
                        if let Some(upload) = &mut upload {
                            let payload = PutPayload::from_bytes(part.split().freeze());
                            within(CLOUD, upload.put_part(payload), cloud_error).await?;
                        }
                    }
                }
                let rest = PutPayload::from_bytes(part.freeze());
                let result = match upload {
                    None => within(CLOUD, store.put(&path, rest), cloud_error).await?,
                    Some(mut upload) => {
                        if rest.content_length() > 0 {
                            within(CLOUD, upload.put_part(rest), cloud_error).await?;
                        }
                        within(CLOUD, upload.complete(), cloud_error).await?
                    }
                };
                Ok(result.e_tag)
            }
        }
    }

    pub async fn get(&self, key: &Key, range: Range<u64>) -> Result<Found, Error> {
        match self {
            Place::Http { client, base } => match ask(client, http_url(base, key)?, range).await? {
                Answered::Found(found) => Ok(found),
                Answered::Elsewhere(_) => Err(Error::Failed("GET was answered by a redirect".into())),
            },
            Place::Cloud { store, folder } => {
                let path = object_path(folder, key)?;
                let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
                let found = within(ANSWER, store.get_opts(&path, options), cloud_error).await?;
                let (etag, total) = (found.meta.e_tag.clone(), found.meta.size);
                let bytes = within(CLOUD, found.bytes(), cloud_error).await?;
                Ok(Found { etag, total, bytes })
            }
        }
    }

    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        match self {
            Place::Http { client, base } => {
                let answer = within(ANSWER, client.delete(http_url(base, key)?).send(), http_error).await?;
                match answer.status().as_u16() {
                    200..=299 => Ok(()),
                    404 | 410 => Err(Error::Missing),
                    status => Err(Error::Failed(format!("DELETE was answered {status}"))),
                }
            }
            Place::Cloud { store, folder } => {
                let path = object_path(folder, key)?;
                within(CLOUD, store.delete(&path), cloud_error).await
            }
        }
    }
}

/// A client for web servers that are no buckets: it has nothing to sign with.
pub(super) fn http_client(scheme: &str) -> Result<reqwest::Client, String> {
    web::build(scheme, || web::ours().connect_timeout(CONNECT)).map_err(|error| error.to_string())
}

/// One GET of a range, with nothing in it but the range.
pub(super) async fn ask(client: &reqwest::Client, url: reqwest::Url, range: Range<u64>) -> Result<Answered, Error> {
    let request = client.get(url);
    let request = request.header("range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
    let mut answer = within(ANSWER, request.send(), http_error).await?;
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let length = text("content-length").and_then(|n| n.parse::<u64>().ok());
    let whole = match (answer.status().as_u16(), length) {
        (206, _) => {
            let total = text("content-range").and_then(|range| range.rsplit_once('/')?.1.parse().ok());
            let start =
                text("content-range").and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
            (start == Some(range.start)).then_some(total).flatten().map(|total| (total, false))
        }
        (200, Some(length)) => Some((length, true)),
        (301 | 302 | 303 | 307 | 308, _) => match text("location") {
            Some(location) => return Ok(Answered::Elsewhere(location.into())),
            None => return Err(Error::Failed("a redirect without Location".into())),
        },
        (404 | 410 | 416, _) => return Err(Error::Missing),
        (status, _) => return Err(Error::Failed(format!("GET was answered {status}"))),
    };
    let Some((total, whole)) = whole else {
        return Err(Error::Failed("an answer without its place".into()));
    };
    let etag = text("etag").map(String::from);
    let limit = if whole { total } else { range.end - range.start };
    if limit > super::WHOLE_MAX {
        return Err(Error::Failed("the origin ignores ranges".into()));
    }
    let mut bytes = BytesMut::new();
    while let Some(piece) = within(PROGRESS, answer.chunk(), http_error).await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Error::Failed("more bytes than announced".into()));
        }
        bytes.extend_from_slice(&piece);
    }
    let mut bytes = bytes.freeze();
    if whole {
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
        bytes = bytes.slice(at(range.start)..at(range.end));
    }
    Ok(Answered::Found(Found { etag, total, bytes }))
}

/// The URL library normalises: a key that it would change has no place there.
fn http_url(base: &str, key: &Key) -> Result<reqwest::Url, Error> {
    let text = format!("{base}{}", url_encode_path(key.as_str()));
    let url: reqwest::Url = text.parse().map_err(|_| Error::Unnameable)?;
    if url.as_str() == text { Ok(url) } else { Err(Error::Unnameable) }
}

fn object_path(folder: &str, key: &Key) -> Result<ObjectPath, Error> {
    let full = if folder.is_empty() { key.to_string() } else { format!("{folder}/{key}") };
    let path = ObjectPath::parse(&full).map_err(|_| Error::Unnameable)?;
    if path.as_ref() == full { Ok(path) } else { Err(Error::Unnameable) }
}
