//! How fast and how large the emulator is: `cargo bench --bench emulator [-- get put list many large]`.
//!
//! A mount that is measured on the emulator is measured together with it, so the emulator must not be what is slow. Absolute numbers
//! say little about another machine; what is compared here is the emulator and a bare axum server that does the same work and
//! nothing else, in turns on the same machine, by the same client. The client is one thread a connection on plain sockets.
//!
//! | row | compared with | target |
//! |---|---|---|
//! | `get` | axum streaming the same bytes from memory | 0.7 of it |
//! | `put` | axum that reads the body and computes MD5 and CRC-64 | 0.7 of it |
//! | `list` | 100 000 keys in pages of 1000 | 100 requests, 2 s |
//! | `many` | 200 000 objects in both regions | listed completely; memory an object |
//! | `large` | a multipart object of 5 GiB with `--data` | same checksum; bounded memory |

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, put};
use bytes::Bytes;
use cosfs_ha::cos::sign::{KeyTime, authorization, parse_query, url_decode};
use cosfs_ha::emulator::{BUCKETS, Emulator, Options, SECRET_ID, SECRET_KEY};
use cosfs_ha::object::Site;
use crc_fast::CrcAlgorithm::Crc64Xz;
use futures::StreamExt;
use http_body_util::BodyExt;
use md5::{Digest, Md5};

const MIB: usize = 1 << 20;
/// Long enough that the start of a connection does not count.
const GET_BYTES: usize = 512 * MIB;
const PUT_BYTES: usize = 256 * MIB;
const CONNECTIONS: [usize; 2] = [1, 4];
/// Each round measures both servers; the median of the rounds' ratios counts.
const ROUNDS: usize = 7;
const PART_BYTES: usize = 64 * MIB;
const PARTS: usize = 80;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    type Row = (&'static str, fn() -> Outcome);
    let rows: [Row; 5] = [("large", large), ("get", measure_get), ("put", measure_put), ("list", list), ("many", many)];
    println!("{:<34} {:>12} {:>12} {:>7}  target", "", "emulator", "bare axum", "ratio");
    for (name, row) in rows {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            row()?;
        }
    }
    Ok(())
}

// ---- the other server

#[derive(Clone)]
struct Held(Arc<Vec<Bytes>>);

async fn stream(State(held): State<Held>) -> axum::response::Response {
    let len: usize = held.0.iter().map(Bytes::len).sum();
    let chunks: Vec<Bytes> = held.0.iter().cloned().collect();
    let body = Body::from_stream(futures::stream::iter(chunks).map(Ok::<_, io::Error>));
    let mut response = axum::response::Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_LENGTH, len.into());
    response
}

async fn checksums(mut body: Body) -> Result<String, String> {
    let (mut md5, mut crc) = (Md5::new(), crc_fast::Digest::new(Crc64Xz));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
            md5.update(&data);
            crc.update(&data);
        }
    }
    Ok(format!("{:x} {}", md5.finalize(), crc.finalize()))
}

/// As many threads as the emulator has. Ends with the program.
fn bare_axum() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let chunks = (0..GET_BYTES / (256 << 10)).map(|n| Bytes::from(vec![n as u8; 256 << 10])).collect();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let served = runtime.map(|runtime| {
            runtime.block_on(async move {
                let app = axum::Router::new()
                    .route("/get", get(stream))
                    .route("/put", put(checksums))
                    .layer(axum::extract::DefaultBodyLimit::disable())
                    .with_state(Held(Arc::new(chunks)));
                axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await
            })
        });
        eprintln!("bare axum ended: {served:?}");
    });
    Ok(address)
}

// ---- the client

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Of the last answer.
    head: String,
}

