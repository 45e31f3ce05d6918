//! What the disk shows to who has no key: nothing of contents, names, ids or keys.

use std::fs;

use cairn_agent::codec::Secret;
use cairn_agent::format::{Kek, keyring};
use cairn_agent::keys::load_key_file;

use crate::support::{Home, files_below, random_bytes};

const NAME: &str = "the-name-of-the-object";
const PHRASE: &[u8] = b"a phrase that nobody but us has written ";

#[test]
fn neither_store_nor_catalog_shows_contents_names_ids_or_keys() {
    let home = Home::new();
    let small = PHRASE.repeat(3);
    let random = random_bytes(20, 3_000_000);
    home.put(NAME, &small);
    home.put(&format!("{NAME}/2"), &PHRASE.repeat(50_000));
    home.put(&format!("{NAME}/3"), &random);
    home.run(&["cp", NAME, &format!("{NAME}/4")]).ok();
    home.run(&["rm", &format!("{NAME}/2")]).ok();
    home.run(&["gc"]).ok();

    let kek = load_key_file(&home.path("cairn-store.key")).unwrap();
    let keyring = fs::read(&home.store_files("/keyring/")[0]).unwrap();
    let kek = Kek {
        id: kek.id.clone(),
        secret: Secret::from_bytes(*kek.secret),
    };
    let secrets = keyring::open_keyring(&keyring, &kek).unwrap();
    // One chunk, since it is shorter than the shortest that is cut off.
    let id = secrets.id_key().unwrap().id(&small);
    let needles: [(&str, &[u8]); 6] = [
        ("name", NAME.as_bytes()),
        ("text", PHRASE),
        ("random contents", &random[1_000_000..1_000_024]),
        ("start of the random contents", &random[..24]),
        ("chunk id", &id.0),
        ("key", kek.secret.expose()),
    ];
    let mut files = files_below(&home.store());
    files.extend(files_below(&home.path("cairn-store.catalog")));
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        for (what, needle) in needles {
            let hex = hex::encode(needle);
            for form in [needle, hex.as_bytes()] {
                assert!(!contains(&bytes, form), "{} shows the {what}", file.display());
            }
            let path = file.to_string_lossy();
            assert!(
                !path.contains(&hex) && !path.contains(NAME),
                "the name of {path} shows the {what}"
            );
        }
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let (first, last) = (needle[0], bytes.len().saturating_sub(needle.len()));
    let mut at = 0;
    while let Some(found) = bytes[at.min(last)..last].iter().position(|byte| *byte == first) {
        at += found;
        if bytes[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    bytes.ends_with(needle)
}

#[test]
fn the_search_finds_what_is_there() {
    assert!(contains(b"abcd", b"bc") && contains(b"abcd", b"cd") && contains(b"aab", b"ab"));
    assert!(!contains(b"abcd", b"ce") && !contains(b"a", b"ab"));
}
