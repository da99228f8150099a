//! What is to change, as a pure function of what is there.
//!
//! Order of the plan is the order of execution, and it matters: replication is refused until both buckets have versioning.
//!
//! What is good enough is left alone, whoever made it. A rule of ours has the id [`OURS`] and is brought up to date without asking; a rule of
//! somebody else is changed only where it stands in the way, and that is said.

use super::{Change, Obstacle, OriginPull, Present, Wanted};
use crate::cos::{Element, Resource};
use crate::object::Site;

/// Id of the rules that this program makes.
pub const OURS: &str = "cosfs-ha";

/// Everything that has to change, in the order in which it can.
pub fn plan(present: &Present, wanted: &Wanted) -> Result<Vec<Change>, Obstacle> {
    let mut plan = Vec::new();
    let found = |site: Site, what: Resource| present[site.index()].get(&what).cloned().flatten();
    for site in Site::ALL {
        plan.extend(versioning(site, found(site, Resource::Versioning)));
    }
    for site in Site::ALL {
        let owner = role(present, wanted, site);
        plan.extend(replication(site, found(site, Resource::Replication), wanted, owner)?);
    }
    for site in Site::ALL {
        plan.extend(lifecycle(site, found(site, Resource::Lifecycle), wanted));
    }
    for site in Site::ALL {
        let pull = wanted.origin.as_ref().filter(|_| site == Site::B);
        plan.extend(origin(site, found(site, Resource::Origin), &wanted.prefix, pull));
    }
    for site in Site::ALL.into_iter().filter(|_| wanted.accelerate) {
        plan.extend(accelerate(site, found(site, Resource::Accelerate)));
    }
    Ok(plan)
}

fn versioning(site: Site, before: Option<Element>) -> Option<Change> {
    let status = before.as_ref().and_then(|tree| tree.text_at(&["Status"]));
    if status == Some("Enabled") {
        return None;
    }
    let foreign = match status {
        Some("Suspended") => vec!["versioning was on once, and somebody suspended it".to_string()],
        _ => Vec::new(),
    };
    let after = Some(Element::new("VersioningConfiguration").with(Element::leaf("Status", "Enabled")));
    let reason =
        "switch versioning on: nothing replicates without it, and overwritten files could not be told from late copies";
    Some(Change { site, what: Resource::Versioning, before, after, reason: reason.into(), foreign })
}

/// The identity that rules name: as ordered, as the other rules say, or the owner of the bucket.
fn role(present: &Present, wanted: &Wanted, site: Site) -> Option<String> {
    let of = |site: Site, what: Resource, path: &[&str]| {
        let tree = present[site.index()].get(&what)?.as_ref()?;
        tree.text_at(path).filter(|role| role.starts_with("qcs::cam::uin/")).map(str::to_string)
    };
    let there = || of(site, Resource::Replication, &["Role"]);
    let beside = || of(site.other(), Resource::Replication, &["Role"]);
    let owner = || of(site, Resource::Acl, &["Owner", "ID"]);
    there().or_else(|| wanted.role.clone()).or_else(beside).or_else(owner)
}

/// The folder that a rule is for; `None` if it chooses by more than the name.
pub fn rule_prefix(rule: &Element) -> Option<String> {
    let Some(filter) = rule.child("Filter") else {
        return Some(rule.text_at(&["Prefix"]).unwrap_or_default().to_string());
    };
    match filter.child("And") {
        Some(and) if and.child("Tag").is_some() => None,
        Some(and) => Some(and.text_at(&["Prefix"]).unwrap_or_default().to_string()),
        None if filter.child("Tag").is_some() => None,
        None => Some(filter.text_at(&["Prefix"]).unwrap_or_default().to_string()),
    }
}

pub fn is_enabled(rule: &Element) -> bool {
    rule.text_at(&["Status"]).is_some_and(|status| status.eq_ignore_ascii_case("enabled"))
}

/// Does the rule concern everything below `prefix`?
pub fn covers(rule: &Element, prefix: &str) -> bool {
    rule_prefix(rule).is_some_and(|folder| prefix.starts_with(&folder))
}

