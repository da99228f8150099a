//! Tells the kernel to drop what it has cached.
//!
//! Never from a handler: the kernel holds the inode's lock while it waits for our answer and needs the same lock to drop pages,
//! so both would wait for ever. A queue and one thread stand in between.

use std::ffi::OsStr;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use fuser::{INodeNo, Notifier};

use crate::vfs::Notice;

/// More than this waiting means that the kernel is busy; then the next `open` drops the pages instead.
const QUEUE: usize = 4096;

/// Starts the thread. It ends when the returned closure is dropped.
pub fn start(notifier: Notifier) -> std::io::Result<impl Fn(Notice) + Send + Sync + 'static> {
    let (sender, receiver): (SyncSender<Notice>, _) = sync_channel(QUEUE);
    std::thread::Builder::new().name("fuse-notify".into()).spawn(move || {
        for notice in receiver {
            let told = match &notice {
                Notice::Data(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
                Notice::Name { dir, name } => notifier.inval_entry(INodeNo(*dir), OsStr::new(&**name)),
            };
            if let Err(e) = told {
                log::debug!("the kernel did not take {notice:?}: {e}");
            }
        }
    })?;
    Ok(move |notice| {
        if let Err(TrySendError::Full(notice)) = sender.try_send(notice) {
            log::debug!("too many notices at once, left out: {notice:?}");
        }
    })
}
