//! May this answer be shown? The rule that keeps old content from being shown as new.
//!
//! Replication is asynchronous, so a bucket that has just become the master may hold older versions than this mount has
//! already read or written, or no version at all. What the mount knows of a key (its journal, else the newest version it
//! ever saw) is therefore held against each answer:
//!
//! * an answer that is the same or newer than what is known may be shown;
//! * an older one may not: what is known is shown instead, from local records;
//! * "not found" from a bucket that may lag is no answer at all, unless an absence is what is already known.
//!
//! Pure: two values in, a verdict out. Promise: with the same facts, a later answer is never judged older (monotonic
//! reads). Checked by the table below and by the failover tests on real mounts.

use std::cmp::Ordering;

use crate::mutant::{Mutant, lacks};
use crate::object::{Stamp, Token};

/// How far a bucket's "not found" can be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Master of a reign that began with everything in place: its "not found" is a fact.
    Proven,
    /// May lag behind the other bucket.
    Lagging,
}

/// The newest this mount knows of a key.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fact<'a> {
    Nothing,
    Present(&'a Token),
    /// Deleted, at this moment (microseconds since 1970) as far as known, by this write if it was one of a mount.
    Absent {
        micros: u64,
        stamp: Option<Stamp>,
    },
}

/// What a bucket said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Answer<'a> {
    Present(&'a Token),
    Absent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Show the answer and remember it.
    Show,
    /// Show what is known; the answer is older.
    Keep,
    /// The master itself shows less than is known: look whether the known version still exists there (somebody may have
    /// removed it for good); if so keep, else show.
    Confirm,
    /// Neither the answer nor what is known decides: ask elsewhere or wait.
    Unsure,
}

pub fn judge(fact: Fact<'_>, answer: Answer<'_>, standing: Standing) -> Verdict {
    use Standing::{Lagging, Proven};
    match (fact, answer) {
        (Fact::Nothing, Answer::Present(_)) => Verdict::Show,
        (Fact::Nothing, Answer::Absent) => match standing {
            Proven => Verdict::Show,
            Lagging if lacks(Mutant::NotFoundRule) => Verdict::Show,
            Lagging => Verdict::Unsure,
        },
        (Fact::Present(known), Answer::Present(seen)) => match seen.order(known) {
            Some(Ordering::Equal | Ordering::Greater) => Verdict::Show,
            Some(Ordering::Less) => on(standing, Verdict::Confirm, Verdict::Keep),
            None => on(standing, Verdict::Show, Verdict::Keep),
        },
        (Fact::Present(_), Answer::Absent) => on(standing, Verdict::Show, Verdict::Keep),
        (Fact::Absent { .. }, Answer::Absent) => Verdict::Show,
        (Fact::Absent { micros, stamp }, Answer::Present(seen)) => {
            let committed = seen.version.as_ref().and_then(|v| v.commit_micros()).unwrap_or(seen.modified_micros);
            let later = match (seen.stamp, stamp) {
                // An older write that was committed late has the newer version id, but it is the older write.
                (Some(seen), Some(deleted)) if seen.mount == deleted.mount => seen.seq > deleted.seq,
                _ => committed > micros,
            };
            if later { Verdict::Show } else { on(standing, Verdict::Confirm, Verdict::Keep) }
        }
    }
}

fn on(standing: Standing, proven: Verdict, lagging: Verdict) -> Verdict {
    match standing {
        Standing::Proven => proven,
        Standing::Lagging => lagging,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ETag, Epoch, Stamp, VersionId};
    use Standing::{Lagging, Proven};

    const T: u64 = 1_700_000_000_000_000;

    fn token(micros: u64, seq: Option<u64>) -> Token {
        Token {
            version: Some(VersionId::from_micros(micros)),
            etag: ETag(format!("{micros}-{seq:?}")),
            size: 1,
            crc64: None,
            modified_micros: micros,
            stamp: seq.map(|seq| Stamp { mount: 1, epoch: Epoch(1), seq }),
        }
    }

    #[test]
    fn the_rule_row_by_row() {
        let (old, new) = (token(T, None), token(T + 1, None));
        let (first, second) = (token(T + 5, Some(1)), token(T, Some(2)));
        let our_delete = Fact::Absent { micros: T, stamp: second.stamp };
        let (late, later) = (token(T + 9, Some(1)), token(T - 9, Some(3)));
        let rows = [
            ("first sight of an object", Fact::Nothing, Answer::Present(&old), Lagging, Verdict::Show),
            ("404 of the master is a fact", Fact::Nothing, Answer::Absent, Proven, Verdict::Show),
            ("404 of a replica is no answer", Fact::Nothing, Answer::Absent, Lagging, Verdict::Unsure),
            ("the same again", Fact::Present(&old), Answer::Present(&old), Lagging, Verdict::Show),
            ("newer", Fact::Present(&old), Answer::Present(&new), Lagging, Verdict::Show),
            ("older, from a replica", Fact::Present(&new), Answer::Present(&old), Lagging, Verdict::Keep),
            ("older, from the master", Fact::Present(&new), Answer::Present(&old), Proven, Verdict::Confirm),
            ("own writes order by sequence", Fact::Present(&second), Answer::Present(&first), Lagging, Verdict::Keep),
            ("known file, replica has none", Fact::Present(&old), Answer::Absent, Lagging, Verdict::Keep),
            ("deleted by somebody on the master", Fact::Present(&old), Answer::Absent, Proven, Verdict::Show),
            ("deleted, and gone", Fact::Absent { micros: T, stamp: None }, Answer::Absent, Lagging, Verdict::Show),
            (
                "deleted, replica lags",
                Fact::Absent { micros: T + 1, stamp: None },
                Answer::Present(&old),
                Lagging,
                Verdict::Keep,
            ),
            (
                "deleted, then written anew",
                Fact::Absent { micros: T, stamp: None },
                Answer::Present(&new),
                Lagging,
                Verdict::Show,
            ),
            (
                "deleted, then an older write of ours comes late",
                our_delete,
                Answer::Present(&late),
                Lagging,
                Verdict::Keep,
            ),
            ("deleted, then written anew by us", our_delete, Answer::Present(&later), Lagging, Verdict::Show),
            (
                "deleted, master shows older",
                Fact::Absent { micros: T + 1, stamp: None },
                Answer::Present(&old),
                Proven,
                Verdict::Confirm,
            ),
        ];
        for (what, fact, answer, standing, expect) in rows {
            assert_eq!(judge(fact, answer, standing), expect, "{what}");
        }
    }
}
