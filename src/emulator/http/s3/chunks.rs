//! Bodies as S3 clients send them: sealed by a hash in the head, or cut into signed chunks with a trailer.
//!
//! ```text
//! x-amz-content-sha256: <hex>                            the whole body's SHA-256
//! UNSIGNED-PAYLOAD                                       nothing
//! STREAMING-AWS4-HMAC-SHA256-PAYLOAD[-TRAILER]           chunks, each signed on from the one before
//! STREAMING-UNSIGNED-PAYLOAD-TRAILER                     chunks, then a checksum as a trailer
//!
//! chunk = <hex size>[;chunk-signature=<hex>] CRLF <bytes> CRLF
//! ```
//!
//! Source: "Signature Calculations ... Transferring Payload in Multiple Chunks", Amazon S3 API reference. A checksum trailer of
//! a kind that is known is compared; of the others only the signature counts.

use base64::Engine;
use bytes::{Buf, Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::Dialect;
use super::sign::{Seed, payload_hash, signature};
use crate::emulator::failure::Failure;
use crate::emulator::http::call::Call;
use crate::emulator::world::hex;

/// A chunk's head line, and all trailers together; longer is nonsense.
const HEAD_BYTES_MAX: usize = 1024;
const TRAILER_BYTES_MAX: usize = 4096;
const CHUNK_BYTES_MAX: u64 = 5 << 30;

/// How a body is sealed, and the state of checking it.
pub struct Seal {
    kind: Kind,
    /// Of the content: announced by `x-amz-decoded-content-length`, and seen.
    announced: Option<u64>,
    seen: u64,
}

enum Kind {
    Open,
    Whole { hasher: Sha256, expect: String },
    Chunked(Box<Decoder>),
}

fn incomplete() -> Failure {
    Failure::new(400, "IncompleteBody", "The body is shorter than announced.")
}

fn unreadable() -> Failure {
    Failure::new(400, "InvalidRequest", "The chunks of the body cannot be read.")
}

fn forged() -> Failure {
    Failure::new(403, "SignatureDoesNotMatch", "The signature of a chunk does not match.")
}

impl Seal {
    pub fn of(call: &Call) -> Result<Seal, Failure> {
        let open = Seal { kind: Kind::Open, announced: None, seen: 0 };
        if call.dialect != Dialect::S3 {
            return Ok(open);
        }
        let hash = payload_hash(call);
        let Some(streaming) = hash.strip_prefix("STREAMING-") else {
            // A presigned URL says nothing about the body unless the header is there.
            if hash == super::sign::UNSIGNED {
                return Ok(open);
            }
            return Ok(Seal { kind: Kind::Whole { hasher: Sha256::new(), expect: hash.to_owned() }, ..open });
        };
        let (payload, trailer) = match streaming.strip_suffix("-TRAILER") {
            Some(payload) => (payload, true),
            None => (streaming, false),
        };
        let signer = match payload {
            "AWS4-HMAC-SHA256-PAYLOAD" => call.seed.clone(),
            "UNSIGNED-PAYLOAD" if trailer => None,
            _ => return Err(Failure::new(400, "InvalidArgument", "x-amz-content-sha256 cannot be read.")),
        };
        let announced = call.header("x-amz-decoded-content-length").and_then(|n| n.parse().ok());
        if announced.is_none() {
            return Err(Failure::new(411, "MissingContentLength", "x-amz-decoded-content-length is missing."));
        }
        let sum = call.header("x-amz-trailer").and_then(Sum::of);
        Ok(Seal { kind: Kind::Chunked(Box::new(Decoder::new(signer, trailer, sum))), announced, seen: 0 })
    }

    /// Content in what has arrived, in order.
    pub fn take(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Result<(), Failure> {
        match &mut self.kind {
            Kind::Open => out.push(chunk),
            Kind::Whole { hasher, .. } => {
                hasher.update(&chunk);
                out.push(chunk);
            }
            Kind::Chunked(decoder) => {
                let before = out.len();
                decoder.take(chunk, out)?;
                self.seen += out[before..].iter().map(|c| c.len() as u64).sum::<u64>();
            }
        }
        Ok(())
    }

    /// At the end of the body: was that all, and all right?
    pub fn finish(self) -> Result<(), Failure> {
        match self.kind {
            Kind::Open => Ok(()),
            Kind::Whole { hasher, expect } => match hex(&hasher.finalize()) == expect {
                true => Ok(()),
                false => {
                    let message = "The body does not have the hash in x-amz-content-sha256.";
                    Err(Failure::new(400, "XAmzContentSHA256Mismatch", message))
                }
            },
            Kind::Chunked(decoder) => {
                decoder.finish()?;
                if self.announced == Some(self.seen) { Ok(()) } else { Err(incomplete()) }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Head,
    /// Bytes of the chunk that are still to come.
    Data(u64),
    /// The line end after a chunk.
    Gap,
    Trailer,
    End,
}

struct Decoder {
    at: At,
    buffer: BytesMut,
    signer: Option<Seed>,
    trailer: bool,
    sum: Option<Sum>,
    /// Of the current chunk, with the signature it came with.
    hasher: Sha256,
    presented: String,
}

impl Decoder {
    fn new(signer: Option<Seed>, trailer: bool, sum: Option<Sum>) -> Decoder {
        Decoder {
            at: At::Head,
            buffer: BytesMut::new(),
            signer,
            trailer,
            sum,
            hasher: Sha256::new(),
            presented: String::new(),
        }
    }

    fn take(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Result<(), Failure> {
        self.buffer.extend_from_slice(&chunk);
        loop {
            match self.at {
                At::Head => {
                    let Some(line) = self.line(HEAD_BYTES_MAX)? else { return Ok(()) };
                    self.head(&line)?;
                }
                At::Data(0) => self.end_of_chunk()?,
                At::Data(left) => {
                    let here = left.min(self.buffer.len() as u64) as usize;
                    if here == 0 {
                        return Ok(());
                    }
                    let data = self.buffer.split_to(here).freeze();
                    if self.signer.is_some() {
                        self.hasher.update(&data);
                    }
                    if let Some(sum) = &mut self.sum {
                        sum.update(&data);
                    }
                    out.push(data);
                    self.at = At::Data(left - here as u64);
                }
                At::Gap => {
                    if self.buffer.len() < 2 {
                        return Ok(());
                    }
                    if !self.buffer.starts_with(b"\r\n") {
                        return Err(unreadable());
                    }
                    self.buffer.advance(2);
                    self.at = At::Head;
                }
                At::Trailer | At::End => {
                    return if self.buffer.len() > TRAILER_BYTES_MAX { Err(unreadable()) } else { Ok(()) };
                }
            }
        }
    }

    /// The next line without its end.
    fn line(&mut self, limit: usize) -> Result<Option<String>, Failure> {
        match self.buffer.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) if at <= limit => {
                let line = self.buffer.split_to(at);
                self.buffer.advance(2);
                String::from_utf8(line.to_vec()).map(Some).map_err(|_| unreadable())
            }
            None if self.buffer.len() <= limit => Ok(None),
            _ => Err(unreadable()),
        }
    }

    fn head(&mut self, line: &str) -> Result<(), Failure> {
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        let size = u64::from_str_radix(size.trim(), 16).ok().filter(|n| *n <= CHUNK_BYTES_MAX);
        let size = size.ok_or_else(unreadable)?;
        self.presented = extension.trim().strip_prefix("chunk-signature=").unwrap_or("").to_owned();
        if size == 0 {
            // The last chunk has no data of its own; in the form without trailers an empty line follows.
            self.check_chunk()?;
            self.at = if self.trailer { At::Trailer } else { At::End };
        } else {
            self.at = At::Data(size);
        }
        Ok(())
    }

    fn end_of_chunk(&mut self) -> Result<(), Failure> {
        self.check_chunk()?;
        self.at = At::Gap;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), Failure> {
        let Some(seed) = &mut self.signer else { return Ok(()) };
        let data = hex(&std::mem::take(&mut self.hasher).finalize());
        let nothing = hex(&Sha256::digest(b""));
        let Seed { key, scope, moment, signature: previous } = seed;
        let text = format!("AWS4-HMAC-SHA256-PAYLOAD\n{moment}\n{scope}\n{previous}\n{nothing}\n{data}");
        let good = signature(key, &text);
        if good != self.presented {
            return Err(forged());
        }
        seed.signature = good;
        Ok(())
    }

    fn finish(mut self) -> Result<(), Failure> {
        match self.at {
            At::Trailer => {}
            At::End if self.buffer.is_empty() || &self.buffer[..] == b"\r\n" => return Ok(()),
            At::End => return Err(unreadable()),
            _ => return Err(incomplete()),
        }
        let mut signed = String::new();
        let mut presented = None;
        let mut sum = None;
        while let Some(line) = self.line(TRAILER_BYTES_MAX)? {
            let Some((name, value)) = line.split_once(':') else { continue };
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            if name == "x-amz-trailer-signature" {
                presented = Some(value);
                continue;
            }
            if self.sum.as_ref().is_some_and(|s| s.name == name) {
                sum = Some(value.clone());
            }
            signed += &format!("{name}:{value}\n");
        }
        if let Some(Seed { key, scope, moment, signature: previous }) = &self.signer {
            let trailer = hex(&Sha256::digest(signed.as_bytes()));
            let text = format!("AWS4-HMAC-SHA256-TRAILER\n{moment}\n{scope}\n{previous}\n{trailer}");
            if presented != Some(signature(key, &text)) {
                return Err(forged());
            }
        }
        match self.sum.map(Sum::text) {
            expect @ Some(_) if sum != expect => {
                Err(Failure::new(400, "BadDigest", "The checksum in the trailer does not match the body."))
            }
            _ => Ok(()),
        }
    }
}

/// A checksum announced in `x-amz-trailer`.
struct Sum {
    name: &'static str,
    state: SumState,
}

enum SumState {
    /// With the width of the result in bytes.
    Crc(crc_fast::Digest, usize),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Sum {
    fn of(name: &str) -> Option<Sum> {
        let crc = |algorithm, width| SumState::Crc(crc_fast::Digest::new(algorithm), width);
        let (name, state) = match name.trim().to_ascii_lowercase().as_str() {
            "x-amz-checksum-crc32" => ("x-amz-checksum-crc32", crc(CrcAlgorithm::Crc32IsoHdlc, 4)),
            "x-amz-checksum-crc32c" => ("x-amz-checksum-crc32c", crc(CrcAlgorithm::Crc32Iscsi, 4)),
            "x-amz-checksum-crc64nvme" => ("x-amz-checksum-crc64nvme", crc(CrcAlgorithm::Crc64Nvme, 8)),
            "x-amz-checksum-sha1" => ("x-amz-checksum-sha1", SumState::Sha1(Sha1::new())),
            "x-amz-checksum-sha256" => ("x-amz-checksum-sha256", SumState::Sha256(Sha256::new())),
            _ => return None,
        };
        Some(Sum { name, state })
    }

    fn update(&mut self, data: &[u8]) {
        match &mut self.state {
            SumState::Crc(digest, _) => digest.update(data),
            SumState::Sha1(hasher) => hasher.update(data),
            SumState::Sha256(hasher) => hasher.update(data),
        }
    }

    fn text(self) -> String {
        let bytes = match self.state {
            SumState::Crc(digest, width) => digest.finalize().to_be_bytes()[8 - width..].to_vec(),
            SumState::Sha1(hasher) => hasher.finalize().to_vec(),
            SumState::Sha256(hasher) => hasher.finalize().to_vec(),
        };
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the reference: 65 KB of `a` in chunks of 64 KB, signed with the key pair of the examples.
    fn example() -> (Seed, Vec<u8>) {
        let key = ["20130524", "us-east-1", "s3", "aws4_request"].iter().fold(
            b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec(),
            |key, item| {
                use hmac::{Hmac, Mac};
                let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key).expect("any length");
                mac.update(item.as_bytes());
                mac.finalize().into_bytes().to_vec()
            },
        );
        let seed = Seed {
            key: key.try_into().expect("32 bytes"),
            scope: "20130524/us-east-1/s3/aws4_request".into(),
            moment: "20130524T000000Z".into(),
            signature: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9".into(),
        };
        let chunk = |size: usize, signature: &str| {
            [format!("{size:x};chunk-signature={signature}\r\n").as_bytes(), &vec![b'a'; size], b"\r\n"].concat()
        };
        let body = [
            chunk(65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            chunk(1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            chunk(0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ];
        (seed, body.concat())
    }

    fn decode(mut decoder: Decoder, body: &[u8], step: usize) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::new();
        for piece in body.chunks(step) {
            decoder.take(Bytes::copy_from_slice(piece), &mut out)?;
        }
        decoder.finish()?;
        Ok(out.concat())
    }

    #[test]
    fn published_example_in_any_pieces() {
        let (seed, body) = example();
        for step in [1, 7, 4096, body.len()] {
            let decoded = decode(Decoder::new(Some(seed.clone()), false, None), &body, step).expect("good");
            assert!(decoded == vec![b'a'; 66560], "in pieces of {step}");
        }
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused() {
        let (seed, body) = example();
        let code =
            |body: &[u8]| decode(Decoder::new(Some(seed.clone()), false, None), body, 4096).expect_err("refused").code;
        let mut bent = body.clone();
        bent[66_000] ^= 1;
        assert_eq!(code(&bent), "SignatureDoesNotMatch");
        assert_eq!(code(&body[..body.len() - 90]), "IncompleteBody", "the last chunk is missing");
        assert_eq!(code(b"zz\r\n"), "InvalidRequest");
        assert_eq!(code(&vec![b'1'; 3000]), "InvalidRequest", "a head without an end");
    }

    #[test]
    fn checksum_trailers() {
        let rows = [
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
            ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ];
        for (name, value) in rows {
            let body = |value: &str| format!("9\r\n123456789\r\n0\r\n{name}:{value}\r\n\r\n");
            let run = |text: String| decode(Decoder::new(None, true, Sum::of(name)), text.as_bytes(), 5);
            let text = Sum::of(name).map(|mut sum| {
                sum.update(b"123456789");
                sum.text()
            });
            assert_eq!(text.as_deref(), Some(value), "{name}");
            assert_eq!(run(body(value)).expect("good"), b"123456789", "{name}");
            assert_eq!(run(body("AAAA")).expect_err("wrong").code, "BadDigest", "{name}");
        }
    }
}
