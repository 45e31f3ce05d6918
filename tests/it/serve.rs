//! The agent as a process: it starts, says that it is ready, follows its files and ends in order.

use rustix::process::Signal;

use crate::agent::{Agent, http_get};
use crate::support::Home;

#[test]
fn it_answers_over_tcp_and_the_socket_and_ends_in_order() {
    let home = Home::with_object(b"hello");
    let agent = Agent::start(&home, &[]);
    assert_eq!(http_get(&agent.http, "/readyz").0, 200);
    assert_eq!(http_get(&agent.http, "/healthz").0, 200);
    for address in [&agent.tcp, &agent.unix_address()] {
        home.run(&["healthcheck", "--agent", address]).ok();
    }
    home.run(&["healthcheck", "--http", &agent.http]).ok();
    let socket = agent.unix.clone();
    let (code, log) = agent.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists(), "the socket is still there");
    assert_eq!(home.get("before"), b"hello");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = Home::with_object(b"hello");
    let mut agent = Agent::start(&home, &[]);
    agent.signal(Signal::TERM);
    agent.wait_for("stopping: calls under way may end, new ones are refused");
    // Without anything to wait for it may be faster than we are.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agent.signal(Signal::INT)));
    let (code, log) = agent.wait();
    assert!(matches!(code, Some(0 | 130)), "{code:?}\n{log}");
}
