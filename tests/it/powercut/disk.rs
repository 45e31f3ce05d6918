//! A disk of its own for a test, with a file system on it, that fails when told to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::support::{eventually, is_root, not_run};

/// XFS makes no smaller one.
const DISK_BYTES: u64 = 400 << 20;

#[derive(Clone, Copy, Debug)]
pub(super) enum FileSystem {
    Ext4,
    Xfs,
}

/// What stands between the file system and the disk.
#[derive(Clone, Copy)]
pub(super) enum Running {
    /// A cache that is written to the disk when it is flushed, and lost when it is killed.
    WithCache,
    /// Writes fail with this error while they are told to.
    WithErrors(&'static str),
}

/// A disk that outlives power cuts.
pub(super) struct Disk {
    directory: TempDir,
    system: FileSystem,
}

impl Disk {
    /// `None`, said with its reason, where that cannot be done.
    #[track_caller]
    pub(super) fn formatted(system: FileSystem) -> Option<Self> {
        if !is_root() {
            not_run("mounting a disk needs root");
            return None;
        }
        let (format, options): (_, &[&str]) = match system {
            FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
            FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        };
        for program in ["nbdkit", "nbdfuse", "fusermount3", format] {
            if Command::new(program).arg("--version").output().is_err() {
                not_run(&format!("{program} is not installed"));
                return None;
            }
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mountpoint")).unwrap();
        let disk = Self { directory, system };
        File::create(disk.image()).unwrap().set_len(DISK_BYTES).unwrap();
        let formatted = Command::new(format).args(options).arg(disk.image()).output().unwrap();
        assert!(
            formatted.status.success(),
            "{}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        match disk.try_mount(&disk.image()) {
            Ok(()) => unmount(&disk.mountpoint()),
            Err(reason) => {
                not_run(&reason);
                return None;
            }
        }
        Some(disk)
    }

    pub(super) fn mountpoint(&self) -> PathBuf {
        self.directory.path().join("mountpoint")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn try_mount(&self, device: &Path) -> Result<(), String> {
        let options = match self.system {
            FileSystem::Ext4 => "loop",
            // What was mounted before may not have let go of the name of the file system yet.
            FileSystem::Xfs => "loop,nouuid",
        };
        let output = Command::new("mount")
            .args(["-o", options])
            .arg(device)
            .arg(self.mountpoint())
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("mount: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// The file system on the disk itself, as it is found after a restart.
    pub(super) fn mount(&self) -> Mounted {
        eventually("mounting the disk", || self.try_mount(&self.image()).ok());
        Mounted(self.mountpoint())
    }

    /// The file system, with something between it and the disk.
    pub(super) fn run(&self, running: Running) -> Machine {
        let path = |name: &str| self.directory.path().join(name);
        let (socket, device, failing) = (path("socket"), path("device"), path("failing"));
        let _ = std::fs::remove_file(&socket);
        let mut server = Command::new("nbdkit");
        server.args(["--foreground", "--unix"]).arg(&socket);
        match running {
            Running::WithCache => server
                .args(["--filter=cache", "file"])
                .arg(self.image())
                .arg("cache=writeback"),
            Running::WithErrors(error) => server
                .args(["--filter=error", "file"])
                .arg(self.image())
                .args([format!("error-pwrite={error}"), "error-pwrite-rate=100%".to_owned()])
                .arg(format!("error-file={}", failing.display())),
        };
        let server = quiet(&mut server);
        eventually("the server's socket", || socket.exists().then_some(()));
        File::create(&device).unwrap();
        let fuse = quiet(Command::new("nbdfuse").arg(&device).arg("--unix").arg(&socket));
        eventually("the device", || {
            let found = std::fs::metadata(&device).ok()?;
            (found.len() == DISK_BYTES).then_some(())
        });
        eventually("mounting the device", || self.try_mount(&device).ok());
        Machine {
            server: Mutex::new(server),
            fuse: Mutex::new(fuse),
            device,
            failing,
            mountpoint: self.mountpoint(),
        }
    }
}

/// A file system that is mounted.
pub(super) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A mounted file system over a disk that can fail.
pub(super) struct Machine {
    server: Mutex<Child>,
    fuse: Mutex<Child>,
    device: PathBuf,
    failing: PathBuf,
    mountpoint: PathBuf,
}

impl Machine {
    /// Cuts the power: what was not flushed is gone.
    pub(super) fn kill(&self) {
        let mut server = self.server.lock().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub(super) fn fail_writes(&self, fail: bool) {
        match fail {
            true => drop(File::create(&self.failing).unwrap()),
            false => std::fs::remove_file(&self.failing).unwrap(),
        }
    }

    /// Takes the file system away. Nobody works on it any more.
    pub(super) fn unmount(self) {
        unmount(&self.mountpoint);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // After a failed assertion it is still mounted.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.mountpoint)
            .stderr(Stdio::null())
            .status();
        let _ = Command::new("fusermount3")
            .arg("-uz")
            .arg(&self.device)
            .stderr(Stdio::null())
            .status();
        for child in [&self.fuse, &self.server] {
            let mut child = child.lock().unwrap();
            // Its server gone, the device ends by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lazily: a disk that is gone answers nothing any more.
fn unmount(mountpoint: &Path) {
    let cleanly = Command::new("umount").arg(mountpoint).stderr(Stdio::null()).status();
    if !cleanly.is_ok_and(|status| status.success()) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(mountpoint)
            .stderr(Stdio::null())
            .status();
    }
}

fn quiet(command: &mut Command) -> Child {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.spawn().unwrap()
}
