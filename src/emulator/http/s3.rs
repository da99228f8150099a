//! The other dialect: requests signed as Amazon's S3 wants them, which COS accepts on the same buckets.
//!
//! s3fs, rclone and mountpoint-s3 speak it. What differs is the signature (`sign`), the framing of some uploads (`chunks`), the
//! names of headers (`x-amz-*` for `x-cos-*`) and one more listing; every operation is the same. So a request is translated
//! when it arrives and its answer when it leaves, and nothing in between knows.
//!
//! What COS does beyond "compatible with S3" is not documented; the choices made here are in docs/cos-protocol.md.

use http::request::Parts;

use super::send::Reply;

pub mod chunks;
pub mod sign;

/// Which names and which signature a request uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    #[default]
    Cos,
    S3,
}

/// A request is S3 where it is signed like that; `x-amz-*` headers alone do not make it so.
pub fn dialect(parts: &Parts) -> Dialect {
    let s3 = match parts.headers.get(http::header::AUTHORIZATION) {
        Some(value) => value.as_bytes().starts_with(sign::ALGORITHM.as_bytes()),
        None => parts.uri.query().is_some_and(|query| {
            query.split('&').any(|item| item.strip_prefix("X-Amz-Algorithm=") == Some(sign::ALGORITHM))
        }),
    };
    if s3 { Dialect::S3 } else { Dialect::Cos }
}

/// Adds each `x-amz-*` header under its name in COS. The originals stay: the signature covers them.
pub fn translate(headers: &mut Vec<(String, String)>) {
    let cos = |name: &str| match name.strip_prefix("x-amz-")? {
        // What only the signature and the framing are about.
        "content-sha256" | "date" | "decoded-content-length" | "trailer" => None,
        rest => Some(format!("x-cos-{rest}")),
    };
    headers.retain(|(name, _)| !name.starts_with("x-cos-"));
    let added: Vec<_> = headers.iter().filter_map(|(name, value)| Some((cos(name)?, value.clone()))).collect();
    headers.extend(added);
    // The framing is gone once the body has been read, and is no property of the object.
    for (_, value) in headers.iter_mut().filter(|(name, _)| name == "content-encoding") {
        let kept: Vec<&str> = value.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked").collect();
        *value = kept.join(",");
    }
    headers.retain(|(name, value)| name != "content-encoding" || !value.is_empty());
}

/// `x-cos-*` names of an answer in the other dialect. The request id goes out under both.
pub fn rename(reply: &mut Reply) {
    let mut more = Vec::new();
    for (name, value) in reply.headers_mut() {
        if let Some(rest) = name.strip_prefix("x-cos-") {
            if rest == "request-id" {
                more.push(("x-cos-request-id".to_owned(), value.clone()));
            }
            *name = format!("x-amz-{rest}");
        }
    }
    reply.headers_mut().extend(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
    }

    #[test]
    fn the_signature_decides_the_dialect() {
        let rows = [
            ("/", Some("AWS4-HMAC-SHA256 Credential=.."), Dialect::S3),
            ("/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=x", None, Dialect::S3),
            ("/", Some("q-sign-algorithm=sha1"), Dialect::Cos),
            ("/k?X-Amz-Algorithm=AWS4-HMAC-SHA256", Some("q-sign-algorithm=sha1"), Dialect::Cos),
            ("/", None, Dialect::Cos),
        ];
        for (target, authorization, expect) in rows {
            let mut request = http::Request::builder().uri(target).header("x-amz-acl", "private");
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let parts = request.body(()).expect("a request").into_parts().0;
            assert_eq!(dialect(&parts), expect, "{target} {authorization:?}");
        }
    }

    #[test]
    fn headers_get_their_names_in_cos() {
        let mut headers = own(&[
            ("x-amz-meta-mode", "33188"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-cos-meta-smuggled", "unsigned"),
            ("content-encoding", "aws-chunked, gzip"),
        ]);
        translate(&mut headers);
        let expect = own(&[
            ("x-amz-meta-mode", "33188"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("content-encoding", "gzip"),
            ("x-cos-meta-mode", "33188"),
        ]);
        assert_eq!(headers, expect);
    }
}
