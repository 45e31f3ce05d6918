use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Error, create_key_file, load_key_file};

#[test]
fn created_key_loads_again_and_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let created = create_key_file(&path).unwrap();
    let loaded = load_key_file(&path).unwrap();
    assert_eq!(*created.secret, *loaded.secret);
    assert_eq!(created.id, loaded.id);
    assert_eq!(created.id.len(), "file:".len() + 8);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(create_key_file(&path), Err(Error::Exists { .. })));
    assert_eq!(*load_key_file(&path).unwrap().secret, *loaded.secret);
}

#[test]
fn two_created_keys_differ() {
    let directory = tempfile::tempdir().unwrap();
    let first = create_key_file(&directory.path().join("1")).unwrap();
    let second = create_key_file(&directory.path().join("2")).unwrap();
    assert_ne!(*first.secret, *second.secret);
    assert_ne!(first.id, second.id);
}

#[test]
fn raw_and_hex_forms_are_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let secret: [u8; 32] = std::array::from_fn(|i| 200 - i as u8);
    let forms = [
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        format!("{}\n", hex::encode(secret)).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
    ];
    for form in forms {
        fs::write(&path, form).unwrap();
        assert_eq!(*load_key_file(&path).unwrap().secret, secret);
    }
}

#[test]
fn every_other_content_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let load = |contents: &[u8]| {
        fs::write(&path, contents).unwrap();
        load_key_file(&path).unwrap_err()
    };
    assert!(matches!(load(b""), Error::Empty { .. }));
    assert!(matches!(load(&[7; 31]), Error::WrongLength { len: 31, .. }));
    assert!(matches!(load(&[7; 33]), Error::WrongLength { len: 33, .. }));
    assert!(matches!(load(&[b'a'; 66]), Error::WrongLength { len: 66, .. }));
    assert!(load(&[7; 100_000]).to_string().contains("more than 4096"));
    assert!(matches!(load(&[b'x'; 64]), Error::NotHexadecimal { .. }));
    assert!(matches!(
        load_key_file(&directory.path().join("none")),
        Err(Error::Missing { .. })
    ));
    assert!(matches!(load_key_file(directory.path()), Err(Error::Directory { .. })));
}

#[test]
fn messages_and_debug_show_nothing_of_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let text = "0123456789abcdef".repeat(4);
    fs::write(&path, &text).unwrap();
    assert!(!format!("{:?}", load_key_file(&path).unwrap()).contains(&text[..8]));
    fs::write(&path, format!("{}z", &text[..63])).unwrap();
    assert!(!load_key_file(&path).unwrap_err().to_string().contains(&text[..8]));
}

#[test]
fn nothing_is_created_in_a_missing_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none/key");
    assert!(matches!(create_key_file(&path), Err(Error::Io { .. })));
}

#[test]
fn a_created_key_leaves_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    create_key_file(&directory.path().join("key")).unwrap();
    assert!(create_key_file(&directory.path().join("key")).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
