//! The contract as a client sees it that shares no code with us: Python with stubs made from `proto/`.
//!
//! The programs are in `tests/python`, one for each agent they need; each is a test here. The example of the README is run
//! as it stands there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::agent::{Agent, write};
use crate::support::{Home, not_run, random_bytes};

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

#[track_caller]
fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}\n{told}");
    println!("{told}");
}

#[test]
fn objects_go_in_and_come_out() {
    let Some(python) = Python::with_stubs() else { return };
    let home = Home::with_object(b"hello");
    let agent = Agent::start(&home, &[]);
    python.run("test_data_path", &home, &agent, &[]);
}
