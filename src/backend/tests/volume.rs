use std::fs;
use std::io::{BufRead, BufReader, IoSliceMut};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{Advice, CWD, FileType, Mode, OFlags, ResolveFlags, mknodat, openat2};
use rustix::io::{ReadWriteFlags, preadv2};
use tempfile::TempDir;

use super::directory_backend;
use crate::backend::{Attach, Backend, Created, Error, ErrorKind, Location};

fn held_by(error: Error) -> Option<u32> {
    match error {
        Error::Held { pid, .. } => pid,
        other => panic!("expected Held, got {other}"),
    }
}

#[tokio::test]
async fn a_directory_is_held_once_until_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory_backend(&directory).await, directory_backend(&directory).await);
    let lock = first.lock().unwrap();
    assert!(lock.is_held());
    let refused = second.lock().unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(&format!("held by process {}", std::process::id())),
        "{refused}"
    );
    assert_eq!(held_by(refused), Some(std::process::id()));
    assert!(
        first.list("", None).await.unwrap().is_empty(),
        "the lock file is no object"
    );
    drop(lock);
    let _lock = second.lock().unwrap();
}

#[tokio::test]
async fn a_lock_file_without_a_pid_still_holds() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    let file = fs::File::create(directory.path().join("lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(held_by(backend.lock().unwrap_err()), None);
}

/// As a process has it that is being started, until it executes its program.
#[tokio::test]
async fn a_lock_that_was_dropped_is_free_though_a_child_has_its_file_open() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    let lock = backend.lock().unwrap();
    let inherited = lock.duplicate();
    drop(lock);
    let _lock = backend.lock().unwrap();
    drop(inherited);
}

#[tokio::test]
async fn a_stale_lock_file_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    fs::write(directory.path().join("lock"), "123456789012345\n").unwrap();
    let _lock = backend.lock().unwrap();
    let text = fs::read_to_string(directory.path().join("lock")).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}

const CHILD_DIRECTORY: &str = "CAIRN_TEST_LOCK_DIRECTORY";

/// The other process of the next test; does nothing by itself.
#[tokio::test]
#[ignore = "started by another_process_holds_until_it_is_killed"]
async fn child_holding_a_lock() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let location = Location::Directory(PathBuf::from(directory));
    let backend = Backend::attach(&location, Attach::Existing).await.unwrap();
    let _lock = backend.lock().unwrap();
    println!("\nholding");
    drop(std::io::stdin().lines().next());
}

fn spawn_holder(directory: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "backend::tests::volume::child_holding_a_lock",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_DIRECTORY, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")));
    child
}

#[tokio::test]
async fn another_process_holds_until_it_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    let mut child = spawn_holder(directory.path());
    assert_eq!(held_by(backend.lock().unwrap_err()), Some(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(backend.lock().unwrap().is_held());
}

#[tokio::test]
async fn a_torn_owner_file_still_takes_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    fs::create_dir_all(directory.path().join("r/owner")).unwrap();
    fs::write(directory.path().join("r/owner/1"), "").unwrap();
    fs::write(directory.path().join("r/owner/2"), "half a").unwrap();
    for path in ["r/owner/1", "r/owner/2"] {
        assert_eq!(backend.create(path, "whole".into()).await.unwrap(), Created::Exists);
    }
    assert_eq!(backend.get("r/owner/2").await.unwrap(), "half a");
    assert_eq!(backend.list("r/owner", None).await.unwrap().len(), 2);
}

#[tokio::test]
async fn leftovers_of_interrupted_writes_are_no_objects_and_are_swept() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    backend.put("r/packs/0/x", "x".into()).await.unwrap();
    for leftover in ["r/packs/0/x#1", "r/packs/0/y#23", "r/z#4", "top#1"] {
        fs::write(directory.path().join(leftover), "half").unwrap();
    }
    fs::write(directory.path().join("r/keep#me"), "a name that is not one of ours").unwrap();
    let paths: Vec<_> = backend
        .list("r", None)
        .await
        .unwrap()
        .into_iter()
        .map(|listed| listed.path)
        .collect();
    assert_eq!(paths, ["r/keep#me", "r/packs/0/x"]);
    assert_eq!(backend.sweep_staging("r").await.unwrap(), 3);
    assert_eq!(backend.sweep_staging("r").await.unwrap(), 0);
    assert_eq!(backend.sweep_staging("missing").await.unwrap(), 0);
    assert!(directory.path().join("top#1").exists(), "outside of what was asked for");
    assert!(directory.path().join("r/keep#me").exists());
    assert_eq!(backend.get("r/packs/0/x").await.unwrap(), "x");
}

