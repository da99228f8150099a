//! Going where a bucket redirects to.
//!
//! Bucket B may have an origin-pull rule in redirect mode: for what it does not hold it names the origin. That is how a reader finds what reached
//! neither bucket, but a redirect is also a stranger's way to make this host call any address. So it is followed by a client that has no
//! credentials to lose, to hosts that the configuration names, for a few hops; and the bytes are used only with the same proof as those of the
//! origin itself.
//!
//! Owns: the hops. Owns not: which target is admitted (`cos/redirect`), the proof (`origin`).

use std::ops::Range;

use super::Error;
use super::place::{Answered, Found, ask, http_client};
use crate::config;
use crate::cos::redirect::{AllowedHost, Redirect};

/// More hops than any sane origin needs.
const HOPS_MAX: usize = 5;

#[derive(Debug)]
pub struct Follow {
    client: reqwest::Client,
    allowed: Vec<AllowedHost>,
}

impl Follow {
    /// The host of the origin itself is always admitted if it is a web server, and by plain http if its address says so.
    pub fn new(config: &config::Origin) -> Result<Follow, String> {
        let own = config.url.as_deref().and_then(|url| {
            let (scheme, rest) = url.split_once("://")?;
            let host = rest.split('/').next().filter(|_| matches!(scheme, "http" | "https"))?;
            Some(format!("{scheme}://{host}"))
        });
        let named = config.redirects.as_deref().unwrap_or_default().split(',').map(str::trim);
        let named = named.filter(|host| !host.is_empty()).map(String::from);
        let allowed = own.into_iter().chain(named).map(|host| {
            AllowedHost::parse(&host)
                .ok_or_else(|| format!("redirects: \"{host}\" is no host, host:port or http://host:port"))
        });
        Ok(Follow { client: http_client("http")?, allowed: allowed.collect::<Result<_, _>>()? })
    }

    /// A range of what lies where the redirect leads.
    pub async fn get(&self, redirect: &Redirect, range: &Range<u64>) -> Result<Found, Error> {
        let mut next = redirect.clone();
        for _ in 0..HOPS_MAX {
            let url = next.target(&self.allowed).map_err(Error::Failed)?;
            match ask(&self.client, url.clone(), range.clone()).await? {
                Answered::Found(found) => return Ok(found),
                Answered::Elsewhere(location) => next = Redirect { from: url, location },
            }
        }
        Err(Error::Failed("too many redirects".into()))
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Request;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::{IntoResponse, Response};
    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;

    /// A web server: `/x` has five bytes, `/moved` leads to it, `/round` to itself, `/out` to where nobody may go. Keeps what it was sent.
    async fn server() -> (String, Arc<Mutex<Vec<HeaderMap>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let kept = seen.clone();
        let to = |location: &str| (StatusCode::FOUND, [("location", location.to_string())]).into_response();
        let app = Router::new().fallback(move |request: Request| {
            kept.lock().push(request.headers().clone());
            let answer: Response = match request.uri().path() {
                "/x" => {
                    let headers = [("etag", "\"o\""), ("content-range", "bytes 1-3/5")];
                    (StatusCode::PARTIAL_CONTENT, headers, "ell").into_response()
                }
                "/moved" => to("/x"),
                "/round" => to("/round"),
                "/out" => to("http://169.254.0.23/latest/meta-data/"),
                _ => StatusCode::NOT_FOUND.into_response(),
            };
            std::future::ready(answer)
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        (host, seen)
    }

    fn redirect(location: String) -> Redirect {
        let from = "https://b-1.cos.r.myqcloud.com/dir/k?versionId=v".parse().unwrap();
        Redirect { from, location }
    }

    fn follow(url: &str, redirects: &str) -> Follow {
        let redirects = Some(redirects.to_string());
        Follow::new(&config::Origin { url: Some(url.into()), redirects, ..config::Origin::default() }).unwrap()
    }

    #[tokio::test]
    async fn only_where_allowed_for_a_few_hops_and_with_nothing_but_the_range() {
        let (host, seen) = server().await;
        let at = |path: &str| redirect(format!("http://{host}{path}"));
        let own = follow(&format!("http://{host}/folder"), "");
        let found = own.get(&at("/moved"), &(1..4)).await.unwrap();
        assert_eq!((found.total, found.etag.as_deref(), found.bytes.as_ref()), (5, Some("\"o\""), &b"ell"[..]));
        for headers in seen.lock().drain(..) {
            let names: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
            assert!(names.iter().all(|name| ["host", "range", "accept", "user-agent"].contains(name)), "{names:?}");
            assert_eq!(headers["range"], "bytes=1-3");
        }
        for (path, hops) in [("/round", HOPS_MAX), ("/out", 1), ("/absent", 1)] {
            assert!(own.get(&at(path), &(1..4)).await.is_err(), "{path}");
            assert_eq!(seen.lock().drain(..).count(), hops, "{path}");
        }
        // Named in the list, plain http is fine only if it says so.
        for (redirects, follows) in
            [(format!("a.example.com, http://{host}"), true), (host.clone(), false), (String::new(), false)]
        {
            let found = follow("s3://elsewhere/x", &redirects).get(&at("/x"), &(1..4)).await;
            assert_eq!((found.is_ok(), seen.lock().drain(..).count() == 1), (follows, follows), "{redirects}");
        }
        assert!(Follow::new(&config::Origin { redirects: Some("a b".into()), ..config::Origin::default() }).is_err());
    }
}
