//! What readers return, and what they hold for it.

use futures::FutureExt;
use rand::RngExt;

use super::*;
use crate::catalog::EntriesRow;
use crate::engine::in_flight::Known;
use crate::engine::read::WINDOW_BYTES;
use crate::engine::write::look_up;
use crate::format::{BlobKind, PackNumber};

/// Words that compress well.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = Vec::new();
    while text.len() < len {
        text.extend_from_slice(format!("word{} ", rng.random_range(0..2048)).as_bytes());
    }
    text.truncate(len);
    text
}

/// Chunks that are compressed and such as are not, such as come back in the same window, and windows that have much of one kind
/// and little of the other.
fn mixed() -> Vec<u8> {
    let mut data = Vec::new();
    for (seed, noise, words) in [
        (1, 5 << 20, 0),
        (2, 3 << 20, 300 << 10),
        (3, 300 << 10, 6 << 20),
        (4, 1 << 20, 1 << 20),
    ] {
        data.extend(bytes(seed, noise));
        data.extend(text(seed, words));
    }
    data.extend(bytes(5, 300 << 10).repeat(20));
    data.extend([bytes(6, 200 << 10), text(6, 200 << 10)].concat().repeat(20));
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_every_kind_come_back_from_buffers_that_were_used_before() {
    let repository = store("kinds").await.repository("default").await.unwrap();
    let data = mixed();
    let put = repository.put("a", data.as_slice(), PutOptions::default()).await;
    assert!(put.unwrap().new_chunks > 100);
    for _ in 0..2 {
        let mut reader = repository.get("a", ByteRange::All).await.unwrap();
        let mut parts = Vec::new();
        while let Some(part) = reader.next().await.unwrap() {
            parts.push(part);
        }
        drop(reader);
        assert!(
            read(&repository, "a", ByteRange::All).await == data,
            "beside parts that are held"
        );
        assert!(parts.concat() == data, "what is held changes");
    }
    let len = data.len() as u64;
    for (first, last) in [
        (0, 0),
        (len - 1, len - 1),
        (5 << 20, 9 << 20),
        (len - (9 << 20), len - 7),
    ] {
        let range = ByteRange::Inclusive { first, last };
        assert!(read(&repository, "a", range).await == data[first as usize..=last as usize]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_returned_is_paid_for_until_it_goes_on() {
    let (store, repository) = tuned("paid", NewRepository::named("default").unwrap(), |options| {
        options.read_fetches_max = 1;
    })
    .await;
    // What is not small comes in a whole buffer.
    let (small, large, whole) = (100 << 10, 700 << 10, WINDOW_BYTES / 4 * 5);
    for (name, data, held) in [
        ("raw", bytes(1, small), small),
        ("text", text(1, small), small),
        ("large", bytes(2, large), whole),
    ] {
        repository
            .put(name, data.as_slice(), PutOptions::default())
            .await
            .unwrap();
        let mut reader = repository.get(name, ByteRange::All).await.unwrap();
        let mut parts = Vec::new();
        while let Some(part) = reader.next().await.unwrap() {
            parts.push(part);
            assert_eq!(store.budget_used_bytes(), held, "{name}");
        }
        assert_eq!(store.budget_used_bytes(), 0, "{name}");
        assert!(parts.concat() == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_reads_do_not_wait_for_each_other() {
    let (store, repository) = tuned("small", NewRepository::named("default").unwrap(), |_| {}).await;
    let (small, text) = (bytes(1, 4 << 10), text(1, 200 << 10));
    repository
        .put("small", small.as_slice(), PutOptions::default())
        .await
        .unwrap();
    repository
        .put("text", text.as_slice(), PutOptions::default())
        .await
        .unwrap();
    // Of each as many as would take the share of reads several times, if a read took a window's worth.
    let mut readers = Vec::new();
    for _ in 0..64 {
        for (name, data, range) in [("small", &small, ByteRange::All), ("text", &text, ByteRange::Last(1))] {
            let mut reader = repository.get(name, range).await.unwrap();
            let next = tokio::time::timeout(AT_MOST, reader.next()).await;
            let part = next.expect("no other reader stands in the way").unwrap().unwrap();
            assert!(data.ends_with(&part));
            readers.push(reader);
        }
    }
    assert!(store.budget_used_bytes() < 32 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_read_was_given_up_does_not_go_on_elsewhere() {
    // Nothing is fetched before it is asked for.
    let first = NewRepository::named("default").unwrap();
    let (_, repository) = tuned("given up", first, |options| options.read_fetches_max = 1).await;
    let data = bytes(1, 20 << 20);
    repository
        .put("a", data.as_slice(), PutOptions::default())
        .await
        .unwrap();
    let mut reader = repository.get("a", ByteRange::All).await.unwrap();
    let first = reader.next().await.unwrap().unwrap();
    assert!(data.starts_with(&first));
    assert!(reader.next().now_or_never().is_none(), "it waits for what it asked for");
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.reason(), Reason::Cancelled, "{error}");
    assert!(error.to_string().contains("get the object again"), "{error}");
    assert_eq!(reader.next().await.unwrap_err().reason(), Reason::Cancelled);
}

/// Puts an object of several chunks into a pack, and answers with its entries.
async fn one_pack(repository: &Repository, data: &[u8]) -> (PackNumber, EntriesRow) {
    let put = repository.put("one pack", data, PutOptions::default()).await.unwrap();
    assert!(put.new_chunks > 3);
    let core = repository.core();
    let packs = core.catalog.packs_page(None, 10).unwrap();
    let pack = packs.iter().find(|row| row.entries > 3).unwrap().name.number;
    (pack, core.catalog.entries(pack).unwrap().unwrap())
}

#[tokio::test]
async fn short_reads_keep_entries_of_packs_and_long_ones_do_not() {
    let repository = store("kept entries").await.repository("default").await.unwrap();
    let core = repository.core();
    let data = bytes(1, 3 << 20);
    let (pack, entries) = one_pack(&repository, &data).await;
    let kept = || core.pack_entries.get(repository.id(), pack);
    assert!(read(&repository, "one pack", ByteRange::All).await == data);
    assert_eq!(kept(), None);

    let short = ByteRange::Inclusive { first: 7, last: 99 };
    assert!(read(&repository, "one pack", short).await == data[7..=99]);
    let first = kept().unwrap();
    assert_eq!(*first, entries);
    assert!(read(&repository, "one pack", short).await == data[7..=99]);
    assert!(Arc::ptr_eq(&first, &kept().unwrap()), "they were read once more");

    repository.rebuild().await.unwrap();
    assert_eq!(kept(), None, "they may have been of what is no more");
    assert!(read(&repository, "one pack", short).await == data[7..=99]);
    assert_eq!(*kept().unwrap(), entries);
}

#[tokio::test]
async fn while_the_catalog_is_made_anew_no_places_are_kept() {
    let repository = store("kept places").await.repository("default").await.unwrap();
    let core = repository.core();
    let (_, entries) = one_pack(&repository, &bytes(1, 1 << 20)).await;
    let data = entries.entries.iter().filter(|entry| entry.kind == BlobKind::Data);
    let ids: Vec<_> = data.map(|entry| entry.id).collect();
    let look_up = || {
        let known = look_up(core, &core.in_flight.holder(), &ids).unwrap();
        assert!(known.iter().all(|known| *known == Known::Stored));
        core.locality.find(&ids[0])
    };
    core.rebuilds.fetch_add(1, Ordering::AcqRel);
    assert_eq!(look_up(), None);
    core.rebuilds.fetch_add(1, Ordering::AcqRel);
    assert!(look_up().is_some());
}
