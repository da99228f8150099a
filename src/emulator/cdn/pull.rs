//! Fetching from an origin of the CDN, over the network like any client.

use std::net::SocketAddr;
use std::time::Duration;

use super::Settings;
use crate::cos::sign::{KeyTime, authorization, parse_query, url_decode};
use crate::cos::url_auth::Admitted;
use crate::emulator::clock::wall_micros;
use crate::emulator::door::Place;
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::{BUCKETS, SECRET_ID, SECRET_KEY};
use crate::web;

/// "At most three hops" (CDN documentation, back-to-origin redirects).
const HOPS_MAX: usize = 3;
/// How long the CDN's own signature lives.
const SIGNATURE_SECONDS: u64 = 600;
/// Not the client's business and not the cache's: headers of one connection or of one answer.
const NOT_KEPT: [&str; 6] = ["connection", "content-length", "date", "server", "transfer-encoding", "keep-alive"];
/// What a client's request may tell the origin.
const FORWARDED: [&str; 3] = ["accept", "user-agent", "referer"];

/// Where the places of the emulator listen.
#[derive(Clone, Copy, Debug)]
pub struct Roads {
    pub a: SocketAddr,
    pub b: SocketAddr,
    pub origin: SocketAddr,
}

impl Roads {
    /// Address and `Host` of an origin by its name in the settings; the place if it is one of ours.
    pub fn find(&self, name: &str) -> Result<(String, String, Option<Place>), String> {
        let bucket = |index: usize| format!("{}.cos.{}.myqcloud.com", BUCKETS[index].0, BUCKETS[index].1);
        match name {
            "a" => Ok((self.a.to_string(), bucket(0), Some(Place::A))),
            "b" => Ok((self.b.to_string(), bucket(1), Some(Place::B))),
            "origin" => Ok((self.origin.to_string(), self.origin.to_string(), Some(Place::Origin))),
            other if reqwest::Url::parse(&format!("http://{other}/")).is_ok_and(|url| url.path() == "/") => {
                Ok((other.to_owned(), other.to_owned(), None))
            }
            other => Err(format!("{other:?} is no origin: a, b, origin or host:port")),
        }
    }
}

/// An origin's answer, its body still on the way.
#[derive(Debug)]
pub struct Pulled {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub len: Option<u64>,
    pub response: reqwest::Response,
    /// Name of the origin in the settings.
    pub origin: String,
}

#[derive(Debug)]
pub struct Puller {
    pub settings: Settings,
    client: reqwest::Client,
}

impl Puller {
    pub fn new(settings: Settings) -> Result<Puller, String> {
        let client = web::plain()
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .read_timeout(Duration::from_millis(settings.load_timeout_ms))
            .tls_certs_only(std::iter::empty())
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Puller { settings, client })
    }

    pub async fn pull(
        &self,
        roads: &Roads,
        origin: &str,
        call: &Call,
        admitted: &Admitted,
        range: Option<&str>,
    ) -> Result<Pulled, Failure> {
        let (address, host, place) = roads.find(origin).map_err(Failure::internal)?;
        let target = match admitted.origin_query.as_str() {
            "" => admitted.path.clone(),
            query => format!("{}?{query}", admitted.path),
        };
        let mut headers = vec![("host".to_owned(), host.clone())];
        // A bucket as standby is a plain domain to the CDN: nothing signs for it.
        let is_main = origin == self.settings.main;
        if is_main && self.settings.private_access && place.is_some_and(Place::is_region) {
            headers.push(("authorization".into(), signed(call, &host, admitted).ok_or_else(not_signable)?));
        }
        headers.extend(range.map(|range| ("range".to_owned(), range.to_owned())));
        let forwarded = call.headers.iter().filter(|(name, _)| FORWARDED.contains(&name.as_str()));
        headers.extend(forwarded.cloned());
        let mut url = format!("http://{address}{target}");
        for _ in 0..=HOPS_MAX {
            let pulled = self.ask(&call.method, &url, &headers, origin).await?;
            let location = pulled.headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value.clone());
            match location {
                Some(location) if self.settings.follow_redirect && matches!(pulled.status, 301 | 302) => {
                    // Only the range still means something to whoever is asked next.
                    headers.retain(|(name, _)| name == "range");
                    url = location;
                }
                _ => return Ok(pulled),
            }
        }
        Err(Failure::new(502, "BadGateway", "too many redirects at the origin"))
    }

    async fn ask(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        origin: &str,
    ) -> Result<Pulled, Failure> {
        let method = if method == "HEAD" { reqwest::Method::HEAD } else { reqwest::Method::GET };
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let limit = Duration::from_millis(self.settings.connect_timeout_ms + self.settings.load_timeout_ms);
        let response = match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_timeout() => return Err(timeout()),
            Ok(Err(error)) => {
                return Err(Failure::new(
                    502,
                    "BadGateway",
                    format!("no answer of the origin: {}", error.without_url()),
                ));
            }
            Err(_) => return Err(timeout()),
        };
        let kept = |name: &str| !NOT_KEPT.contains(&name);
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let pairs = response.headers().iter().filter(|(name, _)| kept(name.as_str()));
        let headers = pairs.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        // From the header: the library counts the body of an answer to HEAD as empty.
        let len = response.headers().get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        Ok(Pulled { status: response.status().as_u16(), headers, len, response, origin: origin.to_owned() })
    }
}

fn timeout() -> Failure {
    Failure::new(504, "GatewayTimeout", "the origin does not answer in time")
}

fn not_signable() -> Failure {
    Failure::new(400, "InvalidURI", "The request target is not percent-encoded UTF-8.")
}

/// The CDN's service account, authorised once for the bucket, signs what it fetches.
fn signed(call: &Call, host: &str, admitted: &Admitted) -> Option<String> {
    let now = wall_micros() / 1_000_000;
    let window = KeyTime { start: now.saturating_sub(60), end: now + SIGNATURE_SECONDS };
    let (path, params) = (url_decode(&admitted.path)?, parse_query(&admitted.origin_query)?);
    Some(authorization(SECRET_ID, SECRET_KEY, window, &call.method, &path, &params, &[("host", host)]))
}
