//! Commands with `--agent`: what they print, how they fail and what they leave behind is what they do without it.

mod pair;
mod scrub;
mod strange;

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use self::pair::Pair;
use crate::agent::Agent;
use crate::support::{Home, Run, eventually, random_bytes, wait_with_open_input};

/// A store with a few objects of every kind of content.
fn furnished() -> Home {
    let home = Home::new();
    home.put("empty", b"");
    home.put("some/small", b"some bytes");
    home.put("some/large", &random_bytes(1, 9_000_001));
    home.put("name with spaces/and ünïcode", &[b'x'; 100_000]);
    home
}

#[test]
fn commands_print_the_same() {
    let pair = Pair::of(furnished());
    let file = pair.here.file("file", &random_bytes(2, 3_000_000));
    let file = file.to_str().unwrap();
    for format in ["table", "json", "yaml"] {
        for command in [
            &["ls"][..],
            &["ls", "some/"],
            &["ls", "nothing like it"],
            &["stat", "empty"],
            &["stat", "name with spaces/and ünïcode"],
            &["put", "new", file],
            &["put", "again", file, "--verify"],
            &["put", "name with spaces/and ünïcode", file, "--if-version", "4"],
            &["cp", "some/large", "copy"],
            &["rm", "again"],
            &["verify"],
            &["verify", "some/small", "empty"],
            &["status"],
            &["repo", "ls"],
            &["repo", "describe", "default"],
            &["key", "ls"],
            &["gc", "--dry-run"],
            &["rebuild"],
            &["rm", "--prefix", "co"],
            &["put", "name with spaces/and ünïcode", file],
        ] {
            let command = [command, &["-o", format]].concat();
            let printed = pair.same(&command);
            assert_eq!(
                printed.code,
                Some(if command.contains(&"--if-version") && format != "table" {
                    1
                } else {
                    0
                })
            );
        }
    }
}

#[test]
fn failures_are_the_same() {
    let pair = Pair::of(furnished());
    let file = pair.here.file("file", b"bytes");
    let (file, directory) = (file.to_str().unwrap(), pair.here.root().to_str().unwrap());
    let unknown_head = format!("999999:{}", "ab".repeat(32));
    for (code, command) in [
        (1, &["stat", "missing"][..]),
        (1, &["get", "missing"]),
        (1, &["get", "missing", "/dev/null"]),
        (64, &["get", "some/small", "--range", "100-200"]),
        (64, &["get", "some/small", "--range", "0-18446744073709551615"]),
        (64, &["get", "some/small", "--range", "-0"]),
        (64, &["get", "empty", "--range", "-1"]),
        (1, &["put", "some/small", file, "--create-only"]),
        (1, &["put", "some/small", file, "--if-version", "77"]),
        (64, &["put", "", file]),
        (64, &["put", "x", directory]),
        (1, &["put", "x", "/no/such/file"]),
        (1, &["put", "x", file, "--repo", "nobody"]),
        (1, &["ls", "--repo", "nobody"]),
        (1, &["stat", "some/small", "--repo", "nobody"]),
        (1, &["get", "some/small", "--repo", "nobody"]),
        (1, &["rm", "some/small", "--repo", "nobody"]),
        (1, &["gc", "--repo", "nobody"]),
        (1, &["rebuild", "--repo", "nobody"]),
        (1, &["scrub", "--repo", "nobody"]),
        (1, &["ls", "--damaged", "--repo", "nobody"]),
        (64, &["scrub", "--from", "1 structure tables"]),
        (64, &["scrub", "--from", "somewhere"]),
        (64, &["scrub", "--rate", "0"]),
        (1, &["status", "--expect-head", &unknown_head, "--repo", "nobody"]),
        (65, &["status", "--expect-head", &unknown_head]),
        (1, &["repo", "describe", "nobody"]),
        (1, &["repo", "create", "default"]),
        (64, &["repo", "create", "Not A Name"]),
        (64, &["repo", "rm", "default", "--confirm", "wrong"]),
        (1, &["repo", "rm", "nobody", "--confirm", "wrong"]),
        (1, &["cp", "missing", "x"]),
        (64, &["cp", "empty", ""]),
        (1, &["rm", "missing"]),
        (1, &["verify", "missing", "empty"]),
        (1, &["rm", "missing", "some/small", "empty"]),
    ] {
        let printed = pair.same(command);
        assert_eq!(printed.code, Some(code), "{command:?}: {printed:?}");
    }
}

