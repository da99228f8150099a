//! A COS region behind its door: the path of a request through signature, body and operation.
//!
//! Owns: which bucket a port stands for. Owns not: connections and faults (`door`), what an operation does (`api`).

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::access;
use super::api;
use super::door::{Outcome, Room, Visit};
use super::failure::Failure;
use super::fault::Fault;
use super::pull::{Puller, Wanted};
use super::world::{Received, World};
use crate::object::Site;

pub mod auth;
pub mod call;
pub mod gate;
pub mod names;
mod past;
pub mod receive;
pub mod s3;
pub mod send;

use call::Call;
use send::Reply;

/// One region.
#[derive(Debug)]
pub struct Region {
    pub site: Site,
    pub world: Arc<World>,
    pub puller: Arc<Puller>,
}

impl Room for Region {
    fn answer<'a>(&'a self, visit: &'a mut Visit<'_>) -> BoxFuture<'a, Outcome> {
        self.carry_out(visit).boxed()
    }

    fn will_suffer(&self, faults: &[Fault]) {
        self.world.isolate(self.site, faults.iter().any(|f| f.stops_replication));
    }
}

impl Region {
    async fn carry_out(&self, visit: &mut Visit<'_>) -> Outcome {
        let mut call = match Call::read(visit.parts, self.site, &self.world) {
            Ok(call) => call,
            Err(failure) => return Ok(Err(failure)),
        };
        if let Some(early) = visit.begin(&call.subject()).await? {
            return Ok(early);
        }
        let anonymous = auth::is_anonymous(&call);
        if !anonymous {
            match auth::check(&call, &self.world.keys, visit.clock_skew()) {
                Ok(seed) => call.seed = seed,
                Err(failure) => return Ok(Err(failure)),
            }
        }
        if let Err(failure) = access::check(&self.world, &call, anonymous) {
            return Ok(Err(failure));
        }
        let received = match visit.receive(&call, &self.world).await? {
            Ok(received) => received,
            Err(failure) => return Ok(Err(failure)),
        };
        let past = match visit.stale() {
            None => None,
            Some(age) => match past::look_back(&self.world, &mut call, age) {
                Ok(past) => past,
                Err(failure) => return visit.finish(async { Err(failure) }).await,
            },
        };
        match past {
            Some(bucket) => {
                let now = self.world.now();
                visit.finish(async move { api::list_objects(&bucket, &call, now) }).await
            }
            None => {
                let query = visit.parts.uri.query().unwrap_or("");
                let wanted = Wanted::of(&call, self.world.bucket(call.site), query, visit.secure);
                let (world, puller) = (Arc::clone(&self.world), Arc::clone(&self.puller));
                visit.finish(perform(world, puller, call, received, wanted)).await
            }
        }
    }
}

async fn perform(
    world: Arc<World>,
    puller: Arc<Puller>,
    call: Call,
    received: Option<Received>,
    wanted: Option<Wanted>,
) -> Result<Reply, Failure> {
    let heavy = call.is_heavy();
    let work = move || {
        let done = api::perform(&world, &call, received);
        // What did not get to the disk is not acknowledged.
        if !matches!(call.method.as_str(), "GET" | "HEAD") && world.has_failed() {
            return Err(Failure::internal("the emulator's disk took no more records"));
        }
        done
    };
    if heavy {
        return tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Failure::internal(e.to_string())));
    }
    match (work(), wanted) {
        (Err(failure), Some(wanted)) => puller.instead(wanted, failure).await,
        (done, _) => done,
    }
}
