//! Every threshold of failover, with its reason. This is the `[failover]` section of the configuration, one field to one key.
//!
//! The numbers come from a discrete-event model of a bucket behind an ordinary network (30 ms median, 150 ms p99, 0.1 % of requests
//! failing by themselves, a jitter burst every ten minutes, one blackout of up to 2 s an hour): they are the quickest that gave no wrong
//! switch in a simulated month. Durations are written like `2500ms` or `5m`.
//!
//! Owns: values, their reasons, their consistency. Owns not: rules.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who decides to go back to A.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailbackMode {
    /// An operator. Staying on B is always safe.
    #[default]
    Manual,
    /// The mount, once A has been good for `failback_hold` and the journal is drained.
    Auto,
}

/// Thresholds of failover.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// `manual` or `auto`. Default `manual`: going back is never urgent, and a human may know why A failed.
    pub failback: FailbackMode,
    /// How long A must have been good before an automatic failback. Default 5m: longer than the usual aftershocks. Doubles with each
    /// switch away from A up to `failback_hold_max`, and halves with each day without one.
    #[serde(with = "human")]
    pub failback_hold: Duration,
    /// Default 60m.
    #[serde(with = "human")]
    pub failback_hold_max: Duration,
    /// Pause after a failback that was broken off because the journal did not drain within `hold_max`; doubles each time, up to 16-fold.
    /// Default 30s.
    #[serde(with = "human")]
    pub failback_retry: Duration,
    /// Test objects in a row that must get from B to A and from A to B before an automatic failback. Default 10, spread over the trial
    /// period; 0: none, and no comparison of the buckets either.
    pub failback_canaries: u32,
    /// Longest time that writes are held back for a graceful move. Default 2s: below what an interactive user calls "hanging".
    #[serde(with = "human")]
    pub hold_max: Duration,

    /// Silence this long, counted from the start of the first bad attempt, confirms a suspicion; on a linkage that is usually slow up to half a
    /// second later. Default 2500ms: no wrong switch in a simulated month; 1500ms gave 51 to 122, 3000ms detects half a second later. Raise to 4s
    /// where blackouts of 2 to 4 s are usual.
    #[serde(with = "human")]
    pub confirm: Duration,
    /// Bad attempts needed to call a linkage dead. Default 3: one can be chance, two can share a cause.
    pub bad_min: u32,
    /// Connections among them. Default 2: a single broken connection is not a broken region.
    pub connections_min: u32,
    /// The other site must have answered within this time before one site is called dead. Default 2s. Otherwise this host's own
    /// network may be what is broken.
    #[serde(with = "human")]
    pub other_fresh: Duration,

    /// An attempt to read is overdue after 4 x the p99 of the last hour, not below this. Default 300ms: below it, a lost packet (the first
    /// retransmission takes 200 to 300 ms) would count.
    #[serde(with = "human")]
    pub read_overdue_min: Duration,
    /// ... and not above this. Default 2s: detection must end within 5 s.
    #[serde(with = "human")]
    pub read_overdue_max: Duration,
    /// As long as nothing has been measured. Default 1s.
    #[serde(with = "human")]
    pub read_overdue_initial: Duration,
    /// An attempt to write is overdue after 6 x the p99, counted from the last byte sent, not below this. Default 800ms: the server
    /// stores three copies before it answers.
    #[serde(with = "human")]
    pub write_overdue_min: Duration,
    /// Default 4s: completing a large multipart upload may take that long.
    #[serde(with = "human")]
    pub write_overdue_max: Duration,
    /// Default 2s.
    #[serde(with = "human")]
    pub write_overdue_initial: Duration,
    /// Probes are small and never wait longer than this before they count as overdue. Default 1200ms: keeps the detection of a silent
    /// site below 4.6 s even if its limits are at their maximum.
    #[serde(with = "human")]
    pub probe_overdue_max: Duration,

    /// Longest time without an answer before the read linkage is probed. Default 900ms: at most one probe a second, none under traffic.
    #[serde(with = "human")]
    pub read_probe_idle: Duration,
    /// Same for the write linkage (start and abort a multipart upload: leaves no version behind). Default 10s: costs two billed requests.
    #[serde(with = "human")]
    pub write_probe_idle: Duration,
    /// Pause between probes of a suspect linkage. Default 250ms.
    #[serde(with = "human")]
    pub burst_every: Duration,
    /// A suspicion that lasts longer than this is probed once a second only. Default 10s: the answer is not urgent any more.
    #[serde(with = "human")]
    pub burst_for: Duration,

    /// A dead linkage is left alone at least this long. Default 5s: flapping links must not be chased.
    #[serde(with = "human")]
    pub dead_min: Duration,
    /// Pause between probes of a dead linkage, +-20 %. Default 1s.
    #[serde(with = "human")]
    pub recovery_probe: Duration,
    /// Successes in a row before it counts as up. Default 10.
    pub recovery_successes: u32,
    /// Fresh connections among them. Default 3: behind a load balancer, one good connection says little.
    pub recovery_connections: u32,

    /// Attempts within 20 s before a ratio means anything. Default 12.
    pub grey_samples: u32,
    /// Bad attempts in percent that make a linkage grey. Default 25.
    pub grey_percent: u32,
    /// The other site must be below this, in percent. Default 5: otherwise the cause is near us.
    pub grey_other_percent: u32,
    /// The ratio must hold this long before reads go elsewhere. Default 5s.
    #[serde(with = "human")]
    pub grey_read_after: Duration,
    /// ... and this long before the write linkage counts as dead. Default 30s: moving the master is dearer than hedging a read.
    #[serde(with = "human")]
    pub grey_write_after: Duration,

    /// Throttling counts as over after this time without it. Default 10s.
    #[serde(with = "human")]
    pub throttle_quiet: Duration,
    /// Refusals (403, no such bucket, arrears) without one success for this long make an admin fault. Default 30s.
    #[serde(with = "human")]
    pub admin_after: Duration,
    /// May an admin fault of the master move it? Default false: a wrong key or policy is mended by a human, and often concerns both sites.
    pub admin_failover: bool,
    /// Corrupt answers within `corrupt_within` that put a linkage into quarantine. Default 2.
    pub corrupt_count: u32,
    /// Default 60s.
    #[serde(with = "human")]
    pub corrupt_within: Duration,
    /// How long reads prefer another place after that. Default 5m. Arbitrary.
    #[serde(with = "human")]
    pub quarantine: Duration,

    /// Automatic switches within one hour before the mount stays where it is and alarms. Default 3: a fourth helps nobody.
    pub switches_per_hour: u32,
    /// An epoch that was not confirmed is asked for again after this. Default 2s.
    #[serde(with = "human")]
    pub epoch_retry: Duration,

    /// A bucket may still commit a write whose answer was lost this long after it is well again; such a write is watched that long, and
    /// keeps its place in the journal. Default 35s: front-ends keep a request whose client is gone for 30 s at most, and committing
    /// it takes a few more.
    #[serde(with = "human")]
    pub late_commit: Duration,

    /// A write that the cloud has not brought to the other bucket after this long is uploaded there by the mount, and an older version that is in one
    /// bucket only is not waited for any longer. Default 15m: what COS calls "seconds or minutes", with room.
    #[serde(with = "human")]
    pub lag_max: Duration,

    /// Defences that only tests turn off.
    #[serde(skip)]
    pub defences: Defences,
}

