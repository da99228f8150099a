//! The commit clock: one strictly increasing count of microseconds for both regions.
//!
//! COS encodes the moment of commit in the version id, so two commits in the same microsecond would have to share an
//! id. One clock for the whole process keeps every id unique, also between the regions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicU64,
}

impl Clock {
    /// Wall time in microseconds since 1970, moved on where needed to be later than every answer before.
    pub fn next(&self) -> u64 {
        let now = wall_micros();
        let later = |last: u64| Some(now.max(last + 1));
        match self.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later) {
            Ok(last) | Err(last) => now.max(last + 1),
        }
    }

    /// Never answers `micros` or anything earlier again: for ids found on disk at a start.
    pub fn pass(&self, micros: u64) {
        self.last.fetch_max(micros, Ordering::SeqCst);
    }
}

pub fn wall_micros() -> u64 {
    crate::clock::wall().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

fn date(micros: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp((micros / 1_000_000) as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `Tue, 10 Mar 2020 09:36:35 GMT`, the form of `Date` and `Last-Modified`.
pub fn http_date(micros: u64) -> String {
    let form =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    date(micros).format(form).unwrap_or_default()
}

/// `2020-12-10T03:37:30.000Z`, the form of listings. The documentation shows milliseconds that are always zero.
pub fn list_date(micros: u64) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
    date(micros).format(form).unwrap_or_default()
}

/// Microseconds of a date in the form of [`http_date`], for conditional headers.
pub fn parse_http_date(text: &str) -> Option<u64> {
    let since = httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_micros() as u64)
}

/// `2020-04-10T18:21:55Z`, the form of copy results.
pub fn copy_date(micros: u64) -> String {
    date(micros).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_repeats_and_never_goes_back() {
        let clock = Clock::default();
        let future = wall_micros() + 60_000_000;
        clock.pass(future);
        let mut last = future;
        for _ in 0..1000 {
            let next = clock.next();
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn dates_have_the_documented_forms() {
        assert_eq!(http_date(1_586_511_395_051_528), "Fri, 10 Apr 2020 09:36:35 GMT");
        assert_eq!(list_date(1_586_511_395_051_528), "2020-04-10T09:36:35.000Z");
        assert_eq!(copy_date(1_586_511_395_051_528), "2020-04-10T09:36:35Z");
        assert_eq!(parse_http_date("Fri, 10 Apr 2020 09:36:35 GMT"), Some(1_586_511_395_000_000));
    }
}
