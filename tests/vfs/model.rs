//! Random operations against a plain in-memory file system, and tasks that get in each other's way.
//!
//! The reference is a map from path to content and a list of handles. After each step the visible tree must be the reference's;
//! at the end, with everything committed, so must the bucket.

use std::collections::BTreeMap;
use std::time::Duration;

use cosfs_ha::vfs::{Error, Kind, SetAttr, VfsOptions};
use proptest::prelude::*;

use crate::bench::{Bench, User, ctx, split};

#[derive(Clone, Debug)]
enum Step {
    Create(Path),
    Open(Path),
    OpenTruncated(Path),
    Write(usize, u16, u8, u16),
    FTruncate(usize, u16),
    Truncate(Path, u16),
    Fsync(usize),
    Close(usize),
    Mkdir(Path),
    Rmdir(Path),
    Unlink(Path),
    Rename(Path, Path),
    WritesDown(bool),
    ForeignPut(u8),
    Pause,
}

/// Few names, so that collisions are common: `a`, `b`, `d`, `d/a`, `d/e/a` ...
#[derive(Clone, Copy, Debug, PartialEq)]
struct Path(u8);

const PATHS: [&str; 10] = ["a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a", "d/e/b"];

impl Path {
    fn text(self) -> &'static str {
        PATHS[usize::from(self.0) % PATHS.len()]
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = || any::<u8>().prop_map(Path);
    let step = prop_oneof![
        4 => path().prop_map(Step::Create),
        2 => path().prop_map(Step::Open),
        1 => path().prop_map(Step::OpenTruncated),
        6 => (0..6usize, 0..300u16, any::<u8>(), 1..200u16).prop_map(|(h, at, b, len)| Step::Write(h, at, b, len)),
        1 => (0..6usize, 0..400u16).prop_map(|(h, len)| Step::FTruncate(h, len)),
        1 => (path(), 0..400u16).prop_map(|(p, len)| Step::Truncate(p, len)),
        1 => (0..6usize).prop_map(Step::Fsync),
        3 => (0..6usize).prop_map(Step::Close),
        3 => path().prop_map(Step::Mkdir),
        1 => path().prop_map(Step::Rmdir),
        2 => path().prop_map(Step::Unlink),
        4 => (path(), path()).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => any::<bool>().prop_map(Step::WritesDown),
        1 => any::<u8>().prop_map(Step::ForeignPut),
        1 => Just(Step::Pause),
    ];
    prop::collection::vec(step, 1..60)
}

/// What a file system on a local disk would hold.
#[derive(Default)]
struct Reference {
    /// Path to file number, `None` for a directory.
    tree: BTreeMap<String, Option<usize>>,
    files: Vec<Vec<u8>>,
    /// Handle of the real one, and the file it is open on.
    handles: Vec<(u64, usize)>,
}

impl Reference {
    fn get(&self, path: &str) -> Option<Option<usize>> {
        if path.is_empty() { Some(None) } else { self.tree.get(path).copied() }
    }

    fn parent(&self, path: &str) -> Result<(), &'static str> {
        match self.get(split(path).0) {
            Some(None) => Ok(()),
            Some(Some(_)) => Err("NotDir"),
            // A missing directory below a file is "not a directory" as well.
            None => {
                let mut at = split(path).0;
                while !at.is_empty() {
                    if let Some(Some(_)) = self.get(at) {
                        return Err("NotDir");
                    }
                    at = split(at).0;
                }
                Err("NotFound")
            }
        }
    }

    fn is_empty(&self, dir: &str) -> bool {
        let inside = format!("{dir}/");
        !self.tree.keys().any(|path| path.starts_with(&inside))
    }

    fn file(&self, path: &str) -> Result<usize, &'static str> {
        self.parent(path)?;
        match self.get(path) {
            None => Err("NotFound"),
            Some(None) => Err("IsDir"),
            Some(Some(file)) => Ok(file),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), &'static str> {
        self.parent(from)?;
        self.parent(to)?;
        let source = self.get(from).ok_or("NotFound")?;
        if source.is_none() && to.starts_with(&format!("{from}/")) {
            return Err("Invalid");
        }
        if from == to {
            return Ok(());
        }
        match (source, self.get(to)) {
            (None, Some(Some(_))) => return Err("NotDir"),
            (Some(_), Some(None)) => return Err("IsDir"),
            (None, Some(None)) if !self.is_empty(to) => return Err("NotEmpty"),
            _ => {}
        }
        let inside = format!("{from}/");
        let moved: Vec<_> = self.tree.keys().filter(|p| *p == from || p.starts_with(&inside)).cloned().collect();
        self.tree.remove(to);
        for path in moved {
            if let Some(node) = self.tree.remove(&path) {
                self.tree.insert(format!("{to}{}", &path[from.len()..]), node);
            }
        }
        Ok(())
    }
}

