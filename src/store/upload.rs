//! Brings one journal record into one bucket.
//!
//! A record is a small upload, a large one in parts, a server-side copy, or a delete. All of them repeat with identical bytes and
//! the record's stamp, so a repetition after a lost answer makes at worst one more version with the same content. Parts and upload
//! ids exist in one bucket only: if that bucket dies, the upload begins anew in the other one, from the journal's file.
//!
//! The bucket keeps the parts of an upload that nobody completes, and bills them. So the id of an upload is noted in its record before
//! the first part, and whatever ends the record aborts it.
//!
//! Owns: how a record travels. Owns not: where to and when (`settle`), and small changes of large objects (`patch`).

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::ha::Inner;
use crate::cos::{Attempt, CopySource, Kind, Part, Payload, Progress, UploadId, checksum};
use crate::journal::{Ack, Change, Data, Op, Record, crc64_of};
use crate::linkage::AttemptError;
use crate::object::{Class, ETag, Headers, Key, Site, Stamp, Token, VersionId};

/// Content up to this size goes in one PUT.
pub(super) const SINGLE_MAX: u64 = 32 << 20;
/// Smallest part: long enough to make the round trip between two parts unimportant.
const PART_MIN: u64 = 16 << 20;
/// COS allows 10 000 parts ("Upload Part"); some room is kept.
pub(super) const PARTS_MAX: u64 = 9_000;
/// Parts of one file on their way at the same time.
pub(super) const PARTS_PARALLEL: usize = 4;
/// Largest source of a simple copy ("PUT Object - Copy": 5 GB), and largest piece of a copy in parts.
pub(super) const COPY_MAX: u64 = 5 << 30;
pub(super) const COPY_PART: u64 = 1 << 30;
/// Time a bucket may take to copy or to assemble what it has, at this rate. Arbitrary, and far below what was ever seen.
const SERVER_WORK_MAX: Duration = Duration::from_secs(300);
const SERVER_WORK_PER_S: u64 = 10 << 20;
/// Up to this much a bucket copies as quickly as it stores.
const AT_ONCE_MAX: u64 = 16 << 20;
/// The client's own deadlines end a stalled request; this only ends one that trickles for ever.
pub(super) const REQUEST_TIME_MAX: Duration = Duration::from_secs(1200);

/// For getting the content of a copy that the bucket cannot make.
const CONTENT_TIME_MAX: Duration = Duration::from_secs(20);

/// For giving up what an upload left behind.
const ABORT_TIME_MAX: Duration = Duration::from_secs(15);

/// What a delivered record left in the bucket.
pub(super) struct Delivered {
    pub(super) ack: Ack,
}

/// Why a record was not delivered.
#[derive(Debug)]
pub(super) enum Refused {
    Attempt(AttemptError),
    /// The source of a copy is not in this bucket (yet), and there is no local copy of it.
    SourceMissing(String),
    /// The journal's own file cannot be read.
    Local(String),
    /// The bucket has it, with other content than was sent.
    Damaged(String),
    /// This mount has shown a later write of somebody else, which is not in this bucket yet. Sent now, ours would come out on top of it.
    Overwritten,
}

impl From<AttemptError> for Refused {
    fn from(error: AttemptError) -> Refused {
        Refused::Attempt(error)
    }
}

pub(super) type Outcome<T> = std::result::Result<T, Refused>;

