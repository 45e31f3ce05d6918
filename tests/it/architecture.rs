//! Imports run down the layers only, and the pure layers are pure. Reads the sources as text: good enough for a
//! formatted code base, and the answer names a line.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::files_below;

/// The folders of `src` from the shells down to the pure layers. A folder may name those on later lines; neighbours on
/// one line know nothing of each other: only the engine brings catalog and backend together.
const LAYERS: &[&[&str]] = &[
    &["bin"],
    &["service"],
    &["http"],
    &["config"],
    &["engine"],
    &["catalog", "backend"],
    &["keys"],
    &["format"],
    &["codec"],
];

/// Serves tests of every layer and may use every layer. Code that is not a test cannot name it: it is not compiled there.
const TESTKIT: &str = "testkit";

/// Layers that turn bytes into bytes: time, randomness and files come from above, as arguments.
const PURE: &[&str] = &["codec", "format"];

/// Words that have no place in a pure layer, `std` modules aside.
const IMPURE_WORDS: &[&str] = &[
    "async",
    "await",
    "tokio",
    "futures",
    "object_store",
    "rustix",
    "getrandom",
    "SystemTime",
    "Instant",
];

/// Modules of `std` that have no place in a pure layer.
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread", "time"];

#[test]
fn imports_run_down_the_layers() {
    report(sources().iter().flat_map(imports_against_the_layers).collect());
}

#[test]
fn codec_and_format_know_no_async_clock_file_or_socket() {
    let pure: Vec<_> = sources()
        .into_iter()
        .filter(|source| PURE.contains(&source.layer()))
        .collect();
    assert!(!pure.is_empty(), "no source files found in {PURE:?}");
    report(impurities(&pure));
}

fn report(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// What declares a module of tests.
const TEST_MODULE: &str = "#[cfg(test)]\nmod ";

/// A source file without its comments, line for line.
struct Source {
    /// Relative to `src`, as `engine/log/commit.rs`.
    path: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code: Vec<_> = text.lines().map(without_comment).collect();
        Self {
            path: path.to_owned(),
            code: code.join("\n"),
        }
    }

    /// The folder of `src` it is in, or for a file of `src` itself, its name: `keys.rs` is the layer `keys` too.
    fn layer(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or(&self.path);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The folder its child modules are in.
    fn children(&self) -> &str {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        path.strip_suffix("/mod").unwrap_or(path)
    }

    /// Its child modules that are tests and have files of their own, as `format/pack/tests`.
    fn test_modules(&self) -> Vec<String> {
        let declared = self
            .code
            .split(TEST_MODULE)
            .skip(1)
            .filter_map(|rest| rest.split_once(';'));
        declared
            .filter(|(name, _)| name.chars().all(is_name))
            .map(|(name, _)| format!("{}/{name}", self.children()))
            .collect()
    }

    fn is_in(&self, module: &str) -> bool {
        self.path
            .strip_prefix(module)
            .is_some_and(|rest| rest.starts_with(['.', '/']))
    }

    /// Its code up to the tests, which stand last.
    fn without_inline_tests(&self) -> &str {
        let mut test_modules = self.code.match_indices(TEST_MODULE);
        let inline = test_modules.find(|(at, module)| {
            let name = leading_name(&self.code[at + module.len()..]);
            self.code[at + module.len() + name.len()..].starts_with(" {")
        });
        inline.map_or(&self.code, |(at, _)| &self.code[..at])
    }

    fn violation(&self, offset: usize, what: &str) -> String {
        let line = self.code[..offset].matches('\n').count() + 1;
        format!("src/{}:{line}: {what}", self.path)
    }
}

fn imports_against_the_layers(source: &Source) -> Vec<String> {
    let layer = source.layer();
    // The root says what there is; it has no logic to import anything for.
    if matches!(layer, "lib" | TESTKIT) {
        return Vec::new();
    }
    let Some(depth) = depth_of(layer) else {
        return vec![source.violation(0, &format!("`{layer}` has no place in LAYERS of {}", file!()))];
    };
    names_below(&source.code, "crate")
        .into_iter()
        .chain(names_below(&source.code, "cairn_agent"))
        .filter(|(_, name)| *name != layer && depth_of(name).is_some_and(|other| other <= depth))
        .map(|(offset, name)| source.violation(offset, &format!("`{layer}` imports `{name}`, which is not below it")))
        .collect()
}

fn depth_of(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&layer))
}

fn impurities(sources: &[Source]) -> Vec<String> {
    let test_modules: Vec<_> = sources.iter().flat_map(Source::test_modules).collect();
    let is_test = |source: &&Source| test_modules.iter().any(|module| source.is_in(module));
    sources
        .iter()
        .filter(|source| !is_test(source))
        .flat_map(impurities_of)
        .collect()
}

