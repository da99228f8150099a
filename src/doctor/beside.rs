//! The places beside the buckets: does the CDN deliver the versions it is asked for, does the origin keep what it is given?
//!
//! Both are asked in earnest only when the buckets are gone, which is the worst time to find out that a key is wrong or that the edge throws
//! `versionId` away. So the doctor does once what the mount would do then: two versions of one small object through the CDN, one small
//! file to the origin and back. Nothing of it stays visible.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::canary::{found, request, watch};
use super::{Check, Finding, Severity};
use crate::cdn::{Cdn, Unusable};
use crate::config::Config;
use crate::cos::Client;
use crate::object::{self, Headers, Key, Site, Token, VersionId};
use crate::origin;

/// Both places, as far as they are configured.
pub async fn look(clients: &[Client; 2], config: &Config, wait: Duration) -> Vec<Finding> {
    let prefix = &config.mount.prefix;
    let (cdn, origin) = tokio::join!(cdn(clients, config, prefix, wait), origin(config, prefix));
    cdn.into_iter().chain(origin).collect()
}

fn bad(check: Check, state: String) -> Finding {
    let place = if check == Check::Cdn { "the CDN" } else { "the origin" };
    Finding::bad(check, None, Severity::Warning, state)
        .then(format!("with both buckets gone, nothing can be read from {place}; until then the buckets serve alone"))
}

async fn cdn(clients: &[Client; 2], config: &Config, prefix: &str, wait: Duration) -> Option<Finding> {
    let cdn = match Cdn::new(&config.cdn, clients[Site::A.index()].clock().clone()) {
        Ok(cdn) => cdn?,
        Err(why) => return Some(bad(Check::Cdn, why).mend("correct section [cdn]")),
    };
    let key = object::own(prefix, "canary-cdn").ok()?;
    let source = &clients[Site::A.index()];
    let mut versions = Vec::new();
    let mut outcome = Ok(());
    for text in ["the first version", "another version"] {
        match put(source, &key, text).await {
            Ok(token) => {
                outcome = delivers(&cdn, &key, &token, wait).await;
                versions.extend(token.version);
            }
            // What the key may not do is a finding of its own.
            Err(_) => return None,
        }
        if outcome.is_err() {
            break;
        }
    }
    clear(clients, &key, &versions, wait).await;
    let domain = &config.cdn.domain;
    Some(match outcome {
        Ok(()) => Finding::ok(Check::Cdn, None, format!("{domain} delivers the versions that it is asked for")),
        Err(error) => bad(Check::Cdn, format!("{domain} does not deliver what bucket a holds: {error}")).mend(match error {
            Unusable::Stale => "keep the query string in the cache key of the domain: without it all versions are one to it",
            Unusable::Refused(_) => "make type, key and validity in [cdn] auth the same as at the domain, and switch origin authentication on",
            Unusable::Missing => "make bucket a the origin of the domain, with origin authentication",
            Unusable::Unprovable => "let the domain pass ETag, Content-Length and Content-Range on",
            Unusable::Failed(_) => "look at the domain's status and at the way there: curl -v",
        }),
    })
}

async fn put(client: &Client, key: &Key, text: &str) -> Result<Token, crate::cos::Error> {
    let (body, headers) = (Bytes::from(text.to_string()), Headers::default());
    request(async |at| client.put(key, body.clone().into(), &headers, None, &at).await).await
}

/// Removes the object from bucket A and, when it has come there, from bucket B. What is late would come back without its delete marker, so then
/// that is left for the lifecycle rule.
async fn clear(clients: &[Client; 2], key: &Key, versions: &[VersionId], wait: Duration) {
    let [a, b] = clients;
    let marker = request(async |at| a.delete(key, None, &at).await).await.ok().and_then(|deleted| deleted.version);
    let (Some(marker), Some(last)) = (marker, versions.last()) else { return };
    let end = Instant::now() + wait;
    let carried = async || found(b, key, Some(last)).await == Some(true);
    let gone = async || found(b, key, None).await == Some(false);
    if watch(end, carried).await.is_none() || watch(end, gone).await.is_none() {
        return;
    }
    for client in clients {
        for version in versions.iter().chain([&marker]) {
            let _ = request(async |at| client.delete(key, Some(version), &at).await).await;
        }
    }
}

/// A domain in front of bucket B has it a little later.
async fn delivers(cdn: &Cdn, key: &Key, token: &Token, wait: Duration) -> Result<(), Unusable> {
    let last = parking_lot::Mutex::new(Unusable::Missing);
    let arrived = watch(Instant::now() + wait, async || match cdn.get(key, token, &(0..token.size)).await {
        Ok(_) => true,
        Err(error) => {
            *last.lock() = error;
            false
        }
    });
    arrived.await.map(drop).ok_or_else(|| last.into_inner())
}

async fn origin(config: &Config, prefix: &str) -> Option<Finding> {
    let url = config.origin.url.as_deref()?;
    let key = object::own(prefix, "canary-origin").ok()?;
    let does = if config.origin.write { "takes and gives back a file" } else { "answers" };
    Some(match origin::check(&config.origin, &key).await {
        Ok(()) => Finding::ok(Check::Origin, None, format!("the origin {url} {does}")),
        Err(why) => bad(Check::Origin, format!("the origin {url} is of no use: {why}"))
            .mend("correct section [origin], and let its keys read and write there"),
    })
}
