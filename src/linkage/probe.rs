//! Active checks: small requests that leave no trace.
//!
//! Reads are checked by HEAD of a sentinel key: it need not exist, a 404 from COS proves life as well as a 200. Writes are checked by starting and
//! aborting a multipart upload of the same key: it takes the way of a write through the service, but unlike a PUT it leaves no
//! version behind. If the abort is lost with the linkage, an empty unfinished upload remains, which holds no data; the bucket's
//! lifecycle rule removes it.
//!
//! Owns: what a probe sends and how long it may take. Owns not: when (`failover/detector`).

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Way, attempt, outcome};
use crate::cos::{Attempt, Deadlines, Error, Progress};
use crate::failover::{Event, Outcome};
use crate::object::{Class, Headers, Key};

/// A probe is pointless once it is late; these only bound how long its connection is kept.
const DEADLINES: Deadlines =
    Deadlines { connect: Duration::from_secs(2), first_byte: Duration::from_secs(3), progress: Duration::from_secs(2) };

/// One probe, as the core asked for it.
#[derive(Debug)]
pub(super) struct Probe {
    pub id: u64,
    pub class: Class,
    pub fresh_connection: bool,
    pub alternate_domain: bool,
    pub overdue_after: Duration,
}

/// Sends it and reports to the driver: overdue, if it is, and the end.
pub(super) async fn run(probe: Probe, way: Way, sentinel: Key, reports: mpsc::Sender<Event>) {
    let (id, client) = (probe.id, &way.client);
    let alternate = client.is_alternate(probe.alternate_domain);
    let progress = Progress::new();
    let at = Attempt {
        deadlines: DEADLINES,
        progress: &progress,
        fresh_connection: probe.fresh_connection,
        alternate_domain: probe.alternate_domain,
    };
    let request = async {
        match probe.class {
            Class::Read => client.head(&sentinel, None, &at).await.map(|_| None),
            Class::Write => client.initiate(&sentinel, &Headers::default(), None, &at).await.map(Some),
        }
    };
    let result = {
        let overdue = attempt::overdue(&progress, probe.overdue_after);
        tokio::pin!(request, overdue);
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                result = &mut request => break result,
                () = &mut overdue, if !told => {
                    told = true;
                    way.told(alternate, None);
                    let _ = reports.send(Event::AttemptOverdue { id }).await;
                }
            }
        }
    };
    let outcome = result.as_ref().map_or_else(outcome::of_error, |_| Outcome::Good);
    way.told(alternate, Some(outcome));
    log::trace!(
        "probe {id:x} {:?}: {outcome:?} {}",
        probe.class,
        result.as_ref().err().map_or_else(String::new, Error::to_string)
    );
    // The driver is gone only when the mount ends.
    let _ = reports.send(Event::AttemptEnded { id, outcome, first_byte: progress.waited() }).await;
    if let Ok(Some(upload)) = result {
        let progress = Progress::new();
        let at = Attempt { progress: &progress, ..at };
        if let Err(error) = client.abort(&sentinel, &upload, &at).await {
            log::debug!("a write probe's unfinished upload remains: {error}");
        }
    }
}
