//! `cosfs-ha provision`: makes the settings of both buckets what the mount relies on.

use std::path::PathBuf;

use clap::Args;

use super::access::{self, Pair, consent, say};
use super::{Exit, Failure};
use crate::config::Config;
use crate::object::Site;
use crate::provision::{self, Change, OriginPull, Present, Trouble, Wanted, rules};

const EXAMPLES: &str = "\
Examples:
  cosfs-ha provision --config /etc/cosfs-ha.toml --dry-run      what would change, as XML
  cosfs-ha provision --config /etc/cosfs-ha.toml
  cosfs-ha doctor --config /etc/cosfs-ha.toml                   afterwards: is everything as it must be?

Rights: the key needs, on both buckets, cos:GetBucketVersioning, PutBucketVersioning, GetBucketReplication, PutBucketReplication, \
GetBucketLifecycle, PutBucketLifecycle, GetBucketOrigin, PutBucketOrigin and GetBucketACL. It is not the key that the mount should \
use, which needs none of the Put rights.

Role: COS replicates under the service role COS_QcsRole of the account. Where it is missing, make it once: in the console, CAM, Roles, \
Create Role, Tencent Cloud Product Service, Cloud Object Storage, with policy QcloudCOSFullAccess and the name COS_QcsRole; or with the \
command line tool of the cloud, see docs/operations.md.";

/// Configure both buckets for the mount: versioning, replication both ways, lifecycle, origin-pull.
///
/// What is good enough stays as it is, so running it again does nothing. Rules of others are kept; where one stands in the way, you are
/// asked before it changes.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ProvisionArgs {
    /// Configuration file that names both buckets
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print what would change and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before changing what somebody else configured
    #[arg(short, long)]
    yes: bool,
    /// Who replicates: `qcs::cam::uin/<account>:uin/<account>`; found by itself where the key may read the bucket's owner
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Days that overwritten and deleted content is kept; longer than the longest outage you want to survive
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
    noncurrent_days: u64,
    /// Days after which unfinished multipart uploads are removed
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=3650))]
    abort_days: u64,
    /// Switch global acceleration on, too (it costs extra)
    #[arg(long)]
    accelerate: bool,
    /// Let bucket B redirect readers of what it does not have to this server, `http://host[:port]/[folder/]`; without it, to the web server that
    /// section `[origin]` names, if it names one
    #[arg(long, value_name = "URL")]
    origin_pull: Option<String>,
    /// No redirect, whatever `[origin]` says
    #[arg(long, conflicts_with = "origin_pull")]
    no_origin_pull: bool,
}

pub fn run(args: &ProvisionArgs) -> Result<Exit, Failure> {
    let config = access::configuration(&args.config)?;
    let wanted = wanted(args, &config)?;
    let pair = Pair::open(&config)?;
    let present = pair.wait(provision::read(&pair.clients, &wanted)).map_err(failed)?;
    let plan = rules::plan(&present, &wanted).map_err(|obstacle| Failure::new(Exit::Failure, obstacle.to_string()))?;
    say_unchanged(&present, &plan);
    if plan.is_empty() {
        say!("nothing to do: both buckets are as they must be");
        return Ok(Exit::Ok);
    }
    for change in &plan {
        say!("\nbucket {} ({}): {}", change.site, pair.name(change.site), change.reason);
        for theirs in &change.foreign {
            say!("  changes what somebody else configured: {theirs}");
        }
        if args.dry_run || !change.foreign.is_empty() {
            say!("{}", change.difference().trim_end());
        }
    }
    if args.dry_run {
        say!("\n{} to be made; this was a dry run, nothing was changed", counted(plan.len()));
        return Ok(Exit::Ok);
    }
    agree(&plan, args.yes)?;
    for change in &plan {
        pair.wait(provision::execute(&pair.clients[change.site.index()], change)).map_err(failed)?;
        say!("bucket {}: {} set", change.site, change.what.name());
    }
    // What a bucket says it has is what counts.
    let present = pair.wait(provision::read(&pair.clients, &wanted)).map_err(failed)?;
    let left = rules::plan(&present, &wanted).map_err(|obstacle| Failure::new(Exit::Failure, obstacle.to_string()))?;
    if let Some(change) = left.first() {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "bucket {} accepted its new {} settings, but does not show them. Settings can take minutes; run it again with --dry-run",
                change.site,
                change.what.name()
            ),
        ));
    }
    say!("{} made. Check with: cosfs-ha doctor --config {}", counted(plan.len()), args.config.display());
    Ok(Exit::Ok)
}

