//! Whatever goes wrong: one line that names the thing, the promised exit code, nothing lost and nothing half visible.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use seccompiler::{SeccompAction, SeccompFilter, apply_filter};

use crate::support::{Home, Run, Volume, eventually, files_below, is_root, not_run, pause, random_bytes};

/// Somebody who is not root, on every system.
const NOBODY: u32 = 65534;

#[test]
fn an_unknown_name_is_not_found() {
    let home = Home::with_object(b"1");
    home.run(&["get", "nothing"]).fails(1, &["\"nothing\""]);
    home.run(&["get", "nothing", "target"]).fails(1, &["\"nothing\""]);
    assert!(!home.path("target").exists());
    home.run(&["stat", "nothing"]).fails(1, &["\"nothing\""]);
    home.run(&["cp", "nothing", "copy"]).fails(1, &["\"nothing\""]);
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn a_missing_store_is_named_and_not_made() {
    let home = Home::new();
    for arguments in [
        &["ls"][..],
        &["get", "a"],
        &["rm", "a"],
        &["verify"],
        &["status"],
        &["gc"],
        &["repo", "ls"],
    ] {
        home.run(arguments)
            .fails(69, &["no store at", "cairn-store", "cairn put"]);
    }
    assert_eq!(fs::read_dir(home.root()).unwrap().count(), 0);
}

#[test]
fn a_wrong_key_opens_nothing() {
    let home = Home::with_object(b"1");
    let wrong = home.file("wrong", &[b'0'; 64]);
    let wrong = wrong.to_str().unwrap();
    let before = files_below(&home.store());
    home.run(&["--key-file", wrong, "get", "before"])
        .fails(65, &["wrong key", "--key-file"]);
    home.run_with_input(&["--key-file", wrong, "put", "new"], b"2")
        .fails(65, &["wrong key"]);
    assert_eq!(files_below(&home.store()), before);
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn a_missing_key_file_is_named_and_not_made() {
    let home = Home::with_object(b"1");
    fs::rename(home.path("cairn-store.key"), home.path("safe")).unwrap();
    home.run(&["get", "before"])
        .fails(69, &["cairn-store.key", "not found", "--key-file"]);
    home.run_with_input(&["put", "new"], b"2")
        .fails(69, &["cairn-store.key"]);
    home.run(&["repo", "create", "new"]).fails(69, &["cairn-store.key"]);
    assert!(!home.path("cairn-store.key").exists());
    home.run(&["--key-file", "safe", "get", "before"]).ok();
    home.run(&["repo", "ls"]).ok();
    for (contents, said) in [
        (&b""[..], "empty"),
        (b"short", "5 bytes long"),
        (&[b'x'; 64], "hex digits"),
    ] {
        home.file("cairn-store.key", contents);
        home.run(&["ls"]).fails(69, &["cairn-store.key", said]);
    }
}

#[test]
fn somebody_elses_directory_is_left_alone() {
    let home = Home::new();
    let foreign = home.path("photographs");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("cat.jpg"), "a cat").unwrap();
    for arguments in [&["put", "a"][..], &["ls"], &["repo", "create", "a"]] {
        let mut all = vec!["--store", "photographs"];
        all.extend(arguments);
        home.run_with_input(&all, b"1").fails(65, &["photographs", "cat.jpg"]);
    }
    assert_eq!(files_below(home.root()), [foreign.join("cat.jpg")]);
    home.file("a file", b"");
    home.run_with_input(&["--store", "a file", "put", "a"], b"1")
        .fails(65, &["a file", "not a directory"]);
}

#[test]
fn a_catalog_inside_the_store_or_anothers_is_refused() {
    let home = Home::with_object(b"1");
    home.run(&["--catalog", "cairn-store/catalog", "ls"])
        .fails(64, &["cairn-store", "--catalog"]);
    fs::create_dir(home.path("other")).unwrap();
    fs::write(home.path("other/letter.txt"), "dear").unwrap();
    home.run(&["--catalog", "other", "ls"])
        .fails(65, &["other", "letter.txt"]);
    assert_eq!(files_below(&home.path("other")).len(), 1);
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn names_have_limits() {
    let home = Home::with_object(b"1");
    let long = "n".repeat(1025);
    for command in ["put", "get", "stat", "rm", "verify"] {
        home.run_with_input(&[command, ""], b"").fails(64, &["empty"]);
        let said = home.run_with_input(&[command, &long], b"");
        assert!(said.stderr().len() < 300, "the name is repeated at length");
        said.fails(64, &["1025", "1024", "\"nnn"]);
        let mut command = home.command(&[command]);
        command.arg(OsStr::from_bytes(b"caf\xe9"));
        Run::of(command).fails(64, &["caf", "UTF-8"]);
    }
    let longest = "n".repeat(1024);
    home.run_with_input(&["put", &longest], b"2").ok();
    assert_eq!(home.get(&longest), b"2");
    home.run(&["repo", "create", "Größe"]).fails(64, &["a-z, 0-9"]);
    home.run(&["repo", "create", ""]).fails(64, &["empty"]);
}

#[test]
fn a_directory_is_no_object() {
    let home = Home::with_object(b"1");
    fs::create_dir(home.path("folder")).unwrap();
    home.run(&["put", "a", "folder"])
        .fails(64, &["folder", "directory", "tar "]);
    home.run(&["get", "before", "folder"])
        .fails(64, &["folder", "directory"]);
    home.run(&["get", "before", "no/such/place"])
        .fails(1, &["no/such/place"]);
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let home = Home::new();
    home.run(&["put", "a", "absent"]).fails(1, &["absent"]);
    assert_eq!(
        fs::read_dir(home.root()).unwrap().count(),
        0,
        "no store is made for nothing"
    );

    let file = home.file("secret", b"1");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = unprivileged(&home, &["put", "a", "secret"]);
    match command.output() {
        Ok(output) => drop(Run::from_output(output).fails(1, &["secret", "Permission denied"])),
        Err(error) => not_run(&format!("the program cannot be started by another user: {error}")),
    }
}

#[test]
fn a_store_that_may_not_be_read_is_named() {
    let home = Home::with_object(b"1");
    // Root may read everything: somebody else tries.
    fs::set_permissions(home.store(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(home.path("cairn-store.key"), fs::Permissions::from_mode(0o644)).unwrap();
    if !is_root() {
        return not_run("being two users needs root");
    }
    let mut command = unprivileged(&home, &["ls"]);
    match command.output() {
        Ok(output) => drop(Run::from_output(output).fails(69, &["cairn-store", "permission denied"])),
        Err(error) => not_run(&format!("the program cannot be started by another user: {error}")),
    }
}

/// The program, run by somebody who is not root, if we are.
fn unprivileged(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(arguments);
    if is_root() {
        chown(home.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn a_range_outside_the_object_is_refused() {
    let home = Home::with_object(b"0123456789");
    for range in ["10-", "0-10", "5-20", "-11", "100-200", "-0"] {
        home.run(&["get", "before", "--range", range]).fails(64, &["10 bytes"]);
        home.run(&["get", "before", "target", "--range", range]).fails(64, &[]);
    }
    assert!(!home.path("target").exists());
    home.put("empty", b"");
    home.run(&["get", "empty", "--range", "0-"]).fails(64, &["0 bytes"]);
}

#[test]
fn damage_is_found_and_named() {
    let home = Home::with_object(b"intact");
    home.put("hurt", &random_bytes(30, 2_000_000));
    let packs = home.store_files("/packs/");
    let largest = packs
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).unwrap();

    let printed = home.run(&["verify"]).fails(65, &["\"hurt\""]);
    assert!(
        printed.contains("damaged hurt") && printed.contains("objects intact: 1 "),
        "{printed}"
    );
    home.run(&["get", "hurt", "target"]).fails(65, &["hurt"]);
    assert!(!home.path("target").exists());
    assert_eq!(home.get("before"), b"intact");
    // What is known to be damaged is not relied on for new puts.
    home.put("hurt", &random_bytes(30, 2_000_000));
    assert_eq!(home.get("hurt"), random_bytes(30, 2_000_000));
}

#[test]
fn a_second_process_is_told_who_is_first() {
    let home = Home::with_object(b"1");
    let mut first = home.start_put("slow", b"the beginning");
    let pid = first.id().to_string();
    let lock = home.store().join("lock");
    eventually("the first process taking the store", || {
        (fs::read_to_string(&lock).ok()?.trim() == pid).then_some(())
    });
    home.run(&["ls"]).fails(69, &["cairn-store", &pid]);
    home.run_with_input(&["put", "b"], b"2").fails(69, &[&pid]);
    first.stdin.take().unwrap().write_all(b" and the end").unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(home.get("slow"), b"the beginning and the end");
    assert_eq!(home.names(), ["before", "slow"]);
}

#[test]
fn a_killed_put_leaves_the_rest_as_it_was() {
    let first = random_bytes(40, 3_000_000);
    let home = Home::with_object(&first);
    let large = random_bytes(41, 48_000_000);
    // Before the first pack, after it, with several on disk, and at the very end.
    for fed in [0, 1_000_000, 20_000_000, 40_000_000, large.len()] {
        let mut child = home.start_put("large", &large[..fed]);
        child.kill().unwrap();
        child.wait().unwrap();
        home.run(&["stat", "large"]).fails(1, &["\"large\""]);
        assert_eq!(home.get("before"), first);
    }
    home.put("large", &large);
    assert_eq!(home.get("large"), large);
    home.run(&["verify"]).ok();
    let known = no_stray_packs(&home);
    assert!(known > 0);
}

/// After a gc the store holds the packs that the repository knows and no others; how many.
fn no_stray_packs(home: &Home) -> usize {
    home.run(&["gc"]).ok();
    let table = String::from_utf8(home.run_with_input(&["put", "last"], b"1").ok()).unwrap();
    let line = table.lines().find(|line| line.starts_with("packs")).unwrap();
    let known: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let packs = home.store_files("/packs/");
    assert_eq!(packs.len(), known, "{packs:?}");
    known
}

#[test]
fn a_killed_first_put_is_in_nobodys_way() {
    // From before the key is there to after the commit; the program takes some tens of milliseconds in all.
    for milliseconds in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60] {
        let home = Home::new();
        let mut child = home.start_put("a", b"");
        pause(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        home.put("a", b"again");
        assert_eq!(home.get("a"), b"again", "killed after {milliseconds} ms");
        assert_eq!(home.names(), ["a"]);
    }
}

#[test]
fn a_full_volume_refuses_and_loses_nothing() {
    let Some(volume) = Volume::of_bytes(48 << 20) else {
        return;
    };
    let home = Home::with_store(&volume.path().join("store"));
    let small = random_bytes(50, 1_000_000);
    home.put("before", &small);
    let large = home.file("large", &random_bytes(51, 80_000_000));
    for _ in 0..2 {
        home.run(&["put", "large", large.to_str().unwrap()])
            .fails(75, &["store"]);
        assert_eq!(home.names(), ["before"]);
        assert_eq!(home.get("before"), small);
    }
    home.run(&["verify"]).ok();
    home.run(&["gc"]).ok();
    home.put("after", &random_bytes(52, 1_000_000));
    assert_eq!(home.get("after"), random_bytes(52, 1_000_000));
    home.run(&["rm", "before", "after"]).ok();
    assert!(home.names().is_empty());
}

#[test]
fn a_volume_that_others_fill_refuses_and_loses_nothing() {
    let Some(volume) = Volume::of_bytes(64 << 20) else {
        return;
    };
    let home = Home::with_store(&volume.path().join("store"));
    let small = random_bytes(53, 500_000);
    home.put("before", &small);
    // Somebody else takes what is left while a put is under way.
    let mut child = home.start_put("large", &random_bytes(54, 4_000_000));
    let mut other = fs::File::create(volume.path().join("other")).unwrap();
    while other.write_all(&[0; 1 << 16]).is_ok() {}
    // The put may be refused before it has taken everything.
    let _ = child.stdin.take().unwrap().write_all(&random_bytes(55, 30_000_000));
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(home.get("before"), small);
    home.run(&["put", "more", home.file("more", &small).to_str().unwrap()])
        .fails(75, &["store"]);
    // Only when it is closed too does its space come back.
    drop(other);
    fs::remove_file(volume.path().join("other")).unwrap();
    home.put("after", &small);
    assert_eq!(home.names(), ["after", "before"]);
    home.run(&["verify"]).ok();
}

#[test]
fn a_read_only_store_is_read_with_a_catalog_elsewhere() {
    let Some(volume) = Volume::of_bytes(64 << 20) else {
        return;
    };
    let home = Home::with_store(&volume.path().join("store"));
    let bytes = random_bytes(60, 1_000_000);
    home.put("before", &bytes);
    volume.make_read_only();
    let elsewhere = home.path("catalog");
    let with_catalog = |arguments: &[&str]| {
        let mut all = vec!["--catalog", elsewhere.to_str().unwrap()];
        all.extend(arguments);
        home.run_with_input(&all, b"2")
    };
    assert_eq!(with_catalog(&["get", "before"]).ok(), bytes);
    with_catalog(&["verify"]).ok();
    with_catalog(&["ls"]).ok();
    with_catalog(&["status"]).ok();
    with_catalog(&["put", "new"]).fails(69, &["store", "read-only"]);
    with_catalog(&["rm", "before"]).fails(69, &["read-only"]);
    home.run(&["ls"])
        .fails(69, &["store.catalog", "name a writable directory"]);
    assert_eq!(with_catalog(&["get", "before"]).ok(), bytes);
}

#[test]
fn a_new_store_on_a_read_only_volume_is_refused() {
    let Some(volume) = Volume::of_bytes(1 << 20) else {
        return;
    };
    volume.make_read_only();
    let home = Home::with_store(&volume.path().join("store"));
    home.run_with_input(&["put", "a"], b"1")
        .fails(69, &["store.key", "ead-only"]);
    let key = home.file("key", &[b'1'; 64]);
    let put = home.run_with_input(&["--key-file", key.to_str().unwrap(), "put", "a"], b"1");
    put.fails(69, &["store", "read-only"]);
}

#[test]
fn no_hard_links_are_needed() {
    let home = Home::new();
    let bytes = random_bytes(70, 3_000_000);
    let file = home.file("file", &bytes);
    let steps: [&[&str]; 6] = [
        &["put", "a", file.to_str().unwrap()],
        &["cp", "a", "b"],
        &["rm", "a"],
        &["gc"],
        &["repo", "create", "other"],
        &["verify"],
    ];
    for arguments in steps {
        run_without_hard_links(home.command(arguments)).ok();
    }
    assert_eq!(home.get("b"), bytes);
}

/// As on a file system without them: what makes a link fails as it does on FAT.
fn run_without_hard_links(command: Command) -> Run {
    // The filter holds for one thread and what it starts.
    let running = std::thread::spawn(move || {
        apply_filter(&no_links_filter()).expect("filters need no right where new rights are given up");
        Run::of(command)
    });
    running.join().unwrap()
}

/// Numbers of link(2), where there still is one, and linkat(2).
#[cfg(target_arch = "x86_64")]
const LINK_CALLS: &[i64] = &[86, 265];
#[cfg(not(target_arch = "x86_64"))]
const LINK_CALLS: &[i64] = &[37];

fn no_links_filter() -> seccompiler::BpfProgram {
    const EPERM: u32 = 1;
    let rules = LINK_CALLS.iter().map(|number| (*number, Vec::new())).collect();
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(EPERM),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .and_then(|filter| filter.try_into())
    .unwrap()
}
