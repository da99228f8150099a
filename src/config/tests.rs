use std::os::unix::fs::PermissionsExt;

use super::load::Override;
use super::*;

const GOOD: &str = r#"
[a]
bucket = "master-1250000000"
region = "ap-guangzhou"
endpoint = "http://127.0.0.1:9100"
[b]
bucket = "slave-1250000000"
region = "ap-shanghai"
endpoint = "http://127.0.0.1:9101"
[credentials]
secret_id = "AKIDEXAMPLE"
secret_key = "key-that-must-not-show"
"#;

fn load_text(text: &str) -> Result<Config, String> {
    load_with(text, 0o600, &[])
}

fn load_with(text: &str, mode: u32, overrides: &[Override]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    load(Some(&path), overrides).map_err(|error| error.to_string().replace(&dir.path().display().to_string(), ""))
}

fn option(section: &'static str, key: &str, text: &str) -> Override {
    Override { typed: format!("-o {section}.{key}"), section, key: key.into(), raw: Raw::Text(text.into()) }
}

#[test]
fn a_minimal_file_is_enough() {
    let config = load_text(GOOD).unwrap();
    assert_eq!(config.a.bucket, "master-1250000000");
    assert_eq!(config.mount.commit, Commit::OneRegion);
    assert_eq!(config.mount.max_stall, Duration::from_secs(30));
    assert_eq!(config.cache.size, Size::gib(10));
    assert_eq!(config.failover, Tuning::default());
}

#[test]
fn complaints_name_line_and_cure() {
    let rows = [
        (
            "[mount]\ncomit = \"journal\"\n",
            "/x.toml:2: unknown name `comit` in section [mount]; did you mean `commit`?",
        ),
        ("[mount]\nwombat = 1\n", "/x.toml:2: unknown name `wombat` in section [mount]"),
        ("[cahce]\n", "/x.toml:1: unknown section [cahce]; did you mean [cache]?"),
        ("[wombat]\n", "/x.toml:1: unknown section [wombat]; there are [a], [b], [credentials]"),
        ("\ncommit = \"journal\"\n", "/x.toml:2: `commit` stands outside of a section"),
        ("[mount]\n\ncommit = \"jurnal\"\n", "/x.toml:3: `commit`: expected one of journal, one-region, two-regions"),
        ("[mount]\nmax_stall = 30\n", "/x.toml:2: `max_stall`: expected a duration with its unit"),
        ("[mount]\nmetadata_ttl = 1.5\n", "/x.toml:2: `metadata_ttl`: expected a duration with its unit"),
        ("[cache]\nsize = \"lots\"\n", "/x.toml:2: `size`: expected a size such as"),
        ("[cache]\nsize = -1\n", "/x.toml:2: `size`: expected a size such as"),
        ("[cache]\ndir = \"here\"\n", "/x.toml:2: `dir`: expected an absolute path"),
        ("[mount]\nread_only = \"maybe\"\n", "/x.toml:2: `read_only`: expected true or false"),
        ("[mount]\nread_only = [true]\n", "/x.toml:2: `read_only`: expected true or false"),
        ("[mount\n", "/x.toml:1: "),
        ("[mount]\nread_only = true\nread_only = false\n", "/x.toml:3: "),
    ];
    for (text, expect) in rows {
        let error = load_text(text).unwrap_err();
        assert!(error.starts_with(expect), "{text:?} gave {error:?}");
    }
}

