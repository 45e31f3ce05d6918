//! The same store twice: one for commands that open it, one that an agent serves.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::Agent;
use crate::support::{Home, Run};

pub(super) struct Pair {
    /// Where commands open the store.
    pub(super) here: Home,
    /// Where there is nothing: commands go through the agent.
    pub(super) client: Home,
    pub(super) agent: Agent,
    _there: Home,
}

/// What a run said, without what differs between any two runs.
#[derive(Debug, PartialEq)]
pub(super) struct Printed {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Pair {
    pub(super) fn of(here: Home) -> Self {
        let there = Home::new();
        if !here.store().exists() {
            here.put("first", b"");
            here.run(&["rm", "first"]).ok();
        }
        copy(here.root(), there.root());
        Self {
            agent: Agent::start(&there, &[]),
            here,
            client: Home::new(),
            _there: there,
        }
    }

    pub(super) fn remote_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.client.command(arguments);
        command.arg("--agent").arg(self.agent.unix_address());
        command
    }

    pub(super) fn remote(&self, arguments: &[&str]) -> Run {
        Run::of(self.remote_command(arguments))
    }

    /// Runs it in both ways, which must print the same.
    #[track_caller]
    pub(super) fn same(&self, arguments: &[&str]) -> Printed {
        let here = Printed::of(&self.here.run(arguments));
        let there = Printed::of(&self.remote(arguments));
        assert_eq!(here, there, "without and with an agent: {arguments:?}");
        here
    }
}

impl Printed {
    fn of(run: &Run) -> Self {
        Self {
            code: run.code(),
            stdout: run.stdout().lines().map(without_chance).collect::<Vec<_>>().join("\n"),
            stderr: run.stderr(),
        }
    }
}

/// Fields whose values depend on the time, on the volume, or on how many processes wrote how many commits; those of tables
/// last.
const CHANCE: &[&str] = &[
    "since",
    "sequence",
    "seconds",
    "free_bytes",
    "used_bytes",
    "used_other_bytes",
    "inodes_free",
    "stored_bytes",
    "garbage_bytes",
    "freed_bytes",
    "packs_dropped",
    "packs_rewritten",
    "log_number",
    "head",
    "loaded_at",
    "store",
    "stored",
    "packs",
    "free",
    "freed",
    "used",
    "inodes",
    "garbage",
];

/// The line with a mark in the place of what is not the same twice.
fn without_chance(line: &str) -> String {
    let bare = line.trim_start_matches([' ', '-', '"']);
    if let Some(field) = CHANCE.iter().find(|field| starts_with_word(bare, field)) {
        return format!("{field} …");
    }
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let kept = match words.last() {
        // The totals of a repository: its name and what is in it.
        Some(word) if is_head(word) => &words[..words.len().min(3)],
        // A rate is a number and its unit.
        Some(word) if word.ends_with("/s") => &words[..words.len() - 2],
        _ => &words[..],
    };
    let marked = kept.iter().map(|word| if is_chance(word) { "…" } else { word });
    marked.collect::<Vec<_>>().join(" ")
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// A time, or that there is none.
fn is_chance(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'', ',']);
    word == "-" || (word.len() == 24 && word.ends_with('Z') && word.as_bytes()[10] == b'T')
}

fn is_head(word: &str) -> bool {
    word.rsplit(':').next().is_some_and(|hex| hex.len() == 64)
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Makes copies of `from` through the agent until `count` objects start with `prefix`.
pub(super) fn copies(agent: &Agent, from: &str, prefix: &str, count: usize) {
    use cairn_agent::service::proto::CopyRequest;
    use cairn_agent::service::proto::data_path_client::DataPathClient;
    use futures::{StreamExt, TryStreamExt, stream};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(agent.tcp.clone()).unwrap();
        let client = DataPathClient::new(endpoint.connect().await.unwrap());
        let copies = (0..count).map(|number| {
            let mut client = client.clone();
            let request = CopyRequest {
                from: from.to_owned(),
                to: format!("{prefix}{number:04}"),
                ..CopyRequest::default()
            };
            async move { client.copy(request).await }
        });
        let made: Vec<_> = stream::iter(copies).buffered(64).try_collect().await.unwrap();
        assert_eq!(made.len(), count);
    });
}

pub(super) fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

/// Files in PEM: an authority, a certificate of it for this machine with its key, and an authority of others.
pub(super) struct Certificates {
    pub(super) ca: String,
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) stranger: String,
}

pub(super) fn certificates(directory: &Path) -> Certificates {
    let authority = authority("ours");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &authority).unwrap();
    let file = |name, text: &str| crate::agent::write(directory, name, text);
    Certificates {
        ca: file("ca.pem", &authority.pem()),
        cert: file("cert.pem", &cert.pem()),
        key: file("key.pem", &key.serialize_pem()),
        stranger: file("stranger.pem", &self::authority("theirs").pem()),
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