#[test]
fn what_is_put_comes_back_whole_and_in_parts() {
    let pair = Pair::of(Home::new());
    const FRAME: usize = 256 << 10;
    for (number, len) in [0, 1, FRAME - 1, FRAME, FRAME + 1, 9_000_001].into_iter().enumerate() {
        let bytes = random_bytes(number as u64, len);
        let file = pair.client.file("file", &bytes);
        pair.remote(&["put", "from a file", file.to_str().unwrap(), "--verify"])
            .ok();
        let mut command = pair.remote_command(&["put", "from a pipe"]);
        command.stdin(fs::File::open(&file).unwrap());
        Run::of(command).ok();
        for name in ["from a file", "from a pipe"] {
            assert!(pair.remote(&["get", name]).ok() == bytes, "{name}, {len} bytes");
            let target = pair.client.path("target");
            pair.remote(&["get", name, target.to_str().unwrap()]).ok();
            assert!(fs::read(target).unwrap() == bytes, "{name}, {len} bytes, into a file");
        }
        if len > 2 {
            let middle = format!("{}-{}", len / 3, len / 2);
            let part = pair.remote(&["get", "from a file", "--range", &middle]).ok();
            assert!(part == bytes[len / 3..=len / 2], "{len} bytes, {middle}");
            let tail = pair.remote(&["get", "from a pipe", "--range", "-2"]).ok();
            assert!(tail == bytes[len - 2..], "{len} bytes, the last two");
        }
    }
}

#[test]
fn more_objects_than_a_call_takes_are_listed_and_removed() {
    let home = furnished();
    for number in 0..3 {
        home.put(&format!("many/{number:04}"), b"content");
    }
    let pair = Pair::of(home);
    pair::copies(&pair.agent, "many/0000", "many/", 2100);
    let listed = pair.remote(&["ls", "many/", "-o", "json"]).json();
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|object| object["name"].clone())
        .collect();
    assert_eq!(names.len(), 2100);
    assert!(
        names.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()),
        "not sorted"
    );
    let removed = pair.remote(&["rm", "--prefix", "many/", "-o", "json"]).json();
    assert_eq!(removed["removed"].as_array().unwrap().len(), 2100);
    assert_eq!(pair.remote(&["ls", "-o", "json"]).json().as_array().unwrap().len(), 4);
}

