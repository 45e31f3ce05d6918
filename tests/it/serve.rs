//! The agent as a process: it starts, says that it is ready, follows its files and ends in order.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::Signal;

use crate::agent::{Agent, http_get, write};
use crate::support::{Home, eventually};

const STOPPING: &str = "stopping: calls under way may end, new ones are refused";

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
    let (socket, http) = (agent.unix.clone(), agent.http.clone());
    let (code, log) = agent.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists(), "the socket is still there");
    let line = home.run(&["healthcheck", "--http", &http]);
    line.fails(1, &["not ready"]);
    let address = format!("unix://{}", socket.display());
    let line = home.run(&["healthcheck", "--agent", &address]);
    line.fails(1, &["not ready", "No such file"]);
    assert_eq!(home.get("before"), b"hello");
}

/// A put through the agent that has sent something and waits for more.
fn stalled_put(home: &Home, agent: &Agent) -> Child {
    let mut command = home.command(&["put", "slow", "--agent", &agent.unix_address()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut put = command.spawn().unwrap();
    put.stdin.as_mut().unwrap().write_all(b"some bytes").unwrap();
    eventually("the put being under way", || {
        let (_, metrics) = http_get(&agent.http, "/metrics");
        let open = |line: &str| line.starts_with("cairn_requests_open") && line.contains("Put") && line.ends_with(" 1");
        metrics.lines().any(open).then_some(())
    });
    put
}

#[test]
fn calls_under_way_may_end() {
    let home = Home::with_object(b"hello");
    let agent = Agent::start(&home, &[]);
    let mut put = stalled_put(&home, &agent);
    agent.signal(Signal::TERM);
    agent.wait_for(STOPPING);
    assert_eq!(http_get(&agent.http, "/readyz").0, 503);
    let mut input = put.stdin.take().unwrap();
    input.write_all(b", all of them").unwrap();
    drop(input);
    assert!(put.wait().unwrap().success());
    let mut agent = agent;
    let (code, log) = agent.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(home.get("slow"), b"some bytes, all of them");
}

#[test]
fn calls_that_do_not_end_are_dropped_in_the_end() {
    let home = Home::with_object(b"hello");
    let agent = Agent::start_with(&home, &[], |command| {
        command.env("CAIRN_LIMITS__DRAIN", "100ms");
    });
    let mut put = stalled_put(&home, &agent);
    let (code, log) = agent.stop();
    assert_eq!(code, Some(0), "{log}");
    let _ = put.kill();
    let _ = put.wait();
    assert_eq!(home.names(), ["before"]);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = Home::with_object(b"hello");
    let mut agent = Agent::start(&home, &[]);
    let mut put = stalled_put(&home, &agent);
    agent.signal(Signal::TERM);
    agent.wait_for(STOPPING);
    agent.signal(Signal::INT);
    let (code, log) = agent.wait();
    assert_eq!(code, Some(130), "{log}");
    let _ = put.kill();
    let _ = put.wait();
    assert_eq!(home.get("before"), b"hello");
}

#[test]
fn what_is_wrong_is_said_in_a_line_and_nothing_is_started() {
    let home = Home::with_object(b"hello");
    assert_eq!(home.run(&["serve", "--check-config"]).ok(), b"ok\n");
    let root = home.root().to_owned();
    let file = |text: &str| write(&root, "cairn.toml", text);
    let wrong: [(&str, &[&str]); 6] = [
        (
            "[limits]\nstreem = 1",
            &["cairn.toml: limits.streem is unknown", "streams"],
        ),
        ("[budget]\nbytes = \"few\"", &["budget.bytes", "64KiB"]),
        ("[listen]\ngrpc = [\"http://0.0.0.0:0\"]", &["[[client]]", "anonymous"]),
        (
            "[tls]\ncert = \"none\"\nkey = \"none\"",
            &["tls.cert none", "No such file"],
        ),
        ("[listen", &["cairn.toml, line 1"]),
        ("[log]\nlevel = \"loud\"", &["log.level", "info"]),
    ];
    for (text, parts) in wrong {
        let path = file(text);
        home.run(&["serve", "--config", &path, "--check-config"])
            .fails(64, parts);
        home.run(&["serve", "--config", &path]).fails(64, parts);
    }
    home.run(&["serve", "--config", "none.toml"]).fails(64, &["none.toml"]);
    home.run(&["serve", "--key-file", "none", "--check-config"])
        .fails(69, &["key file none not found"]);
    let short = write(&root, "short", "too short");
    home.run(&["serve", "--key-file", &short])
        .fails(69, &["short", "64 hex digits"]);
}

#[test]
fn places_that_are_taken_are_named() {
    let home = Home::with_object(b"hello");
    let agent = Agent::start(&home, &[]);
    let address = agent.tcp.clone();
    let other = Home::with_object(b"other");
    let socket = agent.unix_address();
    for taken in [&address, &socket] {
        let arguments = ["serve", "--http", "off", "--listen", taken];
        other.run(&arguments).fails(69, &["cannot listen on", taken]);
    }
    let arguments = ["serve", "--http", "off", "--listen", "http://127.0.0.1:0"];
    home.run_held(&arguments);
    let foreign = Home::new();
    fs::create_dir(foreign.store()).unwrap();
    fs::write(foreign.store().join("file"), "mine").unwrap();
    let run = foreign.run(&arguments);
    assert_eq!(run.code(), Some(65), "{}", run.stderr());
}

impl Home {
    /// A run that finds the store held.
    #[track_caller]
    fn run_held(&self, arguments: &[&str]) {
        let run = self.run(arguments);
        assert_eq!(run.code(), Some(69), "{}", run.stderr());
    }
}

#[test]
fn an_empty_place_becomes_a_store_by_a_call() {
    let home = Home::new();
    write(home.root(), "cairn-store.key", &"07".repeat(32));
    let agent = Agent::start(&home, &[]);
    let address = agent.unix_address();
    home.run(&["repo", "create", "default", "--agent", &address]).ok();
    home.run_with_input(&["put", "a", "--agent", &address], b"hello").ok();
    assert_eq!(agent.stop().0, Some(0));
    assert_eq!(home.get("a"), b"hello");
}

#[test]
fn keys_follow_their_file() {
    let home = Home::with_object(b"hello");
    let key = home.path("cairn-store.key");
    let aside = home.path("aside");
    let agent = Agent::start(&home, &[]);
    let get = || home.run(&["get", "before", "--agent", &agent.unix_address()]);
    get().ok();
    fs::rename(&key, &aside).unwrap();
    agent.wait_for("a key is gone: its repositories are closed");
    assert_eq!(get().code(), Some(69));
    assert_eq!(http_get(&agent.http, "/readyz").0, 200);
    fs::write(&key, "half a k").unwrap();
    agent.wait_for("the keys stay as they are");
    fs::rename(&aside, &key).unwrap();
    agent.wait_for("a key came");
    assert_eq!(get().ok(), b"hello");
}

#[test]
fn an_agent_without_a_key_starts_and_says_so() {
    let home = Home::with_object(b"hello");
    fs::rename(home.path("cairn-store.key"), home.path("aside")).unwrap();
    let agent = Agent::start(&home, &[]);
    assert_eq!(http_get(&agent.http, "/readyz").0, 200);
    assert!(!home.path("cairn-store.key").exists(), "it made a key");
    fs::rename(home.path("aside"), home.path("cairn-store.key")).unwrap();
    agent.wait_for("a key came");
    let get = home.run(&["get", "before", "--agent", &agent.unix_address()]);
    assert_eq!(get.ok(), b"hello");
}

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes a certificate for `name` and its key beside `path`: `path.crt` and `path.key`; `path.ca` is ours.
    fn issue(&self, name: &str, path: &Path) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        fs::write(path.with_extension("key"), key.serialize_pem()).unwrap();
        fs::write(path.with_extension("crt"), certificate.pem()).unwrap();
        fs::write(path.with_extension("ca"), self.0.pem()).unwrap();
    }
}