fn counted(changes: usize) -> String {
    format!("{changes} change{}", if changes == 1 { "" } else { "s" })
}

fn wanted(args: &ProvisionArgs, config: &Config) -> Result<Wanted, Failure> {
    let resource = |bucket: &crate::config::Bucket| format!("qcs::cos:{}::{}", bucket.region, bucket.bucket);
    if let Some(role) = &args.role
        && !role.starts_with("qcs::cam::")
    {
        return Err(Failure::new(Exit::Usage, "--role has the form qcs::cam::uin/100000000001:uin/100000000001"));
    }
    Ok(Wanted {
        resources: [resource(&config.a), resource(&config.b)],
        prefix: config.mount.prefix.clone(),
        role: args.role.clone(),
        noncurrent_days: args.noncurrent_days,
        abort_days: args.abort_days,
        accelerate: args.accelerate,
        origin: origin_of(args, config).map(|url| origin_pull(&url)).transpose()?,
    })
}

/// Where bucket B is to redirect to.
fn origin_of(args: &ProvisionArgs, config: &Config) -> Option<String> {
    if args.no_origin_pull {
        return None;
    }
    let configured =
        || config.origin.url.clone().filter(|url| url.starts_with("http://") || url.starts_with("https://"));
    args.origin_pull.clone().or_else(configured)
}

fn origin_pull(url: &str) -> Result<OriginPull, Failure> {
    let wrong = |why: &str| Failure::new(Exit::Usage, format!("origin-pull to {url}: {why}"));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("write it as http://host[:port]/[folder/]"))?;
    let https = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("a bucket can only redirect to http:// or https://")),
    };
    let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains(['@', '?', '#']) || folder.contains(['?', '#']) {
        return Err(wrong("expected a host and perhaps a folder, nothing else"));
    }
    let slash = if folder.is_empty() || folder.ends_with('/') { "" } else { "/" };
    Ok(OriginPull { https, host: host.into(), folder: format!("{folder}{slash}") })
}

fn say_unchanged(present: &Present, plan: &[Change]) {
    for site in Site::ALL {
        for what in present[site.index()].keys() {
            let read_only = *what == crate::cos::Resource::Acl;
            if !read_only && !plan.iter().any(|change| change.site == site && change.what == *what) {
                say!("bucket {site}: {} is fine", what.name());
            }
        }
    }
}

/// Asks where the plan takes something away from somebody.
fn agree(plan: &[Change], yes: bool) -> Result<(), Failure> {
    let theirs: Vec<&str> = plan.iter().flat_map(|change| &change.foreign).map(String::as_str).collect();
    if theirs.is_empty() {
        return Ok(());
    }
    consent(&format!("This changes what somebody else configured ({}); --dry-run shows it.", theirs.join("; ")), yes)
}

fn failed(trouble: Trouble) -> Failure {
    if !trouble.is_refusal() {
        return Failure::new(Exit::Failure, trouble.to_string());
    }
    let hint = "the key has no right to it; see cosfs-ha provision --help for the rights and for the role COS_QcsRole that replication needs";
    Failure::new(Exit::Credentials, format!("{trouble}\n  {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_host_and_perhaps_a_folder() {
        let pull = |url: &str| origin_pull(url).ok().map(|p| (p.https, p.host, p.folder));
        assert_eq!(pull("http://127.0.0.1:9103/"), Some((false, "127.0.0.1:9103".into(), String::new())));
        assert_eq!(pull("https://o.example.com/hot"), Some((true, "o.example.com".into(), "hot/".into())));
        for wrong in ["o.example.com", "ftp://x/", "http:///x", "http://u@x/", "http://x/?a"] {
            assert_eq!(pull(wrong), None, "{wrong}");
        }
    }
}