#[test]
fn checks_across_options() {
    let rows = [
        ("", "[a]", "[c]", "unknown section [c]"),
        ("", "master-1250000000", "", "the first bucket is not named"),
        ("", "master-1250000000", "master", "lacks the account number"),
        ("", "region = \"ap-shanghai\"", "", "the second bucket has no region"),
        ("", "http://127.0.0.1:9101", "http://127.0.0.1:9100", "same endpoint"),
        ("", "http://127.0.0.1:9101", "ftp://x", "[b] endpoint"),
        ("", "http://127.0.0.1:9101", "http://x/y", "[b] endpoint"),
        ("", "secret_id = \"AKIDEXAMPLE\"", "", "must be given together"),
        ("[mount]\nmax_stall = \"1s\"", "", "", "must be 5s to 100s"),
        ("[mount]\nmax_stall = \"3m\"", "", "", "must be 5s to 100s"),
        ("[mount]\nmax_stall = \"5s\"\n[failover]\nconfirm = \"4s\"", "", "", "at most half of max_stall"),
        ("[failover]\nconfirm = \"0s\"", "", "", "[failover] confirm must be at least"),
        ("[cache]\nsize = \"1MiB\"", "", "", "at least 16MiB"),
        ("[cache]\ndir = \"/x\"\n[journal]\ndir = \"/x\"", "", "", "must differ"),
        ("[mount]\nprefix = \"a/../b\"", "", "", "[mount] prefix"),
    ];
    for (more, from, to, expect) in rows {
        let text = if from.is_empty() { GOOD.to_string() } else { GOOD.replacen(from, to, 1) } + more;
        let error = load_text(&text).unwrap_err();
        assert!(error.contains(expect), "{more:?} {from:?} -> {to:?} gave {error:?}");
    }
    let same = GOOD.replace("slave-", "master-").replace("ap-shanghai", "ap-guangzhou");
    assert!(load_text(&same).unwrap_err().contains("are the same bucket"));
}

#[test]
fn a_file_with_secrets_must_be_private() {
    for mode in [0o644, 0o604, 0o666, 0o602] {
        let error = load_with(GOOD, mode, &[]).unwrap_err();
        assert!(error.contains("chmod 600"), "{mode:o}: {error}");
    }
    for mode in [0o600, 0o640, 0o400] {
        assert!(load_with(GOOD, mode, &[]).is_ok(), "{mode:o}");
    }
    let without: String = GOOD.split("[credentials]").take(1).collect();
    assert!(load_with(&without, 0o644, &[]).is_ok(), "no secret, nothing to hide");
}

#[test]
fn secrets_never_show() {
    let config = load_text(GOOD).unwrap();
    assert!(!format!("{config:?}").contains("key-that-must-not-show"));
    let wrong = GOOD.replace("secret_key = \"key-that-must-not-show\"", "secret_key = 777000");
    assert!(!load_text(&wrong).unwrap_err().contains("777000"));
}

#[test]
fn the_command_line_beats_the_file() {
    let overrides = [option("mount", "commit", "two-regions"), option("cache", "size", "1GiB")];
    let text = format!("{GOOD}[mount]\ncommit = \"journal\"\n");
    let config = load_with(&text, 0o600, &overrides).unwrap();
    assert_eq!(config.mount.commit, Commit::TwoRegions);
    assert_eq!(config.cache.size, Size::gib(1));

    let error = load_with(GOOD, 0o600, &[option("cache", "sise", "1")]).unwrap_err();
    assert_eq!(error, "option -o cache.sise: unknown name `sise` in [cache]; did you mean `size`?");
}

#[test]
fn each_pair_of_buckets_and_prefix_has_its_own_folders() {
    let base = load_text(GOOD).unwrap();
    let mut names = vec![base.identity()];
    for (section, key, value) in [
        ("mount", "prefix", "x"),
        ("a", "bucket", "other-1"),
        ("b", "bucket", "other-1"),
        ("b", "region", "ap-beijing"),
    ] {
        let mut config = base.clone();
        config.set(section, key, &Raw::Text(value.into())).unwrap();
        config.check().unwrap();
        names.push(config.identity());
    }
    let mut moved = base.clone();
    moved.set("a", "endpoint", &Raw::Text("http://elsewhere:1".into())).unwrap();
    assert_eq!(moved.identity(), base.identity(), "another way to the same bucket is the same mount");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
}

#[test]
fn every_default_is_valid_where_it_would_be_written() {
    let mut config = Config::default();
    for (section, fields) in [
        ("mount", Mount::fields()),
        ("cache", Cache::fields()),
        ("journal", Journal::fields()),
        ("cdn", Cdn::fields()),
        ("origin", Origin::fields()),
        ("alarm", Alarm::fields()),
        ("log", Log::fields()),
    ] {
        for field in fields {
            if let Some(default) = field.default {
                assert_eq!(config.set(section, field.name, &Raw::Text(default.clone())), Ok(()), "{}", field.name);
            }
        }
    }
    assert_eq!(config, Config::default());
}

