//! Bytes written and not yet committed.
//!
//! A file being written is a *layer*: a sparse scratch file, the set of ranges of it that count, and a base that shows through
//! everywhere else. So a write at any offset of a large object costs no download, and what was never touched is read through.
//!
//! To be committed, a layer is *sealed*; from then on its bytes never change. If little of a large base is missing, it is filled in
//! before and goes as a whole; else only the ranges go, and the store lets the bucket put the rest under them. A write that comes
//! while the sealed layer travels opens a new layer with the sealed one as its base and does not wait for the network.
//!
//! Owns the arithmetic, not the locks: `Layer` lives in the inode's state.

use std::ops::Range;
use std::sync::Arc;

use crate::ranges::Ranges;
use crate::store::{Patch, Store};

/// What shows through where nothing was written.
pub enum Base<S: Store> {
    Nothing,
    /// The stored version that the first write found.
    Object(Arc<S::Reader>),
    /// The sealed layer before this one.
    Sealed(Arc<Frozen<S>>),
}

/// A layer whose bytes do not change any more.
pub struct Frozen<S: Store> {
    staging: Option<Arc<S::Staging>>,
    base: Base<S>,
    base_len: u64,
    size: u64,
    valid: Ranges,
}

/// What a sealed layer hands to the store.
pub enum Content<S: Store> {
    Empty,
    Whole(Arc<S::Staging>),
    Patch(Patch<S>),
}

impl<S: Store> Clone for Base<S> {
    fn clone(&self) -> Self {
        match self {
            Base::Nothing => Base::Nothing,
            Base::Object(reader) => Base::Object(reader.clone()),
            Base::Sealed(frozen) => Base::Sealed(frozen.clone()),
        }
    }
}

pub struct Layer<S: Store> {
    /// Made at the first byte: an empty file needs none.
    pub staging: Option<Arc<S::Staging>>,
    pub base: Base<S>,
    /// How much of the base shows through; shrinks with a truncation and never grows again.
    base_len: u64,
    size: u64,
    valid: Ranges,
    pub sealed: Option<Arc<Frozen<S>>>,
}

/// Where the bytes of one read come from.
pub enum Piece<S: Store> {
    Scratch(Arc<S::Staging>, Range<u64>),
    Object(Arc<S::Reader>, Range<u64>),
    Zeros(Range<u64>),
}

impl<S: Store> Layer<S> {
    pub fn empty() -> Layer<S> {
        Layer { staging: None, base: Base::Nothing, base_len: 0, size: 0, valid: Ranges::default(), sealed: None }
    }

    pub fn over(base: Base<S>, size: u64) -> Layer<S> {
        Layer { staging: None, base, base_len: size, size, valid: Ranges::default(), sealed: None }
    }

    /// A new layer that shows this sealed one.
    pub fn above(&self) -> Layer<S> {
        match &self.sealed {
            Some(frozen) => Layer::over(Base::Sealed(frozen.clone()), self.size),
            None => Layer { size: self.size, ..Layer::empty() },
        }
    }

    /// From here on the bytes do not change. The caller has given the scratch file the layer's length.
    pub fn seal(&mut self) -> Arc<Frozen<S>> {
        let frozen = self.sealed.get_or_insert_with(|| {
            Arc::new(Frozen {
                staging: self.staging.clone(),
                base: self.base.clone(),
                base_len: self.base_len,
                size: self.size,
                valid: self.valid.clone(),
            })
        });
        frozen.clone()
    }

    /// The sealed layer below is stored now, as this object.
    pub fn stored_below(&mut self, frozen: &Arc<Frozen<S>>, reader: Arc<S::Reader>) {
        if matches!(&self.base, Base::Sealed(below) if Arc::ptr_eq(below, frozen)) {
            self.base = Base::Object(reader);
        }
    }

    /// What a sealed layer below still has to give before its own base can take its place. Empty: it has taken its place now.
    pub fn settle_below(&mut self) -> Vec<(Arc<Frozen<S>>, Range<u64>)> {
        let Base::Sealed(frozen) = &self.base else { return Vec::new() };
        let frozen = frozen.clone();
        let mut left = Vec::new();
        for gap in self.missing() {
            left.extend(frozen.valid.split(gap).into_iter().filter(|(_, valid)| *valid));
        }
        if left.is_empty() {
            self.base_len = self.base_len.min(frozen.base_len);
            self.base = frozen.base.clone();
        }
        left.into_iter().map(|(range, _)| (frozen.clone(), range)).collect()
    }

