//! From facts to findings. Pure, so that every broken precondition is a row of a table.
//!
//! Weight: *fatal* is what the mount refuses to start with, because going on would do damage or cannot work: no rights, no such bucket, a clock
//! that no signature survives, origin-pull that writes old content over new. *Error* is a promise that does not hold. *Warning* is a cost or
//! a risk in time. What a silent bucket would have said is *unknown*.

use std::time::{Duration, SystemTime};

use super::facts::Facts;
use super::{Check, Finding, Severity};
use crate::cos::{Kind, Resource};
use crate::object::Site;
use crate::provision::rules as settings;

/// From this difference on, times of files made here look wrong elsewhere.
const CLOCK_WARN: Duration = Duration::from_secs(5);
/// From this one on COS refuses what is signed by this clock. The client corrects itself, other programs do not.
const CLOCK_REFUSED: Duration = Duration::from_secs(15 * 60);
/// Noncurrent versions that go sooner than a long outage lasts are missing when they are needed.
const NONCURRENT_DAYS_MIN: u64 = 3;

/// What the findings are about, beside the facts.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The mounted folder.
    pub prefix: String,
    /// `--config FILE`, for the commands that mend.
    pub config: String,
    /// Nothing is written: what only endangers writes is no reason to refuse.
    pub read_only: bool,
}

impl Scope {
    fn provision(&self) -> String {
        format!("cosfs-ha provision {}", self.config)
    }
}

/// Everything that can be said from the settings.
pub fn judge(facts: &[Facts; 2], scope: &Scope) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (found, other) in [(&facts[0], &facts[1]), (&facts[1], &facts[0])] {
        let door = access(found);
        let open = door.severity == Severity::Ok;
        findings.push(door);
        if !open {
            continue;
        }
        findings.extend(clock(found));
        findings.extend(versioning(found, scope));
        findings.extend(replication(found, other, scope));
        findings.extend(lifecycle(found, scope));
        findings.extend(origin_pull(found, scope));
        findings.extend(encryption(found));
    }
    findings.push(regions(facts));
    findings
}

fn access(found: &Facts) -> Finding {
    let Facts { site, bucket, .. } = found;
    let bad = |severity, state: String| Finding::bad(Check::Access, Some(*site), severity, state);
    let error = match &found.door {
        Ok(_) => {
            let took = found.took.as_millis();
            return Finding::ok(
                Check::Access,
                Some(*site),
                format!("bucket {bucket} ([{site}]) lets us in ({took} ms)"),
            );
        }
        Err(error) => error,
    };
    // HEAD has no body, so the reason stands in the answer to one of the other questions.
    let told = found.settings.values().filter_map(|answer| answer.as_ref().err());
    let code = told.chain([error]).find_map(|error| error.code.clone()).unwrap_or_default();
    match error.kind {
        Kind::Auth => {
            let cure = match code.as_str() {
                "SignatureDoesNotMatch" => "copy secret id and secret key again: the key does not belong to the id",
                "InvalidAccessKeyId" => "give a secret id that exists: this one may be misspelt, disabled or deleted",
                "ExpiredToken" | "InvalidToken" => "fetch a new temporary key: this one is over",
                _ => {
                    "allow the key, in CAM, at least GetBucket, HeadBucket, GetObject, PutObject and DeleteObject on the bucket"
                }
            };
            let code = if code.is_empty() { "403".to_string() } else { format!("403 {code}") };
            bad(Severity::Fatal, format!("bucket {bucket} ([{site}]) refuses the credentials ({code})"))
                .then("nothing can be read or written there")
                .mend(cure)
        }
        Kind::NoSuchBucket | Kind::NoSuchKey => {
            bad(Severity::Fatal, format!("bucket {bucket} ([{site}]) does not exist in region {}", found.region))
                .then("there is nothing to mount")
                .mend(format!("check name, account number and region in section [{site}] of the configuration"))
        }
        Kind::ClockSkew => {
            bad(Severity::Fatal, format!("bucket {bucket} ([{site}]) says that this host's clock is wrong"))
                .then("every request is refused")
                .mend("timedatectl set-ntp true")
        }
        _ => bad(Severity::Error, format!("bucket {bucket} ([{site}]) does not answer: {}", error.cause()))
            .then("the mount works with what answers, and nothing is known about this bucket's settings")
            .mend("look at the provider's status page and at this host's network, then ask again"),
    }
}