#[test]
fn thresholds_are_options_like_any_other() {
    let text = format!("{GOOD}[failover]\nfailback = \"auto\"\nbad_min = 4\nadmin_failover = true\nconfirm = \"4s\"\n");
    let tuning = load_text(&text).unwrap().failover;
    assert_eq!(tuning.failback, crate::failover::FailbackMode::Auto);
    assert_eq!((tuning.bad_min, tuning.admin_failover, tuning.confirm), (4, true, Duration::from_secs(4)));
    let typed = [option("failover", "bad_min", "5"), option("failover", "admin_failover", "true")];
    let tuning = load_with(GOOD, 0o600, &typed).unwrap().failover;
    assert_eq!((tuning.bad_min, tuning.admin_failover), (5, true));
    let rows = [
        ("confrim = \"4s\"", "/x.toml:2: unknown name `confrim` in section [failover]; did you mean `confirm`?"),
        ("confirm = 4", "/x.toml:2: `confirm`: expected a text such as"),
        ("confirm = \"4 parsecs\"", "/x.toml:2: `confirm`: "),
        ("failback = \"maybe\"", "/x.toml:2: `failback`: unknown variant `maybe`, expected `manual` or `auto`"),
        ("bad_min = -1", "/x.toml:2: `bad_min`: expected a number"),
        ("defences = {}", "/x.toml:2: unknown name `defences`"),
    ];
    for (line, expect) in rows {
        let error = load_text(&format!("[failover]\n{line}\n")).unwrap_err();
        assert!(error.starts_with(expect), "{line:?} gave {error:?}");
    }
}

/// The reference part of `docs/configuration.md`.
fn manual() -> String {
    let sections: [(&str, String, Vec<Field>); 10] = [
        ("[a] and [b]", Bucket::about(), Bucket::fields()),
        ("[credentials]", Credentials::about(), Credentials::fields()),
        ("[mount]", Mount::about(), Mount::fields()),
        ("[cache]", Cache::about(), Cache::fields()),
        ("[journal]", Journal::about(), Journal::fields()),
        ("[cdn]", Cdn::about(), Cdn::fields()),
        ("[origin]", Origin::about(), Origin::fields()),
        ("[alarm]", Alarm::about(), Alarm::fields()),
        ("[metrics]", Metrics::about(), Metrics::fields()),
        ("[log]", Log::about(), Log::fields()),
    ];
    let mut text = String::new();
    for (name, about, fields) in sections {
        text.push_str(&format!("## {name}\n\n{about}\n\n"));
        for field in fields {
            let default = match (field.name, field.default) {
                // Depends on who asks; the text says how.
                ("dir", _) if name == "[cache]" => "; default `/var/cache/cosfs-ha`".into(),
                ("dir", _) => "; default `/var/lib/cosfs-ha`".into(),
                (_, Some(default)) => format!("; default `{default}`"),
                (_, None) => String::new(),
            };
            text.push_str(&format!("**`{}`** ({}{default})\n{}\n\n", field.name, field.kind, field.doc));
        }
    }
    text.push_str(
        "## [failover]\n\nWhen the mount moves from one bucket to the other. failover.md explains the rules.\n\n",
    );
    text + &tuning_manual()
}

/// The thresholds document themselves in their own file, defaults included.
fn tuning_manual() -> String {
    let source = include_str!("../failover/tuning.rs");
    let start = source.find("pub struct Tuning {").expect("the struct is there");
    let end = start + source[start..].find("\n}").expect("the struct ends");
    let (mut text, mut doc, mut hidden) = (String::new(), Vec::new(), false);
    for line in source[start..end].lines().skip(1).map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            doc.push(words.trim());
        } else if line.starts_with("#[serde(skip") {
            hidden = true;
        } else if let Some(name) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')).map(|(name, _)| name)
        {
            if !hidden {
                text.push_str(&format!("**`{name}`**\n{}\n\n", doc.join("\n")));
            }
            doc.clear();
            hidden = false;
        }
    }
    text
}

/// `UPDATE_DOCS=1 cargo test manual` rewrites the page.
#[test]
fn the_manual_page_is_the_manual() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, _) = page.split_once("## [a] and [b]").expect("the page has the reference part");
    let expect = format!("{head}{}", manual());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, expect).unwrap();
    } else {
        assert!(
            page == expect,
            "docs/configuration.md is not what src/config.rs says; run UPDATE_DOCS=1 cargo test manual"
        );
    }
}
