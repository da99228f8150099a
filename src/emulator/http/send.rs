//! Answers: headers every answer of COS has, error bodies, and bodies that break on their way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};

use super::receive::{flip, placed};
use crate::emulator::blob::{Blob, Reader};
use crate::emulator::door::Cut;
use crate::emulator::failure::Failure;
use crate::emulator::fault::Trip;
use crate::emulator::line::Line;
use crate::emulator::xml::Xml;

pub type Body = UnsyncBoxBody<Bytes, Cut>;

/// How long a broken body waits so that what was sent before reaches the peer.
const SETTLE: Duration = Duration::from_millis(20);

#[derive(Default)]
enum Content {
    #[default]
    Empty,
    /// One document; `chunked` documents are sent without a length, as COS sends results of long operations.
    Document {
        text: String,
        chunked: bool,
    },
    Blob(Blob),
    Absent(u64),
    Stream {
        len: u64,
        chunks: BoxStream<'static, io::Result<Bytes>>,
    },
}

/// An answer before it is put on the wire.
#[derive(Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    content: Content,
    /// Comes from something that is not COS.
    foreign: bool,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn with_some(self, name: impl Into<String>, value: Option<impl Into<String>>) -> Reply {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Another value where the header is there at all.
    pub fn replace(&mut self, name: &str, value: &str) {
        self.headers.iter_mut().filter(|(n, _)| n == name).for_each(|(_, v)| value.clone_into(v));
    }

    pub fn without(mut self, name: &str) -> Reply {
        self.headers.retain(|(n, _)| n != name);
        self
    }

    /// Comes from something that is not COS: gets no headers of COS.
    pub fn outside_cos(mut self) -> Reply {
        self.foreign = true;
        self
    }

    /// A body of another type than XML.
    pub fn text(mut self, kind: &str, text: impl Into<String>) -> Reply {
        self.content = Content::Document { text: text.into(), chunked: false };
        self.with("content-type", kind)
    }

    /// For HEAD: the length of a body that is not at hand.
    pub fn length(mut self, len: u64) -> Reply {
        self.content = Content::Absent(len);
        self
    }

    /// A body that is still arriving from elsewhere, `len` bytes of it.
    pub fn stream(mut self, len: u64, chunks: BoxStream<'static, io::Result<Bytes>>) -> Reply {
        self.content = Content::Stream { len, chunks };
        self
    }

    pub fn document(mut self, text: impl Into<String>) -> Reply {
        self.content = Content::Document { text: text.into(), chunked: false };
        self.with("content-type", "application/xml")
    }

    pub fn document_as(mut self, kind: &str, text: impl Into<String>) -> Reply {
        self.content = Content::Document { text: text.into(), chunked: false };
        self.with("content-type", kind)
    }

    /// The result of an operation during which COS keeps the connection alive with white space.
    pub fn slow_document(mut self, text: impl Into<String>) -> Reply {
        self.content = Content::Document { text: format!("\n{}", text.into()), chunked: true };
        self.with("content-type", "application/xml")
    }

    pub fn blob(mut self, blob: Blob) -> Reply {
        self.content = Content::Blob(blob);
        self
    }

    pub fn headers_mut(&mut self) -> &mut Vec<(String, String)> {
        &mut self.headers
    }

    pub fn body_len(&self) -> u64 {
        match &self.content {
            Content::Empty => 0,
            Content::Document { text, .. } => text.len() as u64,
            Content::Blob(blob) => blob.len(),
            Content::Absent(len) | Content::Stream { len, .. } => *len,
        }
    }

    /// Status, headers and the whole body, for a caller without a wire.
    pub fn into_whole(self) -> (u16, Vec<(String, String)>, Bytes) {
        let body = match self.content {
            // The others only stand in answers of the CDN and the origin.
            Content::Empty | Content::Absent(_) | Content::Stream { .. } => Bytes::new(),
            Content::Document { text, .. } => text.into(),
            Content::Blob(blob) => {
                let mut whole = Vec::new();
                // Only bodies on disk can fail to be read.
                if let Err(error) = blob.for_each(|piece| whole.extend_from_slice(piece)) {
                    log::error!("body: {error}");
                }
                whole.into()
            }
        };
        (self.status, self.headers, body)
    }

    pub fn identify(&mut self, request_id: &str, date: &str) {
        if !self.foreign {
            self.headers.push(("server".into(), "tencent-cos".into()));
            self.headers.push(("x-cos-request-id".into(), request_id.into()));
        }
        self.headers.push(("date".into(), date.into()));
    }
}

pub fn failure(failure: &Failure, resource: &str, request_id: &str) -> Reply {
    if failure.status == 304 {
        let reply = Reply { headers: owned(&failure.headers), ..Reply::new(304) };
        // Of a GET it says what the object is; of a HEAD it looks like an error.
        let described = failure.headers.iter().any(|(name, _)| *name == "etag");
        return if described { reply } else { reply.with("x-cos-trace-id", format!("trace-{request_id}")) };
    }
    let mut reply = Reply::new(failure.status).document(error_body(failure, resource, request_id));
    reply.headers.extend(owned(&failure.headers));
    reply.with("x-cos-trace-id", format!("trace-{request_id}"))
}