#[tokio::test]
async fn links_are_listed_as_what_they_lead_to_and_what_has_no_name_in_text_is_not() {
    use std::ffi::OsStr;
    use std::os::unix::{ffi::OsStrExt, fs::symlink};
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let backend = directory_backend(&directory).await;
    backend.put("r/x", "x".into()).await.unwrap();
    let inside = |name: &OsStr| directory.path().join("r").join(name);
    fs::create_dir(elsewhere.path().join("packs")).unwrap();
    fs::write(elsewhere.path().join("packs/one"), "1").unwrap();
    fs::write(elsewhere.path().join("two"), "22").unwrap();
    symlink(elsewhere.path().join("packs"), inside(OsStr::new("packs"))).unwrap();
    symlink(elsewhere.path().join("two"), inside(OsStr::new("two"))).unwrap();
    symlink(elsewhere.path().join("none"), inside(OsStr::new("three"))).unwrap();
    fs::write(inside(OsStr::from_bytes(b"\xff")), "of somebody else").unwrap();
    let listed = |after| {
        let backend = backend.clone();
        async move {
            let listed = backend.list("r", after).await.unwrap();
            let listed = listed.into_iter().map(|listed| (listed.path, listed.size));
            listed.collect::<Vec<_>>()
        }
    };
    let all = [("r/packs/one", 1), ("r/two", 2), ("r/x", 1)].map(|(path, size)| (path.to_owned(), size));
    assert_eq!(listed(None).await, all);
    for (index, (path, _)) in all.iter().enumerate() {
        assert_eq!(listed(Some(path)).await, all[index + 1..], "after {path}");
    }
    assert_eq!(backend.list("r/x", None).await.unwrap(), [], "a file holds nothing");
}

#[tokio::test]
async fn rewriting_makes_a_new_file_of_the_same_bytes() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    backend.put("r/x", "same".into()).await.unwrap();
    let inode = || fs::metadata(directory.path().join("r/x")).unwrap().ino();
    let before = inode();
    backend.rewrite("r/x").await.unwrap();
    assert_ne!(inode(), before);
    assert_eq!(backend.get("r/x").await.unwrap(), "same");
    assert_eq!(backend.rewrite("r/none").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_directory_that_went_away_is_unavailable_not_empty() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    let location = Location::Directory(path.clone());
    let backend = Backend::attach(&location, Attach::CreateDirectory).await.unwrap();
    backend.put("r/x", "x".into()).await.unwrap();
    fs::rename(&path, parent.path().join("elsewhere")).unwrap();
    for replaced in [false, true] {
        if replaced {
            fs::create_dir(&path).unwrap();
        }
        let errors = [
            backend.get("r/x").await.unwrap_err(),
            backend.list("r", None).await.unwrap_err(),
            backend.list_directories("r").await.unwrap_err(),
            backend.delete("r/x").await.unwrap_err(),
            backend.put("r/y", "y".into()).await.unwrap_err(),
            backend.create("r/z", "z".into()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
        }
    }
    assert_eq!(
        fs::read_dir(&path).unwrap().count(),
        0,
        "nothing is written where the store is not"
    );
}

#[tokio::test]
async fn an_object_below_an_object_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    backend.put("x", "x".into()).await.unwrap();
    let error = backend.put("x/y", "y".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory, "{error}");
}

#[tokio::test]
async fn space_adds_up() {
    let directory = tempfile::tempdir().unwrap();
    let space = directory_backend(&directory).await.space().unwrap().unwrap();
    assert!(
        space.available <= space.free && space.free <= space.total && space.total > 0,
        "{space:?}"
    );
    assert!(space.inodes_free <= space.inodes_total, "{space:?}");
}

/// A small file system of its own, if this process may mount one.
struct Mount {
    directory: TempDir,
}