fn clock(found: &Facts) -> Option<Finding> {
    let service = found.door.as_ref().ok().copied().flatten()?;
    let site = Some(found.site);
    // `Date` has no fractions: the service's moment lies up to a second later.
    let (ours, theirs) = (found.when, service + Duration::from_millis(500));
    let off = ours.duration_since(theirs).unwrap_or_else(|e| e.duration());
    let text =
        format!("this host's clock is {:.0} s {} bucket {}'s", off.as_secs_f64(), side(ours, theirs), found.site);
    if off < CLOCK_WARN {
        return Some(Finding::ok(Check::Clock, site, "this host's clock agrees with the bucket's"));
    }
    let severity = if off < CLOCK_REFUSED { Severity::Warning } else { Severity::Error };
    let finding = Finding::bad(Check::Clock, site, severity, text)
        .then("times of files made here are wrong; signatures are corrected by the mount itself, but other tools are refused beyond 15 minutes")
        .mend("timedatectl set-ntp true");
    Some(finding)
}

fn side(ours: SystemTime, theirs: SystemTime) -> &'static str {
    if ours > theirs { "ahead of" } else { "behind" }
}

fn regions(facts: &[Facts; 2]) -> Finding {
    let [a, b] = [&facts[0].region, &facts[1].region];
    if a != b {
        return Finding::ok(Check::Regions, None, format!("the buckets lie in two regions, {a} and {b}"));
    }
    Finding::bad(Check::Regions, None, Severity::Warning, format!("both buckets lie in region {a}"))
        .then("the outage of that region takes both")
        .mend("make the second bucket in another region, and name it in section [b]")
}

/// A setting that could not be read, although the bucket answers.
fn unread(found: &Facts, check: Check, what: Resource) -> Option<Finding> {
    let error = found.settings.get(&what)?.as_ref().err()?;
    let state = format!("bucket {} ([{}]) does not tell its {} settings", found.bucket, found.site, what.name());
    let cure = match error.kind {
        Kind::Auth => format!("allow the key cos:GetBucket{} in CAM", action(what)),
        _ => "ask again".to_string(),
    };
    let finding = Finding::bad(check, Some(found.site), Severity::Unknown, format!("{state}: {}", error.cause()));
    Some(finding.then("whether they are right is not known").mend(cure))
}

fn action(what: Resource) -> &'static str {
    match what {
        Resource::Versioning => "Versioning",
        Resource::Replication => "Replication",
        Resource::Lifecycle => "Lifecycle",
        Resource::Origin => "Origin",
        Resource::Accelerate => "Accelerate",
        Resource::Encryption => "Encryption",
        Resource::Acl => "ACL",
    }
}

fn versioning(found: &Facts, scope: &Scope) -> Option<Finding> {
    let Some(tree) = found.known(Resource::Versioning) else {
        return unread(found, Check::Versioning, Resource::Versioning);
    };
    let (site, bucket) = (found.site, &found.bucket);
    let state = match tree.and_then(|tree| tree.text_at(&["Status"])) {
        Some(status) if status.eq_ignore_ascii_case("enabled") => {
            return Some(Finding::ok(Check::Versioning, Some(site), format!("bucket {bucket} has versioning on")));
        }
        Some(_) => "suspended",
        None => "off",
    };
    let finding = Finding::bad(
        Check::Versioning,
        Some(site),
        Severity::Error,
        format!("bucket {bucket} ([{site}]) has versioning {state}"),
    )
    .then("nothing replicates, and overwritten and deleted files cannot be told from late copies")
    .mend(scope.provision());
    Some(finding)
}

fn replication(found: &Facts, other: &Facts, scope: &Scope) -> Vec<Finding> {
    let Some(tree) = found.known(Resource::Replication) else {
        return unread(found, Check::Replication, Resource::Replication).into_iter().collect();
    };
    let (site, bucket) = (found.site, &found.bucket);
    let target = |resource: Option<&str>| resource.is_some_and(|r| r.rsplit(':').next() == Some(other.bucket.as_str()));
    let rules: Vec<_> = tree
        .into_iter()
        .flat_map(|tree| tree.all("Rule"))
        .filter(|rule| settings::is_enabled(rule) && settings::covers(rule, &scope.prefix))
        .filter(|rule| target(rule.text_at(&["Destination", "Bucket"])))
        .collect();
    if rules.is_empty() {
        let state = format!(
            "bucket {bucket} ([{site}]) has no enabled replication rule to {} that covers this mount",
            other.bucket
        );
        let finding = Finding::bad(Check::Replication, Some(site), Severity::Error, state)
            .then("what is written there reaches the other region only from this host's journal")
            .mend(scope.provision());
        return vec![finding];
    }
    let replicates =
        Finding::ok(Check::Replication, Some(site), format!("bucket {bucket} replicates to {}", other.bucket));
    let markers = match rules.iter().any(|rule| settings::carries_markers(rule)) {
        true => Finding::ok(Check::DeleteMarkers, Some(site), format!("and so do deletions in {bucket}")),
        false => {
            let state = format!("the replication rule of bucket {bucket} ([{site}]) leaves delete markers out");
            Finding::bad(Check::DeleteMarkers, Some(site), Severity::Error, state)
                .then(format!(
                    "files deleted there stay in {} until this host deletes them, too, and come back after a switch",
                    other.bucket
                ))
                .mend(scope.provision())
        }
    };
    vec![replicates, markers]
}

