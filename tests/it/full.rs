//! Volumes on which nothing is left: filled by somebody else to the last byte or the last inode, at a time of their
//! choosing or at any single write. What was acknowledged stays, puts are refused, what frees the volume works, and all of
//! it comes back without a restart. On real, small file systems; `CAIRN_LONG=1` makes the steps finer.

#[cfg(feature = "serve")]
mod process;
mod tables;
mod volume;
mod writes;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cairn_agent::backend::Location;
use cairn_agent::catalog;
use cairn_agent::codec::Secret;
use cairn_agent::engine::{
    Mode, NewRepository, Options, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Result, Status, Store,
    StoreOptions,
};
use cairn_agent::format::Kek;
use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

use crate::support::{Volume, is_root, not_run, random_bytes};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A small file system of a test.
enum Disk {
    Memory(Volume),
    Ext4(Ext4),
}

/// In a file, through a loop device.
struct Ext4 {
    directory: tempfile::TempDir,
}

impl Disk {
    #[track_caller]
    fn memory(options: &str) -> Option<Self> {
        Volume::with_options(options).map(Self::Memory)
    }

    /// `None`, said with its reason, where that cannot be done.
    #[track_caller]
    fn ext4(bytes: u64, options: &[&str]) -> Option<Self> {
        if !is_root() {
            not_run("mounting a disk needs root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = Ext4 { directory };
        fs::create_dir(disk.mountpoint()).unwrap();
        let image = disk.directory.path().join("disk");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let mut format = Command::new("mkfs.ext4");
        // Nothing is kept for the super user, who runs this: it would be room that the numbers do not show.
        format.args(["-q", "-F", "-m", "0"]).args(options).arg(&image);
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(disk.mountpoint());
        for command in [&mut format, &mut mount] {
            let output = command.output();
            if !output.as_ref().is_ok_and(|output| output.status.success()) {
                not_run(&format!("{command:?}: {output:?}"));
                return None;
            }
        }
        Some(Self::Ext4(disk))
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Memory(volume) => volume.path().to_owned(),
            Self::Ext4(disk) => disk.mountpoint(),
        }
    }
}

impl Ext4 {
    fn mountpoint(&self) -> PathBuf {
        self.directory.path().join("mountpoint")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let arguments = [OsStr::new("-l"), self.mountpoint().as_os_str()].map(OsStr::to_owned);
        let _ = Command::new("umount").args(arguments).output();
    }
}

/// Bytes that anybody can write there.
fn available(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

fn inodes_left(path: &Path) -> u64 {
    rustix::fs::statvfs(path).unwrap().f_ffree
}

/// What somebody else stores on a volume, until it is dropped.
struct Foreign(PathBuf);

impl Foreign {
    /// Takes all of a volume but so many bytes.
    fn all_but(volume: &Path, left: u64) -> Self {
        let foreign = Self(volume.join("foreign"));
        fs::create_dir_all(&foreign.0).unwrap();
        let file = File::create(foreign.0.join("large")).unwrap();
        let mut taken = 0;
        // What is allocated needs room of its own, so the last bytes are taken in small steps.
        let mut step = MIB;
        while step >= 4 * KIB {
            let is_taken =
                available(volume) >= left + step && fallocate(&file, FallocateFlags::empty(), taken, step).is_ok();
            if is_taken {
                taken += step;
            } else {
                step /= 2;
            }
        }
        foreign
    }

    /// Takes all inodes of a volume.
    fn inodes(volume: &Path) -> Self {
        let foreign = Self(volume.join("foreign"));
        fs::create_dir_all(&foreign.0).unwrap();
        let mut number = 0;
        while File::create(foreign.0.join(number.to_string())).is_ok() {
            number += 1;
        }
        foreign
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A store that somebody operates, with its catalog beside it on the same volume.
struct Operated {
    store: Store,
    statuses: Receiver<Arc<Status>>,
    monitor: JoinHandle<()>,
}

impl Operated {
    async fn on(volume: &Path) -> Result<Self> {
        Self::with(options(volume, &volume.join("store.catalog"))).await
    }

    async fn with(options: StoreOptions) -> Result<Self> {
        let first = NewRepository::named("default").unwrap();
        let store = Store::open_or_create(options, first).await?;
        let watched = store.clone();
        Ok(Self {
            statuses: store.watch_status(),
            monitor: tokio::spawn(async move { watched.monitor().await }),
            store,
        })
    }

    async fn repository(&self) -> Repository {
        self.store.repository("default").await.unwrap()
    }

    /// Waits until those who watch see such a status.
    #[track_caller]
    fn until(&mut self, what: impl FnMut(&Status) -> bool) -> impl Future<Output = Arc<Status>> {
        let caller = std::panic::Location::caller();
        let mut what = what;
        async move {
            let statuses = self.statuses.clone();
            let seen = self.statuses.wait_for(|status| what(status));
            match tokio::time::timeout(WAIT_MAX, seen).await {
                Ok(status) => status.unwrap().clone(),
                Err(_) => panic!("{caller}: did not come: {:?}", statuses.borrow()),
            }
        }
    }

    #[track_caller]
    fn until_mode(&mut self, mode: Mode) -> impl Future<Output = Arc<Status>> {
        self.until(move |status| status.mode == mode)
    }

    /// Waits until the reserve is what it should be.
    async fn until_whole(&self, volume: &Path) -> u64 {
        let started = std::time::Instant::now();
        loop {
            let wanted = self.store.watch_status().borrow().capacity.reserved_bytes;
            let held = reserve_bytes(volume);
            if wanted > 0 && held <= wanted && held + 64 * KIB + wanted / 16 > wanted {
                return held;
            }
            assert!(started.elapsed() < WAIT_MAX, "the reserve has {held} of {wanted} bytes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it, and waits until the store is free.
    async fn end(self) {
        self.monitor.abort();
        let _ = self.monitor.await;
        self.store.close().await;
    }
}

/// Bytes in files of the reserve.
fn reserve_bytes(volume: &Path) -> u64 {
    let Ok(files) = fs::read_dir(volume.join("store/reserve")) else {
        return 0;
    };
    // They may go while they are looked at.
    let held = files.filter_map(|file| file.ok()?.metadata().ok());
    held.map(|file| file.len()).sum()
}

fn options(volume: &Path, catalog: &Path) -> StoreOptions {
    StoreOptions {
        location: Location::Directory(volume.join("store")),
        catalog: catalog::Location::Directory(catalog.to_owned()),
        keks: vec![Kek {
            id: "test".to_owned(),
            secret: Secret::from_bytes([7; 32]),
        }],
        // Small packs, and failures that are soon forgotten.
        options: Options {
            budget_bytes: 24 << 20,
            pack_bytes_target: 1 << 20,
            checkpoint_log_bytes: 32 << 10,
            failure_hold: Duration::from_millis(600),
            hold_reserve: true,
            ..Options::default()
        },
    }
}

fn contents(name: &str, len: u64) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(len, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    random_bytes(seed, usize::try_from(len).unwrap())
}

/// Puts `len` bytes that nobody has put before under `name`.
async fn put(repository: &Repository, name: &str, len: u64) -> Result<()> {
    let bytes = contents(name, len);
    repository
        .put(name, bytes.as_slice(), PutOptions::default())
        .await
        .map(drop)
}

async fn refused(repository: &Repository, name: &str) -> Reason {
    put(repository, name, 1000).await.unwrap_err().reason()
}

async fn delete(repository: &Repository, name: &str) {
    let deleted = repository.delete(name, Precondition::None).await;
    assert!(deleted.unwrap_or_else(|error| panic!("{name}: {error:?}")));
}

async fn reclaim(repository: &Repository) {
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
}
