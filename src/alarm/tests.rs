use std::collections::BTreeSet;

use serde_json::json;

use super::watch::{Sight, sightings};
use super::*;
use crate::failover::{Core, Health, Start, State, Time, Tuning, View};
use crate::journal;
use crate::object::{Epoch, Site};

fn view() -> View {
    Core::new(Tuning::default(), Time::ZERO, Start { epoch: Epoch(0), master: Site::A }).view()
}

fn sight(view: &View) -> Sight<'_> {
    Sight {
        view,
        journal: journal::Stats { limit: 100, ..journal::Stats::default() },
        lag: [0.0; 2],
        ambiguous: None,
        conflict: None,
        missing: [0; 2],
        clock_ms: 0,
        preflight: &[],
        credentials: None,
        origin: None,
    }
}

fn seen(sight: &Sight<'_>) -> Vec<&'static str> {
    sightings(sight).iter().map(|s| s.event.name()).collect()
}

#[test]
fn a_well_mount_raises_nothing() {
    assert!(seen(&sight(&view())).is_empty());
}

#[test]
fn each_condition_has_its_alarm() {
    type Break = fn(&mut View);
    let views: [(Break, &[&str]); 7] = [
        (|v| v.linkages[1][0].health = Health::Suspect, &["suspect"]),
        (|v| v.linkages[1][0].health = Health::Throttled, &[]),
        (|v| v.master = Site::B, &["switch"]),
        (|v| v.latched = true, &["latched"]),
        (|v| v.state = State::BothDown, &["both_down"]),
        (|v| v.state = State::LocalOutage, &["local_outage"]),
        (|v| v.linkages[0][1].health = Health::AdminFault, &["auth"]),
    ];
    for (change, expect) in views {
        let mut view = view();
        change(&mut view);
        assert_eq!(seen(&sight(&view)), expect, "{view:?}");
    }
    let mut quarantined = view();
    quarantined.linkages[0][0].quarantined = true;
    assert_eq!(seen(&sight(&quarantined)), ["corrupt"]);

    let view = view();
    let findings = vec!["versioning is off".to_string()];
    let rows: Vec<(Sight<'_>, &[&str])> = vec![
        (Sight { lag: [59.0, 0.0], ..sight(&view) }, &[]),
        (Sight { lag: [0.0, 61.0], ..sight(&view) }, &["lag"]),
        (Sight { lag: [901.0, 0.0], ..sight(&view) }, &["lag", "lag_long"]),
        (
            Sight { journal: journal::Stats { bytes: 81, limit: 100, ..Default::default() }, ..sight(&view) },
            &["journal"],
        ),
        (Sight { ambiguous: Some(Duration::from_secs(601)), ..sight(&view) }, &["ambiguous"]),
        (Sight { conflict: Some("f".into()), ..sight(&view) }, &["conflict"]),
        (Sight { missing: [0, 3], ..sight(&view) }, &["coverage"]),
        (Sight { clock_ms: -5001, ..sight(&view) }, &["clock"]),
        (Sight { credentials: Some("gone".into()), ..sight(&view) }, &["auth"]),
        (Sight { preflight: &findings, ..sight(&view) }, &["preflight"]),
        (Sight { origin: Some("down".into()), ..sight(&view) }, &["origin"]),
    ];
    for (sight, expect) in rows {
        assert_eq!(seen(&sight), expect);
    }
}

#[test]
fn names_are_unique_and_the_manual_lists_them() {
    let names: BTreeSet<&str> = Event::ALL.iter().map(|event| event.name()).collect();
    assert_eq!(names.len(), Event::ALL.len());
    let page = include_str!("../../docs/operations.md");
    let (_, page) = page.split_once("## Alarms").expect("the manual has a chapter on alarms");
    for event in Event::ALL {
        let line = page.lines().find(|line| line.starts_with(&format!("| `{}` |", event.name())));
        let line = line.unwrap_or_else(|| panic!("docs/operations.md has no line for {}", event.name()));
        let about = event.about();
        assert!(line.contains(about.trim_end_matches('.')), "{line}\nshould say: {about}");
    }
}

#[tokio::test]
async fn a_channel_that_hangs_holds_nobody_up() {
    // A program that never ends and never reads: the queue fills, the rest is counted.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("hang");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = config::Alarm { exec: Some(program), clear_after: Duration::ZERO, ..config::Alarm::default() };
    let alarms = Alarms::new(&config, "/mnt", &Handle::current()).unwrap();
    let began = std::time::Instant::now();
    for _ in 0..QUEUE {
        alarms.see(&[Sighting::new(Event::Switch, "x", json!({}))]);
        // Cleared one at a time: the doubling of the hold applies to zero as well.
        alarms.see(&[]);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let (raised, channels) = alarms.tally();
    assert_eq!(raised[&Event::Switch], QUEUE as u64);
    assert!(channels["exec"].dropped > 0, "{channels:?}");
}

#[tokio::test]
async fn an_exec_gets_words_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let (program, out) = (dir.path().join("note"), dir.path().join("out"));
    let text = format!("#!/bin/sh\n(echo \"$1 $2 $COSSECRET\"; cat; echo) >> {}\n", out.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = config::Alarm { exec: Some(program), clear_after: Duration::ZERO, ..config::Alarm::default() };
    let alarms = Alarms::new(&config, "/mnt", &Handle::current()).unwrap();
    alarms.see(&[Sighting::new(Event::BothDown, "dark", json!({"a": 1}))]);
    alarms.see(&[]);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while alarms.tally().1.get("exec").is_none_or(|tally| tally.delivered < 2) {
        assert!(std::time::Instant::now() < end, "{:?}", alarms.tally());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let text = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), ("both_down raised ", "both_down cleared "), "{text}");
    let [raised, cleared]: [serde_json::Value; 2] = [1, 3].map(|n| serde_json::from_str(lines[n]).unwrap());
    assert_eq!(
        (&raised["event"], &raised["phase"], &raised["evidence"]),
        (&json!("both_down"), &json!("raised"), &json!({"a": 1}))
    );
    assert_eq!((&cleared["phase"], &cleared["id"]), (&json!("cleared"), &raised["id"]));
}
