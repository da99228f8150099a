//! Steering: what is broken, how replication behaves, what is there. JSON over HTTP on a port of its own.
//!
//! ```text
//! GET /v1/state[?objects=false]   objects, counters, faults of each site; replication
//! PUT /v1/faults/{a|b|cdn|origin} replaces the list of faults; [] heals
//! PUT /v1/replication             lag, stall, order, lost markers; which version is current
//! PUT /v1/clock                   {"ahead_s": n}: the calendar of lifecycle and restores, and does what is due
//! GET /v1/log?site=a              recent requests
//! POST /v1/fill                   many objects at once
//! PUT /v1/credentials            replaces the key pairs: [{"secret_id", "secret_key", "token"?}]; what is left out is revoked
//! GET, PUT /v1/cdn                settings of the CDN; PUT replaces all, what is left out gets its default
//! POST /v1/cdn/purge              {"urls": [], "paths": []}; {} empties the cache
//! ```
//!
//! 64-bit checksums are strings here: many JSON readers keep only 53 bits of a number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::{Deserialize, Serialize};

use super::cdn::{Cdn, CdnState, Purge, Settings as CdnSettings};
use super::door::{Door, Place};
use super::fault::Fault;
use super::fill::Fill;
use super::keyring::Identity;
use super::origin::{FileState, Origin};
use super::replicator::{Change, Settings};
use super::site::{Current, Versioning};
use super::world::World;
use crate::object::Site;

/// One key in [`SiteState`].
#[derive(Clone, Debug, Serialize)]
pub struct ObjectState {
    pub key: String,
    /// `None` on a bucket that never had versioning.
    pub version_id: Option<String>,
    pub size: u64,
    pub etag: String,
    pub crc64: String,
    pub delete_marker: bool,
    pub replica: bool,
    /// Microseconds since 1970.
    pub modified: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct SiteState {
    pub bucket: String,
    pub region: String,
    pub endpoint: String,
    pub versioning: Versioning,
    /// Current versions, delete markers among them; empty if not asked for.
    pub objects: Vec<ObjectState>,
    /// Keys whose current version is no marker.
    pub object_count: usize,
    pub requests: BTreeMap<String, u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub faults: Vec<Fault>,
}

/// A place that is no bucket.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceState<T> {
    pub endpoint: String,
    #[serde(flatten)]
    pub content: T,
    pub requests: BTreeMap<String, u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub faults: Vec<Fault>,
}

#[derive(Clone, Debug, Serialize)]
pub struct OriginState {
    pub objects: Vec<FileState>,
}

#[derive(Clone, Debug, Serialize)]
pub struct DirectionState {
    pub pending: usize,
    #[serde(flatten)]
    pub settings: Settings,
}

#[derive(Clone, Debug, Serialize)]
pub struct ReplicationState {
    pub a_to_b: DirectionState,
    pub b_to_a: DirectionState,
    pub current: Current,
}

#[derive(Clone, Debug, Serialize)]
pub struct Sites {
    pub a: SiteState,
    pub b: SiteState,
    pub cdn: PlaceState<CdnState>,
    pub origin: PlaceState<OriginState>,
}

/// `GET /v1/state`.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    pub sites: Sites,
    pub replication: ReplicationState,
}

/// `PUT /v1/replication`; what is left out stays.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationChange {
    #[serde(default)]
    pub a_to_b: Change,
    #[serde(default)]
    pub b_to_a: Change,
    pub current: Option<Current>,
}

/// Everything that can be steered.
#[derive(Debug)]
pub struct Steering {
    pub(super) world: Arc<World>,
    /// In the order of [`Place::ALL`].
    pub(super) doors: Vec<Arc<Door>>,
    pub(super) cdn: Arc<Cdn>,
    pub(super) origin: Arc<Origin>,
}

impl Steering {
    pub fn state(&self, objects: bool) -> State {
        let direction = |from: Site| {
            let direction = self.world.direction(from);
            DirectionState { pending: direction.pending(), settings: direction.settings() }
        };
        State {
            sites: Sites {
                a: self.site(Site::A, objects),
                b: self.site(Site::B, objects),
                cdn: self.place(Place::Cdn, self.cdn.state(objects)),
                origin: self.place(
                    Place::Origin,
                    OriginState { objects: if objects { self.origin.state() } else { Vec::new() } },
                ),
            },
            replication: ReplicationState {
                a_to_b: direction(Site::A),
                b_to_a: direction(Site::B),
                current: self.world.current(),
            },
        }
    }

    fn place<T>(&self, place: Place, content: T) -> PlaceState<T> {
        let door = self.door(place);
        PlaceState {
            endpoint: format!("http://{}", door.address),
            content,
            requests: door.requests(),
            bytes_in: door.traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: door.traffic.bytes_out.load(Ordering::Relaxed),
            faults: door.faults(),
        }
    }

    fn site(&self, site: Site, objects: bool) -> SiteState {
        let (door, bucket) = (self.door(site), self.world.bucket(site));
        let state = bucket.read();
        let mut list = Vec::new();
        let mut object_count = 0;
        for (key, version) in state.shelf.keys() {
            object_count += usize::from(!version.is_marker());
            if objects {
                let content = version.content.as_deref();
                list.push(ObjectState {
                    key: key.clone(),
                    version_id: state.shelf.shown_id(version),
                    size: content.map_or(0, |c| c.blob.len()),
                    etag: content.map_or_else(String::new, |c| c.etag.clone()),
                    crc64: content.map_or_else(String::new, |c| c.crc64.to_string()),
                    delete_marker: version.is_marker(),
                    replica: version.replica,
                    modified: version.micros,
                });
            }
        }
        SiteState {
            bucket: bucket.name.clone(),
            region: bucket.region.clone(),
            endpoint: format!("http://{}", door.address),
            versioning: state.shelf.versioning(),
            objects: list,
            object_count,
            requests: door.requests(),
            bytes_in: door.traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: door.traffic.bytes_out.load(Ordering::Relaxed),
            faults: door.faults(),
        }
    }

