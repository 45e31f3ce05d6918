//! `cairn rm`: objects go.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::Args;
use serde::Serialize;

use crate::failure::{Failure, name_some};
use crate::ls::all_objects;
use crate::output::printable;
use crate::progress::Progress;
use crate::session::{Session, object_name};
use crate::target::{DELETE_NAMES_MAX, Repository};

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
    let mut removed = Removed::default();
    for batch in names.chunks(DELETE_NAMES_MAX) {
        let found = repository.delete(batch).await?;
        for (name, was_there) in batch.iter().zip(found) {
            match was_there {
                true => removed.removed.push(name.clone()),
                false => removed.missing.push(name.clone()),
            }
        }
        counter.add(batch.len() as u64);
    }
    Ok(removed)
}
