//! A request as the operations see it: which bucket, which key, which parameters.
//!
//! Clients reach the emulator by many host names (docs/cos-protocol.md, "Third-party clients"): the bucket's own, through
//! a proxy with an absolute target, or as plain `127.0.0.1:9100`.

use http::request::Parts;

use crate::cos::sign::{parse_query, url_decode};
use crate::emulator::failure::Failure;
use crate::emulator::fault::Subject;
use crate::emulator::http::s3::{self, Dialect};
use crate::emulator::world::World;
use crate::object::{Key, KeyError, Site};

/// Parameters that make a GET of the bucket something other than a listing of objects.
const CONFIGURATIONS: [&str; 18] = [
    "versioning",
    "replication",
    "lifecycle",
    "origin",
    "domain",
    "policy",
    "acl",
    "cors",
    "tagging",
    "website",
    "location",
    "uploads",
    "versions",
    "encryption",
    "inventory",
    "accelerate",
    "referer",
    "logging",
];

/// One parsed request.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub site: Site,
    pub dialect: Dialect,
    /// `GET /` on a host without a bucket: the list of buckets.
    pub service: bool,
    /// Empty for operations on the bucket.
    pub key: String,
    /// Decoded, as signed.
    pub path: String,
    /// Decoded, in order.
    pub params: Vec<(String, String)>,
    /// Lower-case names, those of COS.
    pub headers: Vec<(String, String)>,
    /// Before translation; `None` where nothing was translated.
    pub signed_headers: Option<Vec<(String, String)>>,
    /// Of a checked signature, in the S3 dialect: what the chunks of the body go on from.
    pub seed: Option<s3::sign::Seed>,
}

impl Call {
    pub fn read(parts: &Parts, port: Site, world: &World) -> Result<Call, Failure> {
        let bad_uri = || Failure::new(400, "InvalidURI", "The request target is not percent-encoded UTF-8.");
        let path = url_decode(parts.uri.path()).ok_or_else(bad_uri)?;
        let params = parse_query(parts.uri.query().unwrap_or("")).ok_or_else(bad_uri)?;
        let mut headers = read_headers(parts);
        let host = parts.uri.authority().map(|a| a.as_str().to_owned());
        let host = host.or_else(|| find(&headers, "host").map(str::to_owned)).unwrap_or_default();
        let dialect = s3::dialect(parts);
        let Route { site, key, service } = route(&host, &path, port, world, dialect)?;
        if !key.is_empty() {
            check_key(key)?;
        }
        let signed_headers = match dialect {
            Dialect::Cos => None,
            Dialect::S3 => {
                let signed = headers.clone();
                s3::translate(&mut headers);
                Some(signed)
            }
        };
        let (method, key) = (parts.method.as_str().to_owned(), key.to_owned());
        Ok(Call { method, site, dialect, service, key, path, params, headers, signed_headers, seed: None })
    }

    /// Headers as they arrived, which is how they were signed.
    pub fn signed_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.signed_headers.as_ref().unwrap_or(&self.headers);
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A request to a place without buckets; `site` means nothing there.
    pub fn plain(parts: &Parts) -> Result<Call, Failure> {
        let bad_uri = || Failure::new(400, "InvalidURI", "The request target is not percent-encoded UTF-8.");
        let path = url_decode(parts.uri.path()).ok_or_else(bad_uri)?;
        let params = parse_query(parts.uri.query().unwrap_or("")).ok_or_else(bad_uri)?;
        let key = path.strip_prefix('/').unwrap_or(&path).to_owned();
        let method = parts.method.as_str().to_owned();
        Ok(Call { method, key, path, params, headers: read_headers(parts), ..Call::default() })
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        find(&self.params, name)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn is_copy(&self) -> bool {
        self.method == "PUT" && self.header("x-cos-copy-source").is_some()
    }

    /// Reads whole bodies to checksum them: not on a thread that serves others.
    pub fn is_heavy(&self) -> bool {
        self.is_copy() && self.param("uploadId").is_some()
    }

    /// The body is a small document, not content.
    pub fn is_document(&self) -> bool {
        (self.method == "POST" && self.param("append").is_none()) || self.key.is_empty()
    }

    pub fn subject(&self) -> Subject<'_> {
        let key = if self.key.is_empty() { self.param("prefix").unwrap_or("") } else { &self.key };
        let can_fail_in_200 = self.is_copy() || (self.method == "POST" && self.param("uploadId").is_some());
        let reads = matches!(self.method.as_str(), "GET" | "HEAD");
        let has_any = |names: &[&str]| names.iter().any(|name| self.param(name).is_some());
        let listing = self.method == "GET" && self.key.is_empty() && !has_any(&CONFIGURATIONS);
        let plain_read = reads && !self.key.is_empty() && !has_any(&["versionId", "uploadId", "tagging", "acl"]);
        Subject { method: &self.method, key, can_fail_in_200, listing, plain_read }
    }
}

fn read_headers(parts: &Parts) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// To be filled in: a request that names only what matters.
impl Default for Call {
    fn default() -> Call {
        Call {
            method: "GET".into(),
            site: Site::A,
            dialect: Dialect::Cos,
            service: false,
            key: String::new(),
            path: "/".into(),
            params: Vec::new(),
            headers: Vec::new(),
            signed_headers: None,
            seed: None,
        }
    }
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

fn check_key(key: &str) -> Result<(), Failure> {
    Key::new(key).map(drop).map_err(|error| match error {
        KeyError::TooLong => Failure::new(400, "KeyTooLong", "The specified key is too long."),
        other => Failure::new(400, "InvalidObjectName", other.to_string()),
    })
}

/// A host name under the domains of COS, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct CosHost<'a> {
    /// `None`: the service host, path style.
    pub bucket: Option<&'a str>,
    pub region: &'a str,
}

