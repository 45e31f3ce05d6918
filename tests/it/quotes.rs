//! Tests that a page names are there: a page of proofs is worth as much as the tests it quotes.
//!
//! A quotation is a path in code style, `module::test`, with the file's module path in front; those of `tests/it` begin
//! with their module, as on the command line of `cargo test`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::files_below;

const PAGE: &str = "docs/reliability.md";
/// Fewer would mean that they are not found any more.
const QUOTATIONS_MIN: usize = 60;

#[test]
fn every_quoted_test_is_in_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join(PAGE)).unwrap();
    let mut tests = tests_below(&root.join("src"));
    tests.extend(tests_below(&root.join("tests/it")));
    let quoted = quotations(&page);
    assert!(
        quoted.len() >= QUOTATIONS_MIN,
        "{PAGE} quotes only {} tests",
        quoted.len()
    );
    let missing: Vec<_> = quoted.iter().filter(|path| !tests.contains(**path)).collect();
    assert!(
        missing.is_empty(),
        "{PAGE} quotes tests that are not there: {missing:#?}"
    );
}

/// What stands between backquotes, outside of blocks, and has a `::`.
fn quotations(page: &str) -> BTreeSet<&str> {
    let prose = page.split("```").step_by(2);
    let spans = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    spans.filter(|span| span.contains("::")).collect()
}

/// The paths of all tests in the files below a folder.
fn tests_below(folder: &Path) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in files_below(folder) {
        let relative = file.strip_prefix(folder).unwrap().to_str().unwrap();
        let Some(module) = relative.strip_suffix(".rs") else {
            continue;
        };
        let module = module.strip_suffix("/mod").unwrap_or(module).replace('/', "::");
        let text = fs::read_to_string(&file).unwrap();
        tests.extend(tests_in(&text).into_iter().map(|test| format!("{module}::{test}")));
    }
    tests
}

/// The functions under a test attribute, those of a module in this file with its name in front.
fn tests_in(text: &str) -> Vec<String> {
    let (mut tests, mut module, mut is_test) = (Vec::new(), "", false);
    for line in text.lines() {
        let code = line.trim_start();
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            module = name;
        }
        if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        }
        let name = code.strip_prefix("async ").unwrap_or(code).strip_prefix("fn ");
        if let Some(name) = name.and_then(|rest| rest.split(['(', '<']).next())
            && std::mem::take(&mut is_test)
        {
            let in_module = if line.starts_with(' ') && !module.is_empty() {
                format!("{module}::{name}")
            } else {
                name.to_owned()
            };
            tests.push(in_module);
        }
    }
    tests
}

#[test]
fn quotations_and_tests_are_told_from_the_rest() {
    let page = "`a::b` and `plain`\n```sh\ncargo test `x::y`\n```\n| `c::d_e` |";
    assert_eq!(quotations(page), BTreeSet::from(["a::b", "c::d_e"]));
    let text = "#[test]\nfn one() {}\nfn helper() {}\nmod tests {\n    #[tokio::test(flavor = \"x\")]\n    async fn two() {}\n}\n";
    assert_eq!(tests_in(text), ["one", "tests::two"]);
}
