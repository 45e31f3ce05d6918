//! A place of its own for each test, and the program run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a store in it, or room for one.
pub(crate) struct Home {
    directory: TempDir,
    /// What `--store` names; another place than the default if set.
    store: Option<PathBuf>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Other users take part in some tests.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, store: None }
    }

    /// With the store at `store`, which may be anywhere.
    pub(crate) fn with_store(store: &Path) -> Self {
        Self {
            store: Some(store.to_owned()),
            ..Self::new()
        }
    }

    /// With a store that has one object, `before`, of these bytes.
    pub(crate) fn with_object(bytes: &[u8]) -> Self {
        let home = Self::new();
        home.put("before", bytes);
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.path("cairn-store"))
    }

    /// Whether there is a store: a put that was stopped early leaves none.
    pub(crate) fn store_exists(&self) -> bool {
        self.store().is_dir()
            && files_below(&self.store())
                .iter()
                .any(|path| path.to_string_lossy().contains("/keyring/"))
    }

    /// A file in this place.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The program with nothing of our environment, in this place.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        let kept = std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("CAIRN_"));
        command.env_clear().envs(kept).current_dir(self.directory.path());
        if let Some(store) = &self.store {
            command.arg("--store").arg(store);
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }

    /// Runs with `bytes` on standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], bytes: &[u8]) -> Run {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let feeding = std::thread::spawn(move || {
            // A program that refuses closes its input; that is what the caller looks at.
            let _ = input.write_all(&bytes);
        });
        let output = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        Run { output }
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        self.run_with_input(&["put", name], bytes).ok();
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        self.run(&["get", name]).ok()
    }

    /// A put that has read `bytes` from its standard input and waits for more.
    pub(crate) fn start_put(&self, name: &str, bytes: &[u8]) -> Child {
        let mut command = self.command(&["put", name]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let fed = child.stdin.as_mut().unwrap().write_all(bytes);
        fed.expect("the put reads all that it is given");
        child
    }

    /// The names of the objects, as listed.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed = self.run(&["ls", "-o", "json"]).json();
        let objects = listed.as_array().unwrap();
        objects
            .iter()
            .map(|object| object["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Files below the store whose paths contain `part`.
    pub(crate) fn store_files(&self, part: &str) -> Vec<PathBuf> {
        let mut files = files_below(&self.store());
        files.retain(|path| path.to_string_lossy().contains(part));
        files
    }
}

/// Waits for a process whose input stays open until it has ended: it finds no end of the input before whatever else ends it.
pub(crate) fn wait_with_open_input(mut child: Child) -> Output {
    let _open = child.stdin.take();
    child.wait_with_output().unwrap()
}

/// A finished run of the program.
pub(crate) struct Run {
    output: Output,
}

impl Run {
    pub(crate) fn of(mut command: Command) -> Self {
        Self {
            output: command.output().unwrap(),
        }
    }

    pub(crate) fn from_output(output: Output) -> Self {
        Self { output }
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    /// Standard output of a run that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> Vec<u8> {
        assert_eq!(self.code(), Some(0), "{}", self.stderr());
        self.output.stdout
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_slice(&self.ok()).unwrap()
    }

    /// Must have failed with this code and one line that contains all of `parts`; what it printed is returned.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> String {
        let stderr = self.stderr();
        assert_eq!(self.code(), Some(code), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "not one line: {stderr}");
        for part in std::iter::once(&"cairn: ").chain(parts) {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
        self.stdout()
    }
}

/// The names of a JSON object's fields, sorted.
pub(crate) fn fields(value: &Value) -> Vec<&str> {
    let mut fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The most that a process ever had resident, in bytes; 0 when it has ended.
pub(crate) fn resident_peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.map(|peak| peak.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap());
    kib.unwrap_or(0) << 10
}

/// Waits until `ready` gives something; a state that never comes is a failure.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        pause(Duration::from_millis(2));
    }
}

/// Lets another process go on.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no event to wait for in what another process does inside"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Whether tests that have a long form take it: `CAIRN_LONG=1`.
pub(crate) fn is_long() -> bool {
    std::env::var("CAIRN_LONG").as_deref() == Ok("1")
}

/// `CAIRN_SEED`, or else the given one.
pub(crate) fn seed(otherwise: u64) -> u64 {
    let given = std::env::var("CAIRN_SEED").ok();
    given.map_or(otherwise, |text| text.parse().expect("CAIRN_SEED is a number"))
}

/// Says which seed a failing run had.
pub(crate) struct Announce(pub(crate) u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run again with CAIRN_SEED={}", self.0);
        }
    }
}

/// Says why a test does not run here; where everything has to run, that is a failure.
#[track_caller]
pub(crate) fn not_run(reason: &str) {
    println!("not run: {reason}");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "not run, with CI=true: {reason}"
    );
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file system of its own in memory, with an end.
pub(crate) struct Volume {
    mountpoint: TempDir,
}

impl Volume {
    /// `None`, said with its reason, where mounting is not allowed.
    #[track_caller]
    pub(crate) fn of_bytes(bytes: u64) -> Option<Self> {
        Self::with_options(&format!("size={bytes}"))
    }

    /// With these options of a tmpfs.
    #[track_caller]
    pub(crate) fn with_options(options: &str) -> Option<Self> {
        if !is_root() {
            not_run("mounting a volume needs root");
            return None;
        }
        let mountpoint = tempfile::tempdir().unwrap();
        let arguments = ["-t", "tmpfs", "-o", options, "cairn-test"].map(OsStr::new);
        match mount(&arguments, mountpoint.path()) {
            Ok(()) => Some(Self { mountpoint }),
            Err(reason) => {
                not_run(&reason);
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.mountpoint.path()
    }

    pub(crate) fn make_read_only(&self) {
        mount(&["-o", "remount,ro"].map(OsStr::new), self.path()).unwrap();
    }

    pub(crate) fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        mount(&["-o", &options].map(OsStr::new), self.path()).unwrap();
    }

    /// Shows the same files through a mount that is read-only, though some are open for writing, until it is dropped.
    pub(crate) fn cover_read_only(&self) -> Covered<'_> {
        mount(&[OsStr::new("--bind"), self.path().as_os_str()], self.path()).unwrap();
        let covered = Covered(self);
        mount(&["-o", "remount,bind,ro"].map(OsStr::new), self.path()).unwrap();
        covered
    }

    /// Mounts another, empty volume over this one, until it is dropped.
    pub(crate) fn cover(&self) -> Covered<'_> {
        let arguments = ["-t", "tmpfs", "-o", "size=1m", "cairn-test"].map(OsStr::new);
        mount(&arguments, self.path()).unwrap();
        Covered(self)
    }

    /// Takes the volume away from under whoever uses it.
    pub(crate) fn take_away(&self) {
        unmount(self.path());
    }
}

/// A volume with something mounted over it.
pub(crate) struct Covered<'a>(&'a Volume);

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        unmount(self.0.path());
    }
}

/// Lazily: a child that a failed assertion left behind may still have files open there.
fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).output();
}

fn mount(arguments: &[&OsStr], mountpoint: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(mountpoint).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("mount: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("mount: {error}")),
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        unmount(self.path());
    }
}
