//! Temporary keys of a virtual machine's CAM role, from its metadata service.
//!
//! The service hands out keys for some hours. They are renewed [`EARLY`] before they expire, by a thread of its own: requests must not wait for
//! it, and a mount that was suspended must not wake up to dead keys only because no request came by. While the service does not answer, the keys
//! at hand stay in use; they are good until they expire, and an alarm says how long that is.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use serde::Deserialize;

use super::{CredentialError, CredentialSource, Credentials};
use crate::web;

/// As the Go SDK does.
const EARLY: Duration = Duration::from_secs(600);
/// Of keys that live shorter than twice that: this part of their life.
const EARLY_PART: u32 = 3;
/// Pause after a failed renewal.
const AGAIN: Duration = Duration::from_secs(5);
/// One request to a service on the same host.
const DEADLINE: Duration = Duration::from_secs(5);
/// Shortest pause between two renewals, also when requests are refused and ask for one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PATH: &str = "/latest/meta-data/cam/security-credentials/";

/// What the service answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Grant {
    #[serde(default)]
    code: String,
    #[serde(default)]
    tmp_secret_id: String,
    #[serde(default)]
    tmp_secret_key: String,
    #[serde(default)]
    token: String,
    /// Seconds since 1970.
    #[serde(default)]
    expired_time: u64,
}

#[derive(Debug)]
struct State {
    credentials: Option<Arc<Credentials>>,
    expires: Option<SystemTime>,
    trouble: Option<String>,
    /// Somebody was refused with the present keys.
    wanted: bool,
    /// Number of answers, good or bad.
    tries: u64,
}

#[derive(Debug)]
struct Shared {
    url: String,
    role: String,
    state: Mutex<State>,
    /// The state changed, or a renewal is wanted.
    news: Condvar,
}

/// Keys of a role. The thread behind it ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Role {
    shared: Arc<Shared>,
}

impl Role {
    /// Fetches the first keys; blocks for at most [`DEADLINE`] and a little. `role` may be `auto`.
    pub fn start(endpoint: &str, role: &str) -> Result<Role, CredentialError> {
        let state = State { credentials: None, expires: None, trouble: None, wanted: false, tries: 0 };
        let url = format!("{}{PATH}", endpoint.trim_end_matches('/'));
        let shared = Arc::new(Shared { url, role: role.into(), state: Mutex::new(state), news: Condvar::new() });
        let weak = Arc::downgrade(&shared);
        let failed = |cause: String| CredentialError::Role { role: role.into(), cause };
        std::thread::Builder::new()
            .name("cam-role".into())
            .spawn(move || renew(&weak))
            .map_err(|error| failed(error.to_string()))?;
        let mut state = shared.state.lock();
        while state.tries == 0 {
            if shared.news.wait_for(&mut state, DEADLINE * 3).timed_out() {
                break;
            }
        }
        if state.credentials.is_none() {
            return Err(failed(state.trouble.clone().unwrap_or_else(|| "no answer".into())));
        }
        drop(state);
        Ok(Role { shared })
    }
}

impl CredentialSource for Role {
    fn current(&self) -> Result<Arc<Credentials>, CredentialError> {
        let state = self.shared.state.lock();
        state.credentials.clone().ok_or_else(|| CredentialError::Role {
            role: self.shared.role.clone(),
            cause: state.trouble.clone().unwrap_or_default(),
        })
    }

    fn renewed(&self, used: &Credentials) -> bool {
        let mut state = self.shared.state.lock();
        let newer = state.credentials.as_ref().is_some_and(|now| **now != *used);
        if !newer {
            state.wanted = true;
            self.shared.news.notify_all();
        }
        newer
    }

    fn trouble(&self) -> Option<String> {
        self.shared.state.lock().trouble.clone()
    }

    fn expires(&self) -> Option<SystemTime> {
        self.shared.state.lock().expires
    }
}