fn impurities_of(source: &Source) -> Vec<String> {
    let code = source.without_inline_tests();
    let of_std = names_below(code, "std")
        .into_iter()
        .filter(|(_, name)| IMPURE_STD.contains(name));
    let of_std = of_std.map(|(offset, name)| (offset, format!("std::{name}")));
    let words = IMPURE_WORDS
        .iter()
        .flat_map(|word| words(code, word).map(|offset| (offset, (*word).to_owned())));
    of_std
        .chain(words)
        .map(|(offset, what)| source.violation(offset, &format!("`{what}` in `{}`, which is pure", source.layer())))
        .collect()
}

/// The names directly below `root` in paths: `b` of `root::b::c`, `b` and `c` of `root::{b, c::d}`; each with its offset.
fn names_below<'a>(code: &'a str, root: &str) -> Vec<(usize, &'a str)> {
    let mut names = Vec::new();
    for at in words(code, root) {
        let Some(path) = code[at + root.len()..].strip_prefix("::") else {
            continue;
        };
        let start = code.len() - path.len();
        if path.starts_with('{') {
            names.extend(names_in_braces(code, start));
        } else {
            names.push((start, leading_name(path)));
        }
    }
    names
}

/// The first name of each element of the group whose opening brace is at `open`.
fn names_in_braces(code: &str, open: usize) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut element_starts = false;
    for (offset, byte) in code[open..].bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ if byte.is_ascii_whitespace() => continue,
            _ if element_starts => names.push((open + offset, leading_name(&code[open + offset..]))),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        element_starts = depth == 1 && matches!(byte, b'{' | b',');
    }
    names
}

fn leading_name(path: &str) -> &str {
    &path[..path.find(|c| !is_name(c)).unwrap_or(path.len())]
}

/// Where `word` stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_name) && !code[at + word.len()..].starts_with(is_name))
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Comments speak of every layer. A `//` inside a string literal follows a colon, as in `s3://`.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&root).expect("the file was found below the root");
        Source::new(
            relative.to_str().expect("our file names are ASCII"),
            &fs::read_to_string(&path).expect("the sources can be read"),
        )
    };
    files_below(&root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(read)
        .collect()
}

/// The rules bite: each of these would be found.
mod the_rules_bite {
    use super::*;

    fn layering(path: &str, text: &str) -> Vec<String> {
        imports_against_the_layers(&Source::new(path, text))
    }

    fn purity(path: &str, text: &str) -> Vec<String> {
        impurities(&[Source::new(path, text)])
    }

    #[test]
    fn an_import_upwards_is_named_with_its_line() {
        assert_eq!(
            layering(
                "format/pack.rs",
                "use crate::codec::Codec;\nuse crate::engine::Store;\n"
            ),
            ["src/format/pack.rs:2: `format` imports `engine`, which is not below it"]
        );
    }

    #[test]
    fn neighbours_do_not_know_each_other() {
        assert_eq!(
            layering("catalog/mod.rs", "fn f() { crate::backend::attach() }").len(),
            1
        );
        assert_eq!(layering("backend/volume.rs", "use crate::catalog::Catalog;").len(), 1);
    }

    #[test]
    fn a_group_is_looked_into() {
        let text = "use crate::{\n    codec::{ChunkId, engine},\n    service::Put,\n};\n";
        assert_eq!(
            layering("format/mod.rs", text),
            ["src/format/mod.rs:3: `format` imports `service`, which is not below it"]
        );
    }

    #[test]
    fn imports_downwards_and_comments_are_fine() {
        let text = "//! As [`crate::service`] says.\nuse crate::format::Hash32; // not crate::http\nuse crate::engine::Error;\n";
        assert!(layering("engine/log/commit.rs", text).is_empty());
        assert!(layering("bin/cairn/main.rs", "use cairn_agent::engine::Store;").is_empty());
        assert!(layering("backend/tests/s3.rs", "use crate::testkit::s3_server;").is_empty());
    }

    #[test]
    fn a_new_folder_needs_a_layer() {
        assert_eq!(layering("utils/mod.rs", "").len(), 1);
    }

    #[test]
    fn clocks_files_and_async_are_found_outside_tests_only() {
        assert_eq!(
            purity("codec/chunker.rs", "use std::{fmt, fs};\nasync fn f() {}\n").len(),
            2
        );
        assert_eq!(
            purity("format/names.rs", "fn f() -> Instant { std::time::Instant::now() }").len(),
            3
        );
        assert!(
            purity(
                "codec/mod.rs",
                "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"
            )
            .is_empty()
        );
        assert_eq!(
            purity("codec/mod.rs", "#[cfg(test)]\nmod tests;\nuse std::fs;\n").len(),
            1
        );
        let golden = Source::new("format/golden.rs", "use std::fs;");
        let declares = Source::new("format/mod.rs", "pub mod pack;\n#[cfg(test)]\nmod golden;\n");
        assert!(impurities(&[golden, declares]).is_empty());
        assert!(purity("codec/mod.rs", "/// Not async.\nfn instantaneous(timeless: u8) {}").is_empty());
    }
}
