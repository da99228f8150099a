//! A server that does with each request what the test says, byte by byte, and keeps what it saw.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

pub(super) const ID: &str = "AKIDtest";
pub(super) const SECRET: &str = "the-secret-key";
pub(super) const TOKEN: &str = "the-session-token";

/// What the server does with one request.
pub(super) enum Step {
    Reply(Vec<u8>),
    ReplyAndClose(Vec<u8>),
    /// Says this much, then nothing more.
    ReplyAndHang(Vec<u8>),
    /// Pieces with a pause before each.
    Drip(Vec<Vec<u8>>, Duration),
    /// Closes without an answer.
    Close,
    /// Reads the head only and then stops.
    StopReading,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) connection: usize,
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(super) fn check_signature(&self) {
        self.signed_at();
    }

    /// Checks the signature as a server would, from what is on the wire alone.
    pub(super) fn signed_at(&self) -> sign::KeyTime {
        let mut words = self.line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let presented = Presented::from_header(self.header("authorization").expect("signed")).unwrap();
        assert_eq!(presented.secret_id, ID);
        let params = sign::parse_query(query).unwrap();
        presented
            .verify(SECRET, method, &sign::url_decode(path).unwrap(), &params, &self.headers)
            .expect("signature fits");
        for (name, _) in self.headers.iter().filter(|(n, _)| n.starts_with("x-cos-")) {
            assert!(presented.header_list.contains(name), "{name} is not signed");
        }
        assert!(presented.header_list.iter().any(|h| h == "host"));
        assert_eq!(presented.param_list.len(), params.len());
        presented.key_window
    }
}

pub(super) struct Server {
    pub(super) port: u16,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    pub(super) left: Arc<Mutex<VecDeque<Step>>>,
}

impl Server {
    pub(super) async fn start(steps: Vec<Step>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, left) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(VecDeque::from(steps))));
        let (log, script) = (seen.clone(), left.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, log.clone(), script.clone()));
            }
        });
        Server { port, seen, left }
    }

    pub(super) fn address(&self) -> BucketAddress {
        let endpoint = Some(format!("http://127.0.0.1:{}", self.port));
        BucketAddress { bucket: "b-1250000000".into(), region: "ap-test".into(), endpoint, https: true }
    }

    pub(super) fn client(&self) -> Client {
        let credentials = Credentials::new(ID.into(), SECRET.into(), Some(TOKEN.into())).unwrap();
        Client::new(self.address(), Arc::new(Fixed::new(credentials)), Arc::new(ClockOffset::new())).unwrap()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Every scripted step was used, so nothing passed because a request was never made.
    pub(super) fn done(&self) {
        assert_eq!(self.left.lock().len(), 0, "steps left");
    }
}

pub(super) async fn serve(
    mut stream: TcpStream,
    connection: usize,
    log: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Mutex<VecDeque<Step>>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap().to_string();
        let headers: Vec<(String, String)> = lines
            .map(|l| l.split_once(": ").unwrap_or((l.trim_end_matches(':'), "")))
            .map(|(n, v)| (n.into(), v.into()))
            .collect();
        buffer.drain(..end + 4);
        let mut seen = Seen { connection, line, headers, body: Vec::new() };
        let Some(step) = script.lock().pop_front() else { panic!("unexpected request: {seen:?}") };
        if matches!(step, Step::StopReading) {
            log.lock().push(seen);
            return std::future::pending().await;
        }
        let length: usize = seen.header("content-length").map_or(0, |l| l.parse().unwrap());
        while buffer.len() < length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        seen.body = buffer.drain(..length).collect();
        log.lock().push(seen);
        match step {
            Step::Reply(bytes) => stream.write_all(&bytes).await.unwrap(),
            Step::ReplyAndClose(bytes) => return stream.write_all(&bytes).await.unwrap(),
            Step::ReplyAndHang(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return std::future::pending().await;
            }
            Step::Drip(pieces, pause) => {
                for piece in pieces {
                    tokio::time::sleep(pause).await;
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                }
            }
            Step::Close => return,
            Step::StopReading => unreachable!("handled above"),
        }
    }
}

/// An answer with the headers that COS always sends.
pub(super) fn cos(status: u16, headers: &str, body: &str) -> Vec<u8> {
    foreign(status, &format!("x-cos-request-id: NWU5\r\n{headers}"), body)
}

/// An answer of somebody else.
pub(super) fn foreign(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let date = if headers.contains("Date:") { String::new() } else { format!("Date: {date}\r\n") };
    format!("HTTP/1.1 {status} Status\r\n{date}Content-Length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

pub(super) fn error(status: u16, code: &str, headers: &str) -> Vec<u8> {
    cos(status, headers, &format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"))
}

pub(super) fn object(body: &str) -> Vec<u8> {
    cos(200, &format!("ETag: \"e1\"\r\nx-cos-hash-crc64ecma: {}\r\n", crc64(body.as_bytes())), body)
}
