//! Multipart uploads: parts until Complete, one version after it.
//!
//! The parts' bodies become the body of the whole without being touched; the checksum of the whole is combined from theirs.

use std::collections::BTreeMap;

use crc_fast::CrcAlgorithm::Crc64Xz;

use super::{Bucket, State, World, Written, hex};
use crate::emulator::blob::Blob;
use crate::emulator::failure::Failure;
use crate::emulator::ledger::Record;
use crate::emulator::site::{Content, Versioning};

/// Every part but the last.
pub const PART_BYTES_MIN: u64 = 1 << 20;
pub const PART_BYTES_MAX: u64 = 5 << 30;
pub const PARTS_MAX: u32 = 10_000;

#[derive(Clone, Debug)]
pub struct Part {
    pub blob: Blob,
    pub etag: String,
    pub crc64: u64,
    pub micros: u64,
}

#[derive(Debug)]
pub struct Upload {
    pub started: u64,
    pub headers: BTreeMap<String, String>,
    /// `x-cos-forbid-overwrite` of the initiation.
    pub exclusive: bool,
    pub parts: BTreeMap<u32, Part>,
}

impl World {
    /// The id begins with the Unix time of initiation, as observed on COS.
    pub fn initiate(&self, bucket: &Bucket, key: &str, headers: BTreeMap<String, String>, exclusive: bool) -> String {
        let started = self.clock.next();
        let id = format!("{}{}", started / 1_000_000, self.arbitrary_hex(key));
        self.record(Record::Initiate {
            site: bucket.site,
            key: key.into(),
            upload: id.clone(),
            started,
            headers: headers.clone(),
            exclusive,
        });
        let upload = Upload { started, headers, exclusive, parts: BTreeMap::new() };
        bucket.write().uploads.insert((key.to_owned(), id.clone()), upload);
        id
    }

    pub fn put_part(&self, bucket: &Bucket, key: &str, upload: &str, number: u32, part: Part) -> Result<(), Failure> {
        if part.blob.len() > PART_BYTES_MAX {
            return Err(Failure::new(400, "EntityTooLarge", "A part may have 5 GB."));
        }
        let mut state = bucket.write();
        let parts = &mut state.upload(key, upload)?.parts;
        self.record(Record::part(bucket.site, key, upload, number, &part));
        // Drops the part that had this number, after the record that replaces it.
        parts.insert(number, part);
        Ok(())
    }

    pub fn abort(&self, bucket: &Bucket, key: &str, upload: &str) -> Result<(), Failure> {
        let mut state = bucket.write();
        state.upload(key, upload)?;
        // The record first: with the upload go the bodies of its parts.
        self.record(Record::End { site: bucket.site, key: key.into(), upload: upload.into() });
        state.uploads.remove(&(key.to_owned(), upload.to_owned()));
        Ok(())
    }

    /// `listed`: number and ETag (without quotes) of each part as the client lists them.
    pub fn complete(
        &self,
        bucket: &Bucket,
        key: &str,
        id: &str,
        listed: &[(u64, String)],
        exclusive: bool,
    ) -> Result<Written, Failure> {
        let mut state = bucket.write();
        let upload = state.upload(key, id)?;
        let exclusive = exclusive || upload.exclusive;
        if listed.is_empty() {
            return Err(Failure::new(400, "InvalidPart", "No part was listed."));
        }
        if listed.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Failure::new(400, "InvalidPartOrder", "The part numbers are not in ascending order."));
        }
        let mut parts = Vec::with_capacity(listed.len());
        for (number, etag) in listed {
            let part = u32::try_from(*number).ok().and_then(|n| upload.parts.get(&n)).filter(|p| p.etag == *etag);
            parts.push(
                part.ok_or_else(|| Failure::new(400, "InvalidPart", format!("Part {number} was not uploaded.")))?,
            );
        }
        let short = |part: &&&Part| part.blob.len() < PART_BYTES_MIN;
        if parts[..parts.len() - 1].iter().any(|part| short(&part)) {
            return Err(Failure::new(400, "EntityTooSmall", "Every part but the last must have 1 MB."));
        }
        let crc64 = parts.iter().fold(0, |crc, p| crc_fast::checksum_combine(Crc64Xz, crc, p.crc64, p.blob.len()));
        let content = Content {
            blob: Blob::join(parts.iter().map(|p| &p.blob)),
            etag: format!("{}-{}", self.arbitrary_hex(id), parts.len()),
            crc64,
            headers: upload.headers.clone(),
        };
        if exclusive && state.shelf.versioning() == Versioning::Never && state.shelf.current(key).is_some() {
            return Err(Failure::new(409, "FileAlreadyExists", "The object already exists."));
        }
        let written = self.put_locked(bucket, &mut state, key, content);
        self.record(Record::End { site: bucket.site, key: key.into(), upload: id.into() });
        state.uploads.remove(&(key.to_owned(), id.to_owned()));
        Ok(written)
    }
}

impl State {
    pub fn upload(&mut self, key: &str, id: &str) -> Result<&mut Upload, Failure> {
        self.uploads.get_mut(&(key.to_owned(), id.to_owned())).ok_or_else(Failure::no_such_upload)
    }
}

/// The MD5 of a part, as its ETag.
pub fn part_etag(md5: &[u8; 16]) -> String {
    hex(md5)
}
