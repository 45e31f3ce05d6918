//! The catalog is lost, at any moment of a history, and made anew from the store: it is the one that went on, table by
//! table; and a rebuild that is interrupted anywhere and goes on ends in the same catalog as one that is not.
//!
//! What may differ, and why:
//!
//! | table | what |
//! |---|---|
//! | chunks | a chunk that nothing refers to, stored twice, whose later copy was condemned: only the rebuild finds the older |
//! | packs | `current` counts those; condemned packs are gone from the store's table, so a rebuild does not know them |
//! | meta | `durable_log_number`: a rebuild reads, and does not know what a process saw become durable |
//! | dirty, meta | after a crash between a checkpoint and its row the rebuild knows the newer one |

mod lossy;
mod requests;
mod resumed;
mod scrubbed;
mod tables;

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_agent::testkit::faulty::{Faulty, FaultyTables, Image, store_of};
use futures::StreamExt;

use crate::crash::examine::{open_catalog, secrets};
use crate::crash::history::{History, agent};
use crate::support::is_long;
use crate::world::Place;
use tables::{Dump, compare};

/// States that are looked at together.
const AT_ONCE: usize = 4;

/// Opens a store with these tables, releases what is due, and tells what is in them. True if the catalog was made anew.
async fn opened(objects: &BTreeMap<String, Bytes>, tables: &FaultyTables, what: &str) -> (Dump, bool) {
    let place = Place::Faulty(Faulty::over(store_of(objects).await));
    let opened = agent(tables).open(&place).await;
    let (store, repository) = opened.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let rebuilt = store.counters().catalogs_rebuilt.value() > 0;
    repository.release_deleted().await.unwrap();
    let dump = Dump::of(&open_catalog(&repository, tables, &secrets(objects)));
    (dump, rebuilt)
}

/// Every moment after a change of the store, with a store that such a moment may leave.
fn cuts(history: &History) -> Vec<(usize, BTreeMap<String, Bytes>)> {
    let images = Image::all(&history.store.journal()).into_iter().enumerate();
    let has_keyring = |image: &Image| image.objects.keys().any(|path| path.contains("/keyring/"));
    let images = images.filter(|(_, image)| has_keyring(image));
    let cuts = images.flat_map(|(index, image)| {
        let outcomes = image.outcomes();
        let chosen = match is_long() {
            true => outcomes,
            false => vec![outcomes[index % outcomes.len()].clone()],
        };
        chosen.into_iter().map(move |objects| (image.at, objects))
    });
    cuts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_catalog_lost_at_any_moment_is_made_anew_as_it_was() {
    let history = History::record().await;
    let cuts = cuts(&history);
    let moments = cuts.len();
    let compared = cuts.into_iter().map(|(at, objects)| {
        let tables = [0, 1].map(|side| history.tables[side].state_at(at, 0));
        tokio::spawn(async move {
            let (rebuilt, _) = opened(&objects, &FaultyTables::default(), &format!("moment {at}, lost")).await;
            let mut went_on = 0;
            for (side, tables) in tables.iter().enumerate() {
                let what = format!("moment {at}, catalog {side}");
                let (dump, was_rebuilt) = opened(&objects, tables, &what).await;
                compare(&dump, &rebuilt, &what);
                went_on += usize::from(!was_rebuilt);
            }
            went_on
        })
    });
    let mut compared = futures::stream::iter(compared).buffer_unordered(AT_ONCE);
    let mut went_on = 0;
    while let Some(result) = compared.next().await {
        went_on += result.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    println!("{moments} moments, {went_on} catalogs that went on");
    assert!(went_on > moments / 2, "{went_on} of {moments}");
}
