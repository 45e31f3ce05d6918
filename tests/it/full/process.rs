//! The real agent, killed on a full volume and started there again.

use rustix::process::Signal;

use super::{Disk, Foreign, reserve_bytes};
use crate::agent::Agent;
use crate::support::{Home, Run, eventually, random_bytes};

/// A client of the agent, somewhere else.
struct Client {
    home: Home,
    address: String,
}

impl Client {
    fn of(agent: &Agent) -> Self {
        Self {
            home: Home::new(),
            address: agent.unix_address(),
        }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.home.run(&[&["--agent", &self.address], arguments].concat())
    }

    fn put(&self, name: &str) -> Run {
        let file = self.home.file(name, name.as_bytes());
        self.run(&["put", name, file.to_str().unwrap()])
    }

    fn until_mode(&self, wanted: &str) {
        eventually(&format!("the mode {wanted}"), || {
            let status = self.run(&["status", "-o", "json"]).json();
            (status["mode"] == wanted).then_some(())
        });
    }
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
    let client = Client::of(&agent);
    client.until_mode("OPTIMAL");
    let whole = eventually("the reserve", || Some(reserve_bytes(&volume)).filter(|held| *held > 0));

    let foreign = Foreign::all_but(&volume, 0);
    client.until_mode("NO_CAPACITY");
    client.put("new").fails(75, &["no room"]);
    agent.signal(Signal::KILL);
    agent.wait();

    let agent = Agent::start(&home, &[]);
    let client = Client::of(&agent);
    client.until_mode("NO_CAPACITY");
    client.put("new").fails(75, &["no room"]);
    assert!(client.run(&["get", "kept", "-"]).ok() == kept);
    client.run(&["rm", "gone"]).ok();
    client.run(&["gc"]).ok();
    drop(foreign);
    client.until_mode("OPTIMAL");
    eventually("the whole reserve", || (reserve_bytes(&volume) == whole).then_some(()));
    client.put("new").ok();
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
