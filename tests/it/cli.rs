//! What users do: every command, what it prints, and its exit code.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::json;

use crate::support::{Home, Run, eventually, fields, random_bytes, wait_with_open_input};

#[test]
fn what_is_put_comes_back() {
    let home = Home::new();
    let objects = [
        ("empty", Vec::new()),
        ("small", b"some bytes".to_vec()),
        ("large", random_bytes(1, 9_000_001)),
        ("zeros", vec![0; 3_000_000]),
        ("name with spaces/and ünïcode", b"x".to_vec()),
    ];
    for (name, bytes) in &objects {
        let file = home.file("file", bytes);
        home.run(&["put", name, file.to_str().unwrap()]).ok();
    }
    for (name, bytes) in &objects {
        assert_eq!(&home.get(name), bytes, "{name}");
    }
    let names: Vec<&str> = objects.iter().map(|(name, _)| *name).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(home.names(), sorted);
}

#[test]
fn standard_input_and_output_are_the_default() {
    let home = Home::new();
    home.run_with_input(&["put", "a"], b"by default").ok();
    home.run_with_input(&["put", "b", "-"], b"by name").ok();
    assert_eq!(home.run(&["get", "a", "-"]).ok(), b"by default");
    assert_eq!(home.run(&["get", "b"]).ok(), b"by name");
}

