use bytes::Bytes;
use futures::future::join_all;

use crate::backend::{Backend, Created, ErrorKind};

/// Every claim, for every backend, as a test of its own.
macro_rules! contract {
    ($($claim:ident),* $(,)?) => {
        contract!(@backend directory: $($claim)*);
        contract!(@backend memory: $($claim)*);
        contract!(@backend s3: $($claim)*);
    };
    (@backend $backend:ident: $($claim:ident)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let fixture = crate::backend::tests::Fixture::$backend().await;
                    super::$claim(&fixture.backend).await;
                }
            )*
        }
    };
}

contract![
    what_was_put_is_read,
    a_put_replaces_whole_objects,
    ranges_are_exact_or_truncated,
    tails_come_with_the_size,
    an_empty_object_can_be_read_in_every_way,
    a_large_object_survives,
    listings_are_sorted_recursive_and_relative,
    listings_continue_after_any_path,
    a_missing_directory_lists_nothing,
    a_prefix_is_a_directory_not_a_string,
    directories_are_listed_one_level_deep,
    deleting_is_final_and_a_missing_object_is_fine,
    missing_objects_are_not_found_in_every_read,
    creation_never_overwrites,
    one_of_many_creators_wins,
    bad_names_are_refused,
    rewrite_and_sync_change_nothing,
];

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(backend: &Backend, path: &str, text: &str) {
    backend.put(path, bytes(text)).await.unwrap();
}

async fn paths(backend: &Backend, prefix: &str, after: Option<&str>) -> Vec<String> {
    let listed = backend.list(prefix, after).await.unwrap();
    listed.into_iter().map(|listed| listed.path).collect()
}

async fn what_was_put_is_read(backend: &Backend) {
    put(backend, "one", "1").await;
    put(backend, "a/b/c/two", "22").await;
    assert_eq!(backend.get("one").await.unwrap(), "1");
    assert_eq!(backend.get("a/b/c/two").await.unwrap(), "22");
    assert_eq!(backend.size("a/b/c/two").await.unwrap(), 2);
}

async fn a_put_replaces_whole_objects(backend: &Backend) {
    put(backend, "a/x", "a longer one").await;
    put(backend, "a/x", "a longer one").await;
    assert_eq!(backend.get("a/x").await.unwrap(), "a longer one");
    put(backend, "a/x", "short").await;
    assert_eq!(backend.get("a/x").await.unwrap(), "short");
    assert_eq!(paths(backend, "", None).await, ["a/x"]);
}

async fn ranges_are_exact_or_truncated(backend: &Backend) {
    put(backend, "x", "0123456789").await;
    assert_eq!(backend.get_range("x", 0..10).await.unwrap(), "0123456789");
    assert_eq!(backend.get_range("x", 3..7).await.unwrap(), "3456");
    assert_eq!(backend.get_range("x", 9..10).await.unwrap(), "9");
    assert_eq!(backend.get_range("x", 4..4).await.unwrap(), "");
    let used = |len| vec![b'?'; len];
    assert_eq!(backend.get_range_into("x", 3..7, used).await.unwrap(), "3456");
    assert_eq!(backend.get_range_into("x", 4..4, used).await.unwrap(), "");
    for (range, found) in [(8..11, 2), (10..11, 0), (500..501, 0), (0..u64::MAX, 10)] {
        for error in [
            backend.get_range("x", range.clone()).await.unwrap_err(),
            backend.get_range_into("x", range.clone(), used).await.unwrap_err(),
        ] {
            match error {
                crate::backend::Error::Truncated {
                    start,
                    end,
                    found: there,
                    ..
                } => assert_eq!((start..end, there), (range.clone(), found)),
                other => panic!("{range:?}: {other}"),
            }
        }
    }
    #[expect(clippy::reversed_empty_ranges, reason = "the claim is about such a range")]
    let backwards = backend.get_range("x", 5..3).await.unwrap_err();
    assert_eq!(backwards.kind(), ErrorKind::Invalid);
}

