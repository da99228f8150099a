//! What both buckets say about themselves, asked side by side and in bounded time.
//!
//! A dead region must cost a mount as little as possible: all questions to both buckets go out together, and once one bucket has answered
//! everything, the other gets [`Patience::grace`] more. What did not come is an error like any other, and no fact.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::cos::{Attempt, Client, Deadlines, Element, Error, Kind, Progress, Resource, Sent};
use crate::object::Site;

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub each: Deadlines,
    /// For the slower bucket, after the faster one has told everything.
    pub grace: Duration,
}

impl Patience {
    /// Somebody waits for a mount, and a bucket that needs longer will be watched by the failover rules soon enough.
    pub const MOUNT: Patience = Patience {
        each: Deadlines {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(3),
            progress: Duration::from_secs(3),
        },
        // A first answer from a bucket on another continent takes five round trips of 0.2 s.
        grace: Duration::from_millis(1500),
    };

    /// Somebody wants to know.
    pub const DOCTOR: Patience = Patience {
        each: Deadlines {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            progress: Duration::from_secs(10),
        },
        grace: Duration::from_secs(20),
    };
}

/// What the mount asks for at its start.
pub const QUICK: &[Resource] = &[Resource::Versioning, Resource::Replication, Resource::Lifecycle, Resource::Origin];

/// And what the doctor asks for in addition.
pub const ALL: &[Resource] =
    &[Resource::Versioning, Resource::Replication, Resource::Lifecycle, Resource::Origin, Resource::Encryption];

/// What one bucket said.
#[derive(Debug)]
pub struct Facts {
    pub site: Site,
    pub bucket: String,
    pub region: String,
    /// `Ok` if it lets us in, with its clock.
    pub door: Result<Option<SystemTime>, Error>,
    /// When the door answered, by our clock.
    pub when: SystemTime,
    /// How long it took.
    pub took: Duration,
    pub settings: BTreeMap<Resource, Result<Option<Element>, Error>>,
}

impl Facts {
    /// A setting, if it is known. `Some(None)`: the bucket has none.
    pub fn known(&self, what: Resource) -> Option<Option<&Element>> {
        self.settings.get(&what)?.as_ref().ok().map(Option::as_ref)
    }
}

/// Asks both buckets.
pub async fn look(clients: &[Client; 2], kinds: &[Resource], patience: &Patience) -> [Facts; 2] {
    let (mut a, mut b) = (
        Box::pin(look_at(&clients[0], Site::A, kinds, patience)),
        Box::pin(look_at(&clients[1], Site::B, kinds, patience)),
    );
    tokio::select! {
        first = &mut a => {
            let second = tokio::time::timeout(patience.grace, &mut b).await;
            let second = second.unwrap_or_else(|_| silent(&clients[1], Site::B, kinds, patience.grace));
            [first, second]
        }
        second = &mut b => {
            let first = tokio::time::timeout(patience.grace, &mut a).await;
            let first = first.unwrap_or_else(|_| silent(&clients[0], Site::A, kinds, patience.grace));
            [first, second]
        }
    }
}

async fn look_at(client: &Client, site: Site, kinds: &[Resource], patience: &Patience) -> Facts {
    let deadlines = patience.each;
    let door = async {
        let (progress, began) = (Progress::new(), tokio::time::Instant::now());
        let answer = client.service_time(&Attempt { deadlines, ..Attempt::new(&progress) }).await;
        (answer, SystemTime::now(), began.elapsed())
    };
    let settings = kinds.iter().map(|what| async move {
        let progress = Progress::new();
        (*what, client.configuration(*what, &Attempt { deadlines, ..Attempt::new(&progress) }).await)
    });
    let ((door, when, took), settings) = tokio::join!(door, futures::future::join_all(settings));
    let address = client.address();
    let (bucket, region) = (address.bucket.clone(), address.region.clone());
    Facts { site, bucket, region, door, when, took, settings: settings.into_iter().collect() }
}

fn silent(client: &Client, site: Site, kinds: &[Resource], waited: Duration) -> Facts {
    let address = client.address();
    let cause = format!("no answer {:.1} s after the other bucket's", waited.as_secs_f64());
    let error = Error::made(Kind::FirstByteTimeout, Sent::Fully, cause);
    Facts {
        site,
        bucket: address.bucket.clone(),
        region: address.region.clone(),
        door: Err(error.clone()),
        when: SystemTime::now(),
        took: waited,
        settings: kinds.iter().map(|what| (*what, Err(error.clone()))).collect(),
    }
}
