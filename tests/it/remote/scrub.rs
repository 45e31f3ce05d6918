//! Scrubs that an agent does: told as a local one tells them, cancelled with the command.

use std::fs;
use std::process::Stdio;

use cairn_agent::service::proto::maintenance_client::MaintenanceClient;
use cairn_agent::service::proto::{MaintenanceListRequest, Operation, OperationState};
use serde_json::Value;

use super::furnished;
use super::pair::{Pair, interrupt};
use crate::agent::Agent;
use crate::support::{Home, Run, eventually};

/// What depends on how many commits two processes made of the same store, and on the time.
const CHANCE: [&str; 5] = ["bytes", "packs", "blobs", "stored_objects", "seconds"];

/// What a scrub or a listing of damage says in JSON, without what depends on chance; how it ends, and why.
fn told(run: &Run) -> (Option<i32>, Value, String) {
    let mut value: Value = serde_json::from_str(&run.stdout()).unwrap();
    if let Some(fields) = value.as_object_mut() {
        for field in CHANCE {
            assert!(fields.remove(field).is_some(), "{field} is not told");
        }
    }
    (run.code(), value, run.stderr())
}

/// The same as a table.
fn table(run: &Run) -> (Option<i32>, Vec<String>, String) {
    let chance = ["stored objects", "packs", "blobs opened", "read"];
    let stdout = run.stdout();
    let lines = stdout
        .lines()
        .filter(|line| !chance.iter().any(|field| line.starts_with(field)));
    (run.code(), lines.map(str::to_owned).collect(), run.stderr())
}

/// A store one of whose packs is damaged.
fn damaged() -> Home {
    let home = furnished();
    let packs = home.store_files("/packs/");
    let largest = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    bytes[100_000] ^= 1;
    fs::write(largest, &bytes).unwrap();
    home
}

#[test]
fn what_is_found_is_told_the_same() {
    for (home, code) in [(furnished(), 0), (damaged(), 65)] {
        let pair = Pair::of(home);
        for command in [
            &["scrub", "--depth", "bytes", "--no-repair"][..],
            &["scrub"],
            &["scrub", "--depth", "full", "--rate", "1GiB"],
            &["ls", "--damaged"],
            &["ls", "--damaged", "some/"],
            &["ls", "--damaged", "nothing like it"],
        ] {
            let json = [command, &["-o", "json"]].concat();
            let (here, there) = (told(&pair.here.run(&json)), told(&pair.remote(&json)));
            assert_eq!(here, there, "without and with an agent: {command:?}");
            let expected = if command[0] == "scrub" { code } else { 0 };
            assert_eq!(here.0, Some(expected), "{command:?}: {here:?}");
            let (here, there) = (table(&pair.here.run(command)), table(&pair.remote(command)));
            assert_eq!(here, there, "without and with an agent: {command:?}");
        }
        let structure = ["scrub", "--depth", "structure", "-o", "json"];
        assert_eq!(told(&pair.here.run(&structure)), told(&pair.remote(&structure)));
        let listed = pair.remote(&["ls", "--damaged", "-o", "json"]).json();
        assert_eq!(listed.as_array().unwrap().is_empty(), code == 0, "{listed}");
    }
}

#[test]
fn it_goes_on_by_its_cursor() {
    let pair = Pair::of(furnished());
    let first = pair.remote(&["scrub", "--limit", "1", "-o", "json"]).json();
    let cursor = first["cursor"].as_str().unwrap();
    let rest = pair.remote(&["scrub", "--from", cursor, "-o", "json"]).json();
    assert_eq!(rest["cursor"], Value::Null);
    assert!(rest["packs"].as_u64() > first["packs"].as_u64());
}

/// The newest operation of an agent.
fn newest(agent: &Agent) -> Option<Operation> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(agent.tcp.clone()).unwrap();
        let mut client = MaintenanceClient::new(endpoint.connect().await.unwrap());
        let listed = client.list(MaintenanceListRequest {}).await.unwrap();
        listed.into_inner().operations.into_iter().next()
    })
}

#[test]
fn interrupting_the_command_cancels_it_at_the_agent() {
    let pair = Pair::of(furnished());
    let mut command = pair.remote_command(&["scrub", "--rate", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = eventually("a scrub at the agent", || newest(&pair.agent));
    assert_eq!(begun.state(), OperationState::Running);
    // Nobody else scrubs the same meanwhile, and is told why.
    pair.remote(&["scrub"]).fails(69, &[&begun.id]);
    interrupt(&child);
    Run::from_output(child.wait_with_output().unwrap()).fails(130, &["interrupted"]);
    let ended = eventually("its end", || {
        newest(&pair.agent).filter(|now| now.state() != OperationState::Running)
    });
    assert_eq!(
        (ended.id.as_str(), ended.state()),
        (begun.id.as_str(), OperationState::Cancelled)
    );
    pair.remote(&["scrub"]).ok();
}

#[test]
fn an_agent_that_goes_down_ends_it() {
    let pair = Pair::of(furnished());
    let mut command = pair.remote_command(&["scrub", "--rate", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("a scrub at the agent", || newest(&pair.agent));
    let (code, log) = pair.agent.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("OPERATION_STATE_CANCELLED"), "{log}");
    Run::from_output(child.wait_with_output().unwrap()).fails(69, &[]);
}
