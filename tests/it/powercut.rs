//! The power goes, and the disk fails, under a real file system: ext4 and XFS over a disk whose cache is lost, or whose
//! writes fail for a while. What was acknowledged is on the disk.
//!
//! The disk is an `nbdkit` server behind a file of `nbdfuse`. Its cache holds everything that was not flushed; killing it
//! is the power cut. `CAIRN_LONG=1` makes it many rounds, `CAIRN_SEED` chooses others.

mod disk;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::RngExt;

use crate::deeds::Deeds;
use crate::support::{Announce, Home, eventually, is_long, pause, seed};
use disk::{Disk, FileSystem, Running};

fn rounds(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// Works on a disk while something happens to the disk, and a little longer.
fn work_while(deeds: &mut Deeds, home: &Home, happens: impl FnOnce(&Progress)) {
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let working = scope.spawn(|| progress.work(deeds, home));
        happens(&progress);
        progress.over.store(true, Ordering::SeqCst);
        working.join().unwrap();
    });
}

/// How far the work is.
#[derive(Default)]
struct Progress {
    ended: AtomicUsize,
    over: AtomicBool,
}

impl Progress {
    /// Deeds until there are enough. The disk may fail at any moment; what it did is looked at afterwards.
    fn work(&self, deeds: &mut Deeds, home: &Home) {
        let said = home.path("said");
        while !self.over.load(Ordering::SeqCst) {
            let deed = deeds.next();
            let status = deed.start(home, &said).wait().unwrap();
            deeds.told(&deed, status.success());
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until so many more deeds have ended, and then for a time.
    fn wait(&self, (more, then): (usize, u64)) {
        let wanted = self.ended.load(Ordering::SeqCst) + more;
        eventually("the work", || {
            (self.ended.load(Ordering::SeqCst) >= wanted).then_some(())
        });
        pause(Duration::from_millis(then));
    }
}

fn cut_the_power(system: FileSystem, first_seed: u64) {
    let announced = Announce(seed(first_seed));
    let Some(disk) = Disk::formatted(system) else { return };
    let mut deeds = Deeds::new(announced.0);
    let home = Home::with_store(&disk.mountpoint().join("store"));
    let rounds = rounds(3, 60);
    for round in 0..rounds {
        let running = disk.run(Running::WithCache);
        let wait = (deeds.rng().random_range(0..5), deeds.rng().random_range(0..200));
        work_while(&mut deeds, &home, |progress| {
            progress.wait(wait);
            running.kill();
        });
        running.unmount();
        let mounted = disk.mount();
        assert!(home.store_exists() || deeds.acknowledged == 0, "the store is gone");
        if home.store_exists() {
            if deeds.rng().random_bool(0.3) {
                let _ = std::fs::remove_dir_all(disk.mountpoint().join("store.catalog"));
            }
            deeds.check(&home, &format!("{system:?}, after power cut {round}"));
        }
        if round + 1 == rounds {
            deeds.check_all(&home, &format!("{system:?}, at the end"));
        }
        drop(mounted);
    }
    println!("{system:?}: {rounds} power cuts, {} acknowledged", deeds.acknowledged);
}

fn fail_writes(system: FileSystem, error: &'static str, first_seed: u64) {
    let announced = Announce(seed(first_seed));
    let Some(disk) = Disk::formatted(system) else { return };
    let mut deeds = Deeds::new(announced.0);
    let home = Home::with_store(&disk.mountpoint().join("store"));
    let rounds = rounds(2, 30);
    for round in 0..rounds {
        let running = disk.run(Running::WithErrors(error));
        let random = deeds.rng();
        let pulses = [(); 2].map(|()| {
            let calm = (random.random_range(1..4), random.random_range(0..200));
            (calm, random.random_range(1..100))
        });
        work_while(&mut deeds, &home, |progress| {
            for (calm, failing) in pulses {
                progress.wait(calm);
                running.fail_writes(true);
                pause(Duration::from_millis(failing));
                running.fail_writes(false);
            }
            progress.wait((2, 0));
        });
        running.unmount();
        let mounted = disk.mount();
        assert!(home.store_exists() || deeds.acknowledged == 0, "the store is gone");
        if home.store_exists() {
            deeds.check(&home, &format!("{system:?}, {error}, round {round}"));
        }
        drop(mounted);
    }
    println!(
        "{system:?}: {rounds} times {error}, {} acknowledged",
        deeds.acknowledged
    );
}

#[test]
fn ext4_keeps_what_was_acknowledged_when_the_power_goes() {
    cut_the_power(FileSystem::Ext4, 41);
}

#[test]
fn xfs_keeps_what_was_acknowledged_when_the_power_goes() {
    cut_the_power(FileSystem::Xfs, 42);
}

#[test]
fn ext4_keeps_what_was_acknowledged_when_writes_fail() {
    fail_writes(FileSystem::Ext4, "EIO", 43);
}

#[test]
fn xfs_keeps_what_was_acknowledged_when_writes_fail() {
    fail_writes(FileSystem::Xfs, "EIO", 44);
}

#[test]
fn a_disk_that_has_no_room_loses_nothing() {
    fail_writes(FileSystem::Ext4, "ENOSPC", 45);
    fail_writes(FileSystem::Xfs, "ENOSPC", 46);
}