    pub fn range_count(&self) -> usize {
        self.valid.count()
    }

    /// The base lies under another key now; its content is the same.
    pub fn rebase(&mut self, reader: Arc<S::Reader>) {
        if let Base::Object(old) = &mut self.base {
            *old = reader;
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that a write of `range` adds to the scratch file.
    pub fn added_by(&self, range: Range<u64>) -> u64 {
        self.valid.missing_len(range)
    }

    /// The parts of `range` that nobody has written yet.
    pub fn added_parts(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.valid.missing(range)
    }

    /// `range` of the scratch file was written by a program.
    pub fn wrote(&mut self, range: Range<u64>) {
        self.extend_to(range.start);
        self.size = self.size.max(range.end);
        self.valid.insert(range);
    }

    /// `range` was copied from the base; nothing else changed.
    pub fn filled(&mut self, range: Range<u64>) {
        self.valid.insert(range.start..range.end.min(self.size));
    }

    fn extend_to(&mut self, size: u64) {
        if size > self.size {
            // The hole reads as zeros, which is what the sparse scratch file holds there.
            self.valid.insert(self.size..size);
            self.size = size;
        }
    }

    /// The caller truncates the scratch file as well, so that what is cut off reads as zeros when the file grows again.
    pub fn truncate(&mut self, size: u64) {
        if size >= self.size {
            self.extend_to(size);
            return;
        }
        self.valid.truncate(size);
        self.base_len = self.base_len.min(size);
        self.size = size;
        if self.base_len == 0 {
            self.base = Base::Nothing;
        }
    }

    /// What must still be copied from the base before the scratch file is the whole content.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.valid.missing(0..self.base_len.min(self.size))
    }

    pub fn still_missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        self.valid.missing(within.start.min(self.base_len)..within.end.min(self.base_len))
    }

    /// The pieces of `offset..offset + len`, clipped to the size.
    pub fn pieces(&self, offset: u64, len: u64) -> Vec<Piece<S>> {
        let end = offset.saturating_add(len).min(self.size);
        let mut pieces = Vec::new();
        let whole = offset.min(end)..end;
        collect(&self.staging, &self.valid, &self.base, self.base_len, whole, &mut pieces);
        pieces
    }
}

impl<S: Store> Frozen<S> {
    pub fn staging(&self) -> Option<&Arc<S::Staging>> {
        self.staging.as_ref()
    }

    /// `None` as long as a sealed layer lies below.
    pub fn content(&self) -> Option<Content<S>> {
        if self.size == 0 {
            return Some(Content::Empty);
        }
        let whole = self.valid.missing_len(0..self.base_len.min(self.size)) == 0;
        match (&self.base, &self.staging) {
            (_, Some(staging)) if whole => Some(Content::Whole(staging.clone())),
            (Base::Object(reader), staging) => Some(Content::Patch(Patch {
                staging: staging.clone(),
                ranges: self.valid.iter().collect(),
                size: self.size,
                base: reader.clone(),
                shown: self.base_len,
            })),
            _ => None,
        }
    }
}

fn collect<S: Store>(
    staging: &Option<Arc<S::Staging>>,
    valid: &Ranges,
    base: &Base<S>,
    base_len: u64,
    whole: Range<u64>,
    pieces: &mut Vec<Piece<S>>,
) {
    for (range, valid) in valid.split(whole) {
        match (staging, valid) {
            (Some(staging), true) => pieces.push(Piece::Scratch(staging.clone(), range)),
            (None, true) => pieces.push(Piece::Zeros(range)),
            (_, false) => {
                let seam = base_len.clamp(range.start, range.end);
                let shown = range.start..seam;
                match base {
                    _ if shown.is_empty() => {}
                    Base::Nothing => pieces.push(Piece::Zeros(shown)),
                    Base::Object(reader) => pieces.push(Piece::Object(reader.clone(), shown)),
                    Base::Sealed(below) => {
                        collect(&below.staging, &below.valid, &below.base, below.base_len, shown, pieces);
                    }
                }
                if seam < range.end {
                    pieces.push(Piece::Zeros(seam..range.end));
                }
            }
        }
    }
}
