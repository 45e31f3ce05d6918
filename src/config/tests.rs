use std::path::Path;

use super::*;
use crate::backend::Location;
use crate::catalog;
use crate::engine::Reason;

fn resolve(store: &str) -> Place {
    Place::resolve(PlaceFlags {
        store: Some(store.into()),
        ..PlaceFlags::default()
    })
    .unwrap()
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let cases = [
        ("0", 0),
        ("65536", 65536),
        ("64KiB", 65536),
        ("64 KiB", 65536),
        ("64k", 65536),
        ("64KB", 64000),
        ("1MiB", 1 << 20),
        ("3G", 3 << 30),
        ("2TiB", 2 << 40),
    ];
    for (text, bytes) in cases {
        assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
    }
    let wrong = ["", "KiB", "-1", "1.5MiB", "64KiBs", "99999999999TiB", "64  KiB"];
    for text in wrong {
        let error = text.parse::<Size>().unwrap_err().to_string();
        assert!(
            error.contains(&format!("{text:?}")) && error.contains("such as 64KiB"),
            "{error}"
        );
    }
}

#[test]
fn sizes_are_printed_short() {
    let cases = [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (u64::MAX, "16.0 EiB"),
    ];
    for (bytes, text) in cases {
        assert_eq!(Size(bytes).to_string(), text);
    }
}

#[test]
fn catalog_and_key_are_beside_a_directory() {
    for store in ["/data/store", "/data/store/", "file:///data/store"] {
        let place = resolve(store);
        let key = Path::new("/data/store.key");
        assert_eq!(place.key_file().unwrap(), &KeyFile::Default(key.to_owned()));
    }
    let place = Place::resolve(PlaceFlags::default()).unwrap();
    assert_eq!(place.location, Location::Directory("./cairn-store".into()));
    assert_eq!(place.key_file().unwrap().path(), Path::new("./cairn-store.key"));
}

#[test]
fn a_directory_is_named_after_where_it_leads() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let place = resolve(store.join("..").to_str().unwrap());
    let expected = directory.path().canonicalize().unwrap().with_extension("key");
    assert_eq!(place.key_file().unwrap().path().file_stem(), expected.file_stem());
    assert!(resolve("/").key_file().is_err());
}

#[test]
fn a_bucket_needs_both_flags() {
    let error = resolve("s3://bucket/prefix").key_file().unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidArgument);
    assert!(
        error
            .to_string()
            .starts_with("--key-file FILE is needed for s3://bucket/prefix")
    );

    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("key");
    crate::keys::create_key_file(&key_file).unwrap();
    let mut flags = PlaceFlags {
        store: Some("s3://bucket/prefix".into()),
        key_file: Some(key_file),
        catalog: None,
    };
    let error = Place::resolve(flags.clone()).unwrap().store_options().unwrap_err();
    assert!(error.to_string().starts_with("--catalog DIR is needed"), "{error}");
    flags.catalog = Some("/data/catalog".into());
    let options = Place::resolve(flags).unwrap().store_options().unwrap();
    assert!(matches!(options.catalog, catalog::Location::Directory(path) if path == Path::new("/data/catalog")));
}

#[test]
fn a_key_is_made_once_and_only_in_the_default_place() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let place = resolve(store.to_str().unwrap());
    let missing = place.store_options().unwrap_err();
    assert_eq!(missing.reason(), Reason::KeysUnavailable);
    assert!(missing.to_string().contains("store.key not found"));
    assert!(place.create_missing_key().unwrap().is_some());
    let id = place.store_options().unwrap().keks[0].id.clone();
    assert!(place.create_missing_key().unwrap().is_none());
    assert_eq!(place.store_options().unwrap().keks[0].id.clone(), id);

    let given = Place::resolve(PlaceFlags {
        store: Some(store.into()),
        key_file: Some(directory.path().join("given")),
        catalog: None,
    });
    assert!(given.unwrap().create_missing_key().unwrap().is_none());
    assert!(!directory.path().join("given").exists());
}

#[test]
fn a_wrong_store_names_the_flag() {
    let flags = PlaceFlags {
        store: Some("ftp://host".into()),
        ..PlaceFlags::default()
    };
    let error = Place::resolve(flags).unwrap_err();
    assert!(error.to_string().starts_with("--store: ftp://host"), "{error}");
}