fn owned(headers: &[(&'static str, String)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn error_body(failure: &Failure, resource: &str, request_id: &str) -> String {
    let mut xml = Xml::document("Error");
    xml.text("Code", failure.code);
    xml.text("Message", &failure.message);
    xml.text("Resource", resource);
    xml.text("RequestId", request_id);
    xml.text("TraceId", &format!("trace-{request_id}"));
    xml.end()
}

pub fn error_in_200(failure: &Failure) -> Reply {
    Reply::new(200).slow_document(error_body(failure, "", "").split_once('\n').map_or("", |(_, body)| body))
}

/// What a proxy or a captive portal would say.
pub fn foreign(status: u16) -> Reply {
    let mut reply = Reply { foreign: true, ..Reply::new(status) };
    reply.content =
        Content::Document { text: format!("<html><body>{status} from a middlebox</body></html>\n"), chunked: false };
    let reply = reply.with("content-type", "text/html").with("server", "middlebox");
    if (300..400).contains(&status) { reply.with("location", "http://portal.invalid/") } else { reply }
}

/// Puts an answer on the wire, or ends the connection where a trip leaves nothing to send.
pub fn response(
    reply: Reply,
    head: bool,
    trips: Vec<(Option<u64>, Trip)>,
    line: &Arc<Line>,
) -> Result<Response<Body>, Cut> {
    let status = StatusCode::from_u16(reply.status).map_err(|_| Cut)?;
    let mut response = Response::builder().status(status);
    if let Some(headers) = response.headers_mut() {
        for (name, value) in &reply.headers {
            match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes())) {
                (Ok(name), Ok(value)) => drop(headers.append(name, value)),
                _ => log::debug!("header {name}: {value:?} cannot be sent"),
            }
        }
    }
    let len = reply.body_len();
    let no_body = head || matches!(reply.status, 204 | 304);
    let chunked = matches!(reply.content, Content::Document { chunked: true, .. });
    if reply.status != 204 && !chunked {
        response = response.header(http::header::CONTENT_LENGTH, if reply.status == 304 { 0 } else { len });
    }
    let trips = if no_body || len == 0 {
        // A body trip on an answer without a body happens in its place.
        for (_, trip) in trips {
            match trip {
                Trip::Reset => line.reset(),
                Trip::Hang => line.hold(),
                Trip::Pause(_) | Trip::Drip(_) | Trip::Truncate | Trip::Corrupt => continue,
            }
            return Err(Cut);
        }
        Vec::new()
    } else {
        placed(trips, len)
    };
    let source = match reply.content {
        _ if no_body => Source::Once(None),
        Content::Empty | Content::Absent(_) => Source::Once(None),
        Content::Stream { chunks, .. } => Source::Stream(chunks),
        Content::Document { text, .. } => Source::Once(Some(text.into())),
        Content::Blob(blob) => Source::Blob(blob.reader()),
    };
    let body = match source {
        Source::Once(None) => Empty::new().map_err(Cut::from).boxed_unsync(),
        Source::Once(Some(text)) if trips.is_empty() && !chunked => Full::new(text).map_err(Cut::from).boxed_unsync(),
        source => {
            let outgoing = Outgoing { source, sent: 0, rest: None, trips, drip: None, line: Arc::clone(line) };
            let chunks = futures::stream::unfold(Some(outgoing), |outgoing| async {
                let mut outgoing = outgoing?;
                match outgoing.next().await {
                    Ok(Some(chunk)) => Some((Ok(chunk), Some(outgoing))),
                    Ok(None) => None,
                    Err(cut) => Some((Err(cut), None)),
                }
            });
            StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
        }
    };
    response.body(body).map_err(|_| Cut)
}

enum Source {
    Once(Option<Bytes>),
    Blob(Reader),
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

/// A body on its way out.
struct Outgoing {
    source: Source,
    sent: u64,
    rest: Option<Bytes>,
    trips: Vec<(u64, Trip)>,
    drip: Option<Duration>,
    line: Arc<Line>,
}

impl Outgoing {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let mut chunk = match (self.rest.take(), &mut self.source) {
            (Some(rest), _) => rest,
            (None, Source::Once(text)) => match text.take() {
                Some(text) => text,
                None => return Ok(None),
            },
            (None, Source::Stream(chunks)) => match chunks.next().await {
                Some(Ok(chunk)) => chunk,
                None => return Ok(None),
                Some(Err(error)) => {
                    log::debug!("body from elsewhere: {error}");
                    return Err(Cut);
                }
            },
            (None, Source::Blob(reader)) => match reader.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(None),
                Err(error) => {
                    log::error!("body on disk: {error}");
                    return Err(Cut);
                }
            },
        };
        while let Some((at, trip)) = self.trips.first().copied().filter(|(at, _)| *at < self.sent + chunk.len() as u64)
        {
            if at > self.sent {
                self.rest = Some(chunk.split_off((at - self.sent) as usize));
                self.sent = at;
                return Ok(Some(chunk));
            }
            self.trips.remove(0);
            match trip {
                Trip::Reset => {
                    tokio::time::sleep(SETTLE).await;
                    self.line.reset();
                    return Err(Cut);
                }
                Trip::Hang => {
                    self.line.hold();
                    self.line.ended().await;
                    return Err(Cut);
                }
                Trip::Truncate => {
                    tokio::time::sleep(SETTLE).await;
                    return Err(Cut);
                }
                Trip::Pause(time) => tokio::time::sleep(time).await,
                Trip::Drip(pause) => self.drip = Some(pause),
                Trip::Corrupt => chunk = flip(&chunk, 0),
            }
        }
        if let Some(pause) = self.drip {
            tokio::time::sleep(pause).await;
            if chunk.len() > 1 {
                self.rest = Some(chunk.split_off(1));
            }
        }
        self.sent += chunk.len() as u64;
        Ok(Some(chunk))
    }
}
