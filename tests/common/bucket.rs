//! The buckets behind a mount, seen without it: what another program, in another place, would find there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cosfs_ha::cos::credentials::Fixed;
use cosfs_ha::cos::{Attempt, BucketAddress, Client, ClockOffset, Credentials, Get, Payload, Progress};
use cosfs_ha::object::{Headers, Key, Site};
use futures::StreamExt;
use tokio::runtime::Runtime;

use super::Emulator;

/// One bucket of an emulator.
pub struct Bucket {
    pub client: Client,
    pub runtime: Runtime,
}

impl Emulator {
    pub fn bucket(&self, site: Site) -> Bucket {
        let (bucket, region) = match site {
            Site::A => ("master-1250000000", "ap-guangzhou"),
            Site::B => ("slave-1250000000", "ap-shanghai"),
        };
        let address = BucketAddress {
            bucket: bucket.into(),
            region: region.into(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.ports[site.index()])),
            https: false,
        };
        let keys = Credentials::new(super::SECRET_ID.into(), super::SECRET_KEY.into(), None).expect("valid keys");
        let client = Client::new(address, Arc::new(Fixed::new(keys)), Arc::new(ClockOffset::new())).expect("a client");
        Bucket { client, runtime: Runtime::new().expect("a runtime") }
    }
}

impl Bucket {
    pub fn put(&self, key: &str, content: impl Into<Bytes>) {
        let content = content.into();
        self.put_many(vec![(key.to_string(), content)]);
    }

    /// Many objects at a time, plain, as a foreign tool would write them.
    pub fn put_many(&self, objects: Vec<(String, Bytes)>) {
        let puts = futures::stream::iter(objects).map(|(key, content)| async move {
            let progress = Progress::new();
            let key = Key::new(key).expect("a valid key");
            let headers = Headers::default();
            let done = self.client.put(&key, Payload::Bytes(content), &headers, None, &Attempt::new(&progress)).await;
            done.expect("the emulator takes it");
        });
        self.runtime.block_on(puts.buffer_unordered(32).collect::<Vec<_>>());
    }

    pub fn delete(&self, key: &str) {
        let progress = Progress::new();
        let key = Key::new(key).expect("a valid key");
        let done = self.runtime.block_on(self.client.delete(&key, None, &Attempt::new(&progress)));
        done.expect("the emulator takes it");
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        let progress = Progress::new();
        let key = Key::new(key).expect("a valid key");
        self.runtime.block_on(async {
            let answer = self.client.get(&key, &Get::default(), &Attempt::new(&progress)).await.ok()?;
            answer.body.collect().await.ok()
        })
    }
}

/// Every file below a folder with its content; links with their target.
pub fn tree(root: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &std::path::Path, dir: &std::path::Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            let kind = path.symlink_metadata().expect("attributes").file_type();
            if kind.is_dir() {
                found.insert(format!("{name}/"), Vec::new());
                walk(root, &path, found);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).expect("a link");
                found.insert(name, target.display().to_string().into_bytes());
            } else {
                found.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}