    pub fn change_replication(&self, change: ReplicationChange) {
        self.world.direction(Site::A).change(change.a_to_b);
        self.world.direction(Site::B).change(change.b_to_a);
        if let Some(current) = change.current {
            self.world.set_current(current);
        }
        self.world.wake.notify_one();
    }

    pub fn door(&self, place: impl Into<Place>) -> &Arc<Door> {
        &self.doors[place.into() as usize]
    }

    fn named(&self, name: &str) -> Option<Arc<Door>> {
        self.doors.iter().find(|door| door.place.name() == name).map(Arc::clone)
    }
}

fn refuse(status: StatusCode, message: String) -> Response {
    let body = serde_json::json!({ "error": message }).to_string();
    (status, [("content-type", "application/json")], body).into_response()
}

fn no_site(name: &str) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("no site {name:?}: there are {}", Place::ALL.map(Place::name).join(", ")))
}

/// Ready JSON; built off the threads that serve requests, because a state can hold 100 000 objects.
async fn json<T: Serialize + Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Response {
    let text = tokio::task::spawn_blocking(move || serde_json::to_vec(&make()).map_err(|e| e.to_string())).await;
    match text.map_err(|e| e.to_string()).and_then(|text| text) {
        Ok(text) => ([("content-type", "application/json")], text).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

#[derive(Deserialize)]
struct StateQuery {
    objects: Option<bool>,
}

async fn state(Shared(steering): Shared<Arc<Steering>>, Query(query): Query<StateQuery>) -> Response {
    json(move || steering.state(query.objects.unwrap_or(true))).await
}

async fn faults(Shared(steering): Shared<Arc<Steering>>, Path(site): Path<String>, body: Bytes) -> Response {
    let list: Vec<Fault> = match serde_json::from_slice(&body) {
        Ok(list) => list,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("a list of faults was expected: {error}")),
    };
    let Some(door) = steering.named(&site) else { return no_site(&site) };
    let set = tokio::task::spawn_blocking(move || door.set_faults(list).map(|()| door.faults())).await;
    match set.map_err(|e| e.to_string()).and_then(|set| set) {
        Ok(list) => json(move || list).await,
        Err(error) => refuse(StatusCode::BAD_REQUEST, error),
    }
}

async fn replication(Shared(steering): Shared<Arc<Steering>>, body: Bytes) -> Response {
    match serde_json::from_slice::<ReplicationChange>(&body) {
        Ok(change) => {
            steering.change_replication(change);
            json(move || steering.state(false).replication).await
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// `PUT /v1/clock`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockChange {
    ahead_s: u64,
}

async fn clock(Shared(steering): Shared<Arc<Steering>>, body: Bytes) -> Response {
    match serde_json::from_slice::<ClockChange>(&body) {
        Ok(change) => {
            let ahead = Duration::from_secs(change.ahead_s);
            json(move || serde_json::json!({ "lifecycle_steps": steering.world.put_ahead(ahead) })).await
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn credentials(Shared(steering): Shared<Arc<Steering>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Vec<Identity>>(&body) {
        Ok(identities) => {
            steering.world.keys.replace(identities);
            json(move || steering.world.keys.ids()).await
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

#[derive(Deserialize)]
struct LogQuery {
    site: String,
}

async fn log_of(Shared(steering): Shared<Arc<Steering>>, Query(query): Query<LogQuery>) -> Response {
    match steering.named(&query.site) {
        Some(door) => json(move || door.log()).await,
        None => no_site(&query.site),
    }
}

async fn cdn(Shared(steering): Shared<Arc<Steering>>) -> Response {
    json(move || steering.cdn.state(true)).await
}

async fn set_cdn(Shared(steering): Shared<Arc<Steering>>, body: Bytes) -> Response {
    let set = serde_json::from_slice::<CdnSettings>(&body).map_err(|e| e.to_string());
    match set.and_then(|settings| steering.cdn.set(settings)) {
        Ok(()) => json(move || steering.cdn.settings()).await,
        Err(error) => refuse(StatusCode::BAD_REQUEST, error),
    }
}

async fn fill(Shared(steering): Shared<Arc<Steering>>, body: Bytes) -> Response {
    let fill = match serde_json::from_slice::<Fill>(&body) {
        Ok(fill) => fill,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let world = Arc::clone(&steering.world);
    match tokio::task::spawn_blocking(move || world.fill(&fill)).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => refuse(StatusCode::BAD_REQUEST, error),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn purge(Shared(steering): Shared<Arc<Steering>>, body: Bytes) -> Response {
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    match serde_json::from_slice::<Purge>(&body) {
        Ok(purge) => json(move || serde_json::json!({ "purged": steering.cdn.purge(&purge) })).await,
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

pub async fn serve(steering: Arc<Steering>, listener: std::net::TcpListener) {
    let router = Router::new()
        .route("/v1/state", get(state))
        .route("/v1/faults/{site}", put(faults))
        .route("/v1/replication", put(replication))
        .route("/v1/clock", put(clock))
        .route("/v1/log", get(log_of))
        .route("/v1/fill", post(fill))
        .route("/v1/credentials", put(credentials))
        .route("/v1/cdn", get(cdn).put(set_cdn))
        .route("/v1/cdn/purge", post(purge))
        .with_state(steering);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("admin: {error}"),
    };
    if let Err(error) = axum::serve(listener, router).await {
        log::error!("admin: {error}");
    }
}
