//! The real agent, killed on a full volume and started there again.

use rustix::process::Signal;

use super::{Disk, Foreign, reserve_bytes};
use crate::agent::Agent;
use crate::support::{Home, Run, eventually, random_bytes};

fn mode(home: &Home, address: &str) -> String {
    let run = home.run(&["--agent", address, "status", "-o", "json"]);
    run.json()["mode"].as_str().unwrap().to_owned()
}

fn until_mode(home: &Home, address: &str, wanted: &[&str]) {
    eventually("the mode", || {
        let mode = mode(home, address);
        wanted.contains(&mode.as_str()).then_some(())
    });
}

fn on_agent(home: &Home, address: &str, arguments: &[&str]) -> Run {
    home.run(&[&["--agent", address], arguments].concat())
}

#[test]
fn an_agent_that_is_killed_on_a_full_volume_starts_there_and_works_it_free() {
    let Some(disk) = Disk::memory("size=400m") else {
        return;
    };
    let volume = disk.path();
    let home = Home::with_store(&volume.join("store"));
    let (kept, gone) = (random_bytes(1, 40 << 20), random_bytes(2, 40 << 20));
    home.put("kept", &kept);
    home.put("gone", &gone);
    assert_eq!(reserve_bytes(&volume), 0, "the command line makes none");
    let mut agent = Agent::start(&home, &[]);
    let address = agent.unix_address();
    until_mode(&home, &address, &["OPTIMAL"]);
    let whole = eventually("the reserve", || Some(reserve_bytes(&volume)).filter(|held| *held > 0));

    let foreign = Foreign::all_but(&volume, 0);
    until_mode(&home, &address, &["NO_CAPACITY"]);
    let file = home.file("new", b"new");
    on_agent(&home, &address, &["put", "new", file.to_str().unwrap()]).fails(75, &["no room"]);
    agent.signal(Signal::KILL);
    agent.wait();

    let agent = Agent::start(&home, &[]);
    let address = agent.unix_address();
    until_mode(&home, &address, &["NO_CAPACITY"]);
    on_agent(&home, &address, &["put", "new", file.to_str().unwrap()]).fails(75, &["no room"]);
    assert!(on_agent(&home, &address, &["get", "kept", "-"]).ok() == kept);
    on_agent(&home, &address, &["rm", "gone"]).ok();
    on_agent(&home, &address, &["gc"]).ok();
    drop(foreign);
    until_mode(&home, &address, &["OPTIMAL"]);
    eventually("the whole reserve", || (reserve_bytes(&volume) == whole).then_some(()));
    on_agent(&home, &address, &["put", "new", file.to_str().unwrap()]).ok();
    agent.stop();

    // Without an agent the reserve is used, and not made again.
    let foreign = Foreign::all_but(&volume, 0);
    home.run(&["rm", "new"]).ok();
    assert!(home.get("kept") == kept);
    assert!(reserve_bytes(&volume) < whole);
    drop(foreign);
    assert_eq!(home.names(), ["kept"]);
    assert!(reserve_bytes(&volume) < whole);
}
