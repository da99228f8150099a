//! Encryption headers of objects. Nothing is encrypted here; what is shown and demanded is what a client would see.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::Reply;
use crate::emulator::site::Content;

const KIND: &str = "x-cos-server-side-encryption";
const KMS_KEY: &str = "x-cos-server-side-encryption-cos-kms-key-id";
const ALGORITHM: &str = "x-cos-server-side-encryption-customer-algorithm";
const CUSTOMER_KEY: &str = "x-cos-server-side-encryption-customer-key";
const CUSTOMER_MD5: &str = "x-cos-server-side-encryption-customer-key-md5";

/// What a write asks for, as headers that are kept with the object and shown with it.
pub fn wanted(call: &Call) -> Result<Vec<(String, String)>, Failure> {
    let mut kept = Vec::new();
    match call.header(KIND) {
        None => {}
        Some("AES256") => kept.push((KIND.into(), "AES256".into())),
        Some("cos/kms") => {
            kept.push((KIND.into(), "cos/kms".into()));
            kept.extend(call.header(KMS_KEY).map(|id| (KMS_KEY.to_owned(), id.to_owned())));
        }
        Some(_) => return Err(Failure::argument("x-cos-server-side-encryption is AES256 or cos/kms.")),
    }
    if let Some(md5) = customer_key(call)? {
        kept.push((ALGORITHM.into(), "AES256".into()));
        kept.push((CUSTOMER_MD5.into(), md5));
    }
    Ok(kept)
}

/// The checksum of a key of the client's own, checked.
fn customer_key(call: &Call) -> Result<Option<String>, Failure> {
    let Some(key) = call.header(CUSTOMER_KEY) else { return Ok(None) };
    let key = STANDARD.decode(key).ok().filter(|key| key.len() == 32);
    let md5 = key.map(|key| STANDARD.encode(Md5::digest(key)));
    match (md5, call.header(CUSTOMER_MD5), call.header(ALGORITHM)) {
        (Some(md5), Some(given), Some("AES256")) if md5 == given => Ok(Some(md5)),
        _ => Err(Failure::argument("The customer key needs 32 bytes, its MD5 and the algorithm AES256.")),
    }
}

/// GET and HEAD of an object that was written with a client's own key need that key.
pub fn readable(call: &Call, content: &Content) -> Result<(), Failure> {
    if call.method == "GET" && call.header(KIND).is_some() {
        return Err(Failure::argument("x-cos-server-side-encryption must not be sent with GET."));
    }
    let given = customer_key(call)?;
    match (content.headers.get(CUSTOMER_MD5), given) {
        (None, _) => Ok(()),
        (Some(md5), Some(given)) if *md5 == given => Ok(()),
        (Some(_), Some(_)) => Err(Failure::new(403, "AccessDenied", "The object has another customer key.")),
        (Some(_), None) => Err(Failure::new(400, "InvalidRequest", "The object was encrypted with a customer key.")),
    }
}

pub fn is_encryption(header: &str) -> bool {
    header.starts_with(KIND)
}

/// With the key service or a key of the client's own, the ETag is not the MD5 of the content.
pub fn hides_md5(headers: &std::collections::BTreeMap<String, String>) -> bool {
    headers.contains_key(CUSTOMER_MD5) || headers.get(KIND).is_some_and(|kind| kind == "cos/kms")
}

/// The same headers in the answer to the write.
pub fn echo(reply: Reply, content: &Content) -> Reply {
    let shown = content.headers.iter().filter(|(name, _)| is_encryption(name));
    shown.fold(reply, |reply, (name, value)| reply.with(name.as_str(), value.as_str()))
}
