//! Header names as COS spells them (`ETag`, not `etag`).
//!
//! Names are not case-sensitive, but the official Python SDK hands them to programs in a plain dictionary, and programs ask it
//! for `ETag`. The HTTP library writes lower case unless an answer carries the spelling of some request, in a form of its
//! own; so one request with every name, spelled as COS does, goes through it once, and its spelling is kept.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Extensions, Response};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

const NAMES: [&str; 16] = [
    "ETag",
    "Date",
    "Server",
    "Location",
    "Connection",
    "Content-Type",
    "Content-Range",
    "Last-Modified",
    "Accept-Ranges",
    "Retry-After",
    "Cache-Control",
    "Expires",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
];

static SPELLING: OnceCell<Extensions> = OnceCell::const_new();

/// To be put into every answer.
pub async fn spelling() -> &'static Extensions {
    SPELLING.get_or_init(learn).await
}

async fn learn() -> Extensions {
    let mut request = String::from("GET / HTTP/1.1\r\nHost: x\r\n");
    for name in NAMES {
        let value = if name == "Content-Length" { "0" } else { "close" };
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    let learned = Arc::new(Mutex::new(Extensions::new()));
    let (mut near, far) = tokio::io::duplex(4096);
    let sent = near.write_all(request.as_bytes()).await;
    let service = {
        let learned = Arc::clone(&learned);
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            *learned.lock() = request.extensions().clone();
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        })
    };
    let served = hyper::server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(far), service)
        .await;
    if sent.is_err() || served.is_err() {
        log::warn!("header names will be in lower case");
    }
    std::mem::take(&mut *learned.lock())
}