/// Does it concern anything below `prefix`?
fn touches(rule: &Element, prefix: &str) -> bool {
    rule_prefix(rule).is_none_or(|folder| prefix.starts_with(&folder) || folder.starts_with(prefix))
}

/// Absent means enabled.
pub fn carries_markers(rule: &Element) -> bool {
    rule.text_at(&["DeleteMarkerReplication", "Status"]).is_none_or(|status| status.eq_ignore_ascii_case("enabled"))
}

fn name_of(rule: &Element) -> String {
    rule.text_at(&["ID"]).unwrap_or("without a name").to_string()
}

fn is_ours(rule: &Element) -> bool {
    rule.text_at(&["ID"]) == Some(OURS)
}

fn replication(
    site: Site,
    before: Option<Element>,
    wanted: &Wanted,
    role: Option<String>,
) -> Result<Option<Change>, Obstacle> {
    let target = &wanted.resources[site.other().index()];
    let prefix = &wanted.prefix;
    let rules: Vec<Element> = before.iter().flat_map(|tree| tree.all("Rule")).cloned().collect();
    // Documents name the target with or without the account: only the bucket's name decides.
    let bucket = |resource: &str| resource.rsplit(':').next().unwrap_or(resource).to_string();
    let target_of = |rule: &Element| rule.text_at(&["Destination", "Bucket"]).unwrap_or_default().to_string();
    let right_target = |rule: &Element| bucket(&target_of(rule)) == bucket(target);
    if rules.iter().any(|r| is_enabled(r) && covers(r, prefix) && right_target(r) && carries_markers(r)) {
        return Ok(None);
    }
    if let Some(other) = rules.iter().find(|r| !right_target(r) && !is_ours(r)) {
        return Err(Obstacle::OtherTarget { site, target: bucket(&target_of(other)), rule: name_of(other) });
    }
    let mut ours = Element::new("Rule")
        .with(Element::leaf("ID", OURS))
        .with(Element::leaf("Status", "Enabled"))
        .with(Element::leaf("Prefix", prefix))
        .with(Element::new("Destination").with(Element::leaf("Bucket", target)))
        .with(Element::new("DeleteMarkerReplication").with(Element::leaf("Status", "Enabled")));
    let (mut foreign, mut after, mut placed) = (Vec::new(), Vec::new(), false);
    for rule in rules {
        if is_ours(&rule) {
            continue;
        }
        if !touches(&rule, prefix) {
            after.push(rule);
            continue;
        }
        if covers(&rule, prefix) {
            // Wide enough already: it only has to be on, with markers.
            let mut wide = rule.clone();
            wide.put(Element::leaf("Status", "Enabled"));
            wide.put(Element::new("DeleteMarkerReplication").with(Element::leaf("Status", "Enabled")));
            foreign.push(format!("replication rule {} is switched on, with delete markers", name_of(&rule)));
            after.push(wide);
            placed = true;
            continue;
        }
        // Prefixes of rules may not overlap, and this one is part of what ours is for.
        foreign.push(format!("replication rule {} gives way to one for the whole mounted folder", name_of(&rule)));
        if let Some(class) = rule.child("Destination").and_then(|d| d.child("StorageClass"))
            && let Some(destination) = ours.children.iter_mut().find(|c| c.name == "Destination")
        {
            destination.put(class.clone());
        }
    }
    if !placed {
        after.push(ours);
    }
    let role = role.ok_or(Obstacle::NoRole { site })?;
    let tree = Element {
        children: [vec![Element::leaf("Role", role)], after].concat(),
        ..Element::new("ReplicationConfiguration")
    };
    let reason =
        format!("replicate to {}, deletions included: what is written here must outlive this region", bucket(target));
    Ok(Some(Change { site, what: Resource::Replication, before, after: Some(tree), reason, foreign }))
}

/// Days after which noncurrent versions below `prefix` go; the shortest of all rules. `None`: never.
pub fn noncurrent_days(tree: Option<&Element>, prefix: &str) -> Option<u64> {
    let rules = tree.into_iter().flat_map(|tree| tree.all("Rule"));
    let days = |rule: &Element| rule.text_at(&["NoncurrentVersionExpiration", "NoncurrentDays"])?.parse().ok();
    rules.filter(|rule| is_enabled(rule) && covers(rule, prefix)).filter_map(days).min()
}

