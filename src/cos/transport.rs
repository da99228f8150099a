//! One exchange over the network: a signed request out, the head of an answer back, each phase within its deadline.
//!
//! Two HTTP clients per bucket, because a pool hides what a probe must see: the pooled one keeps connections, the fresh one makes a new
//! connection for every request. Both speak HTTP/1.1 only, follow nothing, repeat nothing, use no proxy from the environment,
//! decompress nothing.
//!
//! Owns: connections and names. Owns not: the meaning of an answer (`client`, `error`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use parking_lot::Mutex;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;

use super::attempt::{Attempt, Sent};
use super::error::{Context, Error, Kind};
use super::payload::{Outgoing, Payload, Trace};
use super::request::{BucketAddress, REQUEST_ID, text};
use super::wire::{Sending, Wire};
use crate::web;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection idle for longer is likelier to be dead in some middlebox than useful.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Backstop for connections that nobody waits for any more; requests have their own, shorter deadline.
const CONNECT_BACKSTOP: Duration = Duration::from_secs(30);
/// Resolvers answer in milliseconds or not at all. With an address at hand, more patience only delays.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(1);
/// An address that worked stays usable for a day without its name (docs/failover.md, "Classifying").
const ADDRESS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A body that brings less than [`PACE_BYTES`] in such a time is as good as none: at that speed a full page of a listing takes a minute.
const PACE_WINDOW: Duration = Duration::from_secs(3);
/// 5 KiB/s. Far below any line worth using, so that a narrow one shared by many requests is not mistaken for a broken one.
const PACE_BYTES: usize = 16 << 10;

/// Measures whether a body comes too slowly to wait for. Time that the receiver takes does not count.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    /// Another piece is here after this wait. False: too little in too long.
    pub fn keeps_up(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < PACE_WINDOW {
            return true;
        }
        let enough = self.bytes >= PACE_BYTES;
        *self = Pace::default();
        enough
    }
}

/// The way to one bucket.
#[derive(Debug)]
pub(super) enum Transport {
    /// Its two HTTP clients.
    Network {
        pooled: reqwest::Client,
        fresh: reqwest::Client,
    },
    Simulated(Arc<dyn Wire>),
}

/// The head of an answer, its body still on the wire.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: reqwest::Response,
    pub request_id: Option<String>,
    pub trace: Arc<Trace>,
    pub context: Arc<Context>,
    pub sent: Sent,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub fn headers(&self) -> &http::HeaderMap {
        self.response.headers()
    }

    /// An error about this answer.
    pub fn error(&self, kind: Kind, cause: impl Into<String>) -> Error {
        let mut error = Error::new(&self.context, kind, self.sent, cause);
        error.status = Some(self.status());
        error.request_id = self.request_id.clone();
        error
    }

    /// Reads a body that must be small. The whole may take as long as its pieces keep coming, and with `paced` come in time: the answer
    /// to a copy may be blanks for minutes, one to a GET may not.
    pub async fn read(mut self, limit: usize, progress: Duration, paced: bool) -> Result<(Answer, Vec<u8>), Error> {
        let mut body = Vec::new();
        let mut pace = Pace::default();
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(progress, self.response.chunk()).await {
                Err(_) => {
                    return Err(self.error(Kind::Stalled, format!("body stopped after {} bytes", body.len())));
                }
                Ok(Err(e)) => return Err(self.broken(e)),
                Ok(Ok(None)) => return Ok((self, body)),
                Ok(Ok(Some(piece))) if body.len() + piece.len() > limit => {
                    return Err(self.error(Kind::BadAnswer, format!("body larger than {limit} bytes")));
                }
                Ok(Ok(Some(piece))) if paced && !pace.keeps_up(asked.elapsed(), piece.len()) => {
                    return Err(self.error(Kind::Stalled, format!("body trickles, {} bytes so far", body.len())));
                }
                Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            }
        }
    }

    fn broken(&self, error: reqwest::Error) -> Error {
        let mut error = Error::transport(&self.context, self.sent, &error.without_url());
        error.status = Some(self.status());
        error.request_id = self.request_id.clone();
        error
    }
}

