//! HTTP clients that do nothing of their own accord.
//!
//! A library's client follows redirects (and would take a signature along), repeats requests, tells where it came from and asks the
//! environment for a proxy. This program decides each of these itself or not at all, so whoever speaks HTTP begins here.
//!
//! Owns: what is switched off, the program's name on the wire, plain HTTP on a host without certificate authorities. Owns not: deadlines,
//! pools and names, which differ from room to room. Checked by the tests of those rooms.

use reqwest::{Client, ClientBuilder};

/// Name and version, for `User-Agent`.
pub const USER_AGENT: &str = concat!("cosfs-ha/", env!("CARGO_PKG_VERSION"));

/// HTTP/1.1, straight to the address: no redirect, repetition, referer or proxy.
pub fn plain() -> ClientBuilder {
    Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
}

/// [`plain`], for requests in this program's own name.
pub fn ours() -> ClientBuilder {
    plain().user_agent(USER_AGENT).tcp_nodelay(true)
}

/// Builds the client. Without any certificate authority on the host no verifier can be made, which must not stop plain HTTP.
pub fn build(scheme: &str, builder: impl Fn() -> ClientBuilder) -> reqwest::Result<Client> {
    match builder().build() {
        Err(_) if scheme == "http" => builder().tls_certs_only(std::iter::empty()).build(),
        made => made,
    }
}