/// Days after which unfinished uploads below `prefix` go.
pub fn abort_days(tree: Option<&Element>, prefix: &str) -> Option<u64> {
    let rules = tree.into_iter().flat_map(|tree| tree.all("Rule"));
    let days = |rule: &Element| rule.text_at(&["AbortIncompleteMultipartUpload", "DaysAfterInitiation"])?.parse().ok();
    rules.filter(|rule| is_enabled(rule) && covers(rule, prefix)).filter_map(days).min()
}

/// A rule that removes files themselves, after days or at a date.
pub fn deletes_files(tree: Option<&Element>, prefix: &str) -> Option<String> {
    let mut rules = tree.into_iter().flat_map(|tree| tree.all("Rule"));
    let ends = |rule: &&Element| {
        let over = rule.child("Expiration").is_some_and(|e| e.child("Days").is_some() || e.child("Date").is_some());
        over && is_enabled(rule) && touches(rule, prefix)
    };
    rules.find(ends).map(name_of)
}

fn lifecycle(site: Site, before: Option<Element>, wanted: &Wanted) -> Option<Change> {
    let tree = before.as_ref();
    if noncurrent_days(tree, &wanted.prefix).is_some() && abort_days(tree, &wanted.prefix).is_some() {
        return None;
    }
    let leaf = |name: &str, inner: &str, value: &str| Element::new(name).with(Element::leaf(inner, value));
    let ours = Element::new("Rule")
        .with(Element::leaf("ID", OURS))
        .with(Element::leaf("Status", "Enabled"))
        .with(leaf("Filter", "Prefix", &wanted.prefix))
        .with(leaf("Expiration", "ExpiredObjectDeleteMarker", "true"))
        .with(leaf("NoncurrentVersionExpiration", "NoncurrentDays", &wanted.noncurrent_days.to_string()))
        .with(leaf("AbortIncompleteMultipartUpload", "DaysAfterInitiation", &wanted.abort_days.to_string()));
    let mut after = before.clone().unwrap_or_else(|| Element::new("LifecycleConfiguration"));
    after.children.retain(|rule| !is_ours(rule));
    after.children.push(ours);
    let reason = "remove noncurrent versions and unfinished uploads in time: every overwrite leaves a version behind, and what lifecycle rules \
                  do is not replicated, so both buckets need one";
    let change = Change {
        site,
        what: Resource::Lifecycle,
        before,
        after: Some(after),
        reason: reason.into(),
        foreign: Vec::new(),
    };
    Some(change)
}

/// Origin-pull rules that store what they fetch, for names below `prefix`.
pub fn mirror_rules<'a>(tree: Option<&'a Element>, prefix: &'a str) -> impl Iterator<Item = &'a Element> {
    let rules = tree.into_iter().flat_map(|tree| tree.all("OriginRule"));
    rules.filter(move |rule| {
        // Proxy mode redirects first, and stores afterwards all the same.
        let stores = !rule.text_at(&["OriginType"]).is_some_and(|kind| kind.eq_ignore_ascii_case("redirect"));
        let kept = rule.text_at(&["OriginParameter", "CopyOriginData"]) != Some("false");
        let folder = rule.text_at(&["OriginCondition", "Prefix"]).unwrap_or_default();
        stores && kept && (prefix.starts_with(folder) || folder.starts_with(prefix))
    })
}

fn origin_text(rule: &Element) -> String {
    let host = rule.text_at(&["OriginInfo", "HostInfo", "HostName"]).unwrap_or("an unnamed host");
    let mode = rule.text_at(&["OriginType"]).unwrap_or("Mirror");
    let folder = rule.text_at(&["OriginCondition", "Prefix"]).unwrap_or("everything");
    format!("origin-pull rule to {host} ({mode} mode, for {folder})")
}