impl Inner {
    pub(super) async fn deliver(&self, site: Site, record: &Record) -> Outcome<Delivered> {
        let stamp = self.stamp(record);
        match &record.op {
            Op::Delete { .. } => {
                let key = &record.key;
                let until = Instant::now() + REQUEST_TIME_MAX;
                // One try: a removal whose answer is lost may come through after a newer write, so each has to be noted.
                let deleted = self
                    .links
                    .attempt(site, Class::Write, until, |client, progress| async move {
                        client.delete(key, None, &Attempt::new(&progress)).await
                    })
                    .await?;
                Ok(Delivered { ack: Ack { token: None, marker: deleted.version } })
            }
            Op::Put { data, size, crc64, headers, .. } => {
                if let Some(left) = self.journal.get(record.seq).and_then(|r| r.uploads[site.index()].clone()) {
                    self.abort(site, record, &UploadId(left)).await;
                }
                let token = match data {
                    Data::Empty => {
                        self.put_whole(site, &record.key, Payload::Bytes(Bytes::new()), headers, stamp).await?
                    }
                    Data::Spool(id) => {
                        let file = self.journal.spool().open_file(*id).map_err(|e| Refused::Local(e.to_string()))?;
                        self.put_file(site, record, Arc::new(file), *size, headers, stamp).await?
                    }
                    Data::Patch { .. } => self.put_patch(site, record, stamp).await?,
                    Data::Copy { from, version, etag, .. } => {
                        let source = self.links.client(site).copy_source(from, version.as_ref()).sized(*size);
                        let source = match etag {
                            Some(etag) => source.matching(etag.clone()),
                            None => source,
                        };
                        match self.copy(site, source, record, headers, stamp).await {
                            Err(Refused::SourceMissing(why)) => {
                                let Some(id) = data.spool() else { return Err(Refused::SourceMissing(why)) };
                                let file =
                                    self.journal.spool().open_file(id).map_err(|e| Refused::Local(e.to_string()))?;
                                self.put_file(site, record, Arc::new(file), *size, headers, stamp).await?
                            }
                            // It takes requests, but cannot copy at the moment: then it is given the bytes.
                            Err(Refused::Attempt(AttemptError::Cos(error)))
                                if error.status == Some(200) && *size <= AT_ONCE_MAX && version.is_some() =>
                            {
                                log::info!(
                                    "{}: bucket {site} could not copy ({error}), sending the content",
                                    record.key
                                );
                                // It may have copied in spite of what it says.
                                let refused = Refused::Attempt(AttemptError::Cos(error));
                                self.note_lost_answer(site, record, &refused).await;
                                let until = Instant::now() + CONTENT_TIME_MAX;
                                let _share = self.budget.take(*size, until).await;
                                let token = Token {
                                    version: version.clone(),
                                    etag: ETag(String::new()),
                                    size: *size,
                                    crc64: *crc64,
                                    modified_micros: 0,
                                    stamp: None,
                                };
                                let content = self.fetch_run(from, &token, &None, 0..*size, until).await;
                                let content = content.map_err(|e| Refused::SourceMissing(e.to_string()))?;
                                self.put_whole(site, &record.key, Payload::Bytes(content), headers, stamp).await?
                            }
                            other => other?,
                        }
                    }
                };
                // Not every answer repeats the stamp, but it went with the request.
                let token = Token { stamp: Some(stamp), ..token };
                Ok(Delivered { ack: Ack { token: Some(token), marker: None } })
            }
        }
    }

    pub(super) async fn put_whole(
        &self,
        site: Site,
        key: &Key,
        body: Payload,
        headers: &Headers,
        stamp: Stamp,
    ) -> Outcome<Token> {
        let until = Instant::now() + REQUEST_TIME_MAX;
        let body = &body;
        Ok(self
            .links
            .attempt(site, Class::Write, until, |client, progress| async move {
                client.put(key, body.clone(), headers, Some(stamp), &Attempt::new(&progress)).await
            })
            .await?)
    }

