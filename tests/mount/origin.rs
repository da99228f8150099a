//! The external origin: hot files survive both buckets there, writes are kept there and replayed, and it never takes more than its share.

use std::fs;
use std::time::{Duration, Instant};

use cosfs_ha::emulator::{SECRET_ID, SECRET_KEY};
use cosfs_ha::object::Site;

use serde_json::json;

use crate::common::{Bench, Emulator, Setup, bytes, cosfs, http, wait_until};

fn endpoint(emulator: &Emulator) -> String {
    emulator.state()["sites"]["origin"]["endpoint"].as_str().unwrap().to_string()
}

/// Key and size of everything at the origin.
fn there(emulator: &Emulator) -> Vec<(String, u64)> {
    let state = emulator.state();
    let objects = state["sites"]["origin"]["objects"].as_array().unwrap();
    objects.iter().map(|o| (o["key"].as_str().unwrap().into(), o["size"].as_u64().unwrap())).collect()
}

fn received(emulator: &Emulator) -> u64 {
    emulator.state()["sites"]["origin"]["bytes_in"].as_u64().unwrap()
}

#[test]
fn with_both_buckets_dark_hot_files_are_read_and_new_ones_kept() {
    let emulator = Emulator::start();
    let endpoint = endpoint(&emulator);
    let hot_for = |window: &str| {
        format!(
            "[origin]\nurl = \"{endpoint}/\"\nwrite = true\nhot_window = \"{window}\"\n[mount]\nmax_stall = \"10s\"\n"
        )
    };
    let config = hot_for("1h");
    let mut bench = Bench::on(emulator, Setup { config, ..Setup::default() });
    let (hot, new) = (bytes(1, 2_500_000), bytes(2, 700_000));
    fs::write(bench.path("hot file"), &hot).unwrap();
    fs::write(bench.path("goes"), b"away").unwrap();
    wait_until("copies are there", Duration::from_secs(20), || there(&bench.emulator).len() == 2);
    fs::remove_file(bench.path("goes")).unwrap();
    wait_until("what is deleted goes there, too", Duration::from_secs(20), || {
        there(&bench.emulator) == [("hot file".to_string(), 2_500_000)]
    });
    bench.settle();
    bench.empty_cache();
    bench.shell("ls -l");

    bench.emulator.black_hole("a");
    bench.emulator.black_hole("b");
    let began = Instant::now();
    assert!(fs::read(bench.path("hot file")).unwrap() == hot);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    wait_until("the mount knows", Duration::from_secs(30), || {
        ["both_down", "local_outage"].contains(&bench.status()["state"].as_str().unwrap())
    });
    let began = Instant::now();
    fs::write(bench.path("in the dark"), &new).unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "no need to wait for max_stall: {:?}", began.elapsed());
    assert!(there(&bench.emulator).contains(&("in the dark".into(), 700_000)));
    assert!(fs::read(bench.path("in the dark")).unwrap() == new);
    assert!(bench.status()["journal"]["unsent"].as_u64().unwrap() >= 1);

    bench.emulator.heal("a");
    bench.emulator.heal("b");
    bench.settle();
    for site in Site::ALL {
        assert!(bench.emulator.bucket(site).get("in the dark").is_some_and(|found| found == new), "bucket {site}");
        assert!(bench.emulator.bucket(site).get("hot file").is_some_and(|found| found == hot), "bucket {site}");
    }
    assert_eq!(there(&bench.emulator).len(), 2, "still hot");
    assert_eq!(bench.umount().status.code(), Some(0));
    bench.setup.config = hot_for("3s");
    bench.mount();
    wait_until("nothing is hot any more", Duration::from_secs(30), || there(&bench.emulator).is_empty());
}

#[test]
fn copying_keeps_to_its_bandwidth_and_stops_nobody() {
    const RATE: u64 = 1 << 20;
    let emulator = Emulator::start();
    let config = format!(
        "[origin]\nurl = \"{}/\"\nwrite = true\nbandwidth = \"1MiB/s\"\nbacklog = \"60MiB\"\n",
        endpoint(&emulator)
    );
    let bench = Bench::on(emulator, Setup { config, ..Setup::default() });
    let began = Instant::now();
    for n in 0..12 {
        fs::write(bench.path(&format!("large {n}")), bytes(n, 4 << 20)).unwrap();
    }
    let wrote = began.elapsed();
    assert!(wrote < Duration::from_secs(30), "writers do not wait for copies: {wrote:?}");
    wait_until("copying has begun", Duration::from_secs(20), || received(&bench.emulator) > RATE);
    let (before, began) = (received(&bench.emulator), Instant::now());
    std::thread::sleep(Duration::from_secs(30));
    let sent = (received(&bench.emulator) - before) as f64;
    let allowed = RATE as f64 * began.elapsed().as_secs_f64();
    assert!((sent / allowed - 1.0).abs() <= 0.1, "{sent} bytes where {allowed} are allowed");
}

