//! The process is killed at any moment: what it had said is so, and the next one goes on.
//!
//! `CAIRN_LONG=1` makes it hundreds of rounds, `CAIRN_SEED` chooses others.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::deeds::Deeds;
use crate::support::{Announce, Home, is_long, pause, seed};

/// How long a process may live: some time more than one that is left alone, on the machine as it is now.
fn life_max() -> Duration {
    let home = Home::new();
    home.put("first", &[1; 1 << 20]);
    let started = Instant::now();
    home.put("second", &[2; 1 << 20]);
    started.elapsed() * 5 / 2
}

#[test]
fn a_killed_process_loses_nothing_that_it_said() {
    let announced = Announce(seed(31));
    let mut deeds = Deeds::new(announced.0);
    let home = Home::new();
    let said = home.path("said");
    let rounds = if is_long() { 400 } else { 30 };
    let (mut life_max, mut killed) = (life_max(), 0);
    for round in 0..rounds {
        let deed = deeds.next();
        let mut child = deed.start(&home, &said);
        pause(Duration::from_micros(
            deeds.rng().random_range(0..life_max.as_micros() as u64),
        ));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let is_killed = status.code().is_none();
        killed += usize::from(is_killed);
        // So that about half of them are killed, however busy the machine becomes; and the first soon comes to its end.
        life_max = match is_killed {
            true if deeds.acknowledged == 0 => life_max * 3 / 2,
            true => life_max * 21 / 20,
            false => life_max * 19 / 20,
        };
        let failed = status.code().is_some_and(|code| code != 0);
        assert!(
            !failed || !home.store_exists(),
            "round {round}: {}",
            std::fs::read_to_string(&said).unwrap()
        );
        deeds.told(&deed, status.success());
        if round == 0 || round % 4 == 3 {
            // A store may not have come to be yet.
            match home.store_exists() {
                true => deeds.check(&home, &format!("round {round}")),
                false => assert_eq!(deeds.acknowledged, 0),
            }
        }
    }
    match home.store_exists() {
        true => deeds.check_all(&home, "at the end"),
        false => assert_eq!(deeds.acknowledged, 0),
    }
    println!("{rounds} rounds: {killed} killed, {} acknowledged", deeds.acknowledged);
    assert!(killed > 0, "none of {rounds} was killed");
    assert!(deeds.acknowledged > 0, "all of {rounds} were killed");
}
