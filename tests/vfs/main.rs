//! The file system against a bucket in memory: rules, races, outages, request counts, and a random model.

mod bench;
mod fake;
mod model;
mod mounted;
mod moving;
mod outage;
mod requests;
mod rules;