impl Wire {
    fn connect(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Wire { stream, buffer: vec![0; MIB], head: String::new() })
    }

    fn begin(&mut self, method: &str, target: &str, signed: bool, len: usize) -> io::Result<()> {
        let (bucket, region) = BUCKETS[0];
        let host = format!("{bucket}.cos.{region}.myqcloud.com");
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
        if signed {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
            let window = KeyTime { start: now - 60, end: now + 3600 };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let params = parse_query(query).unwrap_or_default();
            let path = url_decode(path).unwrap_or_default();
            let value = authorization(SECRET_ID, SECRET_KEY, window, method, &path, &params, &[("host", &host)]);
            head += &format!("Authorization: {value}\r\n");
        }
        if matches!(method, "PUT" | "POST") {
            head += &format!("Content-Length: {len}\r\n");
        }
        self.stream.write_all(format!("{head}\r\n").as_bytes())
    }

    /// The head of the answer; what has come of the body already stays at the front of the buffer. Returns (there, announced).
    fn answer(&mut self) -> io::Result<(usize, usize)> {
        let mut filled = 0;
        loop {
            let n = self.stream.read(&mut self.buffer[filled..])?;
            filled += n;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(end) = self.buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            self.head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
            self.buffer.copy_within(end + 4..filled, 0);
            let announced = self.header("content-length").and_then(|n| n.parse().ok());
            if !self.head.starts_with("http/1.1 200") {
                let text = String::from_utf8_lossy(&self.buffer[..filled - end - 4]);
                return Err(io::Error::other(format!("{}\n{text}", self.head)));
            }
            return Ok((filled - end - 4, announced.unwrap_or(usize::MAX)));
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// A whole answer, each piece shown once.
    fn receive(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let (mut done, announced) = self.answer()?;
        let chunked = announced == usize::MAX;
        each(&self.buffer[..done]);
        // Chunked answers here are small documents, whose last chunk ends them.
        while if chunked { !self.buffer[..done].ends_with(b"0\r\n\r\n") } else { done < announced } {
            let from = if chunked { done } else { 0 };
            let n = self.stream.read(&mut self.buffer[from..])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            each(&self.buffer[from..from + n]);
            done += n;
        }
        Ok(done)
    }

    fn get(&mut self, target: &str, signed: bool) -> io::Result<usize> {
        self.begin("GET", target, signed, 0)?;
        self.receive(|_| {})
    }

    fn text(&mut self, method: &str, target: &str, body: &[u8]) -> io::Result<String> {
        self.begin(method, target, true, body.len())?;
        self.stream.write_all(body)?;
        let mut text = Vec::new();
        self.receive(|piece| text.extend_from_slice(piece))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn put(&mut self, target: &str, signed: bool, block: &[u8], bytes: usize) -> io::Result<usize> {
        self.begin("PUT", target, signed, bytes)?;
        for _ in 0..bytes / block.len() {
            self.stream.write_all(block)?;
        }
        self.receive(|_| {})?;
        Ok(bytes)
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(&format!("<{name}>"))?.1.split_once("</").map(|(inner, _)| inner)
}

/// Bytes a second over so many connections at once.
fn rate(connections: usize, work: impl Fn(usize) -> io::Result<usize> + Sync) -> io::Result<f64> {
    let began = Instant::now();
    let done: io::Result<usize> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..connections).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("panicked")))).sum()
    });
    Ok(done? as f64 / began.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(
    name: &str,
    connections: usize,
    ours: impl Fn(usize) -> io::Result<usize> + Sync,
    bare: impl Fn(usize) -> io::Result<usize> + Sync,
) -> Outcome {
    let (mut all, mut rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (bare, ours) = (rate(connections, &bare)?, rate(connections, &ours)?);
        all.push(bare);
        rates.push(ours);
        ratios.push(ours / bare);
    }
    let gb = |values: &mut [f64]| format!("{:.2} GB/s", median(values) / 1e9);
    let name = format!("{name}, {connections} connection(s)");
    println!("{name:<34} {:>12} {:>12} {:>7.2}  0.70", gb(&mut rates), gb(&mut all), median(&mut ratios));
    Ok(())
}

/// Buckets without versions, so that an object that is written again takes the place of the old one.
fn start() -> Result<Emulator, Box<dyn std::error::Error>> {
    Ok(Emulator::start(Options { unconfigured: true, ..Options::default() })?)
}

fn block() -> Vec<u8> {
    (0..MIB).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn measure_get() -> Outcome {
    let (emulator, bare) = (start()?, bare_axum()?);
    let address = emulator.address(Site::A);
    Wire::connect(address)?.put("/large", true, &block(), GET_BYTES)?;
    for connections in CONNECTIONS {
        let ours = |_| Wire::connect(address)?.get("/large", true);
        compare("GET 512 MiB", connections, ours, |_| Wire::connect(bare)?.get("/get", false))?;
    }
    Ok(())
}

fn measure_put() -> Outcome {
    let (emulator, bare) = (start()?, bare_axum()?);
    let (address, block) = (emulator.address(Site::A), block());
    for connections in CONNECTIONS {
        let bytes = PUT_BYTES / connections;
        let ours = |n| Wire::connect(address)?.put(&format!("/k{n}"), true, &block, bytes);
        let name = format!("PUT {} MiB", bytes / MIB);
        compare(&name, connections, ours, |_| Wire::connect(bare)?.put("/put", false, &block, bytes))?;
    }
    Ok(())
}

/// Lists a bucket to its end. Returns (requests, keys).
fn list_all(address: SocketAddr) -> io::Result<(usize, usize)> {
    let mut wire = Wire::connect(address)?;
    let (mut requests, mut keys, mut marker) = (0, 0, String::new());
    loop {
        let page = wire.text("GET", &format!("/?prefix=d/&marker={marker}"), b"")?;
        requests += 1;
        keys += page.matches("<Key>").count();
        match element(&page, "NextMarker") {
            Some(next) if !next.is_empty() => marker = next.to_string(),
            _ => return Ok((requests, keys)),
        }
    }
}

fn list() -> Outcome {
    let emulator = start()?;
    for n in 0..100_000 {
        emulator.put(Site::A, &format!("d/{n:06}"), Bytes::from_static(b"x"))?;
    }
    let mut times = Vec::new();
    let mut counted = (0, 0);
    for _ in 0..3 {
        let began = Instant::now();
        counted = list_all(emulator.address(Site::A))?;
        times.push(began.elapsed().as_secs_f64());
    }
    let (requests, keys) = counted;
    println!(
        "{:<34} {:>10.2} s {:>12} {:>7}  2 s, 100 requests",
        format!("list {keys} keys, {requests} requests"),
        median(&mut times),
        "",
        ""
    );
    Ok(())
}

fn memory(pid: u32, line: &str) -> io::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| io::Error::other("no such line"))
}

