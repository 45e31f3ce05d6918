//! The process, the machine or the catalog's disk stops at any moment: what was acknowledged is there, what was not is
//! there or not, and the store goes on.
//!
//! A history of two agents is recorded once, with every operation on the store and every commit of the catalogs. Then
//! it is cut off after each of them. `CAIRN_LONG=1` looks at every combination of what a crash may leave of store and
//! catalog; without it, each cut is looked at with one catalog, in turns.

pub(crate) mod examine;
pub(crate) mod history;
pub(crate) mod told;

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_agent::testkit::faulty::{FaultyTables, Image};
use futures::StreamExt;

use examine::{Left, nothing_was_sealed_twice};
use history::History;

use crate::support::is_long;

/// States that are looked at together.
const AT_ONCE: usize = 4;

/// What survives of the catalogs.
#[derive(Clone, Copy, Debug)]
enum Survivor {
    /// Of this agent, without its last commits.
    Catalog(usize, usize),
    None,
}

fn survivors(history: &History, at: usize) -> Vec<Survivor> {
    let mut survivors = vec![Survivor::None];
    for (side, tables) in history.tables.iter().enumerate() {
        let states = tables.states_at(at);
        let older = [0, 1, states / 2, states - 1].map(|older| older.min(states - 1));
        let older = std::collections::BTreeSet::from(older);
        survivors.extend(older.into_iter().map(|older| Survivor::Catalog(side, older)));
    }
    survivors
}

fn catalog(history: &History, at: usize, survivor: Survivor) -> FaultyTables {
    match survivor {
        Survivor::Catalog(side, older) => history.tables[side].state_at(at, older),
        Survivor::None => FaultyTables::default(),
    }
}

/// Every moment at which something changed, with the store then.
fn cuts(history: &History) -> Vec<Image> {
    let images: BTreeMap<usize, Image> = Image::all(&history.store.journal())
        .into_iter()
        .map(|image| (image.at, image))
        .collect();
    let mut moments: Vec<usize> = images.keys().copied().collect();
    moments.extend(history.callers.moments());
    moments.extend(history.tables.iter().flat_map(FaultyTables::moments).map(|at| at + 1));
    moments.sort_unstable();
    moments.dedup();
    let at = |moment| {
        let (_, image) = images.range(..=moment).next_back()?;
        Some(Image {
            at: moment,
            ..image.clone()
        })
    };
    moments.into_iter().filter_map(at).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crash_at_any_moment_leaves_what_was_acknowledged() {
    let history = History::record().await;
    nothing_was_sealed_twice(&BTreeMap::new(), &history.store.journal());
    let cuts = cuts(&history);
    let mut states = 0;
    let left = cuts.iter().enumerate().flat_map(|(index, image)| {
        let survivors = survivors(&history, image.at);
        let stores: Vec<_> = stores(image).into_iter().enumerate().collect();
        let chosen: Vec<_> = match is_long() {
            true => survivors
                .iter()
                .flat_map(|survivor| stores.iter().map(move |store| (*survivor, store.clone())))
                .collect(),
            false => {
                let store = stores[index % stores.len()].clone();
                vec![(survivors[index * 7 % survivors.len()], store)]
            }
        };
        let history = &history;
        chosen.into_iter().map(move |(survivor, (outcome, objects))| Left {
            what: format!("moment {}, outcome {outcome}, {survivor:?}", image.at),
            objects,
            catalog: catalog(history, image.at, survivor),
            told: history.callers.at(image.at),
        })
    });
    let mut examined = futures::stream::iter(left)
        .map(|left| tokio::spawn(left.examine()))
        .buffer_unordered(AT_ONCE);
    while let Some(result) = examined.next().await {
        if let Err(panic) = result {
            std::panic::resume_unwind(panic.into_panic());
        }
        states += 1;
    }
    println!("{states} states after {} moments", cuts.len());
}

/// What the crash may leave of the store: the changes in flight done or not, and what was deleted back or not.
fn stores(image: &Image) -> Vec<BTreeMap<String, Bytes>> {
    let mut stores = image.outcomes();
    if !image.deleted.is_empty() {
        let mut back = image.objects.clone();
        back.extend(image.deleted.clone());
        stores.push(back);
    }
    stores
}
