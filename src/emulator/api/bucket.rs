//! The bucket itself and its configurations.

use super::{document, document_text, need_md5, tagging};
use crate::cos::xml::{ReplicationConfiguration, Toggle, VersioningConfiguration};
use crate::emulator::access::check_policy;
use crate::emulator::clock::http_date;
use crate::emulator::failure::Failure;
use crate::emulator::http::call::{Call, cos_host};
use crate::emulator::http::send::Reply;
use crate::emulator::lifecycle::Lifecycle;
use crate::emulator::pull::rules;
use crate::emulator::site::Versioning;
use crate::emulator::world::{Bucket, Received, Replication, World};
use crate::emulator::xml::Xml;
use crate::object::Site;

/// The emulator does not remember when it made its buckets.
const CREATED: &str = "2020-01-01T00:00:00Z";

pub fn head(bucket: &Bucket) -> Reply {
    Reply::new(200).with("x-cos-bucket-region", &bucket.region).with("content-type", "application/xml")
}

pub fn location(bucket: &Bucket) -> Reply {
    let mut xml = Xml::document("LocationConstraint");
    xml.text("LocationConstraint", &bucket.region);
    Reply::new(200).document(xml.end())
}

/// GET Service: the buckets of the account, or of the region the host names.
pub fn service(world: &World, call: &Call) -> Result<Reply, Failure> {
    if call.method != "GET" {
        return Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource."));
    }
    let region = call.header("host").and_then(cos_host).filter(|host| host.bucket.is_none()).map(|host| host.region);
    let mut xml = Xml::document("ListAllMyBucketsResult");
    super::list::owner(&mut xml, "Owner");
    xml.begin("Buckets");
    for bucket in Site::ALL.map(|site| world.bucket(site)) {
        if region.is_none_or(|region| region == bucket.region) {
            xml.begin("Bucket");
            xml.text("Name", &bucket.name);
            xml.text("Location", &bucket.region);
            xml.text("CreationDate", CREATED);
            xml.close();
        }
    }
    Ok(Reply::new(200).document(xml.end()))
}

/// `?versioning`, `?replication`, `?lifecycle`: read, replace, remove.
pub fn configuration(
    world: &World,
    bucket: &Bucket,
    call: &Call,
    name: &str,
    received: Option<Received>,
) -> Result<Reply, Failure> {
    let done = Ok(Reply::new(200));
    let gone = Ok(Reply::new(204));
    match (call.method.as_str(), name) {
        ("GET", "versioning") => Ok(Reply::new(200).document(versioning(bucket))),
        ("PUT", "versioning") => {
            let request: VersioningConfiguration = document(received.as_ref())?;
            let to = match request.status {
                Some(Toggle::Enabled) => Versioning::Enabled,
                Some(Toggle::Suspended) => Versioning::Suspended,
                _ => return Err(Failure::new(400, "MalformedXML", "Status must be Enabled or Suspended.")),
            };
            world.set_versioning(bucket, to)?;
            done
        }
        ("GET", "replication") => replication(bucket),
        ("PUT", "replication") => {
            need_md5(call)?;
            let config: ReplicationConfiguration = document(received.as_ref())?;
            world.set_replication(bucket, Some(config))?;
            done
        }
        ("DELETE", "replication") => {
            world.set_replication(bucket, None)?;
            gone
        }
        ("GET", "lifecycle") => {
            let missing = || Failure::new(404, "NoSuchLifecycleConfiguration", "The bucket has no lifecycle.");
            Ok(Reply::new(200).document(bucket.read().lifecycle.clone().ok_or_else(missing)?))
        }
        ("PUT", "lifecycle") => {
            need_md5(call)?;
            // Read to refuse nonsense; kept as it came.
            let rules: Lifecycle = document(received.as_ref())?;
            rules.check().map_err(Failure::argument)?;
            world.set_lifecycle(bucket, Some(document_text(received.as_ref())?));
            done
        }
        ("DELETE", "lifecycle") => {
            world.set_lifecycle(bucket, None);
            gone
        }
        _ => Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource.")),
    }
}

