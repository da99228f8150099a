//! What is broken, and whether it hits this request.
//!
//! A site carries an ordered list of [`Fault`]s, set as a whole by the admin API. Each request asks [`Faults::plan`] once;
//! every fault that matches, is not used up and wins its throw contributes to the plan. Of those that end a request the
//! first one wins. `refuse` and an unconditional `blackhole` act on the listener instead (`http/gate.rs`); `connection_limit` and the
//! `tls_` kinds act on a connection before there is a request.
//!
//! Owns: matching, counts, the seeded dice. Owns not: the effect on the wire (`http`, `line`).

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// The kinds of design, as spelled in the admin API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The listening socket is closed; established connections are reset.
    Refuse,
    /// No byte in or out and no RST, on new and established connections. With a filter: only from a matching request on.
    Blackhole,
    /// RST before the request is carried out; with `after_bytes` in the middle of the body.
    Reset,
    /// The request is read, then silence; the connection stays up. Nothing is carried out.
    Hang,
    /// `delay_ms` (default 1000) before the request is carried out; with `after_bytes` in the middle of the answer.
    Delay,
    /// One byte of the answer's body every `delay_ms` (default 1000) after `after_bytes`; uploads are read as slowly.
    Drip,
    /// The answer's body ends after `after_bytes` (default: half), under the right `Content-Length`.
    Truncate,
    /// One bit of the body is wrong, at `after_bytes` (default: the middle): of the answer, or of what arrives.
    Corrupt,
    /// An error answer of COS with `status` (default 500); nothing is carried out.
    Status,
    /// The same from something that is not COS.
    StatusWithoutRequestId,
    /// `503 SlowDown`.
    Slowdown,
    /// Carried out, then the connection is cut without an answer.
    DropAnswer,
    /// The connection is cut once the request is complete; carried out `delay_ms` (default 1000) later.
    LateCommit,
    /// `status` (default 302) to `location`.
    Redirect,
    /// Copy, part copy and Complete: status 200 with an `<Error>` body; nothing is carried out.
    #[serde(rename = "error_in_200", alias = "error_in200")]
    ErrorIn200,
    /// The `ETag` of the answer is another one.
    WrongEtag,
    /// `Date` is off by `skew_s` (default 1200); nothing else is.
    WrongDate,
    /// The clock of the region is off by `skew_s` (default 1200): its `Date`, and what it thinks of the age of signatures.
    WrongClock,
    /// GET and HEAD without a version id see the key as it was `delay_ms` (default 1000) ago. Needs versioning.
    StaleRead,
    /// Listings show the bucket as it was `delay_ms` (default 1000) ago. Needs versioning.
    StaleList,
    /// A connection beyond `limit` (default 0) open ones is reset as soon as it is made.
    ConnectionLimit,
    /// TLS with a certificate that ended yesterday.
    TlsExpired,
    /// TLS with a certificate for another name.
    TlsWrongName,
    /// The first message of a TLS handshake gets no answer; the connection stays up.
    TlsHang,
    /// RST in answer to the first message of a TLS handshake.
    TlsReset,
}

impl Kind {
    /// Strikes a connection before there is a request.
    fn is_early(self) -> bool {
        self.handshake().is_some() || self == Kind::ConnectionLimit
    }

    fn handshake(self) -> Option<Handshake> {
        match self {
            Kind::TlsExpired => Some(Handshake::Expired),
            Kind::TlsWrongName => Some(Handshake::WrongName),
            Kind::TlsHang => Some(Handshake::Hang),
            Kind::TlsReset => Some(Handshake::Reset),
            _ => None,
        }
    }

    /// Means something in a COS region only.
    fn needs_region(self) -> bool {
        matches!(self, Kind::ErrorIn200 | Kind::WrongClock | Kind::StaleRead | Kind::StaleList)
    }
}

/// How a TLS handshake goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    Expired,
    WrongName,
    Hang,
    Reset,
}

/// One entry of `PUT /v1/faults/<site>`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: Kind,
    /// Empty: every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Prefix of the key, for listings of the listed prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<String>,
    /// Of 1; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Hits left; default endless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Target of `redirect`; default an address that answers nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Seconds that a clock is ahead; negative: behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew_s: Option<i64>,
    /// Connections for `connection_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// While this fault stands, nothing replicates to or from the site: the region is down, not only our way to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stops_replication: bool,
}

