//! What a put has done before it answers: the real process, watched by `strace`, on a directory.
//!
//! No power is cut here. A trace shows what a power cut would find: a file's bytes are safe from the fsync after their
//! last write on, its name from the fsync of its directory on, and neither earlier.

mod history;
mod strace;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cairn_agent::format::names::parse_pack;
use cairn_agent::format::pack::{HEADER_LEN, parse_header};
use cairn_agent::format::{PackKind, PackNumber};

use crate::support::{files_below, is_root, not_run, random_bytes};
use history::{History, before};

#[test]
fn a_put_is_acknowledged_only_after_its_packs_and_their_directory_are_synced() {
    for put in traced_puts() {
        let answer = put.history.answer().unwrap();
        for pack in put.new_packs() {
            before(&pack.path, put.history.put_durably(&pack.path).unwrap(), answer).unwrap();
        }
    }
}

#[test]
fn a_put_is_acknowledged_only_after_new_directories_are_in_their_synced_parents() {
    for put in traced_puts() {
        let answer = put.history.answer().unwrap();
        let mut needed = put.history.created_in(&put.store, "/keyring/");
        needed.extend(put.history.created_in(&put.store, "/owner/"));
        needed.extend(put.new_packs().map(|pack| pack.path.clone()));
        for path in needed {
            before(&path, put.history.directories_durably(&path).unwrap(), answer).unwrap();
        }
    }
}

#[test]
fn the_commit_pack_comes_after_the_packs_it_refers_to() {
    for put in traced_puts() {
        let commits = put
            .packs
            .iter()
            .filter(|(_, pack)| pack.is_new && pack.kind == PackKind::Commit);
        for (number, commit) in commits {
            let published = put.history.published(&commit.path).unwrap();
            let earlier = put.packs.range(..number).map(|(_, pack)| pack);
            for pack in earlier.filter(|pack| put.history.renames(&pack.path)) {
                before(&pack.path, put.history.put_durably(&pack.path).unwrap(), published).unwrap();
            }
        }
        let (_, last) = put.packs.last_key_value().unwrap();
        assert_eq!(last.kind, PackKind::Commit, "the last pack of a put carries its record");
    }
}

#[test]
fn the_claim_to_write_is_durable_before_the_first_pack() {
    for put in traced_puts() {
        let owner = put.history.created_in(&put.store, "/owner/");
        assert_eq!(owner.len(), 1, "one put claims one epoch: {owner:?}");
        let durable = put.history.durable(&owner[0]).unwrap();
        for pack in put.new_packs() {
            before(&owner[0], durable, put.history.published(&pack.path).unwrap()).unwrap();
        }
    }
}

#[test]
fn the_key_is_durable_before_the_first_keyring_that_it_opens() {
    let Some(first) = traced_puts().first() else { return };
    let key = format!("{}.key", first.store);
    let durable = first.history.durable(&key).unwrap();
    let keyrings = first.history.created_in(&first.store, "/keyring/");
    assert!(!keyrings.is_empty(), "a new store has a keyring");
    for keyring in keyrings {
        before(&key, durable, first.history.created(&keyring).unwrap()).unwrap();
    }
}

/// Only the catalog says how far the log was synced. Without it, what is read may be in the page cache and nowhere else.
#[test]
fn a_put_without_the_catalog_is_acknowledged_only_after_the_tip_is_durable_anew() {
    let Some(last) = traced_puts().last() else { return };
    let tip = last.packs.values().rfind(|pack| !pack.is_new).unwrap();
    let durable = last.history.put_durably(&tip.path).unwrap();
    before(&tip.path, durable, last.history.answer().unwrap()).unwrap();
}

/// One traced `cairn put`, and what it left behind.
struct Put {
    store: String,
    history: History,
    packs: BTreeMap<PackNumber, Pack>,
}

struct Pack {
    path: String,
    kind: PackKind,
    /// Made by this put, not by one before.
    is_new: bool,
}

impl Put {
    fn new_packs(&self) -> impl Iterator<Item = &Pack> {
        self.packs.values().filter(|pack| pack.is_new)
    }
}

/// Several times the size of a pack, and random, so that none of it is compressed away.
const FILE_BYTES: usize = 70 << 20;

/// A put that makes its store, one into a store that is there, and one that has lost its catalog; traced once for all
/// tests. Empty if there is no tracing.
fn traced_puts() -> &'static [Put] {
    static PUTS: LazyLock<Result<[Put; 3], &str>> = LazyLock::new(trace_puts);
    match &*PUTS {
        Ok(puts) => puts,
        Err(reason) => {
            not_run(reason);
            &[]
        }
    }
}

fn trace_puts() -> Result<[Put; 3], &'static str> {
    if let Some(reason) = tracing_impossible() {
        return Err(reason);
    }
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    // As the kernel will spell it.
    let root = directory.path().canonicalize().expect("the directory was just made");
    let making = trace_put(&root, 1);
    let adding = trace_put(&root, 2);
    fs::remove_dir_all(root.join("store.catalog")).expect("the catalog is beside the store");
    Ok([making, adding, trace_put(&root, 3)])
}

fn tracing_impossible() -> Option<&'static str> {
    match Command::new("strace").args(["-o", "/dev/null", "true"]).status() {
        Err(_) => Some("strace is not installed"),
        Ok(status) if !status.success() => Some("strace may not trace here"),
        // A process that keeps secrets out of core dumps hides its memory from tracers too.
        Ok(_) if !is_root() => Some("only the super user may trace a process with secrets"),
        Ok(_) => None,
    }
}

fn trace_put(root: &Path, seed: u64) -> Put {
    let store = root.join("store");
    let (file, trace) = (root.join("file"), root.join("trace"));
    fs::write(&file, random_bytes(seed, FILE_BYTES)).expect("there is room for temporary files");
    let former = packs_in(&store);
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "0", "-e", strace::CALLS, "-o"])
        .arg(&trace);
    command.arg(env!("CARGO_BIN_EXE_cairn")).arg("--store").arg(&store);
    let output = command.arg("put").arg(format!("object-{seed}")).arg(&file).output();
    let output = output.expect("strace was there a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut packs = packs_in(&store);
    packs
        .iter_mut()
        .for_each(|(number, pack)| pack.is_new = !former.contains_key(number));
    let events = strace::parse(&fs::read_to_string(trace).expect("strace wrote it"));
    let put = Put {
        store: store.to_str().expect("temporary paths are ASCII").to_owned(),
        history: History(events),
        packs,
    };
    assert!(put.new_packs().count() >= 3, "too few packs to have an order");
    put
}

fn packs_in(store: &Path) -> BTreeMap<PackNumber, Pack> {
    let files = if store.exists() { files_below(store) } else { Vec::new() };
    let pack = |path: PathBuf| {
        let path = path.to_str().expect("names in a store are ASCII");
        let name = parse_pack(path)?;
        let pack = Pack {
            path: path.to_owned(),
            kind: kind(path),
            is_new: false,
        };
        Some((name.number, pack))
    };
    files.into_iter().filter_map(pack).collect()
}

fn kind(pack: &str) -> PackKind {
    let mut header = [0; HEADER_LEN];
    fs::File::open(pack)
        .and_then(|mut file| file.read_exact(&mut header))
        .expect("a pack is longer than its header");
    parse_header(&header).expect("the put was successful").kind
}
