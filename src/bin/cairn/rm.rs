//! `cairn rm`: objects go.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use cairn_agent::engine::{Precondition, Repository};

use crate::failure::{Failure, name_some};
use crate::ls::all_objects;
use crate::output::printable;
use crate::progress::{Counter, Progress};
use crate::session::{Session, object_name};

/// Deletes under way at once: together they share commits.
const DELETES_MAX: usize = 256;

/// Remove objects; `gc` gives their space back
#[derive(Args)]
pub(crate) struct Rm {
    /// The objects to remove
    #[arg(value_name = "NAME", required_unless_present = "prefix")]
    names: Vec<OsString>,
    /// Also remove all objects whose names start with this
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
}

#[derive(Default, Serialize)]
struct Removed {
    removed: Vec<String>,
    missing: Vec<String>,
}

impl Rm {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let names = self.names.iter().map(object_name).collect::<Result<BTreeSet<_>, _>>()?;
        let repository = session.repository().await?;
        let mut removed = remove(&repository, names.into_iter().map(str::to_owned).collect()).await?;
        if let Some(prefix) = &self.prefix {
            let objects = all_objects(&repository, prefix).await?;
            let below = remove(&repository, objects.into_iter().map(|object| object.name).collect()).await?;
            // What vanishes between the listing and the removal was to vanish.
            removed.removed.extend(below.removed);
        }
        session.output().print(&removed, |out| {
            removed
                .removed
                .iter()
                .try_for_each(|name| writeln!(out, "removed {}", printable(name)))
        })?;
        removed.complain()
    }
}

impl Removed {
    fn complain(&self) -> Result<(), Failure> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let rest = match self.removed.len() {
            0 => "nothing was removed",
            1 => "the other one was removed",
            _ => "the others were removed",
        };
        let line = format!("no object is called {}; {rest}", name_some(&self.missing));
        Err(Failure::failed(line))
    }
}

/// Removes them all, in any order, and tells which were there.
async fn remove(repository: &Repository, names: Vec<String>) -> Result<Removed, Failure> {
    let progress = Progress::objects("rm", names.len() as u64);
    let counter = progress.counter();
    let deletes: Vec<_> = names
        .into_iter()
        .map(|name| delete(repository.clone(), name, counter.clone()))
        .collect();
    let outcomes: Vec<(String, bool)> = stream::iter(deletes).buffered(DELETES_MAX).try_collect().await?;
    let mut removed = Removed::default();
    for (name, found) in outcomes {
        if found {
            removed.removed.push(name);
        } else {
            removed.missing.push(name);
        }
    }
    Ok(removed)
}

async fn delete(repository: Repository, name: String, counter: Counter) -> Result<(String, bool), Failure> {
    let found = repository.delete(&name, Precondition::None).await?;
    counter.add(1);
    Ok((name, found))
}
