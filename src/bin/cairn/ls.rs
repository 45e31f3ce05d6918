//! `cairn ls`: which objects there are.

use clap::Args;

use cairn_agent::engine::ObjectInfo;

use crate::failure::Failure;
use crate::output::{ObjectView, table};
use crate::scrub::DamagedView;
use crate::session::Session;
use crate::target::Repository;

/// List objects, sorted by name
#[derive(Args)]
pub(crate) struct Ls {
    /// Only objects whose names start with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only objects of which something is known to be damaged or missing, and what of them
    #[arg(long)]
    damaged: bool,
}

impl Ls {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let repository = session.repository().await?;
        if self.damaged {
            let damaged = repository.damaged_objects(&self.prefix).await?;
            let mut views: Vec<DamagedView> = damaged.iter().map(DamagedView::from).collect();
            views.sort_by(|a, b| a.name.cmp(&b.name));
            return session.output().print(&views, |out| DamagedView::table(out, &views));
        }
        let objects = all_objects(&repository, &self.prefix).await?;
        let views: Vec<ObjectView> = objects.iter().map(ObjectView::from).collect();
        session.output().print(&views, |out| {
            let rows: Vec<_> = views.iter().map(ObjectView::cells).collect();
            table(out, ["NAME", ">VERSION", ">BYTES", "CREATED"], &rows)
        })
    }
}

/// All objects whose names start with `prefix`, sorted by name. The engine's own order is that of keyed hashes.
pub(crate) async fn all_objects(repository: &Repository, prefix: &str) -> Result<Vec<ObjectInfo>, Failure> {
    let mut objects = repository.list(prefix).await?;
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(objects)
}
