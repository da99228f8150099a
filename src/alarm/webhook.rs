//! POST of the notice to an address. The address may hold a secret (chat services put one into the path), so it never shows.

use std::time::Duration;

use super::{Notice, Trouble};
use crate::web;

/// Connection, request and answer together.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Webhook {
    url: reqwest::Url,
    client: reqwest::Client,
}

impl Webhook {
    pub fn new(url: &str) -> Result<Webhook, String> {
        let url: reqwest::Url = url.parse().map_err(|error| format!("[alarm] webhook: {error}"))?;
        // Not `web::ours`: the address may well lie behind the host's proxy.
        let builder = || {
            reqwest::Client::builder()
                .user_agent(web::USER_AGENT)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .timeout(DEADLINE)
                .pool_max_idle_per_host(0)
        };
        let client = web::build(url.scheme(), builder).map_err(|error| format!("[alarm] webhook: {error}"))?;
        Ok(Webhook { url, client })
    }

    pub async fn post(&self, notice: &Notice) -> Result<(), Trouble> {
        let request = self.client.post(self.url.clone()).header("content-type", "application/json");
        let answer = request.body(notice.json()).send().await;
        let answer = answer.map_err(|error| Trouble::Passing(chain(&error.without_url())))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) => {
                Err(Trouble::Passing(format!("the address answered {status}")))
            }
            status => Err(Trouble::Final(format!("the address answered {status}"))),
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