    async fn put_file(
        &self,
        site: Site,
        record: &Record,
        file: Arc<File>,
        size: u64,
        headers: &Headers,
        stamp: Stamp,
    ) -> Outcome<Token> {
        let key = &record.key;
        self.check_file(record, &file, size).await?;
        if size <= SINGLE_MAX {
            return self.put_whole(site, key, Payload::File { file, offset: 0, len: size }, headers, stamp).await;
        }
        let upload = self.initiate(site, record, headers, stamp).await?;
        let part_size = PART_MIN.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20));
        let parts = pieces(size, part_size);
        let sent = futures::stream::iter(parts.into_iter().map(|(number, offset, len)| {
            let body = Payload::File { file: file.clone(), offset, len };
            let upload = &upload;
            async move {
                let until = Instant::now() + REQUEST_TIME_MAX;
                let body = &body;
                self.ask_site(site, Class::Write, until, |client, progress| async move {
                    client.upload_part(key, upload, number, body.clone(), &Attempt::new(&progress)).await
                })
                .await
                .map_err(Refused::from)
            }
        }))
        .buffered(PARTS_PARALLEL)
        .collect::<Vec<_>>()
        .await;
        self.finish(site, record, &upload, sent, stamp, checksum_of).await
    }

    /// Are the bytes still those that the record was made of? A disk can change them, and what a bucket has once taken is the truth.
    async fn check_file(&self, record: &Record, file: &Arc<File>, size: u64) -> Outcome<()> {
        let Op::Put { crc64: Some(expected), .. } = &record.op else { return Ok(()) };
        let file = file.clone();
        let found = super::ask::on_disk(move || crc64_of(&file, &[(0, size)])).await;
        let local = |why: String| Refused::Local(format!("{}: {why}", record.key));
        let found = found.map_err(|e| local(e.to_string()))?.map_err(|e| local(e.to_string()))?;
        match found == *expected {
            true => Ok(()),
            false => Err(local(format!("its checksum is {found}, and was {expected} when it was written"))),
        }
    }

    pub(super) async fn initiate(
        &self,
        site: Site,
        record: &Record,
        headers: &Headers,
        stamp: Stamp,
    ) -> Outcome<UploadId> {
        let until = Instant::now() + REQUEST_TIME_MAX;
        let key = &record.key;
        let upload = self
            .ask_site(site, Class::Write, until, |client, progress| async move {
                client.initiate(key, headers, Some(stamp), &Attempt::new(&progress)).await
            })
            .await?;
        self.mark(record.seq, Change::Upload { site, id: Some(upload.0.clone()) }).await;
        Ok(upload)
    }

    /// Parts cost money until they are aborted. Where even this fails, the id stays in the record.
    pub(super) async fn abort(&self, site: Site, record: &Record, upload: &UploadId) {
        let key = &record.key;
        let until = Instant::now() + ABORT_TIME_MAX;
        let aborted = self
            .ask_site(site, Class::Write, until, |client, progress| async move {
                client.abort(key, upload, &Attempt::new(&progress)).await
            })
            .await;
        match aborted {
            Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchUpload => {}
            Err(_) => return log::debug!("{key}: an unfinished multipart upload is still in bucket {site}"),
            Ok(()) => {}
        }
        self.mark(record.seq, Change::Upload { site, id: None }).await;
    }

    /// Completes a multipart upload, or aborts it if a part failed.
    ///
    /// `checksum`: what the whole must have, where that follows from the parts.
    pub(super) async fn finish(
        &self,
        site: Site,
        record: &Record,
        upload: &UploadId,
        sent: Vec<Outcome<Part>>,
        stamp: Stamp,
        checksum: impl FnOnce(&[Part]) -> Option<u64>,
    ) -> Outcome<Token> {
        let key = &record.key;
        let until = Instant::now() + REQUEST_TIME_MAX;
        let mut parts = Vec::with_capacity(sent.len());
        for part in sent {
            match part {
                Ok(part) => parts.push(part),
                Err(error) => {
                    self.abort(site, record, upload).await;
                    return Err(error);
                }
            }
        }
        let expected = checksum(&parts);
        if let Some(crc64) = expected {
            // Whoever finds the object later, after a lost answer or a kill, can tell whether it is the right one.
            self.mark(record.seq, Change::Summed { crc64 }).await;
        }
        let parts = &parts;
        let whole: u64 = parts.iter().map(|part| part.size).sum();
        let completed = self
            .ask_site(site, Class::Write, until, |client, progress| async move {
                client.complete(key, upload, parts, &patient(&progress, whole)).await
            })
            .await;
        let token = match completed {
            // A first try may have done it and lost its answer: the object's stamp tells.
            Err(AttemptError::Cos(error)) if matches!(error.kind, Kind::NoSuchUpload | Kind::Conflict) => {
                let found = self.head_at(site, key, None, until).await;
                match found {
                    Ok(object) if object.token.stamp == Some(stamp) => object.token,
                    _ => {
                        self.abort(site, record, upload).await;
                        return Err(AttemptError::Cos(error).into());
                    }
                }
            }
            // Without an answer the parts may be an object by now, or become one; the next try aborts what is left.
            other => other?,
        };
        self.mark(record.seq, Change::Upload { site, id: None }).await;
        if let (Some(expected), Some(told)) = (expected, token.crc64)
            && expected != told
        {
            let why = format!("{key}: bucket {site} put the parts together wrongly (checksum {told}, not {expected})");
            log::error!("{why}");
            return Err(Refused::Damaged(why));
        }
        Ok(Token { crc64: token.crc64.or(expected), ..token })
    }

    async fn copy(
        &self,
        site: Site,
        mut source: CopySource,
        record: &Record,
        headers: &Headers,
        stamp: Stamp,
    ) -> Outcome<Token> {
        loop {
            let size = source.size.unwrap_or(0);
            let copied = match size <= COPY_MAX {
                true => self.copy_whole(site, &source, &record.key, headers, stamp).await,
                false => self.copy_parts(site, &source, record, size, headers, stamp).await,
            };
            let error = match copied {
                Err(Refused::Attempt(AttemptError::Cos(error)))
                    if matches!(error.kind, Kind::NoSuchKey | Kind::NoSuchVersion | Kind::PreconditionFailed) =>
                {
                    error
                }
                other => return other,
            };
            let unnamed = source.version.is_none();
            source.version = self.version_like(site, &source).await;
            if !unnamed || source.version.is_none() {
                return Err(Refused::SourceMissing(error.to_string()));
            }
        }
    }

    /// The version of a source from before versioning: by now it may be under a marker, or under what somebody else wrote.
    async fn version_like(&self, site: Site, source: &CopySource) -> Option<VersionId> {
        let (etag, size) = (source.etag.as_ref()?, source.size?);
        let entries = self.versions_at(site, &source.key).await?;
        let mut tokens = entries.iter().filter_map(|entry| Some((&entry.version, entry.token.as_ref()?)));
        tokens.find(|(_, token)| token.etag == *etag && token.size == size).map(|(version, _)| version.clone())
    }

    pub(super) async fn copy_whole(
        &self,
        site: Site,
        source: &CopySource,
        to: &Key,
        headers: &Headers,
        stamp: Stamp,
    ) -> Outcome<Token> {
        let until = Instant::now() + REQUEST_TIME_MAX;
        Ok(self
            .links
            .attempt(site, Class::Write, until, |client, progress| async move {
                let at = patient(&progress, source.size.unwrap_or(0));
                client.copy(source, to, Some((headers, Some(stamp))), &at).await
            })
            .await?)
    }

    async fn copy_parts(
        &self,
        site: Site,
        source: &CopySource,
        record: &Record,
        size: u64,
        headers: &Headers,
        stamp: Stamp,
    ) -> Outcome<Token> {
        let to = &record.key;
        let upload = self.initiate(site, record, headers, stamp).await?;
        let sent = futures::stream::iter(pieces(size, COPY_PART).into_iter().map(|(number, offset, len)| {
            let upload = &upload;
            async move {
                let until = Instant::now() + REQUEST_TIME_MAX;
                self.ask_site(site, Class::Write, until, |client, progress| async move {
                    let at = patient(&progress, len);
                    client.upload_part_copy(to, upload, number, source, offset..offset + len, &at).await
                })
                .await
                .map_err(Refused::from)
            }
        }))
        .buffered(PARTS_PARALLEL)
        .collect::<Vec<_>>()
        .await;
        self.finish(site, record, &upload, sent, stamp, checksum_of).await
    }
}