#[test]
fn the_first_put_makes_store_and_key_and_says_so_once() {
    let home = Home::new();
    let first = home.run_with_input(&["put", "a"], b"1");
    let said = first.stderr();
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["cairn-store.key", "losing it loses the data", "same disk"] {
        assert!(said.contains(part), "{said}");
    }
    first.ok();
    let key = home.path("cairn-store.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&key).unwrap();

    let second = home.run_with_input(&["put", "b"], b"2");
    assert_eq!(second.stderr(), "");
    second.ok();
    assert_eq!(fs::read(&key).unwrap(), before);
    let mut places: Vec<_> = fs::read_dir(home.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    places.sort();
    assert_eq!(places, ["cairn-store", "cairn-store.catalog", "cairn-store.key"]);
}

#[test]
fn a_key_file_without_a_store_is_used() {
    let home = Home::new();
    let key = home.file("cairn-store.key", &random_bytes(3, 32));
    let put = home.run_with_input(&["put", "a"], b"1");
    assert_eq!(put.stderr(), "");
    put.ok();
    let other = home.file("copy of the key", &fs::read(key).unwrap());
    fs::remove_file(home.path("cairn-store.key")).unwrap();
    assert_eq!(
        home.run(&["--key-file", other.to_str().unwrap(), "get", "a"]).ok(),
        b"1"
    );
}

#[test]
fn put_tells_what_it_did() {
    let home = Home::new();
    let bytes = random_bytes(4, 2_000_000);
    let file = home.file("file", &bytes);
    let file = file.to_str().unwrap();
    let first = home.run(&["-o", "json", "put", "first", file]).json();
    let mut expected = vec![
        "name",
        "version",
        "bytes",
        "chunks",
        "new_chunks",
        "duplicate_chunks",
        "stored_bytes",
        "crc32c",
        "seconds",
    ];
    expected.sort_unstable();
    assert_eq!(fields(&first), expected);
    assert_eq!(first["name"], "first");
    assert_eq!(first["bytes"], 2_000_000);
    assert_eq!(first["new_chunks"], first["chunks"]);
    assert!(first["stored_bytes"].as_u64().unwrap() >= 2_000_000);
    assert_eq!(first["crc32c"].as_str().unwrap().len(), 8);

    let second = home.run(&["put", "second", file, "--verify", "-o", "json"]).json();
    assert_eq!(second["new_chunks"], 0);
    assert_eq!(second["duplicate_chunks"], first["chunks"]);
    assert_eq!(second["crc32c"], first["crc32c"]);
    assert!(second["stored_bytes"].as_u64().unwrap() < 10_000);
    assert!(second["version"].as_u64() > first["version"].as_u64());
    assert_eq!(second["verified"], true);

    let table = String::from_utf8(home.run(&["put", "third", file, "--verify"]).ok()).unwrap();
    for part in [
        "1.9 MiB",
        "/s",
        "0 new",
        "duplicate",
        "read back, identical",
        " free",
        "packs",
    ] {
        assert!(table.contains(part), "{part:?} is not in: {table}");
    }
}

#[test]
fn preconditions_are_kept() {
    let home = Home::with_object(b"1");
    home.run_with_input(&["put", "before", "--create-only"], b"2")
        .fails(1, &["before"]);
    home.run_with_input(&["put", "before", "--if-version", "77"], b"2")
        .fails(1, &["before"]);
    let version = home.run(&["stat", "before", "-o", "json"]).json()["version"].to_string();
    home.run_with_input(&["put", "before", "--if-version", &version], b"3")
        .ok();
    home.run_with_input(&["put", "new", "--create-only"], b"4").ok();
    assert_eq!(home.get("before"), b"3");
    let both = home.run_with_input(&["put", "x", "--create-only", "--if-version", "1"], b"");
    assert_eq!(both.code(), Some(64));
}

#[test]
fn ranges_are_inclusive() {
    let bytes = random_bytes(5, 500_000);
    let home = Home::with_object(&bytes);
    let get = |range: &str| home.run(&["get", "before", "--range", range]).ok();
    assert_eq!(get("0-0"), &bytes[..1]);
    assert_eq!(get("100000-299999"), &bytes[100_000..300_000]);
    assert_eq!(get("499999-"), &bytes[499_999..]);
    assert_eq!(get("-70000"), &bytes[430_000..]);
}

#[test]
fn a_file_that_is_got_replaces_the_one_before_it() {
    let home = Home::with_object(b"new contents");
    home.file("target", b"old contents that are longer");
    std::os::unix::fs::symlink("target", home.path("link")).unwrap();
    home.run(&["get", "before", "link"]).ok();
    assert_eq!(fs::read(home.path("target")).unwrap(), b"new contents");
    assert!(fs::symlink_metadata(home.path("link")).unwrap().is_symlink());
    home.run(&["get", "before", "fresh"]).ok();
    assert_eq!(fs::read(home.path("fresh")).unwrap(), b"new contents");
    let leftovers = fs::read_dir(home.root()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".part")
    });
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn a_device_is_written_to_and_not_replaced() {
    let home = Home::with_object(b"1");
    home.run(&["get", "before", "/dev/null"]).ok();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn objects_are_listed_described_and_copied() {
    let home = Home::new();
    for name in ["b/2", "a", "b/1"] {
        home.put(name, name.as_bytes());
    }
    let listed = home.run(&["ls", "b/", "-o", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!((&listed[0]["name"], &listed[1]["name"]), (&json!("b/1"), &json!("b/2")));
    assert_eq!(fields(&listed[0]), ["bytes", "created", "name", "version"]);

    let stat = home.run(&["stat", "a", "-o", "json"]).json();
    assert_eq!(fields(&stat), ["bytes", "created", "name", "version"]);
    assert_eq!((&stat["name"], &stat["bytes"]), (&json!("a"), &json!(1)));
    let created: jiff::Timestamp = stat["created"].as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(created).as_secs();
    assert!((0..300).contains(&age), "{age}");

    home.run(&["cp", "a", "copy"]).ok();
    assert_eq!(home.get("copy"), b"a");
    assert_eq!(home.names(), ["a", "b/1", "b/2", "copy"]);
    let table = String::from_utf8(home.run(&["ls"]).ok()).unwrap();
    assert!(table.starts_with("NAME") && table.lines().count() == 5, "{table}");
    let yaml = String::from_utf8(home.run(&["ls", "-o", "yaml"]).ok()).unwrap();
    assert!(yaml.starts_with("- name: a\n"), "{yaml}");
}

#[test]
fn removed_objects_are_gone_and_their_space_comes_back() {
    let home = Home::with_object(b"kept");
    home.put("large", &random_bytes(6, 3_000_000));
    home.put("logs/1", b"1");
    home.put("logs/2", b"2");
    home.run(&["rm", "--prefix", "logs/"]).ok();
    assert_eq!(home.names(), ["before", "large"]);
    home.run(&["rm", "nothing", "large", "nor this"])
        .fails(1, &["\"nothing\"", "\"nor this\"", "the other one was removed"]);
    assert_eq!(home.names(), ["before"]);

    let used = |home: &Home| {
        home.store_files("/packs/")
            .iter()
            .map(|file| fs::metadata(file).unwrap().len())
            .sum::<u64>()
    };
    let before = used(&home);
    home.run(&["gc", "--dry-run"]).ok();
    assert_eq!(used(&home), before);
    let gc = home.run(&["gc", "-o", "json"]).json();
    assert_eq!(fields(&gc), ["freed_bytes", "packs_dropped", "packs_rewritten"]);
    assert!(gc["freed_bytes"].as_u64().unwrap() > 2_900_000, "{gc}");
    assert!(used(&home) < before - 2_900_000);
    assert_eq!(home.get("before"), b"kept");
}

#[test]
fn rm_needs_something_to_remove() {
    let home = Home::with_object(b"1");
    assert_eq!(home.run(&["rm"]).code(), Some(64));
    home.run(&["rm", "--prefix", "no such"]).ok();
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn verify_reads_everything() {
    let home = Home::with_object(b"1");
    home.put("b", &random_bytes(7, 1_000_000));
    let all = home.run(&["verify", "-o", "json"]).json();
    assert_eq!((&all["objects"], &all["bytes"]), (&json!(2), &json!(1_000_001)));
    home.run(&["verify", "b"]).ok();
    home.run(&["verify", "b", "nothing"]).fails(1, &["\"nothing\""]);
}

#[test]
fn status_shows_room_and_totals() {
    let home = Home::with_object(&random_bytes(8, 400_000));
    home.put("again", &random_bytes(8, 400_000));
    let status = home.run(&["status", "-o", "json"]).json();
    assert_eq!(
        fields(&status),
        ["capacity", "causes", "mode", "repositories", "sequence", "since"]
    );
    let mut capacity = vec![
        "total_bytes",
        "free_bytes",
        "used_bytes",
        "reserved_bytes",
        "used_other_bytes",
        "limit_bytes",
        "inodes_total",
        "inodes_free",
    ];
    capacity.sort_unstable();
    assert_eq!(fields(&status["capacity"]), capacity);
    let repository = &status["repositories"][0];
    let mut expected = vec![
        "name",
        "id",
        "objects",
        "chunks",
        "logical_bytes",
        "unique_bytes",
        "stored_bytes",
        "garbage_bytes",
        "log_number",
        "head",
        "quota",
        "in_flight",
    ];
    expected.sort_unstable();
    assert_eq!(fields(repository), expected);
    assert_eq!(
        (&repository["objects"], &repository["logical_bytes"]),
        (&json!(2), &json!(800_000))
    );
    assert_eq!(repository["unique_bytes"], 400_000);
    let table = String::from_utf8(home.run(&["status"]).ok()).unwrap();
    assert!(table.starts_with("mode") && table.contains("default"), "{table}");
}

#[test]
fn an_expected_head_is_found_or_refused() {
    let home = Home::with_object(b"1");
    let head = |home: &Home| {
        let status = home.run(&["status", "-o", "json"]).json();
        let repository = status["repositories"][0].clone();
        (
            repository["log_number"].as_u64().unwrap(),
            repository["head"].as_str().unwrap().to_owned(),
        )
    };
    let (number, seen) = head(&home);
    home.put("later", b"2");
    home.run(&["status", "--expect-head", &format!("{number}:{seen}")]).ok();
    let other = "0".repeat(64);
    home.run(&["status", "--expect-head", &format!("{number}:{other}")])
        .fails(65, &["set back or replaced"]);
    home.run(&["status", "--expect-head", &format!("9999:{seen}")])
        .fails(65, &["9999"]);
    assert_eq!(home.run(&["status", "--expect-head", "12"]).code(), Some(64));
}

#[test]
fn a_lost_catalog_is_made_anew() {
    let home = Home::with_object(&random_bytes(9, 1_000_000));
    let rebuilt = home.run(&["rebuild", "-o", "json"]).json();
    assert_eq!(rebuilt["objects"], 1);
    fs::remove_dir_all(home.path("cairn-store.catalog")).unwrap();
    assert_eq!(home.get("before"), random_bytes(9, 1_000_000));
}

#[test]
fn repositories_come_and_go() {
    let home = Home::new();
    let made = home.run(&[
        "repo",
        "create",
        "pictures",
        "--chunk-avg",
        "16KiB",
        "--level",
        "0",
        "-o",
        "json",
    ]);
    assert!(made.stderr().contains("cairn-store.key"), "{}", made.stderr());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    home.run(&["repo", "create", "pictures"])
        .fails(1, &["\"pictures\" exists already", &id]);
    home.run(&["repo", "create", "letters"]).ok();
    let listed = home.run(&["repo", "ls", "-o", "json"]).json();
    assert_eq!(
        (&listed[0]["name"], &listed[1]["name"]),
        (&json!("letters"), &json!("pictures"))
    );

    home.run_with_input(&["--repo", "pictures", "put", "a"], &vec![7; 300_000])
        .ok();
    assert_eq!(home.run(&["--repo", &id, "get", "a"]).ok(), vec![7; 300_000]);
    home.run(&["--repo", "letters", "get", "a"]).fails(1, &["\"a\""]);
    home.run(&["ls"]).fails(1, &["\"default\"", "cairn repo ls"]);
    let described = home.run(&["repo", "describe", "pictures", "-o", "json"]).json();
    assert_eq!((&described["id"], &described["objects"]), (&json!(id), &json!(1)));

    home.run(&["repo", "rm", "pictures", "--confirm", "pictures"])
        .fails(64, &[&id]);
    home.run(&["repo", "rm", "pictures", "--confirm", &id]).ok();
    assert!(!home.store().join(&id).exists());
    assert_eq!(
        home.run(&["repo", "ls", "-o", "json"]).json().as_array().unwrap().len(),
        1
    );
}

#[test]
fn environment_stands_in_for_flags() {
    let home = Home::new();
    let run = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command
            .env("CAIRN_STORE", home.path("elsewhere"))
            .env("CAIRN_CATALOG", home.path("catalog"))
            .env("CAIRN_KEY_FILE", home.path("key"))
            .env("CAIRN_REPO", "mine");
        Run::of(command)
    };
    home.file("key", &[b'a'; 64]);
    home.file("file", b"1");
    run(&["put", "a", "file"]).ok();
    assert_eq!(run(&["get", "a"]).ok(), b"1");
    assert_eq!(run(&["repo", "ls", "-o", "json"]).json()[0]["name"], "mine");
    assert!(home.path("catalog").is_dir() && !home.path("cairn-store").exists());
    home.run(&[
        "--store",
        "elsewhere",
        "--key-file",
        "key",
        "--repo",
        "mine",
        "get",
        "a",
    ])
    .ok();
}

#[test]
fn help_and_version_succeed_and_wrong_flags_are_refused() {
    let home = Home::new();
    let help = String::from_utf8(home.run(&["--help"]).ok()).unwrap();
    for command in [
        "put",
        "get",
        "ls",
        "stat",
        "cp",
        "rm",
        "verify",
        "status",
        "repo",
        "gc",
        "rebuild",
        "completions",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    let version = String::from_utf8(home.run(&["version"]).ok()).unwrap();
    assert_eq!(version, String::from_utf8(home.run(&["--version"]).ok()).unwrap());
    for shell in ["bash", "zsh", "fish"] {
        assert!(!home.run(&["completions", shell]).ok().is_empty());
    }
    let wrong: [&[&str]; 7] = [
        &["--no-such-flag", "ls"],
        &["no-such-command"],
        &[],
        &["get", "a", "--range", "9-1"],
        &["repo", "create", "x", "--level", "20"],
        &["repo", "create", "x", "--chunk-avg", "100KiB"],
        &["ls", "-o", "xml"],
    ];
    for arguments in wrong {
        let run = home.run(arguments);
        assert_eq!(run.code(), Some(64), "{arguments:?}: {}", run.stderr());
        assert_eq!(run.stdout(), "");
    }
    assert_eq!(fs::read_dir(home.root()).unwrap().count(), 0);
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let home = Home::with_object(&random_bytes(10, 5_000_000));
    for arguments in [
        &["get", "before"][..],
        &["status", "--watch", "-o", "json"],
        &["completions", "bash"],
    ] {
        let mut command = home.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        let run = Run::from_output(child.wait_with_output().unwrap());
        assert_eq!((run.stderr().as_str(), run.code()), ("", Some(0)), "{arguments:?}");
    }
}

#[test]
fn an_interrupted_put_leaves_nothing() {
    let home = Home::with_object(b"1");
    let child = home.start_put("half", &random_bytes(11, 2_000_000));
    let pid = rustix::process::Pid::from_child(&child);
    // The input is taken by a program that has long set up its signals.
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = wait_with_open_input(child).status;
    assert_eq!(status.code(), Some(130));
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn an_interrupted_get_leaves_no_file() {
    let home = Home::with_object(&random_bytes(12, 60_000_000));
    let mut child = home
        .command(&["get", "before", "target"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let part = |home: &Home| {
        let entries = fs::read_dir(home.root()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().ends_with(".part"))
    };
    eventually("a partial file", || part(&home));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let code = child.wait().unwrap().code();
    // It may have been faster than the signal; what it leaves is right either way.
    match code {
        Some(0) => assert!(home.path("target").exists()),
        code => {
            assert_eq!(code, Some(143));
            assert!(!home.path("target").exists());
        }
    }
    assert_eq!(part(&home), None);
}

#[test]
fn the_log_level_comes_from_the_environment() {
    let home = Home::with_object(b"1");
    let mut command = home.command(&["ls"]);
    command.env("CAIRN_LOG", "loud");
    Run::of(command).fails(64, &["CAIRN_LOG=loud", "debug"]);
}

#[test]
fn a_repository_is_made_with_what_was_asked_for_and_under_the_key_that_was_meant() {
    let home = Home::with_object(b"x");
    let key = home.run(&["repo", "ls", "-o", "json"]).json()[0]["key_id"]
        .as_str()
        .unwrap()
        .to_owned();
    home.run(&["repo", "create", "big", "--key-id", "file:00000000"])
        .fails(64, &[&key, "--key-file"]);
    home.run(&[
        "repo",
        "create",
        "big",
        "--key-id",
        &key,
        "--chunk-avg",
        "1MiB",
        "--level",
        "5",
    ])
    .ok();
    let described = home.run(&["repo", "describe", "big", "-o", "json"]).json();
    assert_eq!(
        (&described["chunk_avg_bytes"], &described["compression_level"]),
        (&json!(1 << 20), &json!(5))
    );
}

#[test]
fn a_host_is_measured_stage_by_stage() {
    let home = Home::new();
    let file = home.file("data", &random_bytes(11, 5 << 20));
    let data = [
        "bench",
        "--data",
        file.to_str().unwrap(),
        "--rounds",
        "1",
        "--size",
        "4MiB",
    ];
    let directory = home.path("scratch");
    fs::create_dir(&directory).unwrap();
    let place = ["--dir", directory.to_str().unwrap()];
    let view = home.run(&[&data[..], &place, &["-o", "json"]].concat()).json();
    assert_eq!(view["bytes"], 4 << 20);
    let runs = view["runs"].as_array().unwrap();
    // Those that it may use, whatever its share of them.
    let processors = rustix::thread::sched_getaffinity(None).unwrap().count();
    for (work, stages) in [
        ("first ingest", 8),
        ("first ingest, two streams", 0),
        ("the same again", 5),
        ("restore", 4),
    ] {
        let of_this: Vec<_> = runs.iter().filter(|run| run["work"] == work).collect();
        let threads: Vec<_> = of_this.iter().map(|run| run["threads"].as_u64().unwrap()).collect();
        assert_eq!(
            threads,
            if processors > 1 {
                vec![1, processors as u64]
            } else {
                vec![1]
            },
            "{work}"
        );
        for run in of_this {
            assert_eq!(run["stages"].as_array().unwrap().len(), stages, "{work}");
            assert_eq!(run["parts_bytes_per_second"].is_null(), stages == 0, "{work}");
            assert!(run["whole_bytes_per_second"].as_f64().unwrap() > 0.0, "{work}");
        }
    }
    let table = String::from_utf8(home.run(&[&data[..], &place].concat()).ok()).unwrap();
    assert!(table.contains("restore, 1 thread\n  read packs"), "{table}");
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        0,
        "it leaves something behind"
    );
}