impl Mount {
    fn tmpfs(options: &str) -> Option<Self> {
        let mount = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let path = mount.directory.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "cairn-test", path]).then_some(mount)
    }

    fn remount(&self, options: &str) -> bool {
        run(
            "mount",
            &[
                "-o",
                &format!("remount,{options}"),
                self.directory.path().to_str().unwrap(),
            ],
        )
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.directory.path().to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// Says that a test cannot run here; where everything has to run, that is a failure.
fn not_run_without_mounts() {
    println!("not run: mounting a tmpfs needs the rights of the super user");
    assert!(
        std::env::var_os("CI").is_none_or(|value| value != "true"),
        "cannot mount a tmpfs"
    );
}

#[tokio::test]
async fn a_full_volume_is_no_space_and_keeps_no_half_objects() {
    let Some(mount) = Mount::tmpfs("size=1m") else {
        return not_run_without_mounts();
    };
    let backend = directory_backend(&mount.directory).await;
    backend.put("r/small", vec![7; 100_000].into()).await.unwrap();
    let error = backend.put("r/large", vec![7; 2 << 20].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    assert!(error.to_string().contains("r/large: no space left"), "{error}");
    assert_eq!(backend.list("", None).await.unwrap().len(), 1);
    assert_eq!(fs::read_dir(mount.directory.path().join("r")).unwrap().count(), 1);
    backend.put("r/again", vec![7; 100_000].into()).await.unwrap();

    let filler = vec![7; backend.space().unwrap().unwrap().available as usize];
    backend.put("r/filler", filler.into()).await.unwrap();
    let error = backend.create("r/owner", vec![7; 100].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    assert_eq!(
        backend.create("r/owner", vec![7; 100].into()).await.unwrap(),
        Created::Exists
    );
    backend.delete("r/filler").await.unwrap();
    assert!(backend.lock().unwrap().is_held());
}

#[tokio::test]
async fn a_volume_without_inodes_is_no_space() {
    let Some(mount) = Mount::tmpfs("size=1m,nr_inodes=4") else {
        return not_run_without_mounts();
    };
    let backend = directory_backend(&mount.directory).await;
    assert_eq!(backend.space().unwrap().unwrap().inodes_total, 4);
    let mut result = Ok(());
    for name in ["a", "b", "c", "d", "e"] {
        result = result.and(backend.put(name, "x".into()).await);
    }
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NoSpace);
}

#[tokio::test]
async fn a_read_only_volume_is_read_and_says_so_when_written() {
    let Some(mount) = Mount::tmpfs("size=1m") else {
        return not_run_without_mounts();
    };
    let writable = directory_backend(&mount.directory).await;
    writable.put("r/x", "x".into()).await.unwrap();
    assert!(mount.remount("ro"));
    let backend = directory_backend(&mount.directory).await;
    assert!(!backend.lock().unwrap().is_held(), "no lock file, and none can be made");
    assert_eq!(backend.get("r/x").await.unwrap(), "x");
    let errors = [
        backend.put("r/y", "y".into()).await.unwrap_err(),
        backend.put("new/y", "y".into()).await.unwrap_err(),
        backend.create("r/z", "z".into()).await.unwrap_err(),
        backend.delete("r/x").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    }
    assert!(mount.remount("rw"));
    drop(backend.lock().unwrap());
    assert!(mount.remount("ro"));
    let lock = backend.lock().unwrap();
    assert!(lock.is_held(), "an existing lock file can be locked for reading");
    assert!(matches!(writable.lock(), Err(Error::Held { .. })));
}

#[test]
fn a_directory_without_rights_is_permission_denied() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // The threads that the runtime starts for file operations have the rights of the thread that starts them.
    let unprivileged = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let backend = directory_backend(&directory).await;
            let denied = backend.put("x", "x".into()).await.unwrap_err();
            assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
            assert_eq!(backend.lock().unwrap_err().kind(), ErrorKind::PermissionDenied);
        });
        directory
    });
    let directory = unprivileged.join().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A tmpfs takes its time to allocate, so that it can be looked at meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_free_stays_so_while_the_reserve_is_filled_and_given_back() {
    const RESERVE: u64 = 32 << 20;
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        println!("not run: there is no /dev/shm");
        return;
    };
    let backend = directory_backend(&directory).await;
    let free = |backend: &Backend| backend.look().space.unwrap().available;
    let before = free(&backend);
    if before < RESERVE + RESERVE / 2 {
        println!("not run: /dev/shm is too small");
        return;
    }
    let working = backend.clone();
    let work = std::thread::spawn(move || {
        for _ in 0..40 {
            working.fill_reserve(RESERVE).unwrap();
            assert!(working.reserve_bytes() >= RESERVE);
            working.give_back_reserve().unwrap();
        }
    });
    let mut looks = 0;
    while !work.is_finished() {
        // Others use it too, a little.
        let gone = before.abs_diff(free(&backend));
        assert!(gone < RESERVE / 2, "{gone} bytes are free, or not, for a moment");
        looks += 1;
    }
    work.join().unwrap();
    assert!(looks > 4, "nobody looked");
}