fn many() -> Outcome {
    const OBJECTS: usize = 200_000;
    let emulator = Emulator::start(Options::default())?;
    let before = memory(std::process::id(), "VmRSS")?;
    let began = Instant::now();
    for n in 0..OBJECTS {
        emulator.put(Site::A, &format!("d/{:03}/{n:06}", n % 500), Bytes::from_static(b"content"))?;
    }
    let replicated = emulator.wait_replicated(Duration::from_secs(120));
    let filled = began.elapsed().as_secs_f64();
    let each = (memory(std::process::id(), "VmRSS")? - before) / (2 * OBJECTS) as f64;
    let began = Instant::now();
    let (requests, keys) = list_all(emulator.address(Site::B))?;
    let name = format!("list {keys} keys, {requests} requests");
    println!(
        "{name:<34} {:>10.2} s {:>12} {:>7}  all there: {}",
        began.elapsed().as_secs_f64(),
        "",
        "",
        keys == OBJECTS && replicated
    );
    println!("{:<34} {filled:>10.2} s", "  written and replicated in");
    println!("{:<34} {each:>10.0} B", "  memory a version");
    Ok(())
}

struct Process {
    child: Child,
    a: SocketAddr,
}

impl Process {
    fn start(dir: &std::path::Path) -> Result<Process, Box<dyn std::error::Error>> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cosfs-ha"))
            .args(["emulator", "--port", "0", "--data"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no pipe")?;
        let ready = BufReader::new(out).lines().map_while(Result::ok).find(|line| line.starts_with("emulator ready "));
        let ready = ready.ok_or("the emulator does not start")?;
        let a = ready.split(' ').find_map(|word| word.strip_prefix("a=")).ok_or("no address")?;
        let a = a.trim_start_matches("http://").parse()?;
        Ok(Process { child, a })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn large() -> Outcome {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let process = Process::start(dir.path())?;
    let mut wire = Wire::connect(process.a)?;
    let began = Instant::now();
    let answer = wire.text("POST", "/d/large?uploads", b"")?;
    let id = element(&answer, "UploadId").ok_or("no upload")?.to_string();
    let (mut crc, mut list) = (crc_fast::Digest::new(Crc64Xz), String::new());
    for number in 1..=PARTS {
        let mut part = block();
        part.iter_mut().step_by(4096).for_each(|byte| *byte ^= number as u8);
        (0..PART_BYTES / MIB).for_each(|_| crc.update(&part));
        wire.put(&format!("/d/large?partNumber={number}&uploadId={id}"), true, &part, PART_BYTES)?;
        let etag = wire.header("etag").ok_or("no ETag")?;
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let complete = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    wire.text("POST", &format!("/d/large?uploadId={id}"), complete.as_bytes())?;
    let wrote = (PARTS * PART_BYTES) as f64 / began.elapsed().as_secs_f64() / 1e9;
    let began = Instant::now();
    let mut found = crc_fast::Digest::new(Crc64Xz);
    wire.begin("GET", "/d/large", true, 0)?;
    let bytes = wire.receive(|piece| found.update(piece))?;
    let read = bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
    let sum = crc.finalize();
    let same = found.finalize() == sum && wire.header("x-cos-hash-crc64ecma") == Some(sum.to_string().as_str());
    let peak = memory(process.child.id(), "VmHWM")? / MIB as f64;
    println!("{:<34} {wrote:>7.2} GB/s {:>12} {:>7}  same content: {same}", "PUT 5 GiB in 80 parts, --data", "", "");
    println!("{:<34} {read:>7.2} GB/s", "GET 5 GiB, --data");
    println!("{:<34} {peak:>8.0} MiB", "  peak memory of the process");
    drop(process);
    let began = Instant::now();
    let again = Process::start(dir.path())?;
    let mut wire = Wire::connect(again.a)?;
    wire.begin("HEAD", "/d/large", true, 0)?;
    let (_, announced) = wire.answer()?;
    println!(
        "{:<34} {:>10.2} s {:>12} {:>7}  there: {}",
        "  killed and started again",
        began.elapsed().as_secs_f64(),
        "",
        "",
        announced == bytes
    );
    Ok(())
}
