//! Brings two buckets into the state that the mount relies on, and touches nothing else.
//!
//! A pair of buckets that protects its data needs six settings in two places, in the right order; made by hand, one is forgotten, and that
//! shows on the day of the outage. So the settings are *planned* first: a pure function looks at what both buckets have and says what is
//! to change, with the document before and after. The plan is what `--dry-run` prints, what a person is asked about, and what is
//! executed. Run again, it is empty.
//!
//! A PUT replaces a whole configuration, so documents are changed as trees: rules of others go back as they came. A change that takes
//! something away from what somebody else configured is marked ([`Change::foreign`]), and needs a yes. Just before it is made, each
//! document is read again; if somebody changed it meanwhile, nothing is written.
//!
//! Owns: what the settings are to be ([`rules`]), the plan, its execution. Owns not: the judgement of what is there (`doctor`), requests
//! (`cos/configuration`). Checked by the table tests in `rules` and by `tests/doctor` against emulated buckets.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cos::{Attempt, Client, Deadlines, Element, Error, Kind, Progress, Resource};
use crate::object::Site;

pub mod rules;

/// A person waits, and configuration requests are slower than those on objects.
const PATIENCE: Deadlines = Deadlines {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(20),
    progress: Duration::from_secs(10),
};

/// What the buckets are to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// As replication rules name them: `qcs::cos:<region>::<bucket>`. `[a, b]`.
    pub resources: [String; 2],
    /// The mounted folder; rules must cover it.
    pub prefix: String,
    /// Who replicates: `qcs::cam::uin/<owner>:uin/<owner>`. `None`: as a rule that is there says, or the owner of the bucket.
    pub role: Option<String>,
    /// Noncurrent versions are removed after this many days.
    pub noncurrent_days: u64,
    /// Unfinished multipart uploads are removed after this many days.
    pub abort_days: u64,
    /// Switch global acceleration on in both buckets.
    pub accelerate: bool,
    /// Where bucket B sends readers of what it does not have.
    pub origin: Option<OriginPull>,
}

/// An origin-pull rule in redirect mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginPull {
    pub https: bool,
    /// Host, with port if it is not the usual one.
    pub host: String,
    /// Goes before the key; ends with a slash if it is not empty.
    pub folder: String,
}

/// What both buckets have. Absent: not asked for; `None`: the bucket has none.
pub type Present = [BTreeMap<Resource, Option<Element>>; 2];

/// One document to be replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub site: Site,
    pub what: Resource,
    pub before: Option<Element>,
    /// `None`: the configuration is removed.
    pub after: Option<Element>,
    pub reason: String,
    /// What of somebody else's settings is changed by it; empty if it only adds.
    pub foreign: Vec<String>,
}

/// Why there can be no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Obstacle {
    #[error(
        "bucket {site} has no replication rule yet, and who is to replicate is not known: give it with --role \
         qcs::cam::uin/<account number>:uin/<account number> (the account number is shown in the console under Account Information)"
    )]
    NoRole { site: Site },
    #[error(
        "bucket {site} replicates to {target} (rule {rule}), and COS lets a bucket replicate to one target only. If that rule is not needed \
         any more, remove it in the console, then run this again"
    )]
    OtherTarget { site: Site, target: String, rule: String },
}

/// Why the settings could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the {} settings of bucket {site} cannot be read: {error}", .what.name())]
    Read { site: Site, what: Resource, error: Error },
    #[error("the {} settings of bucket {site} cannot be changed: {error}", .what.name())]
    Write { site: Site, what: Resource, error: Error },
    #[error("somebody changed the {} settings of bucket {site} meanwhile; nothing was written over them. Run it again", .what.name())]
    Changed { site: Site, what: Resource },
    #[error("{0}")]
    Obstacle(#[from] Obstacle),
}

impl Trouble {
    /// Is it about rights?
    pub fn is_refusal(&self) -> bool {
        matches!(self, Trouble::Read { error, .. } | Trouble::Write { error, .. } if error.kind == Kind::Auth)
    }
}

/// Reads what there is of everything that `wanted` is about.
pub async fn read(clients: &[Client; 2], wanted: &Wanted) -> Result<Present, Trouble> {
    let mut kinds = vec![Resource::Versioning, Resource::Replication, Resource::Lifecycle, Resource::Origin];
    if wanted.accelerate {
        kinds.push(Resource::Accelerate);
    }
    let mut present = Present::default();
    for site in Site::ALL {
        let asked = kinds.iter().map(|what| read_one(&clients[site.index()], site, *what));
        for (what, found) in kinds.iter().zip(futures::future::try_join_all(asked).await?) {
            present[site.index()].insert(*what, found);
        }
        // Only for the name of the owner, and not every key may read it.
        if wanted.role.is_none()
            && let Ok(found) = read_one(&clients[site.index()], site, Resource::Acl).await
        {
            present[site.index()].insert(Resource::Acl, found);
        }
    }
    Ok(present)
}

async fn read_one(client: &Client, site: Site, what: Resource) -> Result<Option<Element>, Trouble> {
    let progress = Progress::new();
    let at = Attempt { deadlines: PATIENCE, ..Attempt::new(&progress) };
    client.configuration(what, &at).await.map_err(|error| Trouble::Read { site, what, error })
}

/// Makes one change, unless the document is not any more what the plan was made for.
pub async fn execute(client: &Client, change: &Change) -> Result<(), Trouble> {
    let Change { site, what, .. } = *change;
    if read_one(client, site, what).await? != change.before {
        return Err(Trouble::Changed { site, what });
    }
    let progress = Progress::new();
    let at = Attempt { deadlines: PATIENCE, ..Attempt::new(&progress) };
    match &change.after {
        Some(after) => client.set_configuration(what, after, &at).await,
        None => client.remove_configuration(what, &at).await,
    }
    .map_err(|error| Trouble::Write { site, what, error })
}

impl Change {
    /// The documents before and after, line by line; unchanged parts further away than three lines are left out.
    pub fn difference(&self) -> String {
        let text = |tree: &Option<Element>| tree.as_ref().map(Element::pretty).unwrap_or_default();
        let (before, after) = (text(&self.before), text(&self.after));
        let name = |when: &str| format!("{}/{} ({when})", self.site, self.what.name());
        similar::TextDiff::from_lines(&before, &after)
            .unified_diff()
            .context_radius(3)
            .header(&name("now"), &name("wanted"))
            .to_string()
    }
}
