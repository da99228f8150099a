//! Who may do what: canned access lists and bucket policies, as far as it takes to be refused or let in by one.
//!
//! There is one account, so a signed request may do everything that no policy denies. An unsigned one may do what an access list or
//! a policy gives to everybody. Conditions of policies are not looked at: a statement that has some never applies.
//!
//! Owns: the decision. Owns not: the signature (`http/auth`), storing lists and policies (`world`).

use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::http::call::Call;
use super::site::ACL;
use super::world::{Bucket, State, World};

/// The account behind the one key pair, as policies name it.
const ACCOUNT: &str = "qcs::cam::uin/1250000000:uin/1250000000";

#[derive(Debug, Deserialize)]
struct Policy {
    #[serde(alias = "Statement")]
    statement: Vec<Statement>,
}

#[derive(Debug, Deserialize)]
struct Statement {
    #[serde(alias = "Effect")]
    effect: String,
    #[serde(alias = "Principal", default)]
    principal: Value,
    #[serde(alias = "Action")]
    action: Value,
    #[serde(alias = "Resource")]
    resource: Value,
    #[serde(alias = "Condition", default)]
    condition: Value,
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::Object(map) => map.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || rest.is_empty() || text.ends_with(part),
    }
}

impl Statement {
    fn applies(&self, anonymous: bool, action: &str, resource: &str) -> bool {
        let anyone = |who: &str| matches!(who, "*" | "qcs::cam::anyone:anyone" | "qcs::cam::anonymous:anonymous");
        let principal = texts(&self.principal).into_iter().any(|who| anyone(who) || (!anonymous && who == ACCOUNT));
        let action = format!("name/cos:{action}").to_ascii_lowercase();
        let named = |pattern: &&str| {
            let pattern = pattern.to_ascii_lowercase();
            matches(&pattern, &action) || matches(&format!("name/{pattern}"), &action)
        };
        let unconditional = match &self.condition {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        principal
            && unconditional
            && texts(&self.action).iter().any(named)
            && texts(&self.resource).iter().any(|pattern| matches(pattern, resource))
    }
}

/// Refuses what is not a policy.
pub fn check_policy(text: &str) -> Result<(), Failure> {
    serde_json::from_str::<Policy>(text)
        .map(drop)
        .map_err(|error| Failure::new(400, "MalformedPolicy", error.to_string()))
}

/// What a request does, in the words of policies.
fn action(call: &Call) -> String {
    let has = |name: &str| call.param(name).is_some();
    let method = call.method.as_str();
    if call.key.is_empty() {
        let noun = match () {
            () if has("versions") => "ObjectVersions",
            () if has("versioning") => "Versioning",
            () if has("replication") => "Replication",
            () if has("lifecycle") => "Lifecycle",
            () if has("policy") => "Policy",
            () if has("acl") => "ACL",
            () if has("tagging") => "Tagging",
            () if has("origin") => "Origin",
            () if has("domain") => "Domain",
            () if has("uploads") => return "ListMultipartUploads".into(),
            () if has("delete") => return "DeleteMultipleObjects".into(),
            () => "",
        };
        return format!("{}Bucket{noun}", capital(method));
    }
    let name = match method {
        "PUT" if has("uploadId") && call.is_copy() => "UploadPartCopy",
        "PUT" if has("uploadId") => "UploadPart",
        "PUT" if has("tagging") => "PutObjectTagging",
        "PUT" if has("acl") => "PutObjectACL",
        "PUT" if call.is_copy() => "PutObjectCopy",
        "POST" if has("uploads") => "InitiateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "POST" if has("append") => "AppendObject",
        "POST" if has("restore") => "PostObjectRestore",
        "GET" if has("uploadId") => "ListParts",
        "GET" if has("tagging") => "GetObjectTagging",
        "GET" if has("acl") => "GetObjectACL",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" if has("tagging") => "DeleteObjectTagging",
        method => return format!("{}Object", capital(method)),
    };
    name.into()
}

fn capital(method: &str) -> String {
    let (first, rest) = method.split_at(method.len().min(1));
    first.to_owned() + &rest.to_ascii_lowercase()
}

fn resource(bucket: &Bucket, key: &str) -> String {
    let appid = bucket.name.rsplit_once('-').map_or("", |(_, appid)| appid);
    format!("qcs::cos:{}:uid/{appid}:{}/{key}", bucket.region, bucket.name)
}

/// Whether an access list lets everybody read.
fn is_public(state: &State, call: &Call) -> bool {
    if !matches!(call.method.as_str(), "GET" | "HEAD") || call.param("acl").is_some() {
        return false;
    }
    let bucket = state.configurations.get("acl").is_some_and(|acl| acl.starts_with("public-read"));
    if call.key.is_empty() {
        return bucket && action(call) == format!("{}Bucket", capital(&call.method));
    }
    let version = call.param("versionId").filter(|id| !id.is_empty());
    match state.shelf.get(&call.key, version).ok().and_then(|(_, content)| content.headers.get(ACL).cloned()) {
        Some(acl) => acl.starts_with("public-read"),
        None => bucket,
    }
}

/// The decision for a request whose signature, if it has one, is good.
pub fn check(world: &World, call: &Call, anonymous: bool) -> Result<(), Failure> {
    let denied = |message: &'static str| Err(Failure::new(403, "AccessDenied", message));
    if call.service {
        return if anonymous { denied("Anonymous requests are not allowed here.") } else { Ok(()) };
    }
    let bucket = world.bucket(call.site);
    let state = bucket.read();
    let (mut allowed, mut forbidden) = (false, false);
    if let Some(policy) = state.configurations.get("policy").and_then(|p| serde_json::from_str::<Policy>(p).ok()) {
        let (action, resource) = (action(call), resource(bucket, &call.key));
        for statement in policy.statement.iter().filter(|s| s.applies(anonymous, &action, &resource)) {
            match statement.effect.to_ascii_lowercase().as_str() {
                "deny" => forbidden = true,
                _ => allowed = true,
            }
        }
    }
    // An owner could otherwise lock the door behind himself.
    let own_policy = !anonymous && call.key.is_empty() && call.param("policy").is_some();
    if forbidden && !own_policy {
        return denied("Access Denied.");
    }
    if !anonymous || allowed || is_public(&state, call) {
        if anonymous && call.params.iter().any(|(name, _)| name.starts_with("response-")) {
            return Err(Failure::new(400, "InvalidRequest", "response-* parameters need a signed request."));
        }
        return Ok(());
    }
    denied("Anonymous requests are not allowed on a private bucket.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expect) in [
            ("*", "anything", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*", "axxb", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "ba", false),
            ("*ab", "abab", true),
        ] {
            assert_eq!(matches(pattern, text), expect, "{pattern} {text}");
        }
    }

    #[test]
    fn actions_have_the_names_of_policies() {
        let call = |method: &str, key: &str, params: &[&str]| Call {
            method: method.into(),
            key: key.into(),
            params: params.iter().map(|p| ((*p).into(), String::new())).collect(),
            ..Call::default()
        };
        for (call, expect) in [
            (call("GET", "k", &[]), "GetObject"),
            (call("HEAD", "k", &[]), "HeadObject"),
            (call("PUT", "k", &["uploadId"]), "UploadPart"),
            (call("GET", "", &[]), "GetBucket"),
            (call("PUT", "", &["versioning"]), "PutBucketVersioning"),
            (call("POST", "", &["delete"]), "DeleteMultipleObjects"),
        ] {
            assert_eq!(action(&call), expect);
        }
    }
}