fn name_of(error: &Error) -> &'static str {
    match error {
        Error::NotFound => "NotFound",
        Error::Exists => "Exists",
        Error::NotDir => "NotDir",
        Error::IsDir => "IsDir",
        Error::NotEmpty => "NotEmpty",
        Error::Invalid(_) => "Invalid",
        e if e.is_outage() => "Outage",
        _ => "Other",
    }
}

fn same<T, U>(step: &Step, real: &Result<T, Error>, expect: &Result<U, &'static str>) {
    let real = real.as_ref().map(|_| ()).map_err(name_of);
    assert_eq!(real, expect.as_ref().map(|_| ()).map_err(|e| *e), "{step:?}");
}

async fn play(bench: &Bench, steps: Vec<Step>) {
    let user = User(bench.vfs.clone());
    let mut model = Reference::default();
    let mut down = false;
    for step in steps {
        match &step {
            Step::Create(path) | Step::Open(path) | Step::OpenTruncated(path) => {
                let path = path.text();
                if model.handles.len() >= 6 {
                    continue;
                }
                let create = matches!(step, Step::Create(_));
                let flags =
                    if matches!(step, Step::OpenTruncated(_)) { libc::O_RDWR | libc::O_TRUNC } else { libc::O_RDWR };
                let expect = match model.file(path) {
                    Err("NotFound") if create && model.parent(path).is_ok() => {
                        model.files.push(Vec::new());
                        model.tree.insert(path.to_string(), Some(model.files.len() - 1));
                        Ok(model.files.len() - 1)
                    }
                    other => other,
                };
                let real = if create { user.create(path, flags).await } else { user.open(path, flags).await };
                same(&step, &real, &expect);
                if let (Ok(opened), Ok(file)) = (real, expect) {
                    if flags & libc::O_TRUNC != 0 {
                        model.files[file].clear();
                    }
                    model.handles.push((opened.fh, file));
                }
            }
            Step::Write(handle, at, byte, len) => {
                let Some((fh, file)) = model.handles.get(*handle) else { continue };
                let (at, data) = (usize::from(*at), vec![*byte; usize::from(*len)]);
                user.write(*fh, at as u64, &data).await.expect("writes never fail");
                let content = &mut model.files[*file];
                content.resize(content.len().max(at + data.len()), 0);
                content[at..at + data.len()].copy_from_slice(&data);
            }
            Step::FTruncate(handle, len) => {
                // Through the handle's inode, which has a name or not: reach it the way the kernel does.
                let Some((fh, file)) = model.handles.get(*handle) else { continue };
                let path = model.tree.iter().find(|(_, node)| **node == Some(*file)).map(|(path, _)| path.clone());
                let Some(path) = path else { continue };
                let ino = user.stat(&path).await.expect("open files are there").ino;
                let set = SetAttr { size: Some(u64::from(*len)), ..SetAttr::default() };
                bench.vfs.setattr(&ctx(), ino, Some(*fh), set).await.expect("local");
                model.files[*file].resize(usize::from(*len), 0);
            }
            Step::Truncate(path, len) if !down => {
                let expect = model.file(path.text());
                let real = user.truncate(path.text(), u64::from(*len)).await;
                same(&step, &real, &expect);
                if let Ok(file) = expect {
                    model.files[file].resize(usize::from(*len), 0);
                }
            }
            Step::Fsync(handle) => {
                let Some((fh, _)) = model.handles.get(*handle) else { continue };
                let result = bench.vfs.fsync(&ctx(), *fh).await;
                assert!(result.is_ok() || down, "{result:?}");
            }
            Step::Close(handle) => {
                if *handle >= model.handles.len() {
                    continue;
                }
                let (fh, _) = model.handles.remove(*handle);
                let result = user.close(fh).await;
                assert!(result.is_ok() || down, "{result:?}");
            }
            Step::Mkdir(path) if !down => {
                let path = path.text();
                let expect = match (model.parent(path), model.get(path)) {
                    (Err(e), _) => Err(e),
                    (_, Some(_)) => Err("Exists"),
                    _ => Ok(()),
                };
                same(&step, &user.mkdir(path).await, &expect);
                if expect.is_ok() {
                    model.tree.insert(path.to_string(), None);
                }
            }
            Step::Rmdir(path) if !down => {
                let path = path.text();
                let expect = match (model.parent(path), model.get(path)) {
                    (Err(e), _) => Err(e),
                    (_, None) => Err("NotFound"),
                    (_, Some(Some(_))) => Err("NotDir"),
                    (_, Some(None)) if !model.is_empty(path) => Err("NotEmpty"),
                    _ => Ok(()),
                };
                same(&step, &user.rmdir(path).await, &expect);
                if expect.is_ok() {
                    model.tree.remove(path);
                }
            }
            Step::Unlink(path) if !down => {
                let expect = model.file(path.text());
                same(&step, &user.unlink(path.text()).await, &expect);
                if expect.is_ok() {
                    model.tree.remove(path.text());
                }
            }
            Step::Rename(from, to) if !down => {
                let expect = model.rename(from.text(), to.text());
                same(&step, &user.rename(from.text(), to.text()).await, &expect);
            }
            Step::WritesDown(now) => {
                down = *now;
                bench.store.set_writes_down(down);
            }
            Step::ForeignPut(n) => {
                // A name that only strangers write.
                let path = format!("foreign{}", n % 3);
                bench.store.foreign_put(&path, &[*n], &[]);
                model.files.push(vec![*n]);
                model.tree.insert(path, Some(model.files.len() - 1));
                tokio::time::sleep(Duration::from_millis(8)).await;
            }
            Step::Pause => tokio::time::sleep(Duration::from_millis(8)).await,
            _ => {}
        }
        check(&user, &model, &step).await;
    }
    bench.store.set_writes_down(false);
    for (fh, _) in std::mem::take(&mut model.handles) {
        user.close(fh).await.expect("commits");
    }
    assert!(bench.vfs.flush_all(ctx().until).await.is_empty());
    check(&user, &model, &Step::Pause).await;
    for (path, node) in &model.tree {
        match node {
            Some(file) => {
                let stored = bench.store.data(path).unwrap_or_else(|| panic!("{path} is not in the bucket"));
                assert_eq!(stored, &model.files[*file][..], "{path} in the bucket");
            }
            None => assert!(bench.store.keys().iter().any(|key| key.starts_with(&format!("{path}/"))), "{path}/"),
        }
    }
    for key in bench.store.keys() {
        assert!(model.tree.contains_key(key.trim_end_matches('/')), "{key} should not be in the bucket");
    }
}

