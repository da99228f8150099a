//! What a window of measures is an alarm about. Pure.

use std::time::Duration;

use serde_json::json;

use super::{Health, Measure};
use crate::alarm::{Event, Sighting};
use crate::object::Class;

/// Times of files are wrong from here on (as `doctor`).
const CLOCK_OFF: Duration = Duration::from_secs(5);

/// The conditions that hold. `clock_ms`: the provider's time minus ours, as far as an answer has shown it.
pub fn sightings(measures: &[Measure], clock_ms: i64) -> Vec<Sighting> {
    let name = |m: &Measure| format!("{}.{}", m.site, m.class);
    let words = |m: &Measure| {
        format!(
            "{} is {} ({:.0} % of {} requests went well)",
            name(m),
            m.health.name(),
            m.success_rate * 100.0,
            m.attempts
        )
    };
    let which = |bad: fn(Health) -> bool| measures.iter().filter(|m| bad(m.health)).collect::<Vec<_>>();
    let list = |of: &[&Measure]| of.iter().map(|m| words(m)).collect::<Vec<_>>().join(", ");
    let mut found = Vec::new();
    let mut see = |event, of: Vec<&Measure>| {
        if !of.is_empty() {
            found.push(Sighting::new(event, list(&of), json!({ "linkages": of })));
        }
    };
    see(Event::Suspect, which(|health| matches!(health, Health::Degraded | Health::Grey | Health::Down)));
    see(Event::Auth, which(|health| health == Health::Refused));
    // A class that no bucket serves any more.
    let dark = |class: Class| {
        let of: Vec<&Measure> = measures.iter().filter(|m| m.class == class).collect();
        (!of.is_empty() && of.iter().all(|m| m.health == Health::Down)).then_some(of)
    };
    see(Event::BothDown, Class::ALL.into_iter().filter_map(dark).flatten().collect());
    if clock_ms.unsigned_abs() > CLOCK_OFF.as_millis() as u64 {
        let side = if clock_ms > 0 { "behind" } else { "ahead of" };
        let text = format!("this host's clock is {:.0} s {side} the buckets'", clock_ms.unsigned_abs() as f64 / 1000.0);
        found.push(Sighting::new(Event::Clock, text, json!({ "offset_ms": clock_ms })));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::object::Site;

    #[test]
    fn each_condition() {
        use Health::{Degraded, Down, Grey, Refused, Up};
        let rows: &[([Health; 4], i64, &[Event])] = &[
            ([Up; 4], 0, &[]),
            ([Up, Up, Degraded, Up], 0, &[Event::Suspect]),
            ([Grey, Up, Up, Up], -4000, &[Event::Suspect]),
            ([Up, Up, Down, Down], 0, &[Event::Suspect]),
            ([Down, Up, Down, Up], 0, &[Event::Suspect, Event::BothDown]),
            ([Down; 4], 0, &[Event::Suspect, Event::BothDown]),
            ([Refused, Up, Up, Up], 0, &[Event::Auth]),
            ([Up; 4], -7_200_000, &[Event::Clock]),
        ];
        for (health, clock, expect) in rows {
            let places = Site::ALL.into_iter().flat_map(|site| Class::ALL.map(|class| (site, class)));
            let measures: Vec<Measure> = places
                .zip(health)
                .map(|((site, class), health)| Measure {
                    site,
                    class,
                    health: *health,
                    attempts: 10,
                    success_rate: 0.5,
                    failures: BTreeMap::new(),
                    latency_ms: None,
                    first_byte_ms: None,
                    throughput_mib_s: None,
                    last_error: None,
                })
                .collect();
            let found: Vec<Event> = sightings(&measures, *clock).into_iter().map(|s| s.event).collect();
            assert_eq!(found, *expect, "{health:?}");
        }
    }
}