/// The checksum of all parts in order, where each has one.
fn checksum_of(parts: &[Part]) -> Option<u64> {
    parts.iter().try_fold(0, |sum, part| Some(checksum::combine(sum, part.crc64?, part.size)))
}

/// For requests that make the bucket move many bytes before it answers. A dead linkage still ends them early, and few bytes are no reason to
/// wait: a rename of a small file must not hang on an answer that trickles.
pub(super) fn patient(progress: &Progress, bytes: u64) -> Attempt<'_> {
    let mut attempt = Attempt::new(progress);
    if bytes > AT_ONCE_MAX {
        let work = Duration::from_secs(bytes / SERVER_WORK_PER_S);
        let usual = attempt.deadlines;
        attempt.deadlines.first_byte = (usual.first_byte + work).min(SERVER_WORK_MAX);
        attempt.deadlines.progress = (usual.progress + work).min(SERVER_WORK_MAX);
    }
    attempt
}

/// `(number, offset, length)` of the parts of `size` bytes.
fn pieces(size: u64, piece: u64) -> Vec<(u32, u64, u64)> {
    let count = size.div_ceil(piece);
    (0..count).map(|i| (i as u32 + 1, i * piece, piece.min(size - i * piece))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_whole_without_gap_or_overlap() {
        for (size, piece) in [(1, 10), (10, 10), (11, 10), (100 << 20, PART_MIN), (5 << 40, 600 << 20)] {
            let all = pieces(size, piece);
            let mut at = 0;
            for (i, (number, offset, len)) in all.iter().enumerate() {
                assert_eq!((*number as usize, *offset), (i + 1, at));
                at += len;
            }
            assert_eq!(at, size);
            assert!(all.len() <= 10_000, "{size} in pieces of {piece}");
        }
    }
}
