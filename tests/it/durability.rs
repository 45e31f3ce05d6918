//! What a put has done before it answers: the real process, watched by `strace`, on a directory.
//!
//! No power is cut here. A trace shows what a power cut would find: a file's bytes are safe from the fsync after their
//! last write on, its name from the fsync of its directory on, and neither earlier.

mod strace;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use cairn_agent::format::names::parse_pack;
use cairn_agent::format::pack::{HEADER_LEN, parse_header};
use cairn_agent::format::{PackKind, PackNumber};

use strace::{Action, Event};

#[test]
fn a_put_is_acknowledged_only_after_its_packs_and_their_directory_are_synced() {
    for put in traced_puts() {
        let answer = put.history.answer().unwrap();
        for pack in put.packs.values().filter(|pack| pack.is_new) {
            put.history
                .put_durably(&pack.path)
                .and_then(|durable| before(&pack.path, durable, answer))
                .unwrap();
        }
    }
}

/// What the next writer reads of an interrupted one may so far be in the page cache only.
#[test]
fn the_tip_of_the_former_writer_is_durable_anew_before_a_put_is_acknowledged() {
    for put in traced_puts() {
        let answer = put.history.answer().unwrap();
        let Some(tip) = put.packs.values().rfind(|pack| !pack.is_new) else {
            continue;
        };
        put.history
            .put_durably(&tip.path)
            .and_then(|durable| before(&tip.path, durable, answer))
            .unwrap();
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
            for (_, pack) in put
                .packs
                .range(..number)
                .filter(|(_, pack)| put.history.renames(&pack.path))
            {
                let durable = put.history.put_durably(&pack.path).unwrap();
                before(&pack.path, durable, published).unwrap();
            }
        }
        let (_, last) = put.packs.last_key_value().unwrap();
        assert_eq!(last.kind, PackKind::Commit, "the last pack of a put carries its record");
    }
}

#[test]
fn new_directories_are_in_their_synced_parents_before_a_put_is_acknowledged() {
    for put in traced_puts() {
        let answer = put.history.answer().unwrap();
        for directory in put.history.directories_made(&put.store) {
            let durable = put.history.name_durable_after_making(&directory).unwrap();
            before(&directory, durable, answer).unwrap();
        }
    }
}

