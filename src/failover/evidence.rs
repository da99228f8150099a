//! Why: one value for the log line, the status line and the alarm.
//!
//! A switch of master that cannot be explained afterwards is not trusted a second time. So the numbers that a rule looked at travel with the
//! decision, and their wording stands in one place.
//!
//! Owns: the wording. Owns not: the numbers' meaning (`detector`, `machine`).

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::event::Outcome;
use crate::object::{Class, Site};

/// The facts behind one [`super::Transition`].
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Evidence {
    /// First bad attempt after good ones.
    FirstBad {
        outcome: Option<Outcome>,
        overdue_after: Duration,
    },
    /// Enough bad attempts for long enough.
    Silent {
        overdue: u32,
        failed: u32,
        connections: u32,
        silent: Duration,
        other: Site,
        other_answered: Option<Duration>,
    },
    /// The other class of the same site died and this one gave no sign of life since.
    SharedFate {
        class: Class,
        silent: Duration,
    },
    /// Too many bad attempts among good ones.
    Ratio {
        bad: u32,
        of: u32,
        window: Duration,
        lasting: Duration,
    },
    /// The ratio fell again.
    RatioFell {
        bad: u32,
        of: u32,
    },
    /// An answer came.
    Answered {
        outcome: Outcome,
    },
    /// A dead linkage has rested long enough.
    Rested {
        after: Duration,
    },
    /// A row of successes on fresh connections.
    Proven {
        successes: u32,
        connections: u32,
    },
    /// Bad again while recovering.
    Relapse {
        successes: u32,
    },
    Throttling {
        quiet: Duration,
    },
    /// COS refuses us; `for_` how long without a single success.
    Refused {
        outcome: Outcome,
        lasting: Duration,
    },
    WrongBytes {
        times: u32,
        within: Duration,
    },
    /// The clock of this host is wrong in the eyes of COS.
    ClockSkew,
    /// Nothing bad for so long.
    Quiet {
        lasting: Duration,
    },
    /// The process or the host was stopped.
    Stopped {
        by: Duration,
    },
    /// Already worded by the machine, which alone knows the whole picture.
    Words {
        text: String,
    },
}

impl Evidence {
    pub fn words(text: impl Into<String>) -> Evidence {
        Evidence::Words { text: text.into() }
    }
}

/// Seconds with one decimal: exact enough for a human.
pub(super) fn secs(d: Duration) -> String {
    format!("{:.1} s", d.as_secs_f64())
}

fn plural(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

pub(super) fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "success",
        Outcome::Answer => "an answer from COS",
        Outcome::Hard => "no usable answer (refused, reset, silent or not COS)",
        Outcome::Server => "a server error from COS",
        Outcome::Throttled => "a request to slow down",
        Outcome::Clock => "a complaint about our clock",
        Outcome::Auth => "403, identity or permission refused",
        Outcome::Admin => "an account or bucket fault",
        Outcome::Corrupt => "wrong bytes",
        Outcome::Local => "an error of this host",
        Outcome::Cancelled => "cancelled by the caller",
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::FirstBad { outcome: None, overdue_after } => {
                write!(f, "a request is unanswered after {} ms", overdue_after.as_millis())
            }
            Evidence::FirstBad { outcome: Some(outcome), .. } => f.write_str(outcome_words(*outcome)),
            Evidence::Silent { overdue, failed, connections, silent, other, other_answered } => {
                write!(
                    f,
                    "{} unanswered and {failed} failed on {}, no success for {}",
                    plural(*overdue, "request", "requests"),
                    plural(*connections, "connection", "connections"),
                    secs(*silent)
                )?;
                match other_answered {
                    Some(ago) => write!(f, "; {other} answered {} ago", secs(*ago)),
                    None => write!(f, "; {other} never answered"),
                }
            }
            Evidence::SharedFate { class, silent } => {
                write!(f, "the site's {class} linkage is dead and this one gave no sign of life for {}", secs(*silent))
            }
            Evidence::Ratio { bad, of, window, lasting } => write!(
                f,
                "{bad} of {of} requests within {} failed or were late, for {}; the other site is fine",
                secs(*window),
                secs(*lasting)
            ),
            Evidence::RatioFell { bad, of } => write!(f, "only {bad} of the last {of} requests were bad"),
            Evidence::Answered { outcome } => write!(f, "answered: {}", outcome_words(*outcome)),
            Evidence::Rested { after } => write!(f, "dead for {}, checking again", secs(*after)),
            Evidence::Proven { successes, connections } => write!(
                f,
                "{} in a row, on {}",
                plural(*successes, "success", "successes"),
                plural(*connections, "fresh connection", "fresh connections")
            ),
            Evidence::Relapse { successes } => {
                write!(f, "bad again after {}", plural(*successes, "success", "successes"))
            }
            Evidence::Throttling { quiet } => {
                write!(f, "COS asks us to slow down; counted as over after {} without", secs(*quiet))
            }
            Evidence::Refused { outcome, lasting } => {
                write!(f, "{} for {} without one success", outcome_words(*outcome), secs(*lasting))
            }
            Evidence::WrongBytes { times, within } => {
                write!(f, "wrong bytes {} within {}", plural(*times, "time", "times"), secs(*within))
            }
            Evidence::ClockSkew => f.write_str("COS says that this host's clock is wrong; never a reason to switch"),
            Evidence::Quiet { lasting } => write!(f, "nothing of the kind for {}", secs(*lasting)),
            Evidence::Stopped { by } => {
                write!(f, "this process or host was stopped for {}; silence during that time counts nothing", secs(*by))
            }
            Evidence::Words { text } => f.write_str(text),
        }
    }
}