fn lifecycle(found: &Facts, scope: &Scope) -> Vec<Finding> {
    let Some(tree) = found.known(Resource::Lifecycle) else {
        return unread(found, Check::Lifecycle, Resource::Lifecycle).into_iter().collect();
    };
    let (site, bucket, prefix) = (Some(found.site), &found.bucket, &scope.prefix);
    let warning = |check, state: String| Finding::bad(check, site, Severity::Warning, state);
    let named = format!("bucket {bucket} ([{}])", found.site);
    let mut findings = Vec::new();
    findings.push(match (settings::noncurrent_days(tree, prefix), settings::abort_days(tree, prefix)) {
        (Some(days), Some(_)) if days < NONCURRENT_DAYS_MIN => {
            warning(Check::Lifecycle, format!("{named} removes noncurrent versions after {days} days"))
                .then("content that was overwritten during an outage may be gone before the outage is over")
                .mend("lengthen NoncurrentDays of that rule in the console; 30 is a good value")
        }
        (Some(days), Some(_)) => Finding::ok(
            Check::Lifecycle,
            site,
            format!("bucket {bucket} removes noncurrent versions after {days} days"),
        ),
        (None, _) => warning(Check::Lifecycle, format!("{named} keeps noncurrent versions for ever"))
            .then("every overwrite and every deletion leaves a version behind that is paid for")
            .mend(scope.provision()),
        (_, None) => warning(Check::Lifecycle, format!("{named} keeps unfinished multipart uploads for ever"))
            .then("parts of uploads that broke off are paid for and never seen")
            .mend(scope.provision()),
    });
    findings.push(match settings::deletes_files(tree, prefix) {
        None => Finding::ok(Check::Expiration, site, format!("no lifecycle rule of bucket {bucket} removes files")),
        Some(rule) => warning(Check::Expiration, format!("lifecycle rule {rule} of {named} removes files after some time"))
            .then("files vanish without anybody deleting them, and only in this bucket: lifecycle actions are not replicated")
            .mend(format!("remove rule {rule} in the console, unless that is what you want; then make the same rule in the other bucket")),
    });
    findings
}

fn origin_pull(found: &Facts, scope: &Scope) -> Option<Finding> {
    let Some(tree) = found.known(Resource::Origin) else {
        return unread(found, Check::OriginPull, Resource::Origin);
    };
    let (site, bucket) = (Some(found.site), &found.bucket);
    let stored = settings::mirror_rules(tree, &scope.prefix).count();
    if stored == 0 {
        let text = format!("no origin-pull rule of bucket {bucket} stores what it fetches");
        return Some(Finding::ok(Check::OriginPull, site, text));
    }
    let severity = if scope.read_only { Severity::Error } else { Severity::Fatal };
    let state = format!(
        "bucket {bucket} ([{}]) has origin-pull in mirror or proxy mode on the mounted folder ({stored} rule{})",
        found.site,
        if stored == 1 { "" } else { "s" }
    );
    let finding = Finding::bad(Check::OriginPull, site, severity, state)
        .then(
            "COS stores what it fetches as a new version: an old copy becomes the newest one, replicates over newer writes, and deleted files \
             come back",
        )
        .mend(format!("{} (asks before it removes the rule; redirect mode and folders outside of the mount are fine)", scope.provision()));
    Some(finding)
}

fn encryption(found: &Facts) -> Option<Finding> {
    // The mount does not ask; and a key that may not read it is no reason for a warning.
    let tree = found.known(Resource::Encryption)?;
    let (site, bucket) = (Some(found.site), &found.bucket);
    let algorithm = tree.and_then(|t| t.text_at(&["Rule", "ApplyServerSideEncryptionByDefault", "SSEAlgorithm"]));
    Some(match algorithm {
        None => Finding::ok(
            Check::Encryption,
            site,
            format!("bucket {bucket} has no default encryption that replicas could lose"),
        ),
        Some(algorithm) => {
            let state = format!("bucket {bucket} ([{}]) encrypts by default ({algorithm})", found.site);
            Finding::bad(Check::Encryption, site, Severity::Warning, state)
                .then("COS documents contradict each other on whether replicas stay encrypted")
                .mend("set the same default encryption on the other bucket, and look at a replica with HEAD")
        }
    })
}

/// The finding that keeps a mount from starting, if there is one.
pub fn refusal(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| finding.severity == Severity::Fatal)
}

/// Buckets that did not answer at all.
pub fn silent(findings: &[Finding]) -> impl Iterator<Item = (Site, &Finding)> {
    let silent = |f: &&Finding| f.check == Check::Access && f.severity == Severity::Error;
    findings.iter().filter(silent).filter_map(|finding| Some((finding.site?, finding)))
}

#[cfg(test)]
mod tests;
