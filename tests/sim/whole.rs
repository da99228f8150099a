//! The real store, journal, linkage and core against two simulated regions (`src/bin/sim`): a few histories of each kind. `scripts/soak` runs a
//! hundred thousand, each named story a thousand times, and takes every defence away.

use std::process::{Command, Output};

fn sim(args: &[&str]) -> (Output, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the simulation runs");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out, text)
}

fn clean(args: &[&str]) -> String {
    let (out, text) = sim(args);
    assert!(out.status.success(), "{args:?}:\n{text}");
    text
}

#[test]
fn the_same_seed_is_the_same_history() {
    let traces = || {
        let text = clean(&["--seeds", "6", "--each"]);
        text.lines().filter(|l| l.contains("trace")).map(String::from).collect::<Vec<_>>()
    };
    let (one, two) = (traces(), traces());
    assert_eq!(one, two);
    assert_eq!(one.len(), 6);
}

#[test]
fn any_histories() {
    clean(&["--from", "6", "--seeds", "12"]);
}

/// Seeds that showed a flaw once, in the program or in the simulation.
#[test]
fn histories_that_once_had_a_flaw() {
    for seed in REPLAYED {
        clean(&["--from", seed, "--seeds", "1"]);
    }
}

const REPLAYED: [&str; 21] = [
    "42", "52", "57", "65", "72", "82", "92", "1471", "1687", "1969", "2147", "2530", "2584", "3110", "4455", "4509",
    "4604", "4610", "4887", "6304", "7182",
];

/// One story of each name; the slow ones are half an hour each.
macro_rules! scenes {
    ($($test:ident: $name:literal, $seeds:literal;)*) => {$(
        #[test]
        fn $test() {
            clean(&["--scene", $name, "--seeds", $seeds]);
        }
    )*};
}

scenes! {
    slow_down_for_ten_minutes_moves_nobody: "slow-down", "2";
    a_clock_that_jumps_moves_nobody: "skew", "4";
    denials_move_nobody: "denied", "4";
    corrupt_bodies_move_nobody: "corrupt", "4";
    the_loss_of_the_local_network_moves_nobody: "local-network", "4";
    a_blackout_each_minute_moves_nobody: "blackouts", "1";
    a_storm_of_missing_names_moves_nobody: "not-found-storm", "2";
    a_region_lost_for_good_loses_nothing: "lost-for-good", "6";
    a_region_back_with_a_backlog_converges: "back-with-backlog", "6";
    a_flapping_region_is_left_alone: "flapping", "1";
}

/// The checkers see what is missing. All of them: `scripts/soak`.
#[test]
fn defences_taken_away_are_missed() {
    for defence in ["journal", "not-found-rule", "overtaken", "drained-failback"] {
        let (out, text) = sim(&["--mutant", defence, "--seeds", "200"]);
        assert!(!out.status.success() && text.contains("with a flaw"), "nobody misses {defence}:\n{text}");
    }
}