/// Runs a command as a client with the certificate `name` that trusts the CA `trusting`; its exit code.
fn as_client(home: &Home, agent: &Agent, name: &str, trusting: &str, command: &[&str]) -> Option<i32> {
    let file = |end: &str| home.path(&format!("{name}.{end}")).display().to_string();
    let ca = home.path(trusting).display().to_string();
    let (cert, key) = (file("crt"), file("key"));
    let address = agent.tcp.replace("127.0.0.1", "localhost");
    let mut arguments = command.to_vec();
    arguments.extend([
        "--agent",
        &address,
        "--tls-ca",
        &ca,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ]);
    let run = home.run(&arguments);
    println!("{name} {command:?}: {:?} {}", run.code(), run.stderr());
    run.code()
}

#[test]
fn certificates_decide_who_may_do_what_and_are_replaced_under_way() {
    let home = Home::with_object(b"hello");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    ours.issue("localhost", &home.path("agent"));
    ours.issue("core.example", &home.path("core"));
    ours.issue("reader.example", &home.path("reader"));
    ours.issue("nobody.example", &home.path("nobody"));
    theirs.issue("core.example", &home.path("wrong"));
    let configuration = "
        [listen]
        grpc = [\"https://127.0.0.1:0\"]
        [tls]
        cert = \"agent.crt\"
        key = \"agent.key\"
        ca = \"agent.ca\"
        [[client]]
        identity = \"core.example\"
        roles = [\"status\", \"read\", \"write\", \"admin\"]
        [[client]]
        identity = \"reader.example\"
        roles = [\"read\"]";
    let path = write(home.root(), "cairn.toml", configuration);
    // The flag would replace the listeners of the file.
    let agent = Agent::start(&home, &["--config", &path, "--listen", "https://127.0.0.1:0"]);
    let run = |name, command: &[&str]| as_client(&home, &agent, name, "agent.ca", command);
    assert_eq!(run("core", &["cp", "before", "copy"]), Some(0));
    assert_eq!(run("reader", &["verify", "before"]), Some(0));
    assert_eq!(run("reader", &["rm", "copy"]), Some(69), "a reader may not remove");
    assert_eq!(
        run("nobody", &["verify", "before"]),
        Some(69),
        "nobody granted it anything"
    );
    assert_ne!(
        run("wrong", &["verify", "before"]),
        Some(0),
        "another authority signed it"
    );

    // A certificate without its key changes nothing.
    let former = fs::read(home.path("agent.crt")).unwrap();
    fs::write(home.path("agent.crt"), fs::read(home.path("core.crt")).unwrap()).unwrap();
    agent.wait_for("new TLS files are not used, the former certificate stays");
    assert_eq!(run("core", &["verify", "before"]), Some(0));
    fs::write(home.path("agent.crt"), former).unwrap();

    // Another authority from now on, for the agent and for clients.
    theirs.issue("localhost", &home.path("agent"));
    agent.wait_for("new TLS files are in use");
    assert_eq!(
        as_client(&home, &agent, "wrong", "wrong.ca", &["verify", "before"]),
        Some(0)
    );
    assert_ne!(
        as_client(&home, &agent, "core", "wrong.ca", &["verify", "before"]),
        Some(0)
    );
    assert_eq!(agent.stop().0, Some(0));
}
