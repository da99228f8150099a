//! What is asked of both buckets before the mount begins: may we, and will they keep their promises?
//!
//! The questions and their weight are the doctor's, the quick part of them: all at once, in bounded time. What is fatal to it keeps the mount
//! from starting, everything else is a warning with its consequence.
//!
//! A wrong key or a missing bucket is found here, where a person reads the answer, and not later as an I/O error in some program. A bucket
//! that does not answer is no reason to refuse: that is what the second one is for. And where an earlier mount left something, the
//! mount starts even if neither answers, because then there is something to serve or to send.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::{Exit, Failure};
use crate::config::{Config, Secret};
use crate::cos::credentials::{CredentialError, Fixed, PasswdFile, Role, Swap};
use crate::cos::{BucketAddress, Client, ClockOffset, CredentialSource, Credentials, Kind};
use crate::doctor::facts::{self, Facts, Patience};
use crate::doctor::rules::{self, Scope};
use crate::doctor::{Check, Finding, Severity};
use crate::linkage::Linkages;
use crate::object::Site;

/// The key pair, from the first place that has one.
pub fn credentials(config: &Config, bucket: &str) -> Result<Arc<dyn CredentialSource>, Failure> {
    let refuse = |error: CredentialError| Failure::new(Exit::Config, error.to_string());
    if let Some(fixed) = Fixed::from_environment().map_err(refuse)? {
        return Ok(Arc::new(fixed));
    }
    let keys = &config.credentials;
    if let (Some(Secret(id)), Some(Secret(key))) = (&keys.secret_id, &keys.secret_key) {
        let token = keys.token.as_ref().map(|token| token.0.clone());
        let fixed = Credentials::new(id.clone(), key.clone(), token).map_err(refuse)?;
        return Ok(Arc::new(Fixed::new(fixed)));
    }
    let role =
        keys.role.clone().or_else(|| std::env::var("TENCENTCLOUD_CAM_ROLE_NAME").ok().filter(|role| !role.is_empty()));
    if let Some(role) = role {
        return Ok(Arc::new(Role::start(&keys.role_endpoint, &role).map_err(refuse)?));
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".passwd-cosfs"));
    let usual = [home, Some(PathBuf::from("/etc/passwd-cosfs"))];
    let file = keys.file.clone().or_else(|| usual.into_iter().flatten().find(|path| path.exists()));
    match file {
        Some(path) => Ok(Arc::new(PasswdFile::open(path, bucket).map_err(refuse)?)),
        None => Err(Failure::new(
            Exit::Config,
            "there is no key: set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY, or write secret_id and secret_key into section \
             [credentials] of the configuration file, or SecretId:SecretKey into /etc/passwd-cosfs",
        )),
    }
}

/// The same again for a mount that runs.
pub fn replace_credentials(links: &Linkages, config: &Config) -> Result<(), Failure> {
    let fresh = [credentials(config, &config.a.bucket)?, credentials(config, &config.b.bucket)?];
    for (site, source) in Site::ALL.into_iter().zip(fresh) {
        links.client(site).credentials().replace(source);
    }
    Ok(())
}

/// One client a bucket.
pub fn clients(config: &Config) -> Result<[Client; 2], Failure> {
    // Both buckets are looked at by the same clock of ours.
    let clock = Arc::new(ClockOffset::new());
    let client = |bucket: &crate::config::Bucket| {
        let address = BucketAddress {
            bucket: bucket.bucket.clone(),
            region: bucket.region.clone(),
            endpoint: bucket.endpoint.clone(),
            https: bucket.https,
        };
        let keys = Arc::new(Swap::new(credentials(config, &bucket.bucket)?));
        Client::new(address, keys, clock.clone()).map_err(|error| Failure::new(Exit::Config, error.to_string()))
    };
    Ok([client(&config.a)?, client(&config.b)?])
}

/// Asks both buckets. `local`: an earlier mount left writes to send or knowledge to serve. Returns warnings, each with its consequence.
pub async fn run(clients: &[Client; 2], config: &Config, local: bool) -> Result<Vec<String>, Failure> {
    let facts = facts::look(clients, facts::QUICK, &Patience::MOUNT).await;
    let scope = Scope {
        prefix: config.mount.prefix.clone(),
        config: "--config FILE".into(),
        read_only: config.mount.read_only,
    };
    let findings = rules::judge(&facts, &scope);
    if let Some(fatal) = rules::refusal(&findings) {
        return Err(Failure::new(code(fatal, &facts), fatal.line()));
    }
    let silent: Vec<&Finding> = rules::silent(&findings).map(|(_, finding)| finding).collect();
    if let [a, b] = silent.as_slice()
        && !local
    {
        return Err(Failure::new(
            Exit::Unreachable,
            format!(
                "neither bucket answers, and no earlier mount left anything to work with here:\n  {}\n  {}",
                a.state, b.state
            ),
        ));
    }
    let worth_saying = |finding: &&Finding| finding.severity >= Severity::Warning;
    Ok(findings.iter().filter(worth_saying).map(Finding::line).collect())
}

fn code(fatal: &Finding, facts: &[Facts; 2]) -> Exit {
    let refused = facts.iter().any(|found| found.door.as_ref().is_err_and(|error| error.kind == Kind::Auth));
    if fatal.check == Check::Access && refused { Exit::Credentials } else { Exit::Config }
}
