//! `cairn evacuate` and `cairn wipe`, on a store and through an agent.

use std::fs;

#[cfg(feature = "serve")]
use crate::agent::Agent;
use crate::support::{Home, random_bytes};

#[test]
fn a_store_is_moved_wiped_and_used_at_its_new_place() {
    let home = Home::new();
    home.put("large", &random_bytes(1, 9_000_001));
    home.put("small", b"some bytes");
    let id = home.run(&["repo", "ls", "-o", "json"]).json()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let to = home.path("elsewhere");
    let to = to.to_str().unwrap();
    home.run(&["evacuate", "--to", "cairn-store/within"])
        .fails(64, &["lies in the other"]);
    let moved = home.run(&["evacuate", "--to", to, "-o", "json"]).json();
    assert_eq!(
        (&moved["verdict"], &moved["lost_count"]),
        (&"COMPLETE".into(), &0.into()),
        "{moved}"
    );
    assert_eq!(moved["repositories"][0], id.as_str());
    assert!(moved["bytes_copied"].as_u64().unwrap() > 9_000_000, "{moved}");
    home.run_with_input(&["put", "late"], b"x")
        .fails(69, &["was moved to", to]);
    assert_eq!(home.get("small"), b"some bytes");

    let key = home.path("cairn-store.key");
    let there = ["--store", to, "--key-file", key.to_str().unwrap()];
    let run = |arguments: &[&str]| home.run(&[arguments, &there].concat());
    assert_eq!(run(&["get", "large"]).ok(), random_bytes(1, 9_000_001));
    run(&["scrub"]).ok();
    run(&["cp", "small", "copy"]).ok();

    home.run(&["wipe", "--confirm", "yes"]).fails(64, &[&id]);
    let wiped = home.run(&["wipe", "--confirm", &id, "-o", "json"]).json();
    assert!(wiped["bytes_removed"].as_u64().unwrap() > 9_000_000, "{wiped}");
    home.run(&["ls"]).fails(69, &["no store"]);
    assert_eq!(run(&["get", "copy"]).ok(), b"some bytes");
}

#[test]
fn what_is_lost_is_listed_with_its_own_exit_code() {
    let home = Home::new();
    home.put("large", &random_bytes(1, 9_000_001));
    let pack = home
        .store_files("packs")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let moved = home.run(&["evacuate", "--to", home.path("elsewhere").to_str().unwrap()]);
    let printed = moved.stdout();
    assert!(
        printed.contains("INCOMPLETE") && printed.contains("65536 bytes at 196608"),
        "{printed}"
    );
    assert!(printed.contains("large"), "{printed}");
    moved.fails(65, &["1 objects lack something"]);
}

#[test]
fn what_is_left_of_a_removal_is_removed() {
    let home = Home::new();
    home.put("a", &random_bytes(1, 1_000_000));
    let id = home.run(&["repo", "ls", "-o", "json"]).json()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for file in home.store_files("keyring") {
        fs::remove_file(file).unwrap();
    }
    home.run(&["ls"]).fails(65, &["repo rm"]);
    home.run(&["repo", "rm", &id, "--confirm", "yes"]).fails(1, &[]);
    let removed = home.run(&["repo", "rm", &id, "--confirm", &id]);
    assert!(removed.stdout().contains(&id), "{}", removed.stdout());
    removed.ok();
    assert!(home.store_files("packs").is_empty());
}

#[cfg(feature = "serve")]
#[test]
fn an_agent_moves_and_wipes_too() {
    let there = Home::new();
    there.put("large", &random_bytes(1, 9_000_001));
    let agent = Agent::start(&there, &[]);
    let client = Home::new();
    let run = |arguments: &[&str]| client.run(&[arguments, &["--agent", &agent.unix_address()]].concat());
    let id = run(&["repo", "ls", "-o", "json"]).json()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let to = there.path("elsewhere");
    let moved = run(&[
        "evacuate",
        "--all-repositories",
        "--to",
        to.to_str().unwrap(),
        "-o",
        "json",
    ])
    .json();
    assert_eq!(
        (&moved["verdict"], &moved["repositories"][0]),
        (&"COMPLETE".into(), &id.as_str().into()),
        "{moved}"
    );
    let status = run(&["status", "-o", "json"]).json();
    assert_eq!(status["mode"], "DELETING", "{status}");
    assert_eq!(run(&["get", "large"]).ok(), random_bytes(1, 9_000_001));
    let wiped = run(&["wipe", "--confirm", &id, "-o", "json"]).json();
    assert_eq!(wiped["id"], id.as_str(), "{wiped}");
    assert!(run(&["repo", "ls", "-o", "json"]).json().as_array().unwrap().is_empty());
}