#[test]
fn the_claim_to_write_is_durable_before_the_first_pack() {
    for put in traced_puts() {
        let owner = put.history.created_in(&put.store, "/owner/");
        assert_eq!(owner.len(), 1, "one put claims one epoch: {owner:?}");
        let durable = put.history.created_durably(&owner[0]).unwrap();
        for pack in put.packs.values().filter(|pack| pack.is_new) {
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

/// A moment that has passed, and one that begins: lines of a trace.
fn before(what: &str, durable: usize, event: usize) -> Result<(), String> {
    let late =
        format!("{what} is durable from line {durable} of the trace on, too late for what begins on line {event}");
    if durable < event { Ok(()) } else { Err(late) }
}

/// What one process did, in the order of the ends of its system calls.
struct History(Vec<Event>);

impl History {
    /// When the process began to print its result.
    fn answer(&self) -> Result<usize, String> {
        let answer = self.0.iter().find(|event| event.action == Action::Answer);
        answer
            .map(|event| event.began)
            .ok_or_else(|| "nothing was printed".to_owned())
    }

    fn renames(&self, path: &str) -> bool {
        self.renamings(path).next().is_some()
    }

    fn renamings(&self, path: &str) -> impl Iterator<Item = (&str, &Event)> {
        self.0.iter().filter_map(move |event| match &event.action {
            Action::Rename { from, to } if to == path => Some((from.as_str(), event)),
            _ => None,
        })
    }

    /// When `path` began to get its name.
    fn published(&self, path: &str) -> Result<usize, String> {
        let (_, event) = self
            .renamings(path)
            .next()
            .ok_or_else(|| format!("{path} was not renamed into place"))?;
        Ok(event.began)
    }

    /// From when on `path` survives a power cut, by whichever way it came.
    fn durable(&self, path: &str) -> Result<usize, String> {
        if self.renames(path) {
            self.put_durably(path)
        } else {
            self.created_durably(path)
        }
    }

    /// From when on `path` survives a power cut, if every write of it went under a staging name and was synced before
    /// the file got its own name.
    fn put_durably(&self, path: &str) -> Result<usize, String> {
        let mut durable = Err(format!("{path} was not renamed into place"));
        for (staging, renamed) in self.renamings(path) {
            if !staging
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(['#', '.']))
            {
                return Err(format!("{path} came from {staging}, which is no staging name of it"));
            }
            let contents = self.synced_after(staging, self.last_write(staging, renamed.began)?)?;
            before(staging, contents, renamed.began)?;
            durable = Ok(self.synced_after(parent(path), renamed.ended)?);
        }
        if self
            .0
            .iter()
            .any(|event| event.action == Action::Write(path.to_owned()))
        {
            return Err(format!("{path} was written under its own name"));
        }
        durable
    }

    /// From when on `path` survives a power cut, for a file that was created under its own name.
    fn created_durably(&self, path: &str) -> Result<usize, String> {
        let contents = self.synced_after(path, self.last_write(path, usize::MAX)?)?;
        let name = self.synced_after(parent(path), self.created(path)?)?;
        Ok(contents.max(name))
    }

    /// When `path` was there, whole or not.
    fn created(&self, path: &str) -> Result<usize, String> {
        let mut creations = self
            .0
            .iter()
            .filter(|event| event.action == Action::Create(path.to_owned()));
        creations
            .next()
            .map(|event| event.ended)
            .ok_or_else(|| format!("{path} was not created"))
    }

    /// Files created in a folder of the store, whatever their names.
    fn created_in(&self, store: &str, folder: &str) -> Vec<String> {
        let in_folder = |path: &&String| path.strip_prefix(store).is_some_and(|path| path.contains(folder));
        let creations = self.0.iter().filter_map(|event| match &event.action {
            Action::Create(path) => Some(path),
            _ => None,
        });
        creations.filter(in_folder).cloned().collect()
    }

    /// Directories made at `store` and below.
    fn directories_made(&self, store: &str) -> Vec<String> {
        let made = self.0.iter().filter_map(|event| match &event.action {
            Action::MakeDirectory(path) => Some(path.trim_end_matches('/')),
            _ => None,
        });
        let in_store = |path: &&str| {
            path.strip_prefix(store)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        made.filter(in_store).map(str::to_owned).collect()
    }

    fn name_durable_after_making(&self, directory: &str) -> Result<usize, String> {
        let made = self.0.iter().find(|event| match &event.action {
            Action::MakeDirectory(path) => path.trim_end_matches('/') == directory,
            _ => false,
        });
        let made = made.ok_or_else(|| format!("{directory} was not made"))?;
        self.synced_after(parent(directory), made.ended)
    }

    /// When the last write of `path` returned that began before `limit`.
    fn last_write(&self, path: &str, limit: usize) -> Result<usize, String> {
        let writes = self
            .0
            .iter()
            .filter(|event| event.began < limit && event.action == Action::Write(path.to_owned()));
        writes
            .map(|event| event.ended)
            .max()
            .ok_or_else(|| format!("{path} was never written"))
    }

    /// When the first fsync of `path` returned that began after `moment`.
    fn synced_after(&self, path: &str, moment: usize) -> Result<usize, String> {
        let syncs = self
            .0
            .iter()
            .filter(|event| event.began > moment && event.action == Action::Sync(path.to_owned()));
        let first = syncs.map(|event| event.ended).min();
        first.ok_or_else(|| format!("{path} was not synced after line {moment} of the trace"))
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(parent, _)| parent)
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

/// Several times the size of a pack, and random, so that none of it is compressed away.
const FILE_BYTES: usize = 70 << 20;

/// A put that makes its store and one into a store that is there, traced once for all tests. Empty if there is no tracing.
fn traced_puts() -> &'static [Put] {
    static PUTS: LazyLock<Result<[Put; 2], &str>> = LazyLock::new(trace_puts);
    match &*PUTS {
        Ok(puts) => puts,
        Err(reason) => {
            assert!(env::var("CI").as_deref() != Ok("true"), "cannot run: {reason}");
            println!("not run: {reason}");
            &[]
        }
    }
}

fn trace_puts() -> Result<[Put; 2], &'static str> {
    match Command::new("strace").args(["-o", "/dev/null", "true"]).status() {
        Err(_) => return Err("strace is not installed"),
        Ok(status) if !status.success() => return Err("strace may not trace here"),
        Ok(_) => {}
    }
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    // As the kernel will spell it.
    let root = directory.path().canonicalize().expect("the directory was just made");
    Ok([1, 2].map(|seed| trace_put(&root, seed)))
}

fn trace_put(root: &Path, seed: u64) -> Put {
    let store = root.join("store");
    let (file, trace) = (root.join("file"), root.join("trace"));
    fs::write(&file, random_bytes(seed)).expect("there is room for temporary files");
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
    let new = packs.values().filter(|pack| pack.is_new).count();
    assert!(new >= 3, "{new} packs are too few to have an order");
    let events = strace::parse(&fs::read_to_string(trace).expect("strace wrote it"));
    Put {
        store: store.to_str().expect("temporary paths are ASCII").to_owned(),
        history: History(events),
        packs,
    }
}

/// Xorshift: not for keys.
fn random_bytes(seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..FILE_BYTES / 8).flat_map(|_| next()).collect()
}

fn packs_in(directory: &Path) -> BTreeMap<PackNumber, Pack> {
    let mut packs = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.expect("the store can be listed").path();
        if path.is_dir() {
            packs.append(&mut packs_in(&path));
            continue;
        }
        let path = path.to_str().expect("names in a store are ASCII");
        if let Some(name) = parse_pack(path) {
            packs.insert(
                name.number,
                Pack {
                    path: path.to_owned(),
                    kind: kind(path),
                    is_new: false,
                },
            );
        }
    }
    packs
}

