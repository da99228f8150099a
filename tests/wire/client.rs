//! A client without mercy or comfort: one socket, one request, what came back byte for byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cosfs_ha::cos::sign::{KeyTime, authorization, parse_query, url_decode};
use cosfs_ha::emulator::{BUCKETS, Emulator, Options, SECRET_ID, SECRET_KEY};
use cosfs_ha::object::Site;

/// Longer than any wait in these tests; a hang shows as an error instead of a hanging test.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn start() -> Emulator {
    Emulator::start(Options::default()).expect("the emulator starts on free ports")
}

pub fn host(site: Site) -> String {
    let (bucket, region) = BUCKETS[site.index()];
    format!("{bucket}.cos.{region}.myqcloud.com")
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the announced body did.
    pub short: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Content of the first element of that name.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let start = text.find(&format!("<{name}>"))? + name.len() + 2;
        let end = text[start..].find(&format!("</{name}>"))? + start;
        Some(text[start..end].replace("&quot;", "\""))
    }

    /// All contents of elements of that name.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        text.split(&format!("<{name}>")).skip(1).filter_map(|t| Some(t.split_once("</")?.0.to_owned())).collect()
    }
}

/// One request, built up and sent.
pub struct Ask<'a> {
    pub method: &'a str,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub host: String,
    pub secret: (&'a str, &'a str),
    pub window: (i64, i64),
    pub sign: bool,
}

pub fn ask<'a>(site: Site, method: &'a str, target: &str) -> Ask<'a> {
    Ask {
        method,
        target: target.into(),
        headers: Vec::new(),
        body: Vec::new(),
        host: host(site),
        secret: (SECRET_ID, SECRET_KEY),
        window: (-60, 600),
        sign: true,
    }
}

impl<'a> Ask<'a> {
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn authorization(&self) -> String {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let window = KeyTime { start: (now + self.window.0) as u64, end: (now + self.window.1) as u64 };
        let path = self.target.strip_prefix("http://").map_or(self.target.as_str(), |t| &t[t.find('/').unwrap_or(0)..]);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let params = parse_query(query).expect("a query");
        let path = url_decode(path).expect("a path");
        authorization(self.secret.0, self.secret.1, window, self.method, &path, &params, &[("host", &self.host)])
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.host);
        if self.sign {
            head += &format!("Authorization: {}\r\n", self.authorization());
        }
        let chunked = self.headers.iter().any(|(n, _)| n == "Transfer-Encoding");
        if !chunked && (!self.body.is_empty() || matches!(self.method, "PUT" | "POST")) {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    pub fn send(self, emulator: &Emulator, site: Site) -> Answer {
        self.attempt(emulator.address(site)).expect("an answer")
    }

    pub fn attempt(self, address: SocketAddr) -> io::Result<Answer> {
        Wire::connect(address)?.exchange(&self)
    }
}

pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire { stream, buffer: Vec::new() })
    }

    pub fn exchange(&mut self, ask: &Ask<'_>) -> io::Result<Answer> {
        self.stream.write_all(&ask.bytes())?;
        self.read(ask.method == "HEAD")
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 65536];
        let n = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    pub fn read(&mut self, head: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status line");
        let headers: Vec<(String, String)> =
            lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.into(), v.trim().into())).collect();
        let mut answer = Answer { status, headers, body: Vec::new(), short: false };
        if status == 100 {
            return self.read(head);
        }
        if head || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            loop {
                let line = loop {
                    if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                        break at;
                    }
                    if self.more()? == 0 {
                        answer.short = true;
                        return Ok(answer);
                    }
                };
                let size =
                    usize::from_str_radix(&String::from_utf8_lossy(&self.buffer[..line]), 16).expect("a chunk size");
                self.buffer.drain(..line + 2);
                while self.buffer.len() < size + 2 {
                    if self.more()? == 0 {
                        answer.short = true;
                        return Ok(answer);
                    }
                }
                answer.body.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length: usize = answer.header("content-length").and_then(|l| l.parse().ok()).expect("a content length");
        while self.buffer.len() < length {
            match self.more() {
                Ok(0) => {
                    answer.short = true;
                    break;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    answer.short = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let have = length.min(self.buffer.len());
        answer.body = self.buffer.drain(..have).collect();
        Ok(answer)
    }

    /// Nothing arrives for that long, not even an end.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a timeout");
        let silent = match self.stream.read(&mut [0; 1]) {
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            Ok(_) => false,
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silent
    }
}

pub fn put(emulator: &Emulator, site: Site, key: &str, body: &[u8]) -> Answer {
    let answer = ask(site, "PUT", &format!("/{key}")).body(body).send(emulator, site);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

pub fn get(emulator: &Emulator, site: Site, key: &str) -> Answer {
    ask(site, "GET", &format!("/{key}")).send(emulator, site)
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A request without signature, as a browser sends it.
pub fn plain<'a>(method: &'a str, target: &str) -> Ask<'a> {
    Ask { sign: false, host: "files.example.com".into(), ..ask(Site::A, method, target) }
}