#[test]
fn repositories_come_and_go() {
    let pair = Pair::of(furnished());
    let made = pair
        .remote(&[
            "repo",
            "create",
            "second",
            "--chunk-avg",
            "16KiB",
            "--level",
            "3",
            "-o",
            "json",
        ])
        .json();
    assert_eq!(made["name"], "second");
    let described = pair.remote(&["repo", "describe", "second", "-o", "json"]).json();
    assert_eq!(
        (&described["chunk_avg_bytes"], &described["compression_level"]),
        (&16384.into(), &3.into())
    );
    pair.remote(&["repo", "create", "third", "--key-id", "nobody's"])
        .fails(69, &["nobody's"]);
    let id = made["id"].as_str().unwrap();
    pair.remote(&["repo", "rm", "second", "--confirm", id]).ok();
    assert_eq!(
        pair.remote(&["repo", "ls", "-o", "json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn the_status_is_watched_and_heads_are_checked() {
    let pair = Pair::of(furnished());
    // An agent that has just begun may not have opened its repositories yet; whoever asks for one waits for it.
    pair.remote(&["ls"]).ok();
    let status = pair.remote(&["status", "-o", "json"]).json();
    let repository = &status["repositories"][0];
    let head = format!("{}:{}", repository["log_number"], repository["head"].as_str().unwrap());
    pair.remote(&["status", "--expect-head", &head]).ok();

    let mut command = pair.remote_command(&["status", "--watch", "-o", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let told = pair::lines(child.stdout.take().unwrap());
    let objects = |count: u64| {
        eventually("a status that tells of the objects", || {
            let line = told.try_recv().ok()?;
            let status: Value = serde_json::from_str(&line).unwrap();
            (status["repositories"][0]["objects"] == count).then_some(())
        });
    };
    objects(4);
    pair.remote(&["cp", "empty", "another"]).ok();
    objects(5);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_interrupted_put_leaves_nothing() {
    let pair = Pair::of(furnished());
    let mut command = pair.remote_command(&["put", "half"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &random_bytes(9, 3_000_000)).unwrap();
    pair::interrupt(&child);
    Run::from_output(wait_with_open_input(child)).fails(130, &["interrupted"]);
    assert_eq!(pair.remote(&["ls", "-o", "json"]).json().as_array().unwrap().len(), 4);
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    let home = Home::new();
    for address in ["http://127.0.0.1:1", "unix:///no/such/socket"] {
        for command in [
            &["ls"][..],
            &["put", "x", "/dev/null"],
            &["status"],
            &["key", "ls"],
            &["repo", "ls"],
        ] {
            home.run(&[command, &["--agent", address]].concat())
                .fails(69, &[address]);
        }
    }
    for wrong in ["localhost:7420", "unix://relative", "http://no-port", "ftp://host:1"] {
        home.run(&["ls", "--agent", wrong]).fails(64, &[wrong]);
    }
    home.run(&["ls", "--agent", "https://localhost:1"])
        .fails(64, &["--tls-ca"]);
}

#[test]
fn an_agent_or_a_place_but_not_both() {
    let pair = Pair::of(furnished());
    let address = pair.agent.unix_address();
    for flag in ["--store", "--catalog", "--key-file"] {
        let run = pair.client.run(&["ls", "--agent", &address, flag, "x"]);
        run.fails(64, &["--agent", flag]);
    }
    let with_environment = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = pair.client.command(arguments);
        command.envs(variables.iter().copied());
        Run::of(command)
    };
    with_environment(&[("CAIRN_AGENT", &address)], &["stat", "empty"]).ok();
    with_environment(&[("CAIRN_STORE", "x")], &["stat", "empty", "--agent", &address]).ok();
    let store = pair.here.store();
    let store = store.to_str().unwrap();
    with_environment(
        &[("CAIRN_AGENT", "unix:///nowhere")],
        &["stat", "empty", "--store", store],
    )
    .ok();
    let both = [("CAIRN_AGENT", address.as_str()), ("CAIRN_STORE", "x")];
    with_environment(&both, &["ls"]).fails(64, &["CAIRN_AGENT", "CAIRN_STORE"]);
    with_environment(&both, &["version"]).ok();
}

#[test]
fn keys_that_are_needed_are_told_from_those_that_are_there() {
    let home = furnished();
    let key = &home.run(&["key", "ls", "-o", "json"]).json()[0];
    assert_eq!(key["loaded"], true);
    let elsewhere = Home::new();
    elsewhere.put("x", b"another key");
    let other = elsewhere.path("cairn-store.key");
    let listed = home
        .run(&["key", "ls", "-o", "json", "--key-file", other.to_str().unwrap()])
        .json();
    let of = |id: &Value| {
        listed
            .as_array()
            .unwrap()
            .iter()
            .find(|key| key["key_id"] == *id)
            .cloned()
    };
    assert_eq!(of(&key["key_id"]).unwrap()["loaded"], false);
    assert_eq!(
        of(&elsewhere.run(&["key", "ls", "-o", "json"]).json()[0]["key_id"]).unwrap()["loaded"],
        true
    );
    fs::remove_file(home.path("cairn-store.key")).unwrap();
    assert_eq!(home.run(&["key", "ls", "-o", "json"]).json()[0]["loaded"], false);
}

#[test]
fn certificates_say_who_is_who() {
    let home = furnished();
    let files = pair::certificates(home.root());
    let serve = [
        "--listen",
        "https://127.0.0.1:0",
        "--tls-ca",
        &files.ca,
        "--tls-cert",
        &files.cert,
        "--tls-key",
        &files.key,
    ];
    let agent = Agent::start(&home, &serve);
    let client = Home::new();
    let with = [
        "--tls-ca",
        &files.ca,
        "--tls-cert",
        &files.cert,
        "--tls-key",
        &files.key,
    ];
    let run = |more: &[&str]| client.run(&[&["ls", "--agent", &agent.tcp], more].concat());
    run(&with).ok();
    // Whom the agent does not know, or who does not know the agent.
    run(&with[..2]).fails(69, &[&agent.tcp]);
    run(&[&["--tls-ca", &files.stranger], &with[2..]].concat()).fails(69, &[&agent.tcp]);
    run(&with[2..]).fails(64, &["--tls-ca"]);
    run(&with[..4]).fails(64, &["--tls-key"]);
    run(&["--tls-ca", "/no/such/file"]).fails(64, &["--tls-ca", "/no/such/file"]);
}