async fn tails_come_with_the_size(backend: &Backend) {
    put(backend, "x", "0123456789").await;
    assert_eq!(backend.get_tail("x", 3).await.unwrap(), (bytes("789"), 10));
    assert_eq!(backend.get_tail("x", 10).await.unwrap(), (bytes("0123456789"), 10));
    assert_eq!(backend.get_tail("x", 1 << 40).await.unwrap(), (bytes("0123456789"), 10));
    assert_eq!(backend.get_tail("x", 0).await.unwrap(), (bytes(""), 10));
}

async fn an_empty_object_can_be_read_in_every_way(backend: &Backend) {
    put(backend, "x", "").await;
    assert_eq!(backend.get("x").await.unwrap(), "");
    assert_eq!(backend.get_tail("x", 100).await.unwrap(), (bytes(""), 0));
    assert_eq!(backend.size("x").await.unwrap(), 0);
    assert_eq!(
        backend.get_range("x", 0..1).await.unwrap_err().kind(),
        ErrorKind::Truncated
    );
}

async fn a_large_object_survives(backend: &Backend) {
    let contents: Vec<u8> = (0..9 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    backend.put("packs/large", contents.clone().into()).await.unwrap();
    assert!(backend.get("packs/large").await.unwrap() == contents);
    let range = backend.get_range("packs/large", 5_000_000..8_000_000).await.unwrap();
    assert!(range == contents[5_000_000..8_000_000]);
}

async fn listings_are_sorted_recursive_and_relative(backend: &Backend) {
    let mut names: Vec<String> = (0..40)
        .map(|i| format!("r/packs/{:02x}/{:04}", i % 3, 7 * i % 41))
        .collect();
    names.push("r/owner/1".to_owned());
    names.push("z".to_owned());
    join_all(names.iter().map(|name| put(backend, name, name))).await;
    names.sort();
    let listed = backend.list("", None).await.unwrap();
    assert_eq!(
        listed.iter().map(|listed| &listed.path).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    assert!(listed.iter().all(|listed| listed.size == listed.path.len() as u64));
    let packs: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("r/packs/"))
        .cloned()
        .collect();
    assert_eq!(paths(backend, "r/packs", None).await, packs);
    assert_eq!(paths(backend, "r/packs/", None).await, packs);
}

async fn listings_continue_after_any_path(backend: &Backend) {
    let names: Vec<String> = (0..36).map(|i| format!("p/{}/{:02}", i / 10, i)).collect();
    join_all(names.iter().map(|name| put(backend, name, ""))).await;
    for (i, name) in names.iter().enumerate() {
        assert_eq!(paths(backend, "p", Some(name)).await, names[i + 1..]);
    }
    assert_eq!(paths(backend, "p", Some("p/1")).await, names[10..]);
    assert_eq!(paths(backend, "p", Some("a")).await, names);
    assert_eq!(paths(backend, "p", Some("q")).await, [""; 0]);
    assert_eq!(paths(backend, "p/2", Some("p/2/25")).await, names[26..30]);
}

async fn a_missing_directory_lists_nothing(backend: &Backend) {
    assert_eq!(paths(backend, "none", None).await, [""; 0]);
    assert_eq!(paths(backend, "", None).await, [""; 0]);
    assert_eq!(backend.list_directories("none").await.unwrap(), [""; 0]);
}

async fn a_prefix_is_a_directory_not_a_string(backend: &Backend) {
    put(backend, "pack/1", "").await;
    put(backend, "packs/1", "").await;
    assert_eq!(paths(backend, "pack", None).await, ["pack/1"]);
}

async fn directories_are_listed_one_level_deep(backend: &Backend) {
    let names = (0..20).map(|i| format!("top/{i:02}/deep/er"));
    join_all(names.map(|name| async move { put(backend, &name, "").await })).await;
    put(backend, "metadata.yaml", "").await;
    put(backend, "top/file", "").await;
    assert_eq!(backend.list_directories("").await.unwrap(), ["top"]);
    let expected: Vec<String> = (0..20).map(|i| format!("{i:02}")).collect();
    assert_eq!(backend.list_directories("top").await.unwrap(), expected);
}

async fn deleting_is_final_and_a_missing_object_is_fine(backend: &Backend) {
    put(backend, "a/x", "x").await;
    put(backend, "a/y", "y").await;
    backend.delete("a/x").await.unwrap();
    backend.delete("a/x").await.unwrap();
    backend.delete("never/was").await.unwrap();
    assert_eq!(backend.get("a/x").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(paths(backend, "", None).await, ["a/y"]);
}

async fn missing_objects_are_not_found_in_every_read(backend: &Backend) {
    put(backend, "a/x", "x").await;
    for path in ["x", "a/y", "a/b/c"] {
        let errors = [
            backend.get(path).await.unwrap_err(),
            backend.get_range(path, 0..1).await.unwrap_err(),
            backend.get_tail(path, 10).await.unwrap_err(),
            backend.get_tail(path, 0).await.unwrap_err(),
            backend.size(path).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(
                error.to_string().contains(path) && !error.to_string().contains('\n'),
                "{error}"
            );
        }
    }
}

async fn creation_never_overwrites(backend: &Backend) {
    assert_eq!(backend.create("r/owner/1", bytes("mine")).await.unwrap(), Created::New);
    assert_eq!(
        backend.create("r/owner/1", bytes("yours")).await.unwrap(),
        Created::Exists
    );
    assert_eq!(backend.get("r/owner/1").await.unwrap(), "mine");
    put(backend, "r/owner/2", "").await;
    assert_eq!(
        backend.create("r/owner/2", bytes("late")).await.unwrap(),
        Created::Exists
    );
    backend.delete("r/owner/1").await.unwrap();
    assert_eq!(backend.create("r/owner/1", bytes("new")).await.unwrap(), Created::New);
}

async fn one_of_many_creators_wins(backend: &Backend) {
    for round in 0..10 {
        let path = &format!("r/owner/{round}");
        let racers = (0..8).map(|racer| {
            let (backend, path) = (backend.clone(), path.clone());
            tokio::spawn(async move { backend.create(&path, bytes(&racer.to_string())).await.unwrap() })
        });
        let results: Vec<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            results.iter().filter(|&&created| created == Created::New).count(),
            1,
            "{results:?}"
        );
        let winner = results.iter().position(|&created| created == Created::New).unwrap();
        assert_eq!(backend.get(path).await.unwrap(), winner.to_string());
    }
}

async fn bad_names_are_refused(backend: &Backend) {
    for path in [
        "", "/", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a#1", "d/a#17", "lock", "a\u{0}b",
    ] {
        let put = backend.put(path, bytes("x")).await.unwrap_err();
        assert_eq!(put.kind(), ErrorKind::Invalid, "{path:?}: {put}");
        let create = backend.create(path, bytes("x")).await.unwrap_err();
        assert_eq!(create.kind(), ErrorKind::Invalid, "{path:?}: {create}");
        assert_eq!(
            backend.get(path).await.unwrap_err().kind(),
            ErrorKind::Invalid,
            "{path:?}"
        );
    }
    for prefix in ["a//b", "..", "a/../b"] {
        assert_eq!(backend.list(prefix, None).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(
            backend.sweep_staging(prefix).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
}

async fn rewrite_and_sync_change_nothing(backend: &Backend) {
    put(backend, "a/x", "same").await;
    backend.rewrite("a/x").await.unwrap();
    backend.sync().await.unwrap();
    assert_eq!(backend.sweep_staging("").await.unwrap(), 0);
    assert_eq!(backend.get("a/x").await.unwrap(), "same");
    assert_eq!(paths(backend, "", None).await, ["a/x"]);
    assert_eq!(backend.space().unwrap().is_some(), backend.is_volume());
    assert_eq!(backend.lock().unwrap().is_held(), backend.is_volume());
}