/// The thread: fetch, wait until it is time, again.
fn renew(shared: &Weak<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let builder =
        || reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(DEADLINE);
    // The service is plain HTTP.
    let client = web::build("http", builder);
    let (Ok(runtime), Ok(client)) = (runtime, client) else {
        return log::error!("credentials: no threads or no client for the metadata service");
    };
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let fetched = runtime.block_on(fetch(&client, &strong.url, &strong.role));
        let mut state = strong.state.lock();
        state.tries += 1;
        state.wanted = false;
        let pause = match fetched {
            Ok((credentials, expires)) => {
                if state.credentials.as_ref().is_none_or(|old| **old != credentials) {
                    log::info!("credentials: new keys of role {}", strong.role);
                    state.credentials = Some(Arc::new(credentials));
                }
                state.expires = Some(expires);
                state.trouble = None;
                pause_of(expires.duration_since(SystemTime::now()).unwrap_or_default())
            }
            Err(cause) => {
                log::warn!("credentials: keys of role {} cannot be renewed: {cause}", strong.role);
                state.trouble = Some(format!("keys of role {} cannot be renewed: {cause}", strong.role));
                AGAIN
            }
        };
        strong.news.notify_all();
        drop(state);
        drop(strong);
        std::thread::sleep(PAUSE_MIN);
        let end = std::time::Instant::now() + pause.saturating_sub(PAUSE_MIN);
        // In steps: the mount may end meanwhile, and the host may sleep.
        while std::time::Instant::now() < end {
            let Some(strong) = shared.upgrade() else { return };
            let mut state = strong.state.lock();
            let due = state
                .expires
                .is_some_and(|at| pause_of(at.duration_since(SystemTime::now()).unwrap_or_default()) <= PAUSE_MIN);
            if state.wanted || (due && state.trouble.is_none()) {
                break;
            }
            strong.news.wait_for(&mut state, PAUSE_MIN);
        }
    }
}

/// How long keys with so much life left are kept before they are renewed.
fn pause_of(left: Duration) -> Duration {
    let early = EARLY.min(left / EARLY_PART);
    (left - early).max(PAUSE_MIN)
}

async fn fetch(client: &reqwest::Client, url: &str, role: &str) -> Result<(Credentials, SystemTime), String> {
    let ask = async |url: String| {
        let answer = client.get(url).send().await.map_err(|error| error.without_url().to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the metadata service answered {}", answer.status()));
        }
        answer.text().await.map_err(|error| error.without_url().to_string())
    };
    let role = match role {
        "auto" => {
            let names = ask(url.to_string()).await?;
            names.lines().map(str::trim).find(|name| !name.is_empty()).ok_or("this machine has no role")?.to_string()
        }
        role => role.to_string(),
    };
    let text = ask(format!("{url}{role}")).await?;
    // The text holds keys: never into an error.
    let grant: Grant = serde_json::from_str(&text).map_err(|_| "the metadata service answered no JSON".to_string())?;
    if !grant.code.eq_ignore_ascii_case("success") {
        return Err(format!("the metadata service said {:?}", grant.code));
    }
    let token = (!grant.token.is_empty()).then_some(grant.token);
    let credentials =
        Credentials::new(grant.tmp_secret_id, grant.tmp_secret_key, token).map_err(|error| error.to_string())?;
    let expires = UNIX_EPOCH.checked_add(Duration::from_secs(grant.expired_time));
    Ok((credentials, expires.ok_or("the metadata service named no possible time of expiry")?))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn keys_are_renewed_well_before_they_expire() {
        let rows = [(7200, 6600), (1800, 1200), (900, 600), (3, 2), (0, 1)];
        for (left, pause) in rows {
            assert_eq!(pause_of(Duration::from_secs(left)), Duration::from_secs(pause), "{left} s left");
        }
    }

    /// A metadata service whose keys live for three seconds and are numbered; `broken`: from that number on it fails.
    fn service(broken: u64) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let given = Arc::new(AtomicU64::new(0));
        let count = given.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let n = if line.contains("/security-credentials/web") {
                    count.fetch_add(1, Ordering::SeqCst) + 1
                } else {
                    0
                };
                let body = match n {
                    0 => "web\n".to_string(),
                    n if n >= broken => "{\"Code\":\"Failed\"}".to_string(),
                    n => {
                        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3;
                        format!(
                            "{{\"TmpSecretId\":\"id{n}\",\"TmpSecretKey\":\"verysecret{n}\",\"Token\":\"t{n}\",\"ExpiredTime\":{end},\"Code\":\"Success\"}}"
                        )
                    }
                };
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    .unwrap();
            }
        });
        (url, given)
    }

    #[test]
    fn a_role_renews_itself_and_keeps_what_it_has() {
        let (url, given) = service(3);
        let role = Role::start(&url, "auto").unwrap();
        let first = role.current().unwrap();
        assert_eq!((first.secret_id.as_str(), first.token.as_deref()), ("id1", Some("t1")));
        assert!(!format!("{role:?}").contains("verysecret"));
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while role.current().unwrap().secret_id != "id2" {
            assert!(std::time::Instant::now() < end && role.trouble().is_none());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(role.renewed(&first), "there is something newer than the first keys");
        // From the third on the service fails; being refused makes it try again.
        let second = role.current().unwrap();
        while role.trouble().is_none() {
            assert!(!role.renewed(&second) && std::time::Instant::now() < end);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(role.current().unwrap().secret_id, "id2");
        assert!(given.load(Ordering::SeqCst) >= 3);
    }

    #[test]
    fn no_service_no_keys() {
        let error = Role::start("http://127.0.0.1:1", "web").unwrap_err();
        assert!(error.to_string().contains("role web"), "{error}");
    }
}
