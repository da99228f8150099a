//! `cos://<bucket>.cos.<region>.myqcloud.com[/prefix]`: a bucket, as people write it on a command line or in fstab.
//!
//! The host part is the bucket's own host name, as the console shows it, so it can be copied from there. The spelling with the second
//! domain of COS (`tencentcos.cn`) means the same bucket.

use std::str::FromStr;

/// A bucket and the folder in it that is shown; `prefix` is empty or ends in `/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub bucket: String,
    pub region: String,
    pub prefix: String,
}

const FORM: &str = "cos://<bucket>.cos.<region>.myqcloud.com[/prefix]";

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Source, String> {
        let wrong = |why: &str| format!("\"{text}\" does not name a bucket: {why}. The form is {FORM}");
        let Some(rest) = text.strip_prefix("cos://") else {
            return Err(wrong("it does not begin with cos://"));
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let Some((bucket, domain)) = host.split_once(".cos.") else {
            return Err(wrong("there is no \".cos.\" between bucket and region"));
        };
        let region = [".myqcloud.com", ".tencentcos.cn"].iter().find_map(|suffix| domain.strip_suffix(suffix));
        let Some(region) = region else {
            return Err(wrong("the host does not end in .myqcloud.com"));
        };
        check_bucket(bucket).map_err(|why| wrong(&why))?;
        check_region(region).map_err(|why| wrong(&why))?;
        let prefix = normal_prefix(path).map_err(|why| wrong(&why))?;
        Ok(Source { bucket: bucket.into(), region: region.into(), prefix })
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A bucket's full name ends in the number of the account (APPID); leaving it out is the commonest mistake.
pub fn check_bucket(bucket: &str) -> Result<(), String> {
    if !is_label(bucket) {
        return Err(format!("bucket \"{bucket}\" may hold lower case letters, digits and inner hyphens only"));
    }
    let appid = bucket.rsplit_once('-').map_or("", |(_, appid)| appid);
    if appid.is_empty() || !appid.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("bucket \"{bucket}\" lacks the account number at its end, as in examplebucket-1250000000"));
    }
    Ok(())
}

/// Regions are not checked against a list: new ones open every year.
pub fn check_region(region: &str) -> Result<(), String> {
    if is_label(region) { Ok(()) } else { Err(format!("\"{region}\" is not a region such as ap-guangzhou")) }
}

/// Without slashes at the beginning, with one at the end, or empty.
pub fn normal_prefix(path: &str) -> Result<String, String> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(format!("prefix \"{path}\" has an empty part, \".\" or \"..\" in it"));
    }
    let prefix = format!("{path}/");
    crate::object::Key::new(prefix.clone()).map_err(|error| format!("prefix \"{path}\": {error}"))?;
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(bucket: &str, region: &str, prefix: &str) -> Source {
        Source { bucket: bucket.into(), region: region.into(), prefix: prefix.into() }
    }

    #[test]
    fn sources() {
        let good = [
            ("cos://m-125.cos.ap-guangzhou.myqcloud.com", source("m-125", "ap-guangzhou", "")),
            ("cos://m-125.cos.ap-guangzhou.myqcloud.com/", source("m-125", "ap-guangzhou", "")),
            ("cos://m-125.cos.ap-guangzhou.tencentcos.cn/a", source("m-125", "ap-guangzhou", "a/")),
            ("cos://my-b-125.cos.ap-shenzhen-fsi.myqcloud.com/a/b/", source("my-b-125", "ap-shenzhen-fsi", "a/b/")),
            ("cos://m-1.cos.r.myqcloud.com/üñ", source("m-1", "r", "üñ/")),
        ];
        for (text, expect) in good {
            assert_eq!(text.parse(), Ok(expect), "{text}");
        }
        let bad = [
            ("m-125", "begin with cos://"),
            ("cos://m-125", ".cos."),
            ("cos://m-125.cos.ap-guangzhou.example.com", ".myqcloud.com"),
            ("cos://m.cos.ap-guangzhou.myqcloud.com", "account number"),
            ("cos://M-1.cos.ap-guangzhou.myqcloud.com", "lower case"),
            ("cos://m-1.cos..myqcloud.com", "not a region"),
            ("cos://m-1.cos.r.myqcloud.com/a//b", "empty part"),
            ("cos://m-1.cos.r.myqcloud.com/a/../b", "\"..\""),
        ];
        for (text, why) in bad {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.contains(why) && error.contains(FORM), "{text}: {error}");
        }
    }
}
