//! A set of byte ranges: which bytes of a file count.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-empty, non-touching ranges, start -> end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.0.range(..=start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.0.range(start..=end).next() {
            self.0.remove(&s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    /// Forgets everything at and above `len`.
    pub fn truncate(&mut self, len: u64) {
        self.0.split_off(&len);
        if let Some(mut last) = self.0.last_entry()
            && *last.get() > len
        {
            last.insert(len);
        }
    }

    /// The parts of `within` that are in the set (`true`) or not (`false`), in order, without gaps.
    pub fn split(&self, within: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut parts = Vec::new();
        let mut at = within.start;
        let first = self.0.range(..=within.start).next_back().map_or(within.start, |(&s, _)| s);
        for (&s, &e) in self.0.range(first..within.end.max(first)) {
            let (s, e) = (s.max(within.start), e.min(within.end));
            if s >= e {
                continue;
            }
            if at < s {
                parts.push((at..s, false));
            }
            parts.push((s..e, true));
            at = e;
        }
        if at < within.end {
            parts.push((at..within.end, false));
        }
        parts
    }

    pub fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        self.split(within).into_iter().filter(|(_, there)| !there).map(|(range, _)| range).collect()
    }

    /// How many bytes of `within` are not in the set.
    pub fn missing_len(&self, within: Range<u64>) -> u64 {
        self.missing(within).iter().map(|r| r.end - r.start).sum()
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Ranges {
        let mut set = Ranges::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_one_bit_per_byte(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 1..40)) {
            let mut set = Ranges::default();
            let mut bits = [false; 80];
            for (truncate, at, len) in steps {
                if truncate && len < 4 {
                    set.truncate(at);
                    bits[at as usize..].fill(false);
                } else {
                    set.insert(at..at + len);
                    bits[at as usize..(at + len) as usize].fill(true);
                }
                for (start, end) in [(0, 80), (at, at + len), (at / 2, 70)] {
                    let parts = set.split(start..end);
                    let mut next = start;
                    for (range, there) in parts {
                        prop_assert_eq!(range.start, next);
                        prop_assert!(range.start < range.end);
                        prop_assert!(bits[range.start as usize..range.end as usize].iter().all(|&b| b == there));
                        next = range.end;
                    }
                    prop_assert_eq!(next, end.max(start));
                }
                let touching = set.0.iter().zip(set.0.iter().skip(1)).any(|((_, e), (s, _))| e >= s);
                prop_assert!(!touching);
            }
        }
    }
}