/// The system may say that it would have to wait, where it need not: a path is walked while somebody mounts something, say.
const TRIES: u32 = 20;

/// Whether the file system of this file reads what is in memory without waiting.
fn reads_nowait(path: &Path) -> bool {
    let open = || openat2(CWD, path, OFlags::RDONLY, Mode::empty(), ResolveFlags::CACHED);
    let read = |file| preadv2(file, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT);
    (0..TRIES).any(|_| open().and_then(read).is_ok())
}

#[test]
fn short_ranges_that_are_in_memory_need_no_thread() {
    const MOMENT: Duration = Duration::from_millis(50);
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let backend = directory_backend(&directory).await;
        let contents = Bytes::from(vec![b'x'; 1 << 20]);
        backend.put("x", contents.clone()).await.unwrap();
        assert_eq!(backend.get_range("x", 0..1).await.unwrap(), "x");

        let (go, goes) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || goes.recv().unwrap());
        let can = reads_nowait(&directory.path().join("x"));
        let mut tries = 0..TRIES;
        let read = loop {
            let short = tokio::time::timeout(MOMENT, backend.get_range("x", 3..7)).await;
            if short.is_ok() == can || tries.next().is_none() {
                break short;
            }
        };
        assert_eq!(read.is_ok(), can);
        if let Ok(read) = read {
            assert_eq!(read.unwrap(), "xxxx");
        }
        for (path, range) in [("x", 0..1 << 20), ("x", (1 << 20) - 1..(1 << 20) + 1), ("y", 0..1)] {
            let waits = tokio::time::timeout(MOMENT, backend.get_range(path, range)).await;
            waits.expect_err("it is long, or an error is to be told");
        }
        go.send(()).unwrap();
        busy.await.unwrap();
        assert_eq!(backend.get_range("x", 0..1 << 20).await.unwrap(), contents);
    });
}

/// Its disk may not answer, and a pipe has nobody who writes into it.
#[tokio::test]
async fn what_would_have_to_be_waited_for_is_left_to_a_thread() {
    let directory = tempfile::tempdir().unwrap();
    let backend = directory_backend(&directory).await;
    let volume = backend.inner.volume.as_ref().unwrap();
    let at_once = |path: &str, range| volume.read_at_once(path, &range, |len| vec![0; len]);
    backend.put("x", Bytes::from_static(b"0123")).await.unwrap();
    assert_eq!(at_once("x", 0..1), None, "what the file system can is not known yet");
    assert_eq!(backend.get_range("x", 0..4).await.unwrap(), "0123");
    let file = directory.path().join("x");
    let can = reads_nowait(&file);
    assert!((0..TRIES).any(|_| at_once("x", 1..3).is_some() == can));

    assert_eq!(at_once("x", 1..5), None);
    assert_eq!(at_once("y", 0..1), None);
    fs::create_dir(directory.path().join("directory")).unwrap();
    assert_eq!(at_once("directory", 0..1), None);
    mknodat(CWD, directory.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(at_once("pipe", 0..1), None);

    let open = fs::File::open(&file).unwrap();
    open.sync_all().unwrap();
    rustix::fs::fadvise(&open, 0, None, Advice::DontNeed).unwrap();
    assert!(at_once("x", 0..4).is_none_or(|read| read == b"0123"));
    assert_eq!(backend.get_range("x", 0..4).await.unwrap(), "0123");
}
