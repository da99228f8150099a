//! The figures for people, for programs, and for Prometheus.

use std::fmt::Write as _;

use super::{Health, Measure, Times};

/// One line a linkage.
pub fn text(measures: &[Measure]) -> String {
    let mut text = String::new();
    for m in measures {
        let share = format!("{:.1} % of {}", m.success_rate * 100.0, m.attempts);
        let ms = |times: Option<Times>| {
            times.map_or("-".to_string(), |t| format!("{:.0}/{:.0}/{:.0} ms", t.p50, t.p95, t.p99))
        };
        let rate = m.throughput_mib_s.map_or("-".to_string(), |rate| format!("{rate:.1} MiB/s"));
        let _ = writeln!(
            text,
            "{} {:<6} {:<9} {share:<16} latency {:<18} first byte {:<18} {rate}",
            m.site,
            m.class.to_string(),
            m.health.name(),
            ms(m.latency_ms),
            ms(m.first_byte_ms)
        );
        if let Some(error) = &m.last_error {
            let kinds: Vec<_> = m.failures.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            let _ = writeln!(text, "         {}; last: {error}", kinds.join(", "));
        }
    }
    text
}

pub fn json(measures: &[Measure], at: f64) -> serde_json::Value {
    let worst = measures.iter().map(|m| m.health).max().unwrap_or(Health::Down);
    serde_json::json!({ "at": at, "health": worst, "linkages": measures })
}

/// The text format of Prometheus, version 0.0.4; for a scrape or for the text file collector of node_exporter.
pub fn prometheus(measures: &[Measure], at: f64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, lines: Vec<(String, f64)>| {
        let _ = writeln!(text, "# HELP cosfs_ha_probe_{name} {help}\n# TYPE cosfs_ha_probe_{name} gauge");
        for (labels, value) in lines {
            let _ = writeln!(text, "cosfs_ha_probe_{name}{labels} {value}");
        }
    };
    let of = |m: &Measure, more: &str| format!("{{site=\"{}\",class=\"{}\"{more}}}", m.site, m.class);
    let quantiles = |m: &Measure, times: Option<Times>| {
        let each = times.map_or(vec![], |t| vec![("0.5", t.p50), ("0.95", t.p95), ("0.99", t.p99), ("1", t.max)]);
        each.into_iter().map(|(q, ms)| (of(m, &format!(",quantile=\"{q}\"")), ms / 1000.0)).collect::<Vec<_>>()
    };
    family("time_seconds", "When the window ended, seconds since 1970.", vec![(String::new(), at)]);
    family(
        "success_ratio",
        "Share of requests that were answered well.",
        measures.iter().map(|m| (of(m, ""), m.success_rate)).collect(),
    );
    family("attempts", "Requests in the window.", measures.iter().map(|m| (of(m, ""), m.attempts as f64)).collect());
    let failures = |m: &Measure| {
        let each = m.failures.iter().map(|(kind, count)| (of(m, &format!(",kind=\"{kind}\"")), *count as f64));
        each.collect::<Vec<_>>()
    };
    family("failures", "Failed requests by kind.", measures.iter().flat_map(failures).collect());
    family(
        "latency_seconds",
        "Time of whole requests.",
        measures.iter().flat_map(|m| quantiles(m, m.latency_ms)).collect(),
    );
    family(
        "first_byte_seconds",
        "Time from the last byte of the request to the first of the answer.",
        measures.iter().flat_map(|m| quantiles(m, m.first_byte_ms)).collect(),
    );
    let rate = |m: &Measure| m.throughput_mib_s.map(|rate| (of(m, ""), (rate * f64::from(1 << 20)).round()));
    family("throughput_bytes_per_second", "Speed of one body.", measures.iter().filter_map(rate).collect());
    let healths = |m: &Measure| {
        let each =
            Health::ALL.map(|h| (of(m, &format!(",health=\"{}\"", h.name())), f64::from(u8::from(h == m.health))));
        each.to_vec()
    };
    family("health", "1 for the health of the linkage, 0 for the others.", measures.iter().flat_map(healths).collect());
    text
}
