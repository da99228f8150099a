//! Access lists: the canned ones, by header or as a document. What they allow is decided in `access`.

use super::{OWNER, document_text};
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::http::send::Reply;
use crate::emulator::site::ACL;
use crate::emulator::world::{Bucket, Received, World};
use crate::emulator::xml::Xml;

const EVERYBODY: &str = "http://cam.qcloud.com/groups/global/AllUsers";

/// The list a request asks for in `x-cos-acl`. `default`: that of the bucket.
pub fn wanted(call: &Call) -> Result<Option<String>, Failure> {
    match call.header("x-cos-acl") {
        None | Some("" | "default") => Ok(None),
        Some(acl @ ("private" | "public-read" | "public-read-write" | "authenticated-read")) => Ok(Some(acl.into())),
        Some(_) => Err(Failure::argument("x-cos-acl is not a canned access list.")),
    }
}

/// By header, or read out of a document: everybody may read, or nobody else may.
fn put(call: &Call, received: Option<&Received>) -> Result<Option<String>, Failure> {
    if call.header("x-cos-acl").is_some() {
        return wanted(call);
    }
    let text = document_text(received)?;
    if !text.contains("<AccessControlPolicy") {
        return Err(Failure::new(400, "MalformedXML", "An <AccessControlPolicy> was expected."));
    }
    Ok(Some(if text.contains(EVERYBODY) { "public-read" } else { "private" }.into()))
}

/// The owner may do everything; everybody may read where the list says so.
fn show(acl: &str) -> Reply {
    let identity = |xml: &mut Xml, name: &'static str| {
        xml.begin(name);
        xml.text("ID", &format!("qcs::cam::uin/{OWNER}:uin/{OWNER}"));
        xml.text("DisplayName", OWNER);
        xml.close();
    };
    let mut xml = Xml::document("AccessControlPolicy");
    identity(&mut xml, "Owner");
    xml.begin("AccessControlList");
    xml.begin("Grant");
    identity(&mut xml, "Grantee");
    xml.text("Permission", "FULL_CONTROL");
    xml.close();
    for permission in ["READ", "WRITE"] {
        if acl.starts_with("public-read") && (permission == "READ" || acl == "public-read-write") {
            xml.begin("Grant");
            xml.begin("Grantee");
            xml.text("URI", EVERYBODY);
            xml.close();
            xml.text("Permission", permission);
            xml.close();
        }
    }
    Reply::new(200).with("x-cos-acl", acl).document(xml.end())
}

fn not_allowed() -> Failure {
    Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource.")
}

pub fn of_bucket(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    match call.method.as_str() {
        "GET" => Ok(show(bucket.read().configurations.get("acl").map_or("private", String::as_str))),
        "PUT" => {
            world.set_configuration(bucket, "acl", put(call, received.as_ref())?);
            Ok(Reply::new(200))
        }
        _ => Err(not_allowed()),
    }
}

pub fn of_object(world: &World, bucket: &Bucket, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
    let version = call.param("versionId").filter(|id| !id.is_empty());
    match call.method.as_str() {
        "GET" => {
            let (_, content) = bucket.read().shelf.get(&call.key, version)?;
            Ok(show(content.headers.get(ACL).map_or("default", String::as_str)))
        }
        "PUT" => {
            let acl = put(call, received.as_ref())?;
            world.amend(bucket, &call.key, version, |headers| {
                headers.remove(ACL);
                headers.extend(acl.map(|acl| (ACL.to_owned(), acl)));
                Ok(())
            })?;
            Ok(Reply::new(200))
        }
        _ => Err(not_allowed()),
    }
}
