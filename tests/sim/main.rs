//! The decision core in virtual time: whole outages in milliseconds, the same seed always the same story.
//!
//! `world` is the simulator (network, traffic, a driver around the core), `outages` asserts what happens in each kind of trouble, `rules` checks
//! the tables of outcomes and system states, `chaos` throws arbitrary events at the core, `purity` reads its source.

mod chaos;
mod outages;
mod purity;
mod rules;
#[cfg(feature = "simulation")]
mod whole;
mod world;