async fn check(user: &User, model: &Reference, step: &Step) {
    for (fh, file) in &model.handles {
        let data = user.read(*fh, 0, 2000).await.expect("open files are readable");
        assert!(data == model.files[*file], "content through a handle after {step:?}");
    }
    let mut seen = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for name in user.names(&dir).await.expect("lists") {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let attr =
                user.stat(&path).await.unwrap_or_else(|e| panic!("{path} is listed but {e} after {step:?}")).attr;
            match model.get(&path) {
                Some(Some(file)) => {
                    assert_eq!(attr.kind, Kind::File);
                    assert_eq!(attr.size, model.files[file].len() as u64, "size of {path} after {step:?}");
                    assert!(user.load(&path).await.is_ok_and(|d| d == model.files[file]), "{path} after {step:?}");
                }
                Some(None) => assert_eq!(attr.kind, Kind::Dir),
                None => panic!("{path} should not be there after {step:?}"),
            }
            if attr.kind == Kind::Dir {
                todo.push(path.clone());
            }
            seen.push(path);
        }
    }
    seen.sort();
    assert_eq!(seen, model.tree.keys().cloned().collect::<Vec<_>>(), "names after {step:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_plain_file_system(
        steps in steps(),
        warm in any::<bool>(),
        ttl_ms in prop::sample::select(vec![4u64, 60_000]),
        patch_min in prop::sample::select(vec![1u64, 60, u64::MAX]),
    ) {
        // With a long TTL a stranger's change is rightly not seen; those runs leave strangers out.
        let steps = steps.into_iter().filter(|s| ttl_ms < 100 || !matches!(s, Step::ForeignPut(_))).collect();
        let metadata_ttl = Duration::from_millis(ttl_ms);
        let bench = Bench::with(VfsOptions { metadata_ttl, patch_min, ..VfsOptions::default() });
        bench.store.set_knows_headers(warm);
        bench.run(play(&bench, steps));
    }
}

