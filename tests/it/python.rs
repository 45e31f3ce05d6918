//! The contract as a client sees it that shares no code with us: Python with stubs made from `proto/`.
//!
//! The programs are in `tests/python`, one for each agent they need; each is a test here. The example of the README is run
//! as it stands there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::agent::{Agent, write};
use crate::support::{Home, files_below, not_run};

/// A Python with the packages of `tests/python/requirements.txt`, and stubs of the contract.
struct Python {
    program: PathBuf,
    /// Where the stubs are.
    stubs: tempfile::TempDir,
}

impl Python {
    /// `None`, said with its reason, where scripts/test has not installed it.
    #[track_caller]
    fn with_stubs() -> Option<Self> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let program = target.join("tools/venv/bin/python");
        if !program.exists() {
            not_run("the independent client needs Python with gRPC; scripts/test installs it");
            return None;
        }
        let stubs = tempfile::tempdir().unwrap();
        let proto = repository().join("proto");
        let mut command = Command::new(&program);
        command.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto);
        for kind in ["python", "grpc_python"] {
            command.arg(format!("--{kind}_out={}", stubs.path().display()));
        }
        let files = fs::read_dir(proto.join("cairn/v1")).unwrap();
        command.args(files.map(|file| file.unwrap().path()));
        succeeds(command);
        Some(Self { program, stubs })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(repository().join("tests/python"))
            .env("PYTHONPATH", self.stubs.path())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Runs a program of `tests/python` against an agent on the store of `home`.
    #[track_caller]
    fn run(&self, program: &str, home: &Home, agent: &Agent, environment: &[(&str, String)]) {
        let mut command = self.command();
        command
            .args(["-m", "unittest", "--verbose", program])
            .env("CAIRN_PROTO", repository().join("proto"))
            .env("CAIRN_TCP", &agent.tcp)
            .env("CAIRN_UNIX", agent.unix_address())
            .env("CAIRN_STORE", home.store())
            .envs(environment.iter().cloned());
        succeeds(command);
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it to its end, which must be a good one; its standard output.
#[track_caller]
fn succeeds(mut command: Command) -> Vec<u8> {
    let output = command.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}", output.status);
    output.stdout
}

#[test]
fn objects_go_in_and_come_out() {
    let Some(python) = Python::with_stubs() else { return };
    let home = Home::with_object(b"hello");
    let agent = Agent::start(&home, &[]);
    python.run("test_data_path", &home, &agent, &[]);
}

#[test]
fn status_repositories_maintenance_health_and_reflection() {
    let Some(python) = Python::with_stubs() else { return };
    let home = Home::with_object(b"hello");
    let agent = Agent::start(&home, &[]);
    python.run("test_control", &home, &agent, &[]);
}

#[test]
fn a_core_pushes_keys_and_takes_them_away() {
    let Some(python) = Python::with_stubs() else { return };
    let home = Home::with_object(b"hello");
    let key_id = home.run(&["repo", "ls", "-o", "json"]).json()[0]["key_id"].clone();
    // The key leaves the machine; only the test knows it.
    let file = home.path("cairn-store.key");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let key = text.trim().to_owned();
    let configuration = write(home.root(), "cairn.toml", &core_configuration());
    let agent = Agent::start(&home, &["--config", &configuration]);
    let environment = [
        ("CAIRN_KEY_ID", key_id.as_str().unwrap().to_owned()),
        ("CAIRN_KEY", key.clone()),
    ];
    python.run("test_keys", &home, &agent, &environment);
    let (code, log) = agent.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(&key), "the log has the key");
    let bytes = hex::decode(key).unwrap();
    for file in files_below(home.root()) {
        let stored = fs::read(&file).unwrap();
        assert!(
            !stored.windows(bytes.len()).any(|window| window == bytes),
            "{} has the key",
            file.display()
        );
    }
}

/// Keys by callers, impatience with streams that stand still, and less than everything for TCP.
fn core_configuration() -> String {
    let uid = rustix::process::getuid().as_raw();
    format!(
        r#"
            keys.provider = "core"
            limits.stream_idle = "2s"
            [[client]]
            identity = "anonymous"
            roles = ["status", "read", "write"]
            [[client]]
            uid = {uid}
            roles = ["status", "read", "write", "admin"]
        "#
    )
}

#[test]
fn told_to_stop_it_lets_a_put_end() {
    let Some(python) = Python::with_stubs() else { return };
    let home = Home::with_object(b"hello");
    let mut agent = Agent::start(&home, &[]);
    python.run("test_end", &home, &agent, &[("CAIRN_PID", agent.pid().to_string())]);
    let (code, log) = agent.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(home.get("last"), b"last words");
}

#[test]
fn the_example_of_the_readme_works() {
    let Some(python) = Python::with_stubs() else { return };
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```python\n").expect("the README has an example");
    let (example, _) = rest.split_once("```").expect("it ends");
    let home = Home::new();
    home.run(&["repo", "create", "default"]).ok();
    let agent = Agent::start(&home, &[]);
    // The operating system has chosen another port; nothing else is changed.
    let example = example.replace("127.0.0.1:7420", agent.tcp.strip_prefix("http://").unwrap());
    let mut command = python.command();
    command.args(["-c", &example]).env("no_proxy", "*");
    let printed = String::from_utf8(succeeds(command)).unwrap();
    assert_eq!(printed, "durable: greeting 12 bytes\nhello, world\n");
}