impl Transport {
    pub fn new(address: &BucketAddress) -> Result<Transport, reqwest::Error> {
        let names = Arc::new(Resolver(Arc::new(Names::new(address))));
        let builder = |idle_connections: usize| {
            web::ours()
                .tcp_keepalive(Duration::from_secs(15))
                .connect_timeout(CONNECT_BACKSTOP)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle_connections)
                .dns_resolver(names.clone())
        };
        let build = |idle_connections| web::build(address.scheme(), || builder(idle_connections));
        Ok(Transport::Network { pooled: build(usize::MAX)?, fresh: build(0)? })
    }

    pub fn over(wire: Arc<dyn Wire>) -> Transport {
        Transport::Simulated(wire)
    }

    /// Sends and waits for the head of the answer.
    pub async fn exchange(
        &self,
        context: &Arc<Context>,
        url: Url,
        headers: &[(String, String)],
        payload: &Payload,
        at: &Attempt<'_>,
    ) -> Result<Answer, Error> {
        let fail = |kind, cause: String| Error::new(context, kind, at.progress.body_sent(), cause);
        at.progress.reset();
        let method = Method::from_bytes(context.method.as_bytes()).map_err(|e| fail(Kind::Rejected, e.to_string()))?;
        let needs_length = !payload.is_empty() || matches!(method, Method::PUT | Method::POST);
        let mut request = reqwest::Request::new(method, url);
        for (name, value) in headers {
            let odd = |_| fail(Kind::Rejected, format!("header {name} cannot be sent"));
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| ()).map_err(odd)?;
            let header = HeaderName::try_from(name).map_err(|_| ()).map_err(odd)?;
            request.headers_mut().append(header, value);
        }
        if needs_length {
            request.headers_mut().insert(http::header::CONTENT_LENGTH, payload.len().into());
        }
        let trace = Arc::new(Trace::default());
        let exchange = async {
            match self {
                Transport::Network { pooled, fresh } => {
                    *request.body_mut() = Some(reqwest::Body::wrap(Outgoing::new(payload, at.progress, &trace)));
                    let client = if at.fresh_connection { fresh } else { pooled };
                    let answer = client.execute(request).await;
                    answer.map_err(|e| -> BoxError { Box::new(e.without_url()) })
                }
                Transport::Simulated(wire) => {
                    let content = payload.whole()?;
                    *trace.crc64.lock() = Some(super::checksum::crc64(&content));
                    let simulated = to_simulated(&request, content)?;
                    let answer = wire.exchange(simulated, at.fresh_connection, Sending(at.progress)).await?;
                    Ok(reqwest::Response::from(answer))
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = exchange => outcome,
            phase = at.progress.silent(&at.deadlines) => {
                let Attempt { deadlines, .. } = at;
                return Err(match phase {
                    Sent::No => fail(Kind::Unreachable, format!("no connection within {:?}", deadlines.connect)),
                    Sent::Partly => fail(Kind::Stalled, format!("upload stood still for {:?}", deadlines.progress)),
                    Sent::Fully => fail(Kind::FirstByteTimeout, format!("no answer within {:?}", deadlines.first_byte)),
                });
            }
        };
        let sent = at.progress.body_sent();
        match outcome {
            Ok(response) => {
                at.progress.heard();
                let request_id = text(response.headers(), REQUEST_ID).map(String::from);
                Ok(Answer { response, request_id, trace, context: context.clone(), sent })
            }
            Err(e) => Err(match trace.failure.lock().take() {
                Some(cause) => Error::new(context, Kind::Local, sent, cause),
                None => Error::transport(context, sent, &*e),
            }),
        }
    }
}

fn to_simulated(request: &reqwest::Request, content: Bytes) -> Result<http::Request<Bytes>, BoxError> {
    let mut simulated = http::Request::builder().method(request.method()).uri(request.url().as_str()).body(content)?;
    *simulated.headers_mut() = request.headers().clone();
    Ok(simulated)
}

/// Name resolution: the endpoint in place of the bucket's names, and the last good addresses where the resolver fails.
#[derive(Debug)]
struct Names {
    bucket_hosts: [String; 2],
    endpoint: Option<String>,
    /// Holds the bucket's names and those of allowed redirect hosts, so it stays small.
    good: Mutex<HashMap<String, (Vec<SocketAddr>, Instant)>>,
}

impl Names {
    fn new(address: &BucketAddress) -> Names {
        let endpoint = address.endpoint_authority().map(|authority| {
            // Port 0 lets the HTTP client put in the scheme's own.
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if has_port { authority.to_string() } else { format!("{authority}:0") }
        });
        Names { bucket_hosts: [address.host(false), address.host(true)], endpoint, good: Mutex::default() }
    }

    async fn addresses(&self, name: &str) -> std::io::Result<Vec<SocketAddr>> {
        let target = match &self.endpoint {
            Some(endpoint) if self.bucket_hosts.iter().any(|h| h == name) => endpoint.clone(),
            _ => format!("{name}:0"),
        };
        let kept = self.good.lock().get(name).filter(|(_, at)| at.elapsed() < ADDRESS_KEPT).map(|(a, _)| a.clone());
        let lookup = async { Ok::<Vec<_>, std::io::Error>(tokio::net::lookup_host(target).await?.collect()) };
        let found = match kept {
            None => return self.keep(name, lookup.await?),
            Some(kept) => match tokio::time::timeout(RESOLVE_PATIENCE, lookup).await {
                Ok(Ok(found)) if !found.is_empty() => found,
                _ => return Ok(kept),
            },
        };
        self.keep(name, found)
    }

    fn keep(&self, name: &str, found: Vec<SocketAddr>) -> std::io::Result<Vec<SocketAddr>> {
        self.good.lock().insert(name.to_string(), (found.clone(), Instant::now()));
        Ok(found)
    }
}

/// The face of [`Names`] towards reqwest; the future it returns must own what it uses.
#[derive(Debug)]
struct Resolver(Arc<Names>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.0.clone();
        Box::pin(async move { Ok(Box::new(names.addresses(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(endpoint: Option<&str>) -> Names {
        let endpoint = endpoint.map(String::from);
        Names::new(&BucketAddress { bucket: "b-1".into(), region: "r".into(), endpoint, https: false })
    }

    #[tokio::test]
    async fn both_domains_lead_to_the_endpoint() {
        let names = names(Some("http://127.0.0.1:9100/"));
        for host in ["b-1.cos.r.myqcloud.com", "b-1.cos.r.tencentcos.cn"] {
            assert_eq!(names.addresses(host).await.unwrap(), ["127.0.0.1:9100".parse().unwrap()]);
        }
        let names = self::names(Some("https://127.0.0.1"));
        assert_eq!(names.addresses("b-1.cos.r.myqcloud.com").await.unwrap()[0].port(), 0);
    }

    #[tokio::test]
    async fn the_last_good_address_outlives_its_name() {
        let names = names(None);
        let good: SocketAddr = "192.0.2.1:0".parse().unwrap();
        // `.invalid` never resolves (RFC 6761).
        assert!(names.addresses("gone.invalid").await.is_err());
        names.good.lock().insert("gone.invalid".into(), (vec![good], Instant::now()));
        assert_eq!(names.addresses("gone.invalid").await.unwrap(), [good]);
    }
}