/// `None` for any other host.
pub fn cos_host(host: &str) -> Option<CosHost<'_>> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let stem = name.strip_suffix(".myqcloud.com").or_else(|| name.strip_suffix(".tencentcos.cn"))?;
    for service in ["cos.", "cos-internal."] {
        if let Some(region) = stem.strip_prefix(service) {
            return Some(CosHost { bucket: None, region });
        }
    }
    let (bucket, rest) = stem.split_once('.')?;
    let region = rest.strip_prefix("cos.").or_else(|| rest.strip_prefix("cos-internal.")).unwrap_or(rest);
    Some(CosHost { bucket: Some(bucket), region })
}

/// What a host and a path mean together.
#[derive(Debug, PartialEq, Eq)]
struct Route<'a> {
    site: Site,
    key: &'a str,
    service: bool,
}

fn route<'a>(host: &str, path: &'a str, port: Site, world: &World, dialect: Dialect) -> Result<Route<'a>, Failure> {
    let key = path.strip_prefix('/').unwrap_or(path);
    let at = |site: Site, key: &'a str| Ok(Route { site, key, service: false });
    let named = cos_host(host);
    if let Some(CosHost { bucket: Some(name), region }) = named {
        if name == "service" && region == "cos" {
            return Ok(Route { site: port, key: "", service: true });
        }
        let bucket = world.by_name(name).ok_or_else(Failure::no_such_bucket)?;
        // COS has no redirect between regions: the wrong one does not know the bucket.
        if region == "accelerate" {
            let on = |text: &String| text.contains("<Status>Enabled</Status>");
            if !bucket.read().configurations.get("accelerate").is_some_and(on) {
                let message = "Global acceleration is not enabled for the bucket.";
                return Err(Failure::new(400, "BucketAccelerateNotEnabled", message));
            }
        } else if bucket.region != region {
            return Err(Failure::no_such_bucket());
        }
        return at(bucket.site, key);
    }
    if let Some(site) = world.by_domain(host) {
        return at(site, key);
    }
    // `<bucket>.localhost`, as clients build it that put the bucket before any endpoint.
    if let Some(bucket) = host.split_once('.').and_then(|(label, _)| world.by_name(label)) {
        return at(bucket.site, key);
    }
    let (first, rest) = key.split_once('/').unwrap_or((key, ""));
    match world.by_name(first) {
        Some(bucket) => at(bucket.site, rest),
        // S3 clients on a bare address always name the bucket in the path.
        None if key.is_empty() && (named.is_some() || dialect == Dialect::S3) => {
            Ok(Route { site: port, key, service: true })
        }
        None if named.is_some() || dialect == Dialect::S3 => Err(Failure::no_such_bucket()),
        None => at(port, key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn routing_table() {
        let names = [("master-1250000000", "ap-guangzhou"), ("slave-1250000000", "ap-shanghai")];
        let world = World::new(names, Duration::ZERO, 1, None);
        type Row = (&'static str, &'static str, Result<(Site, &'static str), &'static str>);
        let service = Ok((Site::B, "<service>"));
        let rows: &[Row] = &[
            ("service.cos.myqcloud.com", "/", service),
            ("cos.ap-guangzhou.myqcloud.com", "/", service),
            ("slave-1250000000.localhost:9100", "/k", Ok((Site::B, "k"))),
            ("master-1250000000.cos.ap-guangzhou.myqcloud.com", "/k", Ok((Site::A, "k"))),
            ("master-1250000000.cos.ap-guangzhou.myqcloud.com:9100", "/k", Ok((Site::A, "k"))),
            ("master-1250000000.cos.ap-guangzhou.tencentcos.cn", "/a/b", Ok((Site::A, "a/b"))),
            ("master-1250000000.cos-internal.ap-guangzhou.tencentcos.cn", "/", Ok((Site::A, ""))),
            ("slave-1250000000.cos.accelerate.myqcloud.com", "/k", Err("BucketAccelerateNotEnabled")),
            ("slave-1250000000.cos.ap-guangzhou.myqcloud.com", "/k", Err("NoSuchBucket")),
            ("other-1250000000.cos.ap-guangzhou.myqcloud.com", "/k", Err("NoSuchBucket")),
            ("127.0.0.1:9101", "/k", Ok((Site::B, "k"))),
            ("localhost", "/master-1250000000/k/l", Ok((Site::A, "k/l"))),
            ("localhost", "/master-1250000000", Ok((Site::A, ""))),
            ("cos.ap-guangzhou.myqcloud.com", "/master-1250000000/k", Ok((Site::A, "k"))),
            ("cos.ap-guangzhou.myqcloud.com", "/k", Err("NoSuchBucket")),
            ("", "/k", Ok((Site::B, "k"))),
        ];
        for (host, path, expect) in rows {
            let got = route(host, path, Site::B, &world, Dialect::Cos).map_err(|f| f.code);
            let got = got.map(|r| (r.site, if r.service { "<service>" } else { r.key }));
            assert_eq!(got, *expect, "{host}{path}");
        }
        let s3 = |path| route("127.0.0.1:9101", path, Site::B, &world, Dialect::S3).map_err(|f| f.code);
        assert_eq!(s3("/master-1250000000/k"), Ok(Route { site: Site::A, key: "k", service: false }));
        assert_eq!(s3("/k"), Err("NoSuchBucket"), "path style only");
        assert_eq!(s3("/"), Ok(Route { site: Site::B, key: "", service: true }));
    }
}
