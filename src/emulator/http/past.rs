//! Answers from a moment ago.
//!
//! COS says that listings are eventually consistent and promises nothing about a GET after a PUT. A replica or a cache that has not heard
//! of the last second answers from the second before, in full and without a mark. That is what these faults do.
//!
//! Only on buckets with versioning: elsewhere the past is gone.

use std::time::Duration;

use super::call::Call;
use crate::emulator::clock::wall_micros;
use crate::emulator::failure::Failure;
use crate::emulator::site::Versioning;
use crate::emulator::world::{Bucket, World};

/// Turns a read into one of the version that was current `age` ago. For a listing: the bucket as it was.
pub fn look_back(world: &World, call: &mut Call, age: Duration) -> Result<Option<Bucket>, Failure> {
    let bucket = world.bucket(call.site);
    let then = wall_micros().saturating_sub(age.as_micros() as u64);
    let state = bucket.read();
    if state.shelf.versioning() == Versioning::Never {
        return Ok(None);
    }
    if call.key.is_empty() {
        return Ok(Some(bucket.with_shelf(state.shelf.as_of(then))));
    }
    let version = state.shelf.current_at(&call.key, then).ok_or_else(Failure::no_such_key)?;
    call.params.push(("versionId".into(), version.id_text()));
    Ok(None)
}
