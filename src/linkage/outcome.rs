//! The classification table: what a failed request says about the linkage it took.
//!
//! The store asks "what may I do with this error", failover asks "does the linkage live". The second question is answered here, once, from
//! the error's kind. A kind that is missing does not compile.
//!
//! Owns: the table. Owns not: the kinds (`cos/error`), what follows from an outcome (`failover`).

use crate::cos::{Error, Kind};
use crate::failover::Outcome;

/// What this error says about the linkage.
pub fn of_error(error: &Error) -> Outcome {
    of(error.kind, error.request_id.is_some())
}

/// `by_cos`: the answer carried a request id.
fn of(kind: Kind, by_cos: bool) -> Outcome {
    match kind {
        Kind::Unreachable | Kind::FirstByteTimeout | Kind::Stalled | Kind::Middlebox => Outcome::Hard,
        Kind::Server => Outcome::Server,
        Kind::Throttled { .. } => Outcome::Throttled,
        Kind::ClockSkew => Outcome::Clock,
        Kind::Auth => Outcome::Auth,
        // Both need somebody with rights on the account.
        Kind::Admin | Kind::NoSuchBucket => Outcome::Admin,
        Kind::NoSuchKey
        | Kind::NoSuchVersion
        | Kind::NoSuchUpload
        | Kind::Redirected
        | Kind::Conflict
        | Kind::PreconditionFailed
        | Kind::InvalidRange => Outcome::Answer,
        Kind::Corrupt => Outcome::Corrupt,
        Kind::Local => Outcome::Local,
        // Refused by COS it proves life; refused by our own rules it never went out.
        Kind::Rejected if by_cos => Outcome::Answer,
        Kind::Rejected => Outcome::Cancelled,
        // COS that speaks nonsense is as useless as COS that says 500.
        Kind::BadAnswer if by_cos => Outcome::Server,
        Kind::BadAnswer => Outcome::Hard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_outcome() {
        let rows = [
            (Kind::Unreachable, Outcome::Hard, Outcome::Hard),
            (Kind::FirstByteTimeout, Outcome::Hard, Outcome::Hard),
            (Kind::Stalled, Outcome::Hard, Outcome::Hard),
            (Kind::Server, Outcome::Server, Outcome::Server),
            (Kind::Middlebox, Outcome::Hard, Outcome::Hard),
            (Kind::Throttled { retry_after: None }, Outcome::Throttled, Outcome::Throttled),
            (Kind::ClockSkew, Outcome::Clock, Outcome::Clock),
            (Kind::Auth, Outcome::Auth, Outcome::Auth),
            (Kind::Admin, Outcome::Admin, Outcome::Admin),
            (Kind::NoSuchKey, Outcome::Answer, Outcome::Answer),
            (Kind::NoSuchVersion, Outcome::Answer, Outcome::Answer),
            (Kind::NoSuchUpload, Outcome::Answer, Outcome::Answer),
            (Kind::NoSuchBucket, Outcome::Admin, Outcome::Admin),
            (Kind::Redirected, Outcome::Answer, Outcome::Answer),
            (Kind::Conflict, Outcome::Answer, Outcome::Answer),
            (Kind::PreconditionFailed, Outcome::Answer, Outcome::Answer),
            (Kind::InvalidRange, Outcome::Answer, Outcome::Answer),
            (Kind::Corrupt, Outcome::Corrupt, Outcome::Corrupt),
            (Kind::Local, Outcome::Local, Outcome::Local),
            (Kind::Rejected, Outcome::Cancelled, Outcome::Answer),
            (Kind::BadAnswer, Outcome::Hard, Outcome::Server),
        ];
        for (kind, without_id, with_id) in rows {
            assert_eq!(of(kind, false), without_id, "{kind:?} without a request id");
            assert_eq!(of(kind, true), with_id, "{kind:?} with a request id");
        }
    }
}