impl Fault {
    pub fn new(kind: Kind) -> Fault {
        Fault {
            kind,
            methods: Vec::new(),
            key_prefix: None,
            probability: None,
            count: None,
            after_bytes: None,
            delay_ms: None,
            status: None,
            location: None,
            skew_s: None,
            limit: None,
            stops_replication: false,
        }
    }

    /// Refuses what could not have the effect that was asked for.
    pub fn check(&self) -> Result<(), String> {
        let known = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PROPFIND", "MKCOL"];
        if let Some(method) = self.methods.iter().find(|m| !known.contains(&m.to_uppercase().as_str())) {
            return Err(format!("method {method:?}: known are {}", known.join(", ")));
        }
        if self.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err("probability must be between 0 and 1".into());
        }
        if self.status.is_some_and(|s| !(300..=599).contains(&s)) {
            return Err("status must be between 300 and 599".into());
        }
        let conditional = !self.methods.is_empty() || self.key_prefix.is_some() || self.probability.is_some();
        if self.kind == Kind::Refuse && (conditional || self.count.is_some()) {
            return Err("refuse closes the listening socket: it takes no conditions".into());
        }
        if self.kind == Kind::Blackhole && self.after_bytes.is_some() {
            return Err("blackhole takes no after_bytes".into());
        }
        if self.kind.is_early() && !(self.methods.is_empty() && self.key_prefix.is_none()) {
            return Err("this kind strikes before there is a request: it takes no methods and no key_prefix".into());
        }
        if self.kind == Kind::ConnectionLimit && (self.probability.is_some() || self.count.is_some()) {
            return Err("connection_limit takes no probability and no count".into());
        }
        Ok(())
    }

    /// Refuses what means nothing outside a COS region.
    pub fn check_outside_region(&self) -> Result<(), String> {
        if self.kind.needs_region() {
            return Err("this kind of fault is one of a COS region: it fits a and b only".into());
        }
        if self.stops_replication {
            return Err("only a and b replicate".into());
        }
        Ok(())
    }

    /// Acts on the listener and on every connection, not on single requests.
    pub fn is_total(&self) -> bool {
        let conditional =
            !self.methods.is_empty() || self.key_prefix.is_some() || self.probability.is_some() || self.count.is_some();
        matches!(self.kind, Kind::Refuse | Kind::Blackhole) && !conditional
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.unwrap_or(1000))
    }

    /// Twenty minutes: more than the quarter of an hour that COS tolerates.
    fn skew(&self) -> i64 {
        self.skew_s.unwrap_or(1200)
    }
}

/// How a request is to end, other than well.
#[derive(Clone, PartialEq, Debug)]
pub enum End {
    Blackhole,
    Reset,
    Hang,
    Status(u16),
    StatusWithoutRequestId(u16),
    Slowdown(Option<Duration>),
    DropAnswer,
    LateCommit(Duration),
    Redirect(u16, String),
    ErrorIn200,
}

/// What happens at one place of a body.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Trip {
    Reset,
    Hang,
    Pause(Duration),
    Drip(Duration),
    Truncate,
    Corrupt,
}

/// All that the faults do to one request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    pub delay: Duration,
    pub end: Option<End>,
    /// With the place in the body; `None`: in its middle.
    pub trips: Vec<(Option<u64>, Trip)>,
    /// Seconds by which `Date` is ahead.
    pub date_skew: i64,
    /// Seconds by which the judgement of signatures is ahead.
    pub clock_skew: i64,
    pub wrong_etag: bool,
    /// Answer from the state this long ago.
    pub stale: Option<Duration>,
}

/// What a request shows to the matching.
#[derive(Default)]
pub struct Subject<'a> {
    pub method: &'a str,
    /// Key, or the prefix of a listing.
    pub key: &'a str,
    /// The operation can answer 200 with an error inside.
    pub can_fail_in_200: bool,
    /// A listing of current objects.
    pub listing: bool,
    /// GET or HEAD of an object, whichever version is current.
    pub plain_read: bool,
}

/// The faults of one site.
#[derive(Debug)]
pub struct Faults {
    list: Vec<Fault>,
    dice: StdRng,
}

