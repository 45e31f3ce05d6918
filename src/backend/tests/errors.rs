use std::sync::Arc;

use object_store::memory::InMemory;

use crate::backend::{Attach, Backend, ErrorKind, Location};

fn location(text: &str) -> Location {
    text.parse().unwrap()
}

fn refusal(text: &str) -> String {
    text.parse::<Location>().unwrap_err().to_string()
}

#[test]
fn locations_print_as_they_are_parsed() {
    for text in [
        "dir",
        "/some/dir",
        "./x",
        "memory://m",
        "s3://bucket",
        "s3://bucket/some/prefix",
    ] {
        assert_eq!(location(text).to_string(), text);
    }
    assert_eq!(
        location("file:///some/di%20r"),
        Location::Directory("/some/di r".into())
    );
    // Not every path is a text that would be read as one.
    for text in ["file:///a:/%2fb", "file:///a%3A//b", "file:///%ff"] {
        assert_eq!(location(&location(text).to_string()), location(text), "{text}");
    }
    assert_eq!(location("s3://bucket/"), location("s3://bucket"));
    assert_eq!(location("s3://bucket/prefix/"), location("s3://bucket/prefix"));
}

#[test]
fn every_wrong_location_says_what_would_be_right() {
    for text in ["gs://b/p", "az://c", "abfss://c/p"] {
        assert!(refusal(text).contains("does not support"), "{}", refusal(text));
    }
    assert!(refusal("ftp://host/x").contains("unknown scheme \"ftp\""));
    assert!(refusal("").contains("directory"));
    assert!(refusal("file://host/x").contains("file:///"));
    assert!(refusal("memory://").contains("name"));
    for text in [
        "s3://",
        "s3://ab",
        "s3://Bucket/x",
        "s3://buck et",
        "s3://bucket//x",
        "s3://bucket/../x",
        "s3://bucket/x?y",
    ] {
        assert!(refusal(text).starts_with(text), "{}", refusal(text));
    }
}

#[tokio::test]
async fn a_missing_directory_is_created_only_if_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/store");
    let location = Location::Directory(path.clone());
    let refused = Backend::attach(&location, Attach::Existing).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(refused.to_string().contains("a/b/store"));
    assert!(!path.exists());
    Backend::attach(&location, Attach::CreateDirectory).await.unwrap();
    Backend::attach(&location, Attach::CreateDirectory).await.unwrap();
    Backend::attach(&location, Attach::Existing).await.unwrap();
}

#[tokio::test]
async fn a_file_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "x").unwrap();
    for (path, attach) in [
        (path.clone(), Attach::Existing),
        (path.clone(), Attach::CreateDirectory),
        (path.join("below"), Attach::CreateDirectory),
    ] {
        let error = Backend::attach(&Location::Directory(path), attach).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory, "{error}");
    }
}

#[tokio::test]
async fn memory_stays_by_its_name() {
    let first = Backend::attach(&location("memory://stays"), Attach::Existing)
        .await
        .unwrap();
    first.put("x", "1".into()).await.unwrap();
    drop(first);
    let again = Backend::attach(&location("memory://stays"), Attach::Existing)
        .await
        .unwrap();
    assert_eq!(again.get("x").await.unwrap(), "1");
    let other = Backend::attach(&location("memory://other"), Attach::Existing)
        .await
        .unwrap();
    assert_eq!(other.get("x").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_given_store_is_used_as_it_is_and_named_by_its_location() {
    let store = Arc::new(InMemory::new());
    let backend = Backend::with_object_store(store, location("/some/where"));
    backend.put("x", "1".into()).await.unwrap();
    assert_eq!(backend.get("x").await.unwrap(), "1");
    assert!(!backend.is_volume() && !backend.lock().unwrap().is_held());
    let missing = backend.get("y").await.unwrap_err();
    assert_eq!(missing.to_string(), "/some/where/y: not found");
}
