//! The external origin: a plain web server, with all a mount may expect of one and nothing that COS adds.
//!
//! GET and HEAD with ranges and conditions, PUT (with `If-Match` and `If-None-Match`, which COS does not have) and DELETE, no signature.
//! One version of each file. `GET /` lists as JSON; `PROPFIND` lists as WebDAV clients expect it. `content-*`, `cache-control`, `expires` and
//! `x-cos-meta-*` headers are kept with a file, as a mirror rule would copy them into a bucket.
//!
//! Owns: the files, in memory or beside the bodies of the buckets; a list of them on disk it does not keep. Owns not: faults (`door`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use super::api::object::{check_conditions, get};
use super::clock::{http_date, wall_micros};
use super::door::{Outcome, Room, Visit};
use super::failure::Failure;
use super::http::call::Call;
use super::http::send::Reply;
use super::site::Content;
use super::world::{Bucket, Received, World, hex};
use super::xml::Xml;
use crate::cos::sign::url_encode_path;
use crate::object::Site;

/// Headers of a PUT that are kept.
const KEPT: [&str; 6] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"];

/// One file in `GET /v1/state` and in `GET /`.
#[derive(Clone, Debug, Serialize)]
pub struct FileState {
    pub key: String,
    pub size: u64,
    pub etag: String,
    pub crc64: String,
    pub last_modified: String,
}

/// The origin's content. A bucket that never knew versioning has just the rules of a folder.
#[derive(Debug)]
struct Files {
    world: Arc<World>,
    bucket: Bucket,
}

#[derive(Debug)]
pub struct Origin {
    files: Arc<Files>,
}

impl Origin {
    pub fn new(world: Arc<World>) -> Origin {
        Origin { files: Arc::new(Files { world, bucket: Bucket::new(Site::A, "origin", "") }) }
    }

    pub fn state(&self) -> Vec<FileState> {
        self.files.list("")
    }

    async fn carry_out(&self, visit: &mut Visit<'_>) -> Outcome {
        let mut call = match Call::plain(visit.parts) {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        if let Some(early) = visit.begin(&call.subject()).await? {
            return Ok(early);
        }
        let received = match visit.receive(&call, &self.files.world).await? {
            Ok(received) => received,
            Err(failure) => return Ok(Err(failure)),
        };
        if !call.key.is_empty() {
            // A plain server knows no parameters of COS.
            call.params.clear();
        }
        let files = Arc::clone(&self.files);
        visit.finish(async move { files.perform(&call, received) }).await
    }
}

impl Room for Origin {
    fn answer<'a>(&'a self, visit: &'a mut Visit<'_>) -> BoxFuture<'a, Outcome> {
        self.carry_out(visit).boxed()
    }

    fn refusal(&self, failure: &Failure, _resource: &str, _request_id: &str) -> Reply {
        plain_refusal(failure, "origin")
    }
}

/// How a server that is not COS says no.
pub fn plain_refusal(failure: &Failure, server: &str) -> Reply {
    let mut reply = Reply::new(failure.status).outside_cos().with("server", server);
    for (name, value) in &failure.headers {
        if !name.starts_with("x-cos-") {
            reply = reply.with(*name, value.as_str());
        }
    }
    match failure.status {
        304 => reply,
        status => reply.text("text/plain", format!("{status} {}\n", failure.message)),
    }
}

impl Files {
    fn perform(&self, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
        let reply = match call.method.as_str() {
            "GET" | "HEAD" if call.key.is_empty() => {
                let list = self.list(call.param("prefix").unwrap_or(""));
                let text = serde_json::to_string(&list).map_err(|e| Failure::internal(e.to_string()))?;
                Reply::new(200).text("application/json", text)
            }
            "GET" | "HEAD" => {
                let reply =
                    get(&self.bucket, call, wall_micros())?.without("x-cos-hash-crc64ecma").without("accept-ranges");
                reply.with("accept-ranges", "bytes")
            }
            "PUT" => self.put(call, received)?,
            "DELETE" => {
                self.meets_conditions(call)?;
                let removed = self.bucket.write().shelf.delete(&call.key, self.world.clock.next()).removed;
                removed.map(|_| Reply::new(204)).ok_or_else(Failure::no_such_key)?
            }
            "PROPFIND" => self.propfind(call)?,
            // Folders come with their files.
            "MKCOL" => Reply::new(201),
            "OPTIONS" => {
                Reply::new(204).with("dav", "1").with("allow", "GET, HEAD, PUT, DELETE, OPTIONS, PROPFIND, MKCOL")
            }
            _ => return Err(Failure::new(405, "MethodNotAllowed", "The method is not allowed.")),
        };
        Ok(reply.outside_cos().with("server", "origin"))
    }

