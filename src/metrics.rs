//! Figures for Prometheus, taken at the moment they are asked for.
//!
//! Everything shown is state that the mount keeps anyway, so nothing is counted twice and an idle mount costs nothing. Each scrape fills a fresh
//! recorder: a label that no longer applies is simply not there.
//!
//! Names end in their unit; what only grows ends in `_total`. docs/operations.md lists them; a test compares.
//!
//! Owns: names, help, rendering, the listening socket ([`server`]). Owns not: the figures.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::alarm::{Alarms, Event};
use crate::cdn::Cdn;
use crate::control::Status;
use crate::failover::{Health, State};
use crate::object::Site;
use crate::origin::Origin;
use crate::store::{From, Tally};

pub mod server;

/// Kind of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Gauge,
    Counter,
}

/// Name, kind, what it says.
pub const TABLE: &[(&str, Kind, &str)] = &[
    ("cosfs_ha_info", Kind::Gauge, "Always 1; version, mount point and commit mode as labels."),
    ("cosfs_ha_start_time_seconds", Kind::Gauge, "When the mount began, seconds since 1970."),
    ("cosfs_ha_state", Kind::Gauge, "1 for the state the mount is in, 0 for the others."),
    ("cosfs_ha_master", Kind::Gauge, "1 for the bucket that takes writes."),
    ("cosfs_ha_switches_total", Kind::Counter, "Changes of master since the journal was made."),
    ("cosfs_ha_latched", Kind::Gauge, "1 while too many switches keep the mount where it is."),
    ("cosfs_ha_linkage_up", Kind::Gauge, "1 while the linkage carries traffic."),
    ("cosfs_ha_linkage_health", Kind::Gauge, "1 for the health of the linkage, 0 for the others."),
    ("cosfs_ha_linkage_rtt_seconds", Kind::Gauge, "Time to the first byte, quantiles of the last hour."),
    (
        "cosfs_ha_replication_lag_seconds",
        Kind::Gauge,
        "Age of the oldest own write that one bucket has and the other is not seen to have.",
    ),
    ("cosfs_ha_journal_records", Kind::Gauge, "Writes not yet proven to be in both buckets."),
    ("cosfs_ha_journal_unsent", Kind::Gauge, "Of these, writes that no bucket has."),
    ("cosfs_ha_journal_bytes", Kind::Gauge, "What the journal takes on disk."),
    ("cosfs_ha_journal_limit_bytes", Kind::Gauge, "What it may take."),
    ("cosfs_ha_journal_oldest_seconds", Kind::Gauge, "Age of the oldest write in it."),
    ("cosfs_ha_cache_bytes", Kind::Gauge, "What the cache takes on disk."),
    ("cosfs_ha_cache_limit_bytes", Kind::Gauge, "What it may take."),
    ("cosfs_ha_reads_total", Kind::Counter, "Reads of file contents by where they came from."),
    ("cosfs_ha_read_bytes_total", Kind::Counter, "Bytes of file contents by where they came from."),
    (
        "cosfs_ha_cdn_requests_total",
        Kind::Counter,
        "Requests to the CDN by result (used, stale, missing, refused, failed).",
    ),
    ("cosfs_ha_origin_waiting_objects", Kind::Gauge, "Writes that wait for their copy at the external origin."),
    ("cosfs_ha_origin_waiting_bytes", Kind::Gauge, "Their bytes."),
    ("cosfs_ha_origin_kept_objects", Kind::Gauge, "Copies that this mount keeps at the origin."),
    ("cosfs_ha_origin_kept_bytes", Kind::Gauge, "Their bytes there."),
    ("cosfs_ha_origin_copies_total", Kind::Counter, "Copies by result (copied, failed, dropped, removed)."),
    ("cosfs_ha_origin_copied_bytes_total", Kind::Counter, "Bytes copied to the origin."),
    ("cosfs_ha_conflicts_total", Kind::Counter, "Writes that met a newer write of somebody else."),
    ("cosfs_ha_missing_objects", Kind::Gauge, "Objects that this bucket lacks, by the last audit."),
    ("cosfs_ha_clock_offset_seconds", Kind::Gauge, "How far COS thinks this host's clock is off."),
    ("cosfs_ha_credentials_expire_seconds", Kind::Gauge, "Time until the temporary keys end; only where it is known."),
    ("cosfs_ha_alarm", Kind::Gauge, "1 while the alarm stands."),
    ("cosfs_ha_alarms_total", Kind::Counter, "How often the alarm was raised."),
    ("cosfs_ha_alarm_deliveries_total", Kind::Counter, "Notices by channel and result (delivered, failed, dropped)."),
];

/// Where the figures of one scrape come from.
pub struct Figures<'a> {
    pub status: &'a Status,
    pub tally: &'a Tally,
    pub alarms: &'a Alarms,
    pub cdn: Option<&'a Cdn>,
    pub origin: Option<&'a Origin>,
    pub missing: [u64; 2],
    pub clock_ms: i64,
    /// Seconds, negative once they ended.
    pub credentials_expire_s: Option<f64>,
}

/// The text a scrape gets.
pub fn render(figures: &Figures<'_>) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        for (name, kind, help) in TABLE {
            match kind {
                Kind::Gauge => describe_gauge!(*name, Unit::Count, *help),
                Kind::Counter => describe_counter!(*name, Unit::Count, *help),
            }
        }
        fill(figures);
    });
    handle.render()
}