#[test]
fn what_reached_neither_bucket_is_found_where_b_redirects_to() {
    let emulator = Emulator::start();
    let (bucket_a, endpoint) = (emulator.bucket(Site::A), endpoint(&emulator));
    // The mount knows another folder of that server, and its host; only the redirect of B leads to the right one.
    let config = format!("[origin]\nurl = \"{endpoint}/nothing/\"\n[mount]\nmax_stall = \"8s\"\n");
    let bench = Bench::on(emulator, Setup { config, ..Setup::default() });
    let file = bench.dir().join("cosfs-ha.toml").display().to_string();
    let made = cosfs(&["provision", "--config", &file, "--origin-pull", &format!("{endpoint}/hot/")]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stdout.contains("bucket b: origin set"), "{}", made.stdout);

    // Another host writes in A, and nothing of it gets over to B. Ours has seen the file and read nothing of it.
    bench.emulator.replication(json!({"a_to_b": {"stalled": true}}));
    let (old, new) = ("old ".repeat(500_000), "new ".repeat(500_000));
    bucket_a.put("late", new.clone());
    assert_eq!(fs::metadata(bench.path("late")).unwrap().len(), 2_000_000);
    bench.emulator.black_hole("a");
    bench.wait_state("on_slave", Duration::from_secs(20));

    let port = endpoint.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    let place = |content: &str| assert!(http("PUT", port, "/hot/late", content).unwrap().0 < 300);
    place(&old);
    let shown = fs::read(bench.path("late"));
    assert!(shown.is_err(), "content of another version was shown");
    place(&new);
    // A read that follows a failed one is answered at once.
    wait_until("the right content is found", Duration::from_secs(20), || {
        fs::read_to_string(bench.path("late")).is_ok_and(|shown| shown == new)
    });
    assert_eq!(bench.status()["state"], "on_slave", "a redirect is no sign of illness");
}

/// `place` is the address in section `[origin]` and what else belongs there; `holds` tells the names of what lies there.
fn hot_files_lie_at(place: &str, holds: impl Fn() -> Vec<String>) {
    let config = format!("[origin]\nwrite = true\n{place}[mount]\nmax_stall = \"10s\"\n");
    let mut bench = Bench::with(Setup { config, ..Setup::default() });
    // One goes there at once, the other in parts.
    let (small, large) = (bytes(1, 300_000), bytes(2, 20_000_000));
    fs::create_dir(bench.path("d")).unwrap();
    fs::write(bench.path("d/small one"), &small).unwrap();
    fs::write(bench.path("large"), &large).unwrap();
    fs::write(bench.path("goes"), b"away").unwrap();
    wait_until("copies are there", Duration::from_secs(30), || holds().len() == 3);
    fs::remove_file(bench.path("goes")).unwrap();
    wait_until("what is deleted goes there, too", Duration::from_secs(30), || {
        let mut names = holds();
        names.sort();
        names == ["d/small one", "large"]
    });
    bench.settle();
    bench.empty_cache();
    bench.shell("ls -lR");
    bench.emulator.black_hole("a");
    bench.emulator.black_hole("b");
    assert!(fs::read(bench.path("d/small one")).unwrap() == small);
    assert!(fs::read(bench.path("large")).unwrap() == large);
    bench.emulator.heal("a");
    bench.emulator.heal("b");
}

#[test]
fn a_bucket_of_another_cloud_can_be_the_origin() {
    let other = Emulator::start();
    let keys = format!("access_key = \"{SECRET_ID}\"\nsecret_key = \"{SECRET_KEY}\"\n");
    let place = format!(
        "url = \"s3://master-1250000000/backup\"\nregion = \"ap-guangzhou\"\nendpoint = \"http://127.0.0.1:{}\"\n{keys}",
        other.ports[0]
    );
    hot_files_lie_at(&place, || {
        other.objects("a").into_keys().filter_map(|key| Some(key.strip_prefix("backup/")?.to_string())).collect()
    });
}

#[test]
fn a_folder_of_this_host_can_be_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("url = \"file://{}\"\n", dir.path().display());
    hot_files_lie_at(&place, || {
        let output =
            std::process::Command::new("find").args([".", "-type", "f"]).current_dir(dir.path()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim_start_matches("./").to_string()).collect()
    });
}