    /// 412 unless `If-Match`, `If-None-Match` and their kin allow a change.
    fn meets_conditions(&self, call: &Call) -> Result<(), Failure> {
        let state = self.bucket.read();
        let current = state.shelf.current(&call.key);
        let Some((version, content)) = current.and_then(|v| Some((v, v.content.as_ref()?))) else {
            return if call.header("if-match").is_some() { Err(Failure::precondition()) } else { Ok(()) };
        };
        check_conditions(|name| call.header(name), version, content).map_err(|_| Failure::precondition())
    }

    fn put(&self, call: &Call, received: Option<Received>) -> Result<Reply, Failure> {
        if call.key.is_empty() || call.key.ends_with('/') {
            return Err(Failure::new(409, "Conflict", "A folder is no file."));
        }
        let received = received.ok_or_else(|| Failure::new(411, "LengthRequired", "Content-Length is missing."))?;
        let keep = |name: &str| KEPT.contains(&name) || name.starts_with("x-cos-meta-");
        let mut headers: BTreeMap<String, String> = call.headers.iter().filter(|(n, _)| keep(n)).cloned().collect();
        headers.entry("content-type".into()).or_insert_with(|| "application/octet-stream".into());
        let etag = hex(&received.md5);
        let content = Content { blob: received.blob, etag: etag.clone(), crc64: received.crc64, headers };
        self.meets_conditions(call)?;
        let (_, replaced) = self.bucket.write().shelf.put(&call.key, self.world.clock.next(), content);
        Ok(Reply::new(if replaced.is_some() { 204 } else { 201 }).with("etag", format!("\"{etag}\"")))
    }

    fn list(&self, prefix: &str) -> Vec<FileState> {
        let state = self.bucket.read();
        let shown = |(key, version): (&String, &Arc<super::site::Version>)| {
            let content = version.content.as_ref()?;
            Some(FileState {
                key: key.clone(),
                size: content.blob.len(),
                etag: content.etag.clone(),
                crc64: content.crc64.to_string(),
                last_modified: http_date(version.micros),
            })
        };
        state.shelf.keys().filter(|(key, _)| key.starts_with(prefix)).filter_map(shown).collect()
    }

    /// A folder as WebDAV shows it (RFC 4918, section 9.1); `Depth: 0` and `1` stay on their level.
    fn propfind(&self, call: &Call) -> Result<Reply, Failure> {
        let deep = !matches!(call.header("depth"), Some("0" | "1"));
        let key = call.key.trim_end_matches('/');
        let folder = if key.is_empty() { String::new() } else { format!("{key}/") };
        let files = self.list(key);
        let mut xml = Xml::document("D:multistatus xmlns:D=\"DAV:\"");
        let mut folders = BTreeSet::new();
        let mut found = false;
        if key.is_empty() || files.iter().any(|file| file.key.starts_with(&folder)) {
            folders.insert(folder.clone());
            found = true;
        }
        for file in files {
            let Some(rest) = file.key.strip_prefix(&folder) else {
                if file.key == key {
                    found = true;
                    entry(&mut xml, &file.key, Some(&file));
                }
                continue;
            };
            match rest.rsplit_once('/') {
                Some(_) if call.header("depth") == Some("0") => {}
                Some((parents, _)) => {
                    let mut path = folder.clone();
                    for name in parents.split('/').take(if deep { usize::MAX } else { 1 }) {
                        path += name;
                        path.push('/');
                        folders.insert(path.clone());
                    }
                    if deep {
                        entry(&mut xml, &file.key, Some(&file));
                    }
                }
                None if call.header("depth") == Some("0") => {}
                None => entry(&mut xml, &file.key, Some(&file)),
            }
        }
        if !found {
            return Err(Failure::no_such_key());
        }
        folders.iter().for_each(|path| entry(&mut xml, path, None));
        Ok(Reply::new(207).document(xml.end()))
    }
}

/// One `D:response`; without a file it is a folder.
fn entry(xml: &mut Xml, path: &str, file: Option<&FileState>) {
    xml.begin("D:response");
    xml.text("D:href", &format!("/{}", url_encode_path(path)));
    xml.begin("D:propstat");
    xml.begin("D:prop");
    match file {
        Some(file) => {
            xml.text("D:getlastmodified", &file.last_modified);
            xml.text("D:getcontentlength", &file.size.to_string());
            xml.text("D:getetag", &format!("\"{}\"", file.etag));
            xml.text("D:resourcetype", "");
        }
        None => {
            xml.text("D:getlastmodified", &http_date(0));
            xml.begin("D:resourcetype");
            xml.text("D:collection", "");
            xml.close();
        }
    }
    xml.close();
    xml.text("D:status", "HTTP/1.1 200 OK");
    xml.close();
    xml.close();
}