fn kind(pack: &str) -> PackKind {
    let mut header = [0; HEADER_LEN];
    fs::File::open(pack)
        .and_then(|mut file| file.read_exact(&mut header))
        .expect("a pack is longer than its header");
    parse_header(&header).expect("the put was successful").kind
}

/// The claims bite: histories that a wrong program would have.
mod the_claims_bite {
    use super::*;

    const GOOD: &str = r#"7 openat(AT_FDCWD</>, "/s/a#1", O_RDWR|O_CREAT|O_EXCL, 0666) = 9</s/a#1>
7 write(9</s/a#1>, ""..., 4) = 4
7 fsync(9</s/a#1>) = 0
7 rename("/s/a#1", "/s/a") = 0
7 fsync(9</s>) = 0
7 write(1<pipe:[1]>, ""..., 4) = 4"#;

    /// The outcome with the lines in another order.
    fn outcome(order: &[usize]) -> Result<(), String> {
        let lines: Vec<_> = GOOD.lines().collect();
        let trace: Vec<_> = order.iter().map(|&line| lines[line]).collect();
        check(&trace.join("\n"))
    }

    fn check(trace: &str) -> Result<(), String> {
        let history = History(strace::parse(trace));
        before("/s/a", history.put_durably("/s/a")?, history.answer()?)
    }

    #[test]
    fn the_right_order_is_accepted() {
        outcome(&[0, 1, 2, 3, 4, 5]).unwrap();
    }

    #[test]
    fn any_other_order_is_not() {
        outcome(&[0, 2, 1, 3, 4, 5]).expect_err("written after the sync");
        outcome(&[0, 1, 3, 2, 4, 5]).expect_err("renamed before the sync");
        outcome(&[0, 1, 2, 4, 3, 5]).expect_err("the directory synced before the rename");
        outcome(&[0, 1, 2, 3, 5, 4]).expect_err("answered before the directory was synced");
        outcome(&[0, 1, 2, 3, 5]).expect_err("the directory never synced");
        outcome(&[0, 1, 3, 4, 5]).expect_err("the file never synced");
        outcome(&[0, 1, 2, 4, 5]).expect_err("never renamed");
    }

    #[test]
    fn what_is_still_running_has_not_happened() {
        let trace = GOOD.replace("7 fsync(9</s>) = 0", "8 fsync(9</s> <unfinished ...>");
        check(&format!("{trace}\n8 <... fsync resumed>) = 0")).expect_err("answered while the directory was synced");
        let trace = GOOD.replace("7 fsync(9</s/a#1>) = 0\n", "");
        let trace = trace.replace("7 rename", "8 fsync(9</s/a#1> <unfinished ...>\n7 rename");
        check(&format!("{trace}\n8 <... fsync resumed>) = 0")).expect_err("renamed while the file was synced");
    }

    #[test]
    fn another_file_is_no_staging_name() {
        check(&GOOD.replace("a#1", "b")).expect_err("it came from elsewhere");
        check(&GOOD.replace("7 rename", "7 write(9</s/a>, \"\"..., 4) = 4\n7 rename")).expect_err("written in place");
    }
}