/// Switches for the tests of the tests: with one defence off, the simulation must fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defences {
    /// Overdue attempts are evidence. Without: a black hole is never found.
    pub overdue: bool,
    /// A suspicion must be `confirm` old. Without: a blackout of a second moves the master.
    pub confirm: bool,
    /// One site is dead only if the other one is proven alive meanwhile. Without: an unplugged cable moves the master.
    pub other_alive: bool,
    /// Suspicions gathered while everything was silent start anew. Without: the site that answers second after an unplugged cable loses.
    pub common_mode: bool,
    /// Automatic switches are counted. Without: a flapping site moves the master for ever.
    pub latch: bool,
}

impl Default for Defences {
    fn default() -> Defences {
        Defences { overdue: true, confirm: true, other_alive: true, common_mode: true, latch: true }
    }
}

impl Default for Tuning {
    fn default() -> Tuning {
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        Tuning {
            failback: FailbackMode::Manual,
            failback_hold: s(300),
            failback_hold_max: s(3600),
            failback_retry: s(30),
            failback_canaries: 10,
            hold_max: s(2),
            confirm: ms(2500),
            bad_min: 3,
            connections_min: 2,
            other_fresh: s(2),
            read_overdue_min: ms(300),
            read_overdue_max: s(2),
            read_overdue_initial: s(1),
            write_overdue_min: ms(800),
            write_overdue_max: s(4),
            write_overdue_initial: s(2),
            probe_overdue_max: ms(1200),
            read_probe_idle: ms(900),
            write_probe_idle: s(10),
            burst_every: ms(250),
            burst_for: s(10),
            dead_min: s(5),
            recovery_probe: s(1),
            recovery_successes: 10,
            recovery_connections: 3,
            grey_samples: 12,
            grey_percent: 25,
            grey_other_percent: 5,
            grey_read_after: s(5),
            grey_write_after: s(30),
            throttle_quiet: s(10),
            admin_after: s(30),
            admin_failover: false,
            corrupt_count: 2,
            corrupt_within: s(60),
            quarantine: s(300),
            switches_per_hour: 3,
            epoch_retry: s(2),
            late_commit: s(35),
            lag_max: s(900),
            defences: Defences::default(),
        }
    }
}

