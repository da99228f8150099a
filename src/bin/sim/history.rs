//! What the programs on the mount did and saw.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::linear::{Act, Call, check};

/// One operation of a program.
#[derive(Clone, Debug)]
pub struct Op {
    pub key: String,
    pub call: Call,
    /// When the program was answered, with success or not.
    pub answered: Option<Duration>,
    pub error: Option<String>,
    /// Of a program that does not go through the mount.
    pub foreign: bool,
}

#[derive(Default)]
pub struct History {
    ops: Mutex<Vec<Op>>,
    /// What is wrong in itself: torn content, a wrong file.
    pub wrong: Mutex<Vec<String>>,
}

/// The content of a write, whose number it repeats; a torn one shows itself.
pub fn content(value: u64, len: usize) -> Bytes {
    let line = format!("{value}\n");
    let lines = (len / line.len()).max(1);
    line.repeat(lines).into()
}

/// Which write this is. `Err`: none.
pub fn value_of(key: &str, content: &[u8]) -> Result<u64, String> {
    let bad = || {
        format!(
            "{key}: torn or wrong content of {} bytes: {:?}",
            content.len(),
            String::from_utf8_lossy(&content[..content.len().min(60)])
        )
    };
    let text = std::str::from_utf8(content).map_err(|_| bad())?;
    let first = text.lines().next().ok_or_else(bad)?;
    let value = first.parse().map_err(|_| bad())?;
    if !text.ends_with('\n') || text.lines().any(|line| line != first) {
        return Err(bad());
    }
    Ok(value)
}

impl History {
    /// Notes the beginning; the end is not known yet.
    pub fn begin(&self, key: &str, begin: Duration, act: Act) -> usize {
        let mut ops = self.ops.lock();
        let call = Call { begin, end: None, act };
        ops.push(Op { key: key.into(), call, answered: None, error: None, foreign: false });
        ops.len() - 1
    }

    pub fn end(&self, op: usize, end: Duration) {
        let op = &mut self.ops.lock()[op];
        (op.call.end, op.answered) = (Some(end), Some(end));
    }

    /// A read ends with what it saw.
    pub fn saw(&self, op: usize, end: Duration, act: Act) {
        let op = &mut self.ops.lock()[op];
        (op.call.end, op.answered) = (Some(end), Some(end));
        op.call.act = act;
    }

    pub fn failed(&self, op: usize, end: Duration, error: String) {
        let op = &mut self.ops.lock()[op];
        // Whether it happened is not known: the call has no end.
        (op.answered, op.error) = (Some(end), Some(error));
    }

    /// Refused because somebody else was quicker (ESTALE): perhaps some of it happened.
    pub fn overtaken(&self, op: usize, end: Duration) {
        self.ops.lock()[op].answered = Some(end);
    }

    pub fn foreign(&self, key: &str, at: Duration, act: Act) {
        let call = Call { begin: at, end: Some(at), act };
        self.ops.lock().push(Op { key: key.into(), call, answered: Some(at), error: None, foreign: true });
    }

    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().clone()
    }
}

/// Verdict on the reads of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    Stale,
    Backward,
}

/// By key, the calls of one history; failed reads say nothing.
pub fn by_key(ops: &[Op]) -> BTreeMap<&str, Vec<Call>> {
    let mut keys: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
    for op in ops {
        let useless = op.call.end.is_none() && !matches!(op.call.act, Act::Write(_));
        if !useless {
            keys.entry(&op.key).or_default().push(op.call);
        }
    }
    keys
}

/// Did a later read see what was over before the version of an earlier read began?
pub fn went_back(calls: &[Call]) -> Option<Call> {
    let reads: Vec<&Call> = calls.iter().filter(|c| matches!(c.act, Act::Read(_)) && c.end.is_some()).collect();
    let written = |value: Option<u64>| calls.iter().find(|c| c.act == Act::Write(value));
    for (i, early) in reads.iter().enumerate() {
        for late in &reads[i + 1..] {
            if early.end > Some(late.begin) {
                continue;
            }
            let (Act::Read(Some(a)), Act::Read(b)) = (early.act, late.act) else { continue };
            let Some(newer) = written(Some(a)) else { continue };
            // Many a call can have removed it; each value is written once.
            let mut writes = calls.iter().filter(|c| c.act == Act::Write(b) && Some(c.begin) <= late.end);
            if Some(a) != b && writes.all(|w| w.end.is_some_and(|end| end < newer.begin)) {
                return Some(**late);
            }
        }
    }
    None
}

/// Names the flaw of a history that has no explanation.
pub fn flaw(calls: &[Call]) -> Flaw {
    let reads: Vec<&Call> = calls.iter().filter(|c| matches!(c.act, Act::Read(_)) && c.end.is_some()).collect();
    let written = |value: Option<u64>| calls.iter().find(|c| c.act == Act::Write(value));
    for (i, early) in reads.iter().enumerate() {
        for late in &reads[i + 1..] {
            let (Act::Read(a), Act::Read(b)) = (early.act, late.act) else { continue };
            if a == b || early.end > Some(late.begin) {
                continue;
            }
            // The later read saw what was over before the earlier one's version began.
            if let (Some(newer), Some(Some(end))) = (written(a), written(b).map(|c| c.end))
                && end < newer.begin
            {
                return Flaw::Backward;
            }
        }
    }
    Flaw::Stale
}

/// One key through all reads and writes, then what is there in the end.
pub fn explain(initial: Option<u64>, calls: &[Call], last: &[Option<u64>], end: Duration) -> Result<(), Call> {
    let mut calls = calls.to_vec();
    for (i, seen) in last.iter().enumerate() {
        let at = end + Duration::from_secs(1 + i as u64);
        calls.push(Call { begin: at, end: Some(at), act: Act::Read(*seen) });
    }
    check(initial, &calls)
}