fn label(name: &'static str, value: impl Into<String>) -> Label {
    Label::new(name, value.into())
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

fn set(name: &'static str, labels: Vec<Label>, value: f64) {
    gauge!(name, labels).set(value);
}

fn count(name: &'static str, labels: Vec<Label>, value: u64) {
    counter!(name, labels).absolute(value);
}

fn fill(figures: &Figures<'_>) {
    let Figures { status, tally, alarms, .. } = figures;
    let none = Vec::new;
    let mount = &status.mount;
    let about = [("version", &mount.version), ("mountpoint", &mount.mountpoint), ("commit", &mount.commit)];
    set("cosfs_ha_info", about.map(|(name, value)| label(name, value)).to_vec(), 1.0);
    set("cosfs_ha_start_time_seconds", none(), mount.since);
    for state in State::ALL.map(|state| state.to_string()) {
        set("cosfs_ha_state", vec![label("state", &state)], flag(state == status.state));
    }
    for site in Site::ALL {
        let of = || vec![label("site", site.to_string())];
        set("cosfs_ha_master", of(), flag(status.master == site));
        set("cosfs_ha_missing_objects", of(), figures.missing[site.index()] as f64);
    }
    count("cosfs_ha_switches_total", none(), status.epoch);
    set("cosfs_ha_latched", none(), flag(status.latched));
    for linkage in &status.linkages {
        let of = || vec![label("site", linkage.site.to_string()), label("class", linkage.class.to_string())];
        let with = |name, value: &str| [of(), vec![label(name, value)]].concat();
        for health in Health::ALL {
            let is = health.to_string() == linkage.health;
            set("cosfs_ha_linkage_health", with("health", &health.to_string()), flag(is));
            if is {
                set("cosfs_ha_linkage_up", of(), flag(health.carries_traffic()));
            }
        }
        for (quantile, rtt) in [("0.5", linkage.rtt_ms_p50), ("0.99", linkage.rtt_ms_p99)] {
            if let Some(ms) = rtt {
                set("cosfs_ha_linkage_rtt_seconds", with("quantile", quantile), ms / 1000.0);
            }
        }
    }
    let lag = &status.replication_lag_s;
    for (from, to, seconds) in [("a", "b", lag.a_to_b), ("b", "a", lag.b_to_a)] {
        let labels = vec![label("from", from), label("to", to)];
        set("cosfs_ha_replication_lag_seconds", labels, seconds.unwrap_or_default());
    }
    let journal = &status.journal;
    set("cosfs_ha_journal_records", none(), journal.records as f64);
    set("cosfs_ha_journal_unsent", none(), journal.unsent as f64);
    set("cosfs_ha_journal_bytes", none(), journal.bytes as f64);
    set("cosfs_ha_journal_limit_bytes", none(), journal.limit as f64);
    set("cosfs_ha_journal_oldest_seconds", none(), journal.oldest_s);
    set("cosfs_ha_cache_bytes", none(), status.cache.bytes as f64);
    set("cosfs_ha_cache_limit_bytes", none(), status.cache.limit as f64);
    for from in From::ALL {
        let (reads, bytes) = tally.of(from);
        let of = || vec![label("source", from.name())];
        count("cosfs_ha_reads_total", of(), reads);
        count("cosfs_ha_read_bytes_total", of(), bytes);
    }
    for (result, value) in figures.cdn.map(|cdn| cdn.counters.all()).into_iter().flatten() {
        count("cosfs_ha_cdn_requests_total", vec![label("result", result)], value);
    }
    if let Some(origin) = figures.origin {
        let ((waiting, waiting_bytes), (kept, kept_bytes)) = (origin.waiting(), origin.kept());
        set("cosfs_ha_origin_waiting_objects", none(), waiting as f64);
        set("cosfs_ha_origin_waiting_bytes", none(), waiting_bytes as f64);
        set("cosfs_ha_origin_kept_objects", none(), kept as f64);
        set("cosfs_ha_origin_kept_bytes", none(), kept_bytes as f64);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &origin.counters;
        for (result, value) in [
            ("copied", &counters.copied),
            ("failed", &counters.failed),
            ("dropped", &counters.dropped),
            ("removed", &counters.removed),
        ] {
            count("cosfs_ha_origin_copies_total", vec![label("result", result)], read(value));
        }
        count("cosfs_ha_origin_copied_bytes_total", none(), read(&counters.copied_bytes));
    }
    count("cosfs_ha_conflicts_total", none(), tally.conflicts().0);
    set("cosfs_ha_clock_offset_seconds", none(), figures.clock_ms as f64 / 1000.0);
    if let Some(left) = figures.credentials_expire_s {
        set("cosfs_ha_credentials_expire_seconds", none(), left);
    }
    let (raised, channels) = alarms.tally();
    let standing = alarms.active();
    for event in Event::ALL {
        let of = || vec![label("event", event.name())];
        set("cosfs_ha_alarm", of(), flag(standing.iter().any(|alarm| alarm.event == *event)));
        count("cosfs_ha_alarms_total", of(), raised.get(event).copied().unwrap_or_default());
    }
    for (channel, tally) in channels {
        for (result, value) in [("delivered", tally.delivered), ("failed", tally.failed), ("dropped", tally.dropped)] {
            count("cosfs_ha_alarm_deliveries_total", vec![label("channel", channel), label("result", result)], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_lists_every_metric_and_no_other() {
        let page = include_str!("../docs/operations.md");
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `cosfs_ha_")).collect();
        for (name, kind, help) in TABLE {
            let kind = if *kind == Kind::Gauge { "gauge" } else { "counter" };
            let start = format!("| `{name}` | {kind} |");
            let line = listed.iter().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("docs/operations.md has no line {start}"));
            assert!(line.contains(help.trim_end_matches('.')), "{line}\nshould say: {help}");
        }
        assert_eq!(listed.len(), TABLE.len());
    }
}