impl Tuning {
    /// Do the values fit together? The text names the key to change.
    pub fn check(&self) -> Result<(), String> {
        let nonzero = [
            ("confirm", self.confirm),
            ("other_fresh", self.other_fresh),
            ("read_overdue_min", self.read_overdue_min),
            ("write_overdue_min", self.write_overdue_min),
            ("probe_overdue_max", self.probe_overdue_max),
            ("read_probe_idle", self.read_probe_idle),
            ("write_probe_idle", self.write_probe_idle),
            ("burst_every", self.burst_every),
            ("recovery_probe", self.recovery_probe),
            ("epoch_retry", self.epoch_retry),
            ("late_commit", self.late_commit),
            ("lag_max", self.lag_max),
        ];
        for (name, value) in nonzero {
            // A millisecond is already absurd for each of them; zero would make the driver spin.
            if value < Duration::from_millis(1) {
                return Err(format!("{name} must be at least 1ms"));
            }
        }
        let counts = [
            ("bad_min", self.bad_min),
            ("connections_min", self.connections_min),
            ("recovery_successes", self.recovery_successes),
            ("grey_samples", self.grey_samples),
            ("grey_percent", self.grey_percent),
            ("corrupt_count", self.corrupt_count),
        ];
        for (name, value) in counts {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        let pairs = [
            ("read_overdue_min", self.read_overdue_min, "read_overdue_max", self.read_overdue_max),
            ("write_overdue_min", self.write_overdue_min, "write_overdue_max", self.write_overdue_max),
            ("failback_hold", self.failback_hold, "failback_hold_max", self.failback_hold_max),
            ("grey_read_after", self.grey_read_after, "grey_write_after", self.grey_write_after),
        ];
        for (low, a, high, b) in pairs {
            if a > b {
                return Err(format!("{low} must not be above {high}"));
            }
        }
        let percents = [("grey_percent", self.grey_percent), ("grey_other_percent", self.grey_other_percent)];
        for (name, value) in percents {
            if value > 100 {
                return Err(format!("{name} must not be above 100"));
            }
        }
        if self.connections_min > self.bad_min {
            return Err("connections_min must not be above bad_min".into());
        }
        if self.recovery_connections > self.recovery_successes {
            return Err("recovery_connections must not be above recovery_successes".into());
        }
        Ok(())
    }
}

/// Durations as people write them (`2500ms`, `5m`).
mod human {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|why| de::Error::custom(format!("{text:?} is not a duration: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_consistent_and_survive_their_text_form() {
        let tuning = Tuning::default();
        assert_eq!(tuning.check(), Ok(()));
        let text = toml::to_string(&tuning).expect("serialises");
        assert!(text.contains("confirm = \"2s 500ms\""), "{text}");
        assert_eq!(toml::from_str::<Tuning>(&text), Ok(tuning));
        assert_eq!(toml::from_str::<Tuning>(""), Ok(Tuning::default()));
    }

    #[test]
    fn text_forms() {
        let tuning: Tuning = toml::from_str("failback = \"auto\"\nconfirm = \"4s\"").expect("valid");
        assert_eq!((tuning.failback, tuning.confirm), (FailbackMode::Auto, Duration::from_secs(4)));
        for wrong in
            ["confirn = \"4s\"", "confirm = 4", "confirm = \"4 parsecs\"", "failback = \"maybe\"", "defences = {}"]
        {
            assert!(toml::from_str::<Tuning>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn inconsistent_values_are_named() {
        type Change = fn(&mut Tuning);
        let rows: [(&str, Change); 6] = [
            ("confirm", |t| t.confirm = Duration::ZERO),
            ("bad_min", |t| t.bad_min = 0),
            ("read_overdue_min", |t| t.read_overdue_min = Duration::from_secs(9)),
            ("connections_min", |t| t.connections_min = 9),
            ("recovery_connections", |t| t.recovery_connections = 99),
            ("grey_percent", |t| t.grey_percent = 101),
        ];
        for (name, change) in rows {
            let mut tuning = Tuning::default();
            change(&mut tuning);
            let why = tuning.check().expect_err(name);
            assert!(why.starts_with(name), "{name}: {why}");
        }
    }
}
