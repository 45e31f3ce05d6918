//! A running agent: the real program on ports that the operating system chose, ended with the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Home, eventually, pause};

/// `cairn serve`, started and ready.
pub(crate) struct Agent {
    /// Its gRPC address over TCP: `http://127.0.0.1:PORT`, or `https` if it was started so.
    pub(crate) tcp: String,
    /// Its Unix socket; as an address: [`unix_address`](Self::unix_address).
    pub(crate) unix: PathBuf,
    /// Host and port of its HTTP port.
    pub(crate) http: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts an agent on the store of `home` and waits until it answers. `arguments` follow `serve`; listeners among them
    /// replace the usual ones.
    #[track_caller]
    pub(crate) fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::start_with(home, arguments, |_| {})
    }

    /// The same, with a last word on the command: its environment, for instance.
    #[track_caller]
    pub(crate) fn start_with(home: &Home, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let mut agent = Self::spawn(home, arguments, change);
        let ready = eventually("the agent being ready", || {
            if let Some(status) = agent.child.try_wait().unwrap() {
                panic!("the agent ended: {status}\n{}", agent.log());
            }
            agent.event("serving")
        });
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        agent.http = text("http");
        for address in text("grpc").split(',') {
            match address.strip_prefix("unix://") {
                Some(path) => agent.unix = path.into(),
                None => agent.tcp = address.to_owned(),
            }
        }
        agent
    }

    /// Starts an agent without waiting for anything.
    pub(crate) fn spawn(home: &Home, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let socket = format!("unix://{}", home.path("agent.sock").display());
        let mut command = home.command(&["serve"]);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "http://127.0.0.1:0", "--listen", &socket]);
        }
        if !arguments.contains(&"--http") {
            command.args(["--http", "127.0.0.1:0"]);
        }
        command.args(arguments);
        command.env("CAIRN_LOG__FORMAT", "json");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self {
            tcp: String::new(),
            unix: PathBuf::new(),
            http: String::new(),
            child,
            log,
            reader: Some(reader),
        }
    }

    /// Its Unix socket as `--agent` takes it.
    pub(crate) fn unix_address(&self) -> String {
        format!("unix://{}", self.unix.display())
    }

    /// Process id, for signals and `/proc`.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written to standard error.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The last event of its log with this message.
    pub(crate) fn event(&self, message: &str) -> Option<Value> {
        let log = self.log.lock().unwrap();
        let mut events = log.iter().rev().filter_map(|line| serde_json::from_str(line).ok());
        events.find(|event: &Value| event["message"] == message)
    }

    /// Waits for an event with this message.
    #[track_caller]
    pub(crate) fn wait_for(&self, message: &str) -> Value {
        eventually(&format!("the event {message:?}"), || self.event(message))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop and waits for that; its exit code and what it wrote.
    #[track_caller]
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended; its exit code and what it wrote.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> (Option<i32>, String) {
        // Longer than it gives calls under way.
        let deadline = Instant::now() + Duration::from_secs(40);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the agent does not end\n{}", self.log());
            pause(Duration::from_millis(5));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status.code(), self.log())
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("the agent's log:\n{}", self.log());
        }
    }
}

/// Asks an HTTP port for a path; the number and the text of the answer.
pub(crate) fn http_get(address: &str, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let number = head.split(' ').nth(1).unwrap().parse().unwrap();
    (number, body.to_owned())
}

/// Writes a file into `directory`; its path as text for an argument.
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
