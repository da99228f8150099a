//! `cosfs-ha emulator`: two COS regions, a CDN and an origin on this machine, to try things on and to rehearse outages.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Exit, Failure};
use crate::emulator::{BUCKETS, CDN_DOMAIN, Emulator, Options, Place, SECRET_ID, SECRET_KEY};
use crate::object::Site;

/// Runs two COS regions on this machine, a CDN and an origin, with replication and faults on demand.
///
/// Region A listens on PORT, region B on PORT+1, the CDN before region A on PORT+2, the origin on PORT+3, the admin interface on PORT+9; each port
/// speaks HTTP and TLS. Black-hole region A with:
/// curl -X PUT http://127.0.0.1:9109/v1/faults/a -d '[{"kind":"blackhole"}]', and heal it with '[]'.
#[derive(clap::Args, Debug)]
pub struct EmulatorArgs {
    /// First port; 0 picks free ports.
    #[arg(long, value_name = "PORT", default_value_t = 9100)]
    port: u16,
    /// Keep the objects in this folder, default in memory.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Start with new buckets: no versioning, no replication.
    #[arg(long)]
    unconfigured: bool,
    /// Write a configuration for `cosfs-ha mount` to this file.
    #[arg(long, value_name = "FILE")]
    write_config: Option<PathBuf>,
    /// Write the certificate authority of this run to this file, and let the configuration use https. Clients trust it with
    /// SSL_CERT_FILE=FILE in their environment.
    #[arg(long, value_name = "FILE")]
    write_ca: Option<PathBuf>,
    /// How long each object takes to reach the other region, in milliseconds.
    #[arg(long, value_name = "N", default_value_t = 200)]
    lag_ms: u64,
    /// Seed of all that happens by chance (fault probabilities, reordering).
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

pub fn run(args: &EmulatorArgs) -> Result<Exit, Failure> {
    let fail = |message: String| Failure::new(Exit::Failure, message);
    let options = Options {
        port: args.port,
        data: args.data.clone(),
        unconfigured: args.unconfigured,
        lag: Duration::from_millis(args.lag_ms),
        seed: args.seed,
    };
    // The logger may have been set up by the command line already.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).try_init();
    let emulator = Emulator::start(options).map_err(|e| fail(e.to_string()))?;
    if let Some(path) = &args.write_ca {
        let authority = emulator.authority().map_err(|e| fail(e.to_string()))?;
        std::fs::write(path, authority).map_err(|e| fail(format!("{}: {e}", path.display())))?;
    }
    let config = config(&emulator, args.write_ca.is_some());
    if let Some(path) = &args.write_config {
        write_private(path, &config).map_err(|e| fail(format!("{}: {e}", path.display())))?;
    }
    print!("{}", served(&emulator, args));
    println!("\n{config}");
    println!(
        "emulator ready a={} b={} cdn={} origin={} admin={}",
        emulator.address(Place::A),
        emulator.address(Place::B),
        emulator.address(Place::Cdn),
        emulator.address(Place::Origin),
        emulator.admin()
    );
    let _ = std::io::stdout().flush();
    wait_for_signal().map_err(|e| fail(format!("signals: {e}")))?;
    emulator.stop();
    Ok(Exit::Ok)
}

/// Holds the (published, worthless) keys, but the mount refuses files with keys that everybody may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// What is served where, for people.
fn served(emulator: &Emulator, args: &EmulatorArgs) -> String {
    let mut text = String::new();
    for site in Site::ALL {
        let (bucket, region) = BUCKETS[site.index()];
        text += &format!("region {site}   {}  {bucket}.cos.{region}.myqcloud.com\n", emulator.endpoint(site));
    }
    text += &format!("cdn        {}  {CDN_DOMAIN}, in front of region a\n", emulator.endpoint(Place::Cdn));
    text += &format!("origin     {}  plain HTTP: GET, HEAD, PUT, DELETE\n", emulator.endpoint(Place::Origin));
    text += &format!("admin      http://{}  /v1/state, /v1/faults/a, /v1/replication, /v1/cdn\n", emulator.admin());
    let setup = if args.unconfigured { "no versioning, no replication" } else { "versioning, replication both ways" };
    text += &format!("buckets    {setup}; replication takes {} ms\n", args.lag_ms);
    let place = args.data.as_ref().map_or_else(|| "in memory".to_owned(), |dir| format!("in {}", dir.display()));
    text += &format!("objects    {place}\n");
    if let Some(path) = &args.write_ca {
        text += &format!("authority  {} (SSL_CERT_FILE)\n", path.display());
    }
    text + &format!("seed       {}\n", args.seed)
}

fn config(emulator: &Emulator, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    let endpoint = |place: Place| format!("{scheme}://{}", emulator.address(place));
    let mut text = String::new();
    for site in Site::ALL {
        let (bucket, region) = BUCKETS[site.index()];
        let endpoint = endpoint(site.into());
        text += &format!("[{site}]\nbucket = \"{bucket}\"\nregion = \"{region}\"\nendpoint = \"{endpoint}\"\n\n");
    }
    text += &format!("[cdn]\ndomain = \"{CDN_DOMAIN}\"\nendpoint = \"{}\"\n\n", endpoint(Place::Cdn));
    text += &format!("[origin]\nurl = \"{}/\"\n\n", endpoint(Place::Origin));
    text + &format!("[credentials]\nsecret_id = \"{SECRET_ID}\"\nsecret_key = \"{SECRET_KEY}\"\n")
}

fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
