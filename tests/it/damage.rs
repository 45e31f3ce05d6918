//! Damage: every kind of object in a store, damaged in every way a disk, a bucket or a person may damage it. What is read
//! is right or an error that names object and pack; nothing panics or hangs; scrub sees it, each depth what it can see.
//!
//! The kinds come from `format::names`, and matches over them leave none out: a new kind does not compile until it is
//! damaged here too.

mod fixture;
mod forged;
mod states;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_agent::engine::{
    ByteRange, Depth, PutOptions, Reason, ReclaimOptions, Repository, ScrubOptions, ScrubProgress, ScrubReport, Store,
};
use cairn_agent::format::StoredKind;

use crate::support::{Home, is_long};
use crate::world::{Agent, Place, noise, read, rng};
use fixture::{Files, Fixture};
use states::{State, states};

/// No state takes longer than this, on a machine that does ten other things.
const STATE_MAX: Duration = Duration::from_secs(120);
const DEPTHS: [Depth; 3] = [Depth::Bytes, Depth::Structure, Depth::Full];

/// Which depths see every state of an action on a kind: bytes, structure, full. `None`: some or all are seen by none, which
/// does no harm, or cannot be told without another copy.
fn seen_by(kind: StoredKind, action: &str) -> [bool; 3] {
    const ALL: [bool; 3] = [true; 3];
    const NONE: [bool; 3] = [false; 3];
    match (kind, action) {
        // For people: what is still YAML with its three fields counts as whole.
        (StoredKind::Metadata, "missing" | "empty" | "swapped" | "older") => ALL,
        (StoredKind::Metadata, _) => NONE,
        // One copy of two.
        (StoredKind::Keyring, _) => ALL,
        // Older claims are cleared away; that the newest is missing nobody can know, and the log keeps the epoch.
        (StoredKind::Owner, "missing") => NONE,
        (StoredKind::Owner, _) => ALL,
        // Without a key nothing tells what should be there, nor what messages say.
        (StoredKind::Checkpoint, "missing" | "body" | "page") => [false, true, true],
        (StoredKind::Checkpoint, "header") => [false, true, true],
        // Nothing refers to a file under another name; it is not read.
        (StoredKind::Checkpoint, "copied") => [true, false, false],
        (StoredKind::Checkpoint, _) => ALL,
        (StoredKind::Pack, "missing") => [false, true, true],
        // Chunks are not read at this depth.
        (StoredKind::Pack, "body" | "page") => [true, false, true],
        // The header knows the id in a name, not the number.
        (StoredKind::Pack, "copied") => [false, true, true],
        (StoredKind::Pack, _) => ALL,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_returned_and_never_unseen() {
    let fixture = Fixture::new(1).await;
    let foreign = Fixture::new(2).await;
    let mut open = Open::new(&fixture).await;
    let mut seen: BTreeMap<(StoredKind, &'static str), [usize; 4]> = BTreeMap::new();
    for kind in StoredKind::ALL {
        let states = states(kind, &fixture.files, &foreign.files);
        assert!(!states.is_empty(), "the store has no object of kind {kind}");
        for (number, state) in states.iter().enumerate() {
            let counts = seen.entry((kind, state.action)).or_default();
            counts[0] += 1;
            let damaged = tokio::time::timeout(STATE_MAX, open.meets(&fixture, state));
            let found = damaged.await.unwrap_or_else(|_| panic!("{state:?} hangs"));
            for (count, found) in counts[1..].iter_mut().zip(found) {
                *count += usize::from(found);
            }
            for ((depth, found), must) in DEPTHS.iter().zip(found).zip(seen_by(kind, state.action)) {
                assert!(found || !must, "{depth} does not see {state:?}");
            }
            if state.is_rare || number % 16 == 0 {
                let cold = tokio::time::timeout(STATE_MAX, fixture.read_from_nothing(state));
                cold.await.unwrap_or_else(|_| panic!("{state:?} hangs at open"));
            }
        }
    }
    println!("kind, action: states, seen by bytes, structure, full");
    for ((kind, action), [states, bytes, structure, full]) in seen {
        println!("{kind:>10} {action:<9} {states:>4} {bytes:>4} {structure:>4} {full:>4}");
    }
}

/// A store that stays open while its objects are damaged and restored.
struct Open {
    files: Arc<object_store::memory::InMemory>,
    store: Store,
    repository: Repository,
}

impl Open {
    async fn new(fixture: &Fixture) -> Self {
        let files = fixture::stored(&fixture.files).await;
        let (store, repository) = fixture.open(files.clone()).await.unwrap();
        let open = Self {
            files,
            store,
            repository,
        };
        for depth in DEPTHS {
            let report = open.scrub(depth).await;
            assert!(!is_noticed(&report), "{depth} of a whole store: {report:#?}");
        }
        open
    }

    /// Whether each depth notices the state. Afterwards everything is as it was.
    async fn meets(&mut self, fixture: &Fixture, state: &State) -> [bool; 3] {
        fixture::apply(&self.files, &state.changes).await;
        let mut noticed = [false; 3];
        for (depth, noticed) in DEPTHS.iter().zip(&mut noticed) {
            let report = self.scrub(*depth).await;
            *noticed = is_noticed(&report);
            self.check_report(state, &report);
        }
        if state.is_rare {
            fixture.check(&self.repository, &format!("{state:?}"), true).await;
        }
        let restored: Vec<_> = state
            .changes
            .iter()
            .map(|(path, _)| (path.clone(), fixture.files.get(path).cloned()))
            .collect();
        fixture::apply(&self.files, &restored).await;
        if state.kind == StoredKind::Pack {
            let report = self.scrub(Depth::Full).await;
            assert!(!is_noticed(&report), "after {state:?} was undone: {report:#?}");
        }
        noticed
    }

    async fn scrub(&self, depth: Depth) -> ScrubReport {
        let options = ScrubOptions {
            depth,
            repair: false,
            ..ScrubOptions::default()
        };
        let progress = ScrubProgress::default();
        let report = match depth {
            Depth::Bytes => self.store.scrub_bytes(options, &progress).await,
            _ => self.repository.scrub(options, &progress).await,
        };
        report.unwrap()
    }

    /// What is reported is what was damaged, and lies in it.
    fn check_report(&self, state: &State, report: &ScrubReport) {
        let is_changed = |path: &str| state.changes.iter().any(|(changed, _)| changed == path);
        for damage in &report.damage {
            // A keyring of a new generation lacks its other copy too.
            let is_named = is_changed(&damage.path) || state.action == "copied";
            assert!(is_named, "{state:?}: {damage:?}");
            assert_eq!(damage.kind, state.kind, "{state:?}: {damage:?}");
            assert_eq!(damage.pack.is_some(), state.kind == StoredKind::Pack);
            // A hash in the trailer that was flipped speaks of the part that no longer matches it.
            if let (Some(at), true) = (state.at, damage.length > 0 && state.action != "trailer") {
                let range = damage.offset..damage.offset + damage.length;
                assert!(range.contains(&(at as u64)), "{state:?}: {damage:?}");
            }
        }
        for object in &report.objects {
            assert!(
                !object.ranges.is_empty() && state.kind == StoredKind::Pack,
                "{state:?}: {object:?}"
            );
        }
    }
}

fn is_noticed(report: &ScrubReport) -> bool {
    !report.is_sound() || report.strays > 0 || !report.unknown.is_empty()
}

impl Fixture {
    /// Every object reads as it was written, or fails as damaged, naming itself and the pack.
    async fn check(&self, repository: &Repository, what: &str, is_warm: bool) {
        for (name, contents) in &self.contents {
            match read(repository, name, ByteRange::All).await {
                Ok(found) => assert!(found == *contents, "{what}: {name} reads as something else"),
                Err(error) => {
                    assert_eq!(error.reason(), Reason::DataLoss, "{what}: {name}: {error:?}");
                    let line = error.to_string();
                    assert!(line.contains(&format!("{name:?}")), "{what}: {line}");
                    assert!(!is_warm || line.contains("/packs/"), "{what}: {line}");
                }
            }
        }
        for name in &self.gone {
            let error = repository.stat(name).await.unwrap_err();
            assert_eq!(error.reason(), Reason::ObjectNotFound, "{what}: {name} came back");
        }
    }

    /// With nothing but the damaged store: it opens and reads right, or says that it is damaged.
    async fn read_from_nothing(&self, state: &State) {
        let files = fixture::stored(&self.files).await;
        fixture::apply(&files, &state.changes).await;
        match self.open(files).await {
            Ok((_store, repository)) => {
                self.check(&repository, &format!("{state:?}, from nothing"), false)
                    .await
            }
            Err(error) => assert_eq!(error.reason(), Reason::DataLoss, "{state:?}: {error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_set_back_is_told_by_the_head_that_somebody_kept() {
    let fixture = Fixture::new(3).await;
    let files = fixture::stored(&fixture.earlier).await;
    let (_store, repository) = fixture.open(files).await.unwrap();
    let (log_number, head) = fixture.head;
    let error = repository.check_head(log_number, head).unwrap_err();
    assert_eq!(error.reason(), Reason::RolledBack);
    // Nor when it has gone on since, and its log is as long again.
    while repository.status().unwrap().log_number < log_number {
        repository.put("more", &b"x"[..], PutOptions::default()).await.unwrap();
    }
    let error = repository.check_head(log_number, head).unwrap_err();
    assert_eq!(error.reason(), Reason::RolledBack);
    let files = fixture::stored(&fixture.files).await;
    let (_store, repository) = fixture.open(files).await.unwrap();
    assert!(repository.check_head(log_number, head).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_log_is_missed_once_a_checkpoint_was_written_at_it() {
    let fixture = Fixture::new(4).await;
    let mut files: Files = fixture.files.clone();
    let newest = files
        .keys()
        .filter(|path| path.contains("/packs/"))
        .max()
        .unwrap()
        .clone();
    files.remove(&newest);
    let error = fixture.open(fixture::stored(&files).await).await.map(drop).unwrap_err();
    assert_eq!(error.reason(), Reason::DataLoss, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_beside_puts_gets_and_gc_finds_nothing() {
    let (agent, place) = (Agent::with_catalog(), Place::memory());
    let (_store, repository) = agent.open(&place).await.unwrap();
    let rounds = if is_long() { 1000_u64 } else { 60 };
    let working = {
        let repository = repository.clone();
        tokio::spawn(async move {
            for round in 0..rounds {
                let name = format!("object-{}", round % 3);
                let bytes = noise(&mut rng(round % 5), 700 << 10);
                repository
                    .put(&name, bytes.as_slice(), PutOptions::default())
                    .await
                    .unwrap();
                repository.verify(&name).await.unwrap();
                repository.copy(&name, "copy", PutOptions::default()).await.unwrap();
                repository.delete(&name, Default::default()).await.unwrap();
                repository.reclaim(ReclaimOptions::default()).await.unwrap();
            }
        })
    };
    let mut scrubs = 0;
    while !working.is_finished() || scrubs < 3 {
        for depth in DEPTHS {
            let options = ScrubOptions {
                depth,
                ..ScrubOptions::default()
            };
            let report = repository.scrub(options, &ScrubProgress::default()).await.unwrap();
            assert!(report.is_sound(), "{depth}: {report:#?}");
        }
        scrubs += 1;
    }
    working.await.unwrap();
}

#[test]
fn the_command_scrubs_names_and_fails_with_code_65() {
    let home = Home::with_object(&noise(&mut rng(7), 400 << 10));
    home.put("other", b"small");
    let whole = home.run(&["scrub", "-o", "json"]).json();
    assert_eq!((&whole["sound"], &whole["depth"]), (&true.into(), &"full".into()));
    let packs = home.store_files("/packs/");
    let largest = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(largest, &bytes).unwrap();

    // Without the key, and beside whoever holds the store.
    let key = home.path("cairn-store.key");
    std::fs::rename(&key, home.path("away")).unwrap();
    let told = home
        .run(&["scrub", "--depth", "bytes", "-o", "json"])
        .fails(65, &["1 damaged"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let name = largest.file_name().unwrap().to_str().unwrap();
    assert!(told["damage"][0]["path"].as_str().unwrap().ends_with(name), "{told}");
    assert_eq!(
        (&told["damage"][0]["offset"], &told["damage"][0]["length"]),
        (&65536.into(), &65536.into())
    );
    std::fs::rename(home.path("away"), &key).unwrap();

    assert_eq!(
        home.run(&["ls", "--damaged", "-o", "json"]).json(),
        serde_json::json!([])
    );
    let told = home.run(&["scrub", "-o", "json"]).fails(65, &["1 objects are damaged"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["objects"][0]["name"], "before");
    let listed = home.run(&["ls", "--damaged", "-o", "json"]).json();
    assert_eq!(listed, told["objects"]);
    assert!(
        listed[0]["ranges"][0]["pack"].as_str().unwrap().ends_with(name),
        "{listed}"
    );

    // The same bytes again heal it.
    home.put("again", &noise(&mut rng(7), 400 << 10));
    assert_eq!(
        home.run(&["ls", "--damaged", "-o", "json"]).json(),
        serde_json::json!([])
    );
    assert!(home.get("before") == noise(&mut rng(7), 400 << 10));
    home.run(&["scrub", "--rate", "0"]).fails(64, &["rate"]);

    // In slices.
    let first = home.run(&["scrub", "--limit", "1", "-o", "json"]);
    let stdout = first.stdout();
    let first: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let cursor = first["cursor"].as_str().unwrap();
    let rest = home.run(&["scrub", "--from", cursor, "-o", "json"]);
    let rest: serde_json::Value = serde_json::from_str(&rest.stdout()).unwrap();
    assert_eq!(rest["cursor"], serde_json::Value::Null);
    assert!(rest["packs"].as_u64() < told["packs"].as_u64().map(|packs| packs + 2));
}

/// Bytes of a file, or that it is not there.
type Change = (String, Option<Bytes>);