fn redirects_to(rule: &Element, pull: &OriginPull, prefix: &str) -> bool {
    let is = |path: &[&str], value: &str| rule.text_at(path).is_some_and(|text| text.eq_ignore_ascii_case(value));
    is(&["OriginType"], "redirect")
        && is(&["OriginInfo", "HostInfo", "HostName"], &pull.host)
        && rule.text_at(&["OriginInfo", "FileInfo", "Prefix"]).unwrap_or_default() == pull.folder
        && prefix.starts_with(rule.text_at(&["OriginCondition", "Prefix"]).unwrap_or_default())
        && is(&["OriginParameter", "FollowQueryString"], "false")
}

fn origin(site: Site, before: Option<Element>, prefix: &str, pull: Option<&OriginPull>) -> Option<Change> {
    let rules: Vec<Element> = before.iter().flat_map(|tree| tree.all("OriginRule")).cloned().collect();
    let stored: Vec<Element> = mirror_rules(before.as_ref(), prefix).cloned().collect();
    let missing = pull.filter(|pull| !rules.iter().any(|rule| redirects_to(rule, pull, prefix)));
    if stored.is_empty() && missing.is_none() {
        return None;
    }
    let foreign = stored.iter().map(|rule| format!("{} is removed", origin_text(rule))).collect();
    let mut kept: Vec<Element> = rules.into_iter().filter(|rule| !stored.contains(rule)).collect();
    let mut reasons = Vec::new();
    if !stored.is_empty() {
        reasons.push(
            "remove origin-pull that stores what it fetches: the old copy becomes the newest version and replicates over newer writes"
                .to_string(),
        );
    }
    if let Some(pull) = missing {
        reasons.push(format!("send readers of what B does not have to {}, by redirect", pull.host));
        // The highest number is the last in order; rules of others go first.
        let priority = |rule: &Element| rule.text_at(&["RulePriority"]).and_then(|n| n.parse::<u64>().ok());
        let last = kept.iter().filter_map(priority).max().unwrap_or(0);
        kept.push(redirect_rule(pull, prefix, last + 1));
    }
    let after = (!kept.is_empty()).then(|| Element { children: kept, ..Element::new("OriginConfiguration") });
    Some(Change { site, what: Resource::Origin, before, after, reason: reasons.join("; "), foreign })
}

fn redirect_rule(pull: &OriginPull, prefix: &str, priority: u64) -> Element {
    let condition = Element::new("OriginCondition")
        .with(Element::leaf("HTTPStatusCode", "404"))
        .with(Element::leaf("Prefix", prefix));
    // Query strings carry signatures of presigned URLs; they are nothing for the origin.
    let parameter = Element::new("OriginParameter")
        .with(Element::leaf("Protocol", if pull.https { "HTTPS" } else { "HTTP" }))
        .with(Element::leaf("FollowQueryString", "false"))
        .with(Element::new("HttpHeader").with(Element::leaf("FollowAllHeaders", "false")))
        .with(Element::leaf("FollowRedirection", "false"))
        .with(Element::leaf("HttpRedirectCode", "302"));
    let mut info =
        Element::new("OriginInfo").with(Element::new("HostInfo").with(Element::leaf("HostName", &pull.host)));
    if !pull.folder.is_empty() {
        info = info.with(Element::new("FileInfo").with(Element::leaf("Prefix", &pull.folder)));
    }
    Element::new("OriginRule")
        .with(Element::leaf("RulePriority", priority.to_string()))
        .with(Element::leaf("OriginType", "Redirect"))
        .with(condition)
        .with(parameter)
        .with(info)
}

fn accelerate(site: Site, before: Option<Element>) -> Option<Change> {
    let status = before.as_ref().and_then(|tree| tree.text_at(&["Status"]));
    if status == Some("Enabled") {
        return None;
    }
    let after = Some(Element::new("AccelerateConfiguration").with(Element::leaf("Status", "Enabled")));
    let reason = "switch global acceleration on, as asked for; it takes about 15 minutes to work".to_string();
    Some(Change { site, what: Resource::Accelerate, before, after, reason, foreign: Vec::new() })
}

#[cfg(test)]
mod tests;
