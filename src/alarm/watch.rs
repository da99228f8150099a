//! Which alarms do the facts of this second amount to? One table, from a picture of everything to [`Sighting`]s. Pure.

use std::time::Duration;

use serde_json::json;

use super::{Event, Sighting};
use crate::failover::{Health, State, View};
use crate::journal;
use crate::object::{Class, Site};

const LAG_SHORT: f64 = 60.0;
const LAG_LONG: f64 = 900.0;
/// Part of the journal's limit.
const JOURNAL_FULL: f64 = 0.8;
const AMBIGUOUS: Duration = Duration::from_secs(600);
const CLOCK_MS: u64 = 5000;

/// Everything an alarm can come from, as it is now.
pub struct Sight<'a> {
    pub view: &'a View,
    pub journal: journal::Stats,
    /// Age of the oldest write that is not known to be in both buckets: a to b, b to a; seconds.
    pub lag: [f64; 2],
    /// Age of the oldest write whose answer was lost.
    pub ambiguous: Option<Duration>,
    /// Newest conflict since the last look.
    pub conflict: Option<String>,
    /// Objects that only the other bucket has.
    pub missing: [u64; 2],
    /// What COS thinks of our clock.
    pub clock_ms: i64,
    /// Found when the mount began.
    pub preflight: &'a [String],
    /// Why the credentials could not be renewed.
    pub credentials: Option<String>,
    /// Why the external origin does not take copies.
    pub origin: Option<String>,
}

/// What holds now.
pub fn sightings(sight: &Sight<'_>) -> Vec<Sighting> {
    let view = sight.view;
    let mut out = Vec::new();
    let linkages = || {
        let of = |site: Site, class: Class| {
            let linkage = view.linkage(site, class);
            json!({
                "site": site, "class": class, "health": linkage.health.to_string(), "quarantined": linkage.quarantined,
                "rtt_ms_p99": linkage.rtt_p99.map(|rtt| rtt.as_secs_f64() * 1000.0),
            })
        };
        let all = Site::ALL.into_iter().flat_map(|site| Class::ALL.map(|class| of(site, class)));
        serde_json::Value::Array(all.collect())
    };
    let place = || {
        let last = view
            .switches
            .last()
            .map(|s| json!({"from": s.from, "to": s.to, "automatic": s.automatic, "reason": s.reason}));
        json!({
            "state": view.state.to_string(), "master": view.master, "epoch": view.epoch.0, "explain": view.explain,
            "last_switch": last, "linkages": linkages(),
            "journal": {"records": sight.journal.records, "unsent": sight.journal.unsent, "bytes": sight.journal.bytes},
        })
    };
    let mut say =
        |holds: bool, event: Event, summary: &dyn Fn() -> String, evidence: &dyn Fn() -> serde_json::Value| {
            if holds {
                out.push(Sighting::new(event, summary(), evidence()));
            }
        };
    let each = || Site::ALL.into_iter().flat_map(|site| Class::ALL.map(|class| (site, class)));
    let having = |wanted: &dyn Fn(Health) -> bool| -> Vec<String> {
        let unwell = each().filter(|(site, class)| wanted(view.linkage(*site, *class).health));
        unwell.map(|(site, class)| format!("{site}.{class} is {}", view.linkage(site, class).health)).collect()
    };

    let unwell = having(&|health| !matches!(health, Health::Up | Health::Throttled | Health::AdminFault));
    say(!unwell.is_empty(), Event::Suspect, &|| unwell.join(", "), &linkages);
    say(view.master == Site::B, Event::Switch, &|| format!("bucket b is the master: {}", view.explain), &place);
    say(view.latched, Event::Latched, &|| view.explain.clone(), &place);
    say(view.state == State::BothDown, Event::BothDown, &|| view.explain.clone(), &place);
    say(view.state == State::LocalOutage, Event::LocalOutage, &|| view.explain.clone(), &place);

    let lag = sight.lag[0].max(sight.lag[1]);
    let lag_words = || format!("a write has been in one bucket only for {lag:.0} s");
    let lag_facts =
        || json!({"a_to_b_s": sight.lag[0], "b_to_a_s": sight.lag[1], "unverified": sight.journal.unverified});
    say(lag > LAG_SHORT, Event::Lag, &lag_words, &lag_facts);
    say(lag > LAG_LONG, Event::LagLong, &lag_words, &lag_facts);

    let journal = &sight.journal;
    let part = journal.bytes as f64 / journal.limit.max(1) as f64;
    say(
        part > JOURNAL_FULL,
        Event::Journal,
        &|| format!("the journal is {:.0} % full", part * 100.0),
        &|| json!({"bytes": journal.bytes, "limit": journal.limit, "unsent": journal.unsent, "unverified": journal.unverified}),
    );
    let ambiguous = sight.ambiguous.unwrap_or_default();
    say(
        ambiguous > AMBIGUOUS,
        Event::Ambiguous,
        &|| format!("the fate of a write has been unknown for {} s", ambiguous.as_secs()),
        &|| json!({"oldest_s": ambiguous.as_secs(), "writes": journal.ambiguous}),
    );
    if let Some(conflict) = &sight.conflict {
        say(true, Event::Conflict, &|| conflict.clone(), &|| json!({"conflict": conflict}));
    }
    let corrupt: Vec<Site> =
        Site::ALL.into_iter().filter(|site| view.linkage(*site, Class::Read).quarantined).collect();
    say(
        !corrupt.is_empty(),
        Event::Corrupt,
        &|| {
            format!(
                "wrong bytes came from bucket {}",
                corrupt.iter().map(Site::to_string).collect::<Vec<_>>().join(" and ")
            )
        },
        &linkages,
    );
    let missing = sight.missing;
    say(
        missing != [0, 0],
        Event::Coverage,
        &|| format!("{} objects are missing in bucket a, {} in bucket b", missing[0], missing[1]),
        &|| json!({"missing_in_a": missing[0], "missing_in_b": missing[1]}),
    );
    say(
        sight.clock_ms.unsigned_abs() > CLOCK_MS,
        Event::Clock,
        &|| format!("this host's clock is {:.1} s off", sight.clock_ms as f64 / 1000.0),
        &|| json!({"offset_ms": sight.clock_ms}),
    );
    let refused = having(&|health| health == Health::AdminFault);
    let why: Vec<String> = refused.into_iter().chain(sight.credentials.clone()).collect();
    say(!why.is_empty(), Event::Auth, &|| why.join("; "), &linkages);
    say(
        !sight.preflight.is_empty(),
        Event::Preflight,
        &|| sight.preflight.first().cloned().unwrap_or_default(),
        &|| json!({"findings": sight.preflight}),
    );
    if let Some(origin) = &sight.origin {
        say(true, Event::Origin, &|| origin.clone(), &|| json!({"origin": origin}));
    }
    out
}