impl Faults {
    pub fn new(seed: u64) -> Faults {
        Faults { list: Vec::new(), dice: StdRng::seed_from_u64(seed) }
    }

    pub fn set(&mut self, list: Vec<Fault>) {
        self.list = list;
    }

    /// As set, with the counts that are left; used-up ones are gone.
    pub fn list(&self) -> Vec<Fault> {
        self.list.iter().filter(|f| f.count != Some(0)).cloned().collect()
    }

    /// How many connections may be open; `None`: any number.
    pub fn connection_limit(&self) -> Option<u64> {
        let limits = self.list.iter().filter(|f| f.kind == Kind::ConnectionLimit);
        limits.map(|f| f.limit.unwrap_or(0)).min()
    }

    /// What happens to the TLS handshake that begins now.
    pub fn handshake(&mut self) -> Option<Handshake> {
        for fault in &mut self.list {
            let Some(handshake) = fault.kind.handshake() else { continue };
            if fault.count == Some(0) || fault.probability.is_some_and(|p| !self.dice.random_bool(p)) {
                continue;
            }
            if let Some(count) = &mut fault.count {
                *count -= 1;
            }
            return Some(handshake);
        }
        None
    }

    pub fn plan(&mut self, subject: &Subject<'_>) -> Plan {
        let mut plan = Plan::default();
        for fault in &mut self.list {
            if fault.count == Some(0)
                || !(fault.methods.is_empty() || fault.methods.iter().any(|m| m.eq_ignore_ascii_case(subject.method)))
                || !fault.key_prefix.as_ref().is_none_or(|p| subject.key.starts_with(p.as_str()))
                || fault.kind.is_early()
                || (fault.kind == Kind::ErrorIn200 && !subject.can_fail_in_200)
                || (fault.kind == Kind::StaleRead && !subject.plain_read)
                || (fault.kind == Kind::StaleList && !subject.listing)
                || fault.probability.is_some_and(|p| !self.dice.random_bool(p))
            {
                continue;
            }
            let end = match (fault.kind, fault.after_bytes) {
                (Kind::Refuse, _) => None,
                (Kind::Blackhole, _) => Some(End::Blackhole),
                (Kind::Reset, None) => Some(End::Reset),
                (Kind::Hang, None) => Some(End::Hang),
                (Kind::Status, _) => Some(End::Status(fault.status.unwrap_or(500))),
                (Kind::StatusWithoutRequestId, _) => Some(End::StatusWithoutRequestId(fault.status.unwrap_or(500))),
                (Kind::Slowdown, _) => Some(End::Slowdown(fault.delay_ms.map(Duration::from_millis))),
                (Kind::DropAnswer, _) => Some(End::DropAnswer),
                (Kind::LateCommit, _) => Some(End::LateCommit(fault.delay())),
                (Kind::Redirect, _) => Some(End::Redirect(
                    fault.status.unwrap_or(302),
                    fault.location.clone().unwrap_or_else(|| "http://redirect.invalid/".into()),
                )),
                (Kind::ErrorIn200, _) => Some(End::ErrorIn200),
                // Of the rest, none ends a request.
                _ => None,
            };
            if end.is_some() && plan.end.is_some() {
                continue;
            }
            match (fault.kind, fault.after_bytes) {
                (Kind::Delay, None) => plan.delay += fault.delay(),
                (Kind::Delay, at) => plan.trips.push((at, Trip::Pause(fault.delay()))),
                (Kind::Reset, Some(at)) => plan.trips.push((Some(at), Trip::Reset)),
                (Kind::Hang, Some(at)) => plan.trips.push((Some(at), Trip::Hang)),
                (Kind::Drip, at) => plan.trips.push((Some(at.unwrap_or(0)), Trip::Drip(fault.delay()))),
                (Kind::Truncate, at) => plan.trips.push((at, Trip::Truncate)),
                (Kind::Corrupt, at) => plan.trips.push((at, Trip::Corrupt)),
                (Kind::WrongEtag, _) => plan.wrong_etag = true,
                (Kind::WrongDate, _) => plan.date_skew += fault.skew(),
                (Kind::WrongClock, _) => {
                    plan.date_skew += fault.skew();
                    plan.clock_skew += fault.skew();
                }
                (Kind::StaleRead | Kind::StaleList, _) => plan.stale = Some(fault.delay()),
                _ => {}
            }
            if let Some(count) = &mut fault.count {
                *count -= 1;
            }
            plan.end = plan.end.or(end);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject<'a>(method: &'a str, key: &'a str) -> Subject<'a> {
        Subject { method, key, ..Subject::default() }
    }

    #[test]
    fn matching_and_counting() {
        let mut faults = Faults::new(1);
        faults.set(vec![
            Fault { methods: vec!["put".into()], count: Some(2), ..Fault::new(Kind::Status) },
            Fault { key_prefix: Some("a/".into()), ..Fault::new(Kind::Hang) },
            Fault { delay_ms: Some(7), ..Fault::new(Kind::Delay) },
            Fault::new(Kind::ErrorIn200),
        ]);
        assert_eq!(faults.plan(&subject("PUT", "a/x")).end, Some(End::Status(500)), "the first one wins");
        assert_eq!(faults.plan(&subject("GET", "a/x")).end, Some(End::Hang));
        let plan = faults.plan(&subject("GET", "b"));
        assert_eq!((plan.end, plan.delay), (None, Duration::from_millis(7)), "error_in_200 needs a fitting operation");
        assert_eq!(faults.plan(&subject("PUT", "b")).end, Some(End::Status(500)));
        assert_eq!(faults.plan(&subject("PUT", "b")).end, None, "used up");
        assert_eq!(faults.list().len(), 3);
        let copy = Subject { can_fail_in_200: true, ..subject("PUT", "b") };
        assert_eq!(faults.plan(&copy).end, Some(End::ErrorIn200));
    }

    #[test]
    fn the_same_seed_throws_the_same() {
        let throw = |seed| {
            let mut faults = Faults::new(seed);
            faults.set(vec![Fault { probability: Some(0.5), ..Fault::new(Kind::Reset) }]);
            (0..64).map(|_| faults.plan(&subject("GET", "x")).end.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(throw(5), throw(5));
        assert_ne!(throw(5), throw(6));
        let hits = throw(5).into_iter().filter(|hit| *hit).count();
        assert!((10..54).contains(&hits), "{hits} of 64 at one half");
    }

    #[test]
    fn connections_and_requests_suffer_apart() {
        let mut faults = Faults::new(1);
        faults.set(vec![
            Fault { count: Some(1), ..Fault::new(Kind::TlsReset) },
            Fault { limit: Some(3), ..Fault::new(Kind::ConnectionLimit) },
            Fault { skew_s: Some(-90), ..Fault::new(Kind::WrongClock) },
            Fault { skew_s: Some(30), ..Fault::new(Kind::WrongDate) },
            Fault { delay_ms: Some(5), ..Fault::new(Kind::StaleList) },
        ]);
        let plan = faults.plan(&subject("GET", "k"));
        assert_eq!((plan.end, plan.date_skew, plan.clock_skew, plan.stale), (None, -60, -90, None));
        let listing = Subject { listing: true, ..subject("GET", "") };
        assert_eq!(faults.plan(&listing).stale, Some(Duration::from_millis(5)));
        assert_eq!(faults.connection_limit(), Some(3));
        assert_eq!((faults.handshake(), faults.handshake()), (Some(Handshake::Reset), None), "used up");
    }

    #[test]
    fn impossible_faults_are_refused() {
        let bad = [
            Fault { probability: Some(2.0), ..Fault::new(Kind::Hang) },
            Fault { methods: vec!["LIST".into()], ..Fault::new(Kind::Hang) },
            Fault { count: Some(1), ..Fault::new(Kind::Refuse) },
            Fault { status: Some(200), ..Fault::new(Kind::Status) },
            Fault { key_prefix: Some("k".into()), ..Fault::new(Kind::TlsHang) },
            Fault { count: Some(1), ..Fault::new(Kind::ConnectionLimit) },
        ];
        for fault in bad {
            assert!(fault.check().is_err(), "{fault:?}");
        }
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"hang","colour":"red"}"#).is_err());
        assert!(Fault::new(Kind::Blackhole).is_total());
        assert!(!Fault { methods: vec!["PUT".into()], ..Fault::new(Kind::Blackhole) }.is_total());
    }
}