/// Configurations that are kept as they were put. `none`: the code where there is none, or empty for an empty document.
pub fn kept(
    world: &World,
    bucket: &Bucket,
    call: &Call,
    name: &str,
    none: &'static str,
    received: Option<Received>,
) -> Result<Reply, Failure> {
    match call.method.as_str() {
        "GET" => {
            let found = bucket.read().configurations.get(name).cloned();
            let text = match found {
                Some(text) => text,
                None if none.is_empty() => Xml::document(root(name)).end(),
                None => return Err(Failure::new(404, none, "The bucket has no such configuration.")),
            };
            let kind = if name == "policy" { "application/json" } else { "application/xml" };
            let proof = (name == "domain").then(|| format!("tencent-cloud-cos-verification={}", bucket.name));
            Ok(Reply::new(200).with_some("x-cos-domain-txt-verification", proof).document_as(kind, text))
        }
        "PUT" => {
            let text = match name {
                "tagging" => tagging::check_bucket(received.as_ref())?,
                "policy" => {
                    let text = document_text(received.as_ref())?;
                    check_policy(&text)?;
                    text
                }
                "origin" => {
                    need_md5(call)?;
                    let text = document_text(received.as_ref())?;
                    rules::read(&text)?;
                    text
                }
                _ => {
                    need_md5(call)?;
                    let text = document_text(received.as_ref())?;
                    if !text.contains(&format!("<{}", root(name))) {
                        return Err(Failure::new(400, "MalformedXML", format!("A <{}> was expected.", root(name))));
                    }
                    text
                }
            };
            world.set_configuration(bucket, name, Some(text));
            Ok(Reply::new(200))
        }
        "DELETE" => {
            world.set_configuration(bucket, name, None);
            Ok(Reply::new(204))
        }
        _ => Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed on this resource.")),
    }
}

/// The root element of a configuration.
fn root(name: &str) -> &'static str {
    match name {
        "origin" => "OriginConfiguration",
        "domain" => "DomainConfiguration",
        "cors" => "CORSConfiguration",
        "website" => "WebsiteConfiguration",
        "encryption" => "ServerSideEncryptionConfiguration",
        "inventory" => "InventoryConfiguration",
        "referer" => "RefererConfiguration",
        "logging" => "BucketLoggingStatus",
        "accelerate" => "AccelerateConfiguration",
        "intelligenttiering" => "IntelligentTieringConfiguration",
        _ => "Tagging",
    }
}

fn versioning(bucket: &Bucket) -> String {
    let mut xml = Xml::document("VersioningConfiguration");
    match bucket.read().shelf.versioning() {
        Versioning::Never => {}
        Versioning::Enabled => xml.text("Status", "Enabled"),
        Versioning::Suspended => xml.text("Status", "Suspended"),
    }
    xml.end()
}

fn status(toggle: Toggle) -> &'static str {
    if toggle == Toggle::Enabled { "Enabled" } else { "Disabled" }
}

fn replication(bucket: &Bucket) -> Result<Reply, Failure> {
    let state = bucket.read();
    let Replication { config, created } = state.replication.as_ref().ok_or_else(|| {
        Failure::new(404, "ReplicationConfigurationNotFoundError", "The bucket has no replication rules.")
    })?;
    let mut xml = Xml::document("ReplicationConfiguration");
    xml.text("Role", &config.role);
    for rule in &config.rules {
        xml.begin("Rule");
        xml.some("ID", rule.id.as_deref());
        xml.text("Status", status(rule.status));
        xml.text("Prefix", rule.prefix.as_deref().unwrap_or(""));
        xml.begin("Destination");
        xml.text("Bucket", &rule.destination.bucket);
        xml.some("StorageClass", rule.destination.storage_class.as_deref());
        xml.close();
        xml.begin("DeleteMarkerReplication");
        xml.text("Status", status(rule.delete_marker_replication.as_ref().map_or(Toggle::Enabled, |d| d.status)));
        xml.close();
        xml.close();
    }
    Ok(Reply::new(200).with("x-cos-replication-rule-creation-time", http_date(*created)).document(xml.end()))
}
