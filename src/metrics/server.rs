//! `GET /metrics` on an address of the operator's choice. Answers nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;

/// Makes the text of one scrape; from memory only.
pub type Source = Arc<dyn Fn() -> String + Send + Sync>;

/// Listens, and answers until the process ends.
pub async fn start(listen: SocketAddr, source: Source) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let answer = move || {
        let text = source();
        async move { ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response() }
    };
    let router = Router::new().route("/metrics", get(answer));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            log::error!("metrics: {error}");
        }
    });
    Ok(address)
}