#[test]
fn eight_tasks_in_one_directory() {
    let bench = Bench::with(VfsOptions { metadata_ttl: Duration::from_millis(40), ..VfsOptions::default() });
    bench.run(async {
        User(bench.vfs.clone()).mkdir("d").await.expect("makes");
        bench.store.set_delay(Duration::from_millis(1));
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let user = User(bench.vfs.clone());
                tokio::spawn(async move {
                    for round in 0..40 {
                        let (a, b) = (format!("d/t{task}-{round}"), format!("d/m{task}-{round}"));
                        let data = format!("{task} {round}").into_bytes();
                        user.save(&a, &data).await.expect("saves");
                        user.rename(&a, &b).await.expect("renames");
                        assert_eq!(user.load(&b).await.expect("loads"), data);
                        assert!(matches!(user.stat(&a).await, Err(Error::NotFound)));
                        let names = user.names("d").await.expect("lists");
                        let (_, own) = split(&b);
                        assert!(names.iter().any(|name| name == own), "own file missing in a listing");
                        // All of them fight for these two names.
                        let _ = user.save("d/shared", &data).await;
                        let _ = user.rename("d/shared", "d/shared2").await;
                        if round % 4 != 0 {
                            user.unlink(&b).await.expect("unlinks");
                        }
                        if round % 10 == task {
                            let sub = format!("d/sub{task}");
                            user.mkdir(&sub).await.expect("makes");
                            user.save(&format!("{sub}/x"), b"x").await.expect("saves");
                            user.rename(&sub, &format!("{sub}-moved")).await.expect("moves");
                            user.unlink(&format!("{sub}-moved/x")).await.expect("unlinks");
                            user.rmdir(&format!("{sub}-moved")).await.expect("removes");
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert!(bench.vfs.flush_all(ctx().until).await.is_empty());
        let user = User(bench.vfs.clone());
        let names = user.names("d").await.expect("lists");
        let own = names.iter().filter(|name| name.starts_with('m')).count();
        assert_eq!(own, 8 * 10);
        assert!(names.iter().all(|name| name.starts_with('m') || name.starts_with("shared")), "{names:?}");
        let stored: Vec<_> = bench.store.keys().into_iter().filter(|key| key != "d/").collect();
        assert_eq!(stored, names.iter().map(|name| format!("d/{name}")).collect::<Vec<_>>());
    });
}
