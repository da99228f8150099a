//! `cosfs-ha doctor --reconcile`: what is to be copied and deleted, a question, and then the work.

use std::io::IsTerminal;

use futures::StreamExt;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use crate::cli::access::{Pair, consent, say};
use crate::cli::{Exit, Failure};
use crate::doctor::coverage::{Difference, Report};
use crate::doctor::reconcile::{self, Step};
use crate::object::Site;

/// Keys worked on together.
const TOGETHER: usize = 8;

#[derive(Default)]
struct Sum {
    copies: [u64; 2],
    bytes: [u64; 2],
    deletions: [u64; 2],
    undecided: Vec<String>,
}

pub fn run(pair: &Pair, report: &Report, yes: bool, command: &str) -> Result<Exit, Failure> {
    let failed = |error: crate::cos::Error| Failure::new(Exit::Failure, error.to_string());
    let steps = pair.wait(plan(pair, &report.differences)).map_err(failed)?;
    let sum = sum(&steps);
    for from in Site::ALL {
        let (index, to) = (from.index(), from.other());
        if sum.copies[index] > 0 {
            let (keys, bytes) = (HumanCount(sum.copies[index]), HumanBytes(sum.bytes[index]));
            say!("to copy from {from} to {to}: {keys} objects, {bytes}");
        }
        if sum.deletions[index] > 0 {
            let keys = HumanCount(sum.deletions[index]);
            say!("to delete in {from}: {keys} objects that were deleted in {to} later than they were written");
        }
    }
    for key in sum.undecided.iter().take(20) {
        say!("left alone, because which one is newer cannot be told: {key}");
    }
    let work: Vec<_> = steps.iter().filter(|(_, step)| !matches!(step, Step::Nothing | Step::Undecided)).collect();
    if !work.is_empty() {
        consent("This copies and deletes objects (deleted content stays as a noncurrent version).", yes)?;
    }
    let done = pair.wait(take(pair, &work)).map_err(failed)?;
    let (moved, left) = (work.len() as u64 - done, sum.undecided.len());
    say!("{} of {} keys brought to the same content", HumanCount(done), HumanCount(report.different()));
    if moved > 0 {
        say!("{moved} changed meanwhile and were left as they are; run it again");
    }
    say!("check with: cosfs-ha doctor {command}");
    Ok(if moved > 0 || left > 0 { Exit::Attention } else { Exit::Ok })
}

async fn plan(pair: &Pair, differences: &[Difference]) -> Result<Vec<(String, Step)>, crate::cos::Error> {
    let bar = bar("looking at the history of", differences.len());
    let planned = futures::stream::iter(differences).map(|difference| async {
        let step = reconcile::plan(&pair.clients, difference).await?;
        bar.inc(1);
        Ok((difference.key.clone(), step))
    });
    let steps: Vec<Result<_, _>> = planned.buffered(TOGETHER).collect().await;
    bar.finish_and_clear();
    steps.into_iter().collect()
}

/// How many were brought to the same content. Ends at the first failure; what is done stays done.
async fn take(pair: &Pair, work: &[&(String, Step)]) -> Result<u64, crate::cos::Error> {
    let bar = bar("working on", work.len());
    let mut taken = futures::stream::iter(work)
        .map(|(key, step)| reconcile::take(&pair.clients, key, step))
        .buffer_unordered(TOGETHER);
    let mut done = 0;
    while let Some(outcome) = taken.next().await {
        done += u64::from(outcome?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(done)
}

fn bar(what: &str, total: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total as u64);
    let template = format!("{what} {{pos}} of {{len}} keys {{wide_bar}} {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

fn sum(steps: &[(String, Step)]) -> Sum {
    let mut sum = Sum::default();
    for (key, step) in steps {
        match step {
            Step::Copy { from, size, .. } => {
                sum.copies[from.index()] += 1;
                sum.bytes[from.index()] += size;
            }
            Step::Delete { at } => sum.deletions[at.index()] += 1,
            Step::Undecided => sum.undecided.push(key.clone()),
            Step::Nothing => {}
        }
    }
    sum
}
