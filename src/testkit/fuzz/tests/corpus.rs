//! The inputs in `fuzz/corpus`, and that there are targets for all bodies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::super::*;
use super::seeds::seeds;

/// A body and the target it has.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 15] = [
    ("catalog_files", catalog_files),
    ("catalog_rows", catalog_rows),
    ("chunker", chunker),
    ("damage", damage),
    ("decompression", decompression),
    ("key_files", key_files),
    ("lanes", lanes),
    ("messages", messages),
    ("metadata", metadata),
    ("names", names),
    ("operations", operations),
    ("reclaims", reclaims),
    ("settings", settings),
    ("structures", structures),
    ("texts", texts),
];
/// All of `fuzz/corpus` together.
const CORPUS_BYTES_MAX: u64 = 300 << 10;
/// What begins the name of an input that once failed: no code makes it.
const REGRESSION: &str = "regression-";

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Files of a directory and what is in them, without what a fuzzer left there.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let files = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    let is_found = |name: &str| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    files.filter(|(name, _)| !is_found(name)).collect()
}

#[test]
fn every_body_has_a_target() {
    let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let sources = files(&fuzz().join("fuzz_targets"));
    let of_files: BTreeSet<_> = sources
        .keys()
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    assert_eq!(of_files, names);
    for (name, source) in &sources {
        let call = format!("|data: &[u8]| fuzz::{}(data)", name.trim_end_matches(".rs"));
        assert!(
            String::from_utf8_lossy(source).contains(&call),
            "{name} runs something else"
        );
    }
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]\nname = \"").skip(1);
    let bins: BTreeSet<_> = bins
        .filter_map(|bin| bin.split('"').next().map(str::to_owned))
        .collect();
    assert_eq!(bins, names);
    // What is public beside the modules is the bodies.
    let module = include_str!("../../fuzz.rs");
    let exported = module
        .lines()
        .filter_map(|line| line.strip_prefix("pub use "))
        .flat_map(|line| {
            let names = line.rsplit("::").next().unwrap_or_default();
            names
                .trim_matches(['{', '}', ';'])
                .split(", ")
                .map(|name| name.trim_end_matches("};").to_owned())
        });
    assert_eq!(exported.collect::<BTreeSet<_>>(), names);
}

/// `CAIRN_BLESS_CORPUS=1` writes what is missing or differs, and removes what nothing makes any more.
#[test]
fn the_corpus_is_what_makes_it() {
    let is_blessing = std::env::var("CAIRN_BLESS_CORPUS").as_deref() == Ok("1");
    let mut expected: BTreeMap<&str, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for seed in seeds() {
        let of_target = expected.entry(seed.target).or_default();
        assert!(!seed.name.starts_with(REGRESSION));
        let twin = of_target.insert(seed.name.clone(), seed.bytes);
        assert!(twin.is_none(), "two seeds of {} are called {}", seed.target, seed.name);
    }
    for (target, _) in TARGETS {
        let directory = fuzz().join("corpus").join(target);
        let expected = expected.get(target).unwrap_or_else(|| panic!("{target} has no seeds"));
        if is_blessing {
            fs::create_dir_all(&directory).unwrap();
            for name in files(&directory).keys().filter(|name| !name.starts_with(REGRESSION)) {
                fs::remove_file(directory.join(name)).unwrap();
            }
            for (name, bytes) in expected {
                fs::write(directory.join(name), bytes).unwrap();
            }
        }
        let mut found = files(&directory);
        found.retain(|name, _| !name.starts_with(REGRESSION));
        let (names, made): (Vec<_>, Vec<_>) = (found.keys().collect(), expected.keys().collect());
        assert_eq!(names, made, "{target}: write them anew with CAIRN_BLESS_CORPUS=1");
        for (name, bytes) in expected {
            assert!(
                found[name] == *bytes,
                "{target}/{name} is stale: write it anew with CAIRN_BLESS_CORPUS=1"
            );
        }
    }
}

#[test]
fn every_target_takes_its_corpus() {
    let mut bytes = 0;
    for (target, body) in TARGETS {
        for (name, input) in files(&fuzz().join("corpus").join(target)) {
            println!("{target}/{name}");
            body(&input);
            bytes += input.len() as u64;
        }
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes");
}
