//! The core must stay pure: its source is read, and every door to the outside world is a finding.

use std::path::Path;

/// Word, why not.
const BANNED: [(&str, &str); 14] = [
    ("std::io", "no I/O"),
    ("std::fs", "no I/O"),
    ("std::net", "no I/O"),
    ("std::env", "no environment"),
    ("std::thread", "no threads"),
    ("tokio", "no runtime"),
    ("futures", "no runtime"),
    ("async ", "no runtime"),
    ("Instant", "no clock: time is an argument"),
    ("SystemTime", "no clock: time is an argument"),
    ("rand", "no randomness: jitter comes from counters"),
    ("HashMap", "its order differs from run to run"),
    ("HashSet", "its order differs from run to run"),
    ("log::", "notes are actions; the driver logs"),
];

#[test]
fn core_has_no_door_to_the_outside() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![src.join("failover.rs")];
    for folder in ["failover", "failover/detector"] {
        let entries = std::fs::read_dir(src.join(folder)).expect("folder").map(|entry| entry.expect("entry").path());
        files.extend(entries.filter(|path| path.is_file()));
    }
    assert!(files.len() > 7, "the core has more files than {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("source");
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, why) in BANNED {
                let at = code.find(word);
                let part_of_a_longer_word = at.is_some_and(|at| {
                    code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
                        || word.ends_with(char::is_alphanumeric)
                            && code[at + word.len()..].chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
                });
                assert!(at.is_none() || part_of_a_longer_word, "{}:{}: `{word}`: {why}", file.display(), n + 1);
            }
        }
    }
}

#[test]
fn what_is_released_has_no_virtual_time() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(manifest).expect("manifest").parse().expect("TOML");
    let features = manifest["dependencies"]["tokio"]["features"].as_array().expect("features");
    assert!(!features.iter().any(|feature| feature.as_str() == Some("test-util")), "virtual time in a release");
    assert!(manifest["features"].get("default").is_none(), "no feature is on by itself");
    let bins = manifest["bin"].as_array().expect("programs");
    let sim = bins.iter().find(|bin| bin["name"].as_str() == Some("sim")).expect("sim");
    assert_eq!(sim["required-features"][0].as_str(), Some("simulation"));
}
