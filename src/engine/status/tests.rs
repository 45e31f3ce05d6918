use std::time::Duration;

use super::assess::*;
use super::capacity::reserve;
use super::*;
use crate::backend::{Failure, Look, Presence, Space, Trouble};
use crate::engine::error::Reason;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOLD: Duration = Duration::from_secs(30);

fn policy() -> Policy {
    Policy {
        capacity: CapacityPolicy::DEFAULT,
        pack_bytes: 16 * MIB,
        failure_hold: HOLD,
    }
}

/// A store on a volume of its own of which nothing bad is known.
fn well() -> Observations {
    volume(100 * GIB, 50 * GIB)
}

fn volume(total: u64, available: u64) -> Observations {
    let space = Space {
        total,
        free: available,
        available,
        inodes_total: 0,
        inodes_free: 0,
    };
    Observations {
        place: Look {
            space: Some(space),
            ..Look::endless()
        },
        failures: Vec::new(),
        used_bytes: Some(total - available),
        limit: None,
        is_read_only_requested: false,
        is_deletion_requested: false,
        catalog_failure: None,
        repositories: Repositories {
            total: 2,
            open: 2,
            ..Repositories::default()
        },
    }
}

fn inodes(total: u64, free: u64) -> Observations {
    let mut seen = well();
    let space = seen.place.space.as_mut().unwrap();
    (space.inodes_total, space.inodes_free) = (total, free);
    seen
}

/// A store of which a limit leaves so much.
fn limited(bytes: u64, free: u64) -> Observations {
    seen(|seen| {
        seen.limit = Some(Limit {
            bytes,
            used_bytes: bytes - free,
        });
    })
}

fn seen(change: impl FnOnce(&mut Observations)) -> Observations {
    let mut seen = well();
    change(&mut seen);
    seen
}

fn failure(trouble: Trouble) -> Failure {
    Failure {
        trouble,
        count: 3,
        age: Duration::ZERO,
        is_answered: false,
        text: "/store/pack: it says no".to_owned(),
    }
}

fn failed(trouble: Trouble) -> Observations {
    seen(|seen| seen.failures.push(failure(trouble)))
}

/// Every cause alone: what was seen, the mode it gives, its code, and what a put is told.
fn causes() -> Vec<(Observations, Mode, &'static str, Option<Reason>)> {
    let unopened = || vec![Reason::DataLoss];
    vec![
        (
            seen(|seen| seen.is_deletion_requested = true),
            Mode::Deleting,
            code::DELETION_REQUESTED,
            Some(Reason::ReadOnly),
        ),
        (
            seen(|seen| (seen.repositories.open, seen.repositories.opening) = (0, 2)),
            Mode::Initializing,
            code::OPENING,
            None,
        ),
        (
            seen(|seen| seen.place = Look::away(Presence::Gone("unmounted".to_owned()))),
            Mode::StorageNotExist,
            code::ROOT_GONE,
            Some(Reason::BackendUnavailable),
        ),
        (
            failed(Trouble::Gone),
            Mode::StorageNotExist,
            code::ROOT_GONE,
            Some(Reason::BackendUnavailable),
        ),
        (
            seen(|seen| seen.place.refused = Some("EACCES".to_owned())),
            Mode::AuthFailed,
            code::PERMISSION,
            None,
        ),
        (failed(Trouble::Permission), Mode::AuthFailed, code::PERMISSION, None),
        (failed(Trouble::Credentials), Mode::AuthFailed, code::CREDENTIALS, None),
        (
            seen(|seen| seen.repositories.keyless = 2),
            Mode::KeysUnavailable,
            code::KEYS,
            None,
        ),
        (
            seen(|seen| seen.repositories.keyless = 1),
            Mode::Optimal,
            code::KEYS,
            None,
        ),
        (
            seen(|seen| seen.place = Look::away(Presence::Silent("no answer".to_owned()))),
            Mode::IoErrors,
            code::UNREACHABLE,
            None,
        ),
        (failed(Trouble::Unreachable), Mode::IoErrors, code::UNREACHABLE, None),
        (failed(Trouble::Io), Mode::IoErrors, code::IO_ERROR, None),
        (failed(Trouble::Fsync), Mode::IoErrors, code::FSYNC_FAILED, None),
        (
            seen(|seen| {
                let line = "a row is damaged".to_owned();
                seen.catalog_failure = Some(CatalogTrouble { line, is_full: false });
            }),
            Mode::IoErrors,
            code::CATALOG,
            None,
        ),
        (
            seen(|seen| (seen.repositories.open, seen.repositories.unopened) = (0, unopened())),
            Mode::IoErrors,
            code::REPOSITORY,
            None,
        ),
        (
            seen(|seen| seen.repositories.unopened = unopened()),
            Mode::Optimal,
            code::REPOSITORY,
            None,
        ),
        (
            volume(100 * GIB, GIB),
            Mode::NoCapacity,
            code::FREE_BYTES,
            Some(Reason::NoCapacity),
        ),
        (
            inodes(100_000, 15),
            Mode::NoCapacity,
            code::FREE_INODES,
            Some(Reason::NoCapacity),
        ),
        (
            failed(Trouble::NoSpace),
            Mode::NoCapacity,
            code::NO_SPACE,
            Some(Reason::NoCapacity),
        ),
        (
            limited(10 * GIB, 100 * MIB),
            Mode::NoCapacity,
            code::LIMIT,
            Some(Reason::NoCapacity),
        ),
        (
            seen(|seen| seen.is_read_only_requested = true),
            Mode::ReadOnly,
            code::READ_ONLY_REQUESTED,
            Some(Reason::ReadOnly),
        ),
        (
            seen(|seen| seen.place.is_read_only = true),
            Mode::ReadOnly,
            code::READ_ONLY_FILESYSTEM,
            Some(Reason::ReadOnly),
        ),
        (
            failed(Trouble::ReadOnly),
            Mode::ReadOnly,
            code::READ_ONLY_FILESYSTEM,
            Some(Reason::ReadOnly),
        ),
        (
            seen(|seen| seen.repositories.fenced = 1),
            Mode::ReadOnly,
            code::FENCED,
            None,
        ),
        (
            seen(|seen| seen.repositories.rolled_back = 1),
            Mode::ReadOnly,
            code::ROLLED_BACK,
            None,
        ),
        (volume(100 * GIB, 19 * GIB), Mode::LowCapacity, code::FREE_BYTES, None),
        (inodes(100_000, 5_000), Mode::LowCapacity, code::FREE_INODES, None),
        (limited(10 * GIB, 2 * GIB), Mode::LowCapacity, code::LIMIT, None),
    ]
}

fn of(seen: &Observations) -> Assessment {
    assess(seen, &policy(), Held::default())
}

/// What either of two shows.
fn both(a: &Observations, b: &Observations) -> Observations {
    let (mut seen, well) = (a.clone(), well());
    seen.place.presence = if a.place.presence == Presence::Here { b } else { a }
        .place
        .presence
        .clone();
    seen.place.refused = a.place.refused.clone().or(b.place.refused.clone());
    seen.place.is_read_only |= b.place.is_read_only;
    // Numbers of the one that is not as usual; none of a place that is away.
    seen.place.space = match (a.place.space, b.place.space) {
        (Some(a), Some(b)) if Some(a) == well.place.space => Some(b),
        (Some(a), Some(_)) => Some(a),
        _ => None,
    };
    seen.used_bytes = seen.place.space.map(|space| space.total - space.free);
    seen.limit = a.limit.or(b.limit);
    seen.failures.extend(b.failures.clone());
    seen.is_read_only_requested |= b.is_read_only_requested;
    seen.is_deletion_requested |= b.is_deletion_requested;
    seen.catalog_failure = a.catalog_failure.clone().or(b.catalog_failure.clone());
    if a.repositories == well.repositories {
        seen.repositories = b.repositories.clone();
    }
    seen
}

#[test]
fn every_cause_gives_its_mode() {
    let nothing = of(&well());
    assert_eq!(
        (nothing.mode, nothing.causes.len(), nothing.refusal()),
        (Mode::Optimal, 0, None)
    );
    for (seen, mode, code, refusal) in causes() {
        let assessed = of(&seen);
        let found: Vec<_> = assessed.causes.iter().map(|cause| (cause.code, cause.mode)).collect();
        assert_eq!(found, [(code, mode)], "{seen:?}");
        assert_eq!(assessed.mode, mode, "{code}");
        assert_eq!(assessed.refusal().map(|(reason, _)| reason), refusal, "{code}");
        let message = &assessed.causes[0].message;
        assert!(message.contains(": ") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn the_gravest_of_any_two_causes_is_shown() {
    let table = causes();
    for (a, a_mode, a_code, _) in &table {
        for (b, b_mode, b_code, _) in &table {
            let repositories = |seen: &Observations| seen.repositories != well().repositories;
            let space = |seen: &Observations| seen.place.space != well().place.space;
            let limits = a.limit.is_some() && b.limit.is_some();
            if (repositories(a) && repositories(b)) || (space(a) && space(b)) || limits {
                continue;
            }
            let assessed = of(&both(a, b));
            assert_eq!(assessed.mode, *a_mode.max(b_mode), "{a_code} and {b_code}");
            assert!(assessed.causes.is_sorted_by(|a, b| a.mode >= b.mode));
            for code in [a_code, b_code] {
                let found = assessed.causes.iter().filter(|cause| cause.code == *code).count();
                assert!(found >= 1, "{code} is not told with {a_code} and {b_code}");
            }
        }
    }
}

#[test]
fn the_order_of_gravity_is_the_published_one() {
    let words: Vec<_> = Mode::ALL.iter().rev().map(|mode| mode.as_str()).collect();
    let published = [
        "DELETING",
        "INITIALIZING",
        "STORAGE_NOT_EXIST",
        "AUTH_FAILED",
        "KEYS_UNAVAILABLE",
        "IO_ERRORS",
        "NO_CAPACITY",
        "READ_ONLY",
        "LOW_CAPACITY",
        "OPTIMAL",
    ];
    assert_eq!(words, published);
    assert!(Mode::ALL.is_sorted());
    let numbers: std::collections::BTreeSet<_> = Mode::ALL.iter().map(|mode| mode.number()).collect();
    assert_eq!(numbers.len(), Mode::ALL.len());
}

#[test]
fn causes_carry_their_numbers() {
    let low = &of(&volume(100 * GIB, 19 * GIB)).causes[0];
    assert_eq!((low.value, low.threshold), (19 * GIB, 20 * GIB));
    let none = &of(&volume(100 * GIB, GIB)).causes[0];
    assert_eq!((none.value, none.threshold), (GIB, GIB + 16 * MIB));
    let keys = &of(&seen(|seen| seen.repositories.keyless = 1)).causes[0];
    assert_eq!((keys.value, keys.threshold), (1, 2));
    let io = &of(&failed(Trouble::Io)).causes[0];
    assert_eq!(io.value, 3);
    let inodes = &of(&inodes(100_000, 5_000)).causes[0];
    assert_eq!((inodes.value, inodes.threshold), (5_000, 5_000));
}

/// Walks free space down and up again by `step`; the free bytes at which the mode changes, with the new mode.
fn walk(policy: &Policy, total: u64, step: u64) -> Vec<(u64, Mode)> {
    let mut held = Held::default();
    let (mut mode, mut changes) = (Mode::Optimal, Vec::new());
    let down = (0..=total / step).rev();
    for free in down.chain(0..=total / step).map(|steps| steps * step) {
        let assessed = assess(&volume(total, free), policy, held);
        held = assessed.held;
        if assessed.mode != mode {
            mode = assessed.mode;
            changes.push((free, mode));
        }
    }
    changes
}

#[test]
fn a_mode_is_left_with_a_margin() {
    let changes = walk(&policy(), 100 * GIB, MIB);
    let [
        (low, Mode::LowCapacity),
        (none, Mode::NoCapacity),
        (some, Mode::LowCapacity),
        (enough, Mode::Optimal),
    ] = changes[..]
    else {
        panic!("{changes:?}");
    };
    assert_eq!(low, 20 * GIB);
    assert_eq!(none, GIB + 16 * MIB - MIB);
    assert_eq!(some, 2 * (GIB + 16 * MIB));
    assert_eq!(enough, 22 * GIB + MIB);
}

#[test]
fn small_volumes_come_back_when_they_are_emptied() {
    for total in [8 * MIB, 48 * MIB, 64 * MIB, 256 * MIB, GIB, 20 * GIB] {
        let changes = walk(&policy(), total, total / 1024);
        let modes: Vec<_> = changes.iter().map(|(_, mode)| *mode).collect();
        let there_and_back = [Mode::LowCapacity, Mode::NoCapacity, Mode::LowCapacity, Mode::Optimal];
        assert_eq!(modes, there_and_back, "{total}");
        assert!(
            changes.iter().all(|(free, _)| *free < total / 4),
            "{total}: {changes:?}"
        );
        let one_put = (16 * MIB).min(total / 20);
        assert!(
            changes[2].0 >= changes[1].0 + one_put,
            "one put ends what freeing began: {changes:?}"
        );
    }
}

#[test]
fn the_preset_noobaa_takes_its_floor_as_it_is() {
    let policy = Policy {
        capacity: CapacityPolicy::preset("noobaa").unwrap(),
        ..policy()
    };
    assert_eq!(
        assess(&volume(100 * GIB, 31 * GIB), &policy, Held::default()).mode,
        Mode::Optimal
    );
    assert_eq!(
        assess(&volume(100 * GIB, 29 * GIB), &policy, Held::default()).mode,
        Mode::LowCapacity
    );
    assert_eq!(
        assess(&volume(20 * GIB, 20 * GIB), &policy, Held::default()).mode,
        Mode::LowCapacity
    );
    assert_eq!(CapacityPolicy::preset("default"), Some(CapacityPolicy::DEFAULT));
    assert_eq!(CapacityPolicy::preset("other"), None);
}

#[test]
fn what_others_use_is_not_ours_to_fill() {
    // Of 1000 GiB others have 900: low is a fifth of what is left for us, but never below the floor.
    let mut seen = volume(1000 * GIB, 35 * GIB);
    seen.used_bytes = Some(65 * GIB);
    let assessed = of(&seen);
    assert_eq!(assessed.capacity.used_other_bytes, Some(900 * GIB));
    assert_eq!(assessed.mode, Mode::Optimal);
    seen.used_bytes = Some(965 * GIB);
    assert_eq!(of(&seen).mode, Mode::LowCapacity);
}

#[test]
fn what_is_not_known_stays_as_it_was() {
    let held = Held {
        low_bytes: true,
        ..Held::default()
    };
    let mut seen = volume(100 * GIB, 21 * GIB);
    seen.used_bytes = None;
    assert!(assess(&seen, &policy(), held).held.low_bytes);
    assert!(!assess(&seen, &policy(), Held::default()).held.low_bytes);
    // A volume that is away says nothing of its room.
    let away = self::seen(|seen| seen.place = Look::away(Presence::Gone("unmounted".to_owned())));
    let assessed = assess(&away, &policy(), held);
    assert_eq!(assessed.held, held);
    assert_eq!(
        (assessed.capacity.total_bytes, assessed.capacity.free_bytes),
        (None, None)
    );
}

#[test]
fn inodes_have_margins_too() {
    let mut held = Held::default();
    let mut modes = Vec::new();
    for free in [40, 30, 16, 15, 20, 31, 32, 35, 36, 40] {
        let assessed = assess(&inodes(200, free), &policy(), held);
        held = assessed.held;
        modes.push(assessed.mode);
    }
    use Mode::{LowCapacity as Low, NoCapacity as No, Optimal};
    assert_eq!(modes, [Optimal, Low, Low, No, No, No, Low, Low, Optimal, Optimal]);
}

#[test]
fn a_failure_counts_until_it_is_old_and_a_trial_went_through() {
    let mode = |age: Duration, is_answered: bool| {
        of(&seen(|seen| {
            seen.failures.push(Failure {
                age,
                is_answered,
                ..failure(Trouble::Io)
            });
        }))
        .mode
    };
    let short = HOLD - Duration::from_millis(1);
    assert_eq!(mode(short, false), Mode::IoErrors);
    assert_eq!(mode(short, true), Mode::IoErrors);
    assert_eq!(mode(100 * HOLD, false), Mode::IoErrors);
    assert_eq!(mode(HOLD, true), Mode::Optimal);
}

#[test]
fn a_bucket_has_no_end() {
    let mut bucket = well();
    bucket.place.space = None;
    bucket.used_bytes = Some(5);
    let assessed = of(&bucket);
    assert_eq!((assessed.mode, assessed.causes.len()), (Mode::Optimal, 0));
    assert_eq!(assessed.capacity.used_bytes, 5);
    assert_eq!(assessed.capacity.total_bytes, None);
}

#[test]
fn a_limit_bounds_what_is_free_on_a_volume_and_on_a_bucket() {
    let on_volume = of(&limited(10 * GIB, 5 * GIB)).capacity;
    assert_eq!(
        (on_volume.free_bytes, on_volume.limit_bytes),
        (Some(5 * GIB), Some(10 * GIB))
    );
    let roomy = of(&limited(100 * GIB, 60 * GIB)).capacity;
    assert_eq!(
        roomy.free_bytes,
        Some(50 * GIB),
        "the volume has less than the limit leaves"
    );
    let mut bucket = limited(10 * GIB, 5 * GIB);
    bucket.place.space = None;
    let capacity = of(&bucket).capacity;
    assert_eq!((capacity.free_bytes, capacity.total_bytes), (Some(5 * GIB), None));
    assert_eq!(capacity.reserved_bytes, reserve(10 * GIB, 16 * MIB));
}

#[test]
fn a_limit_is_entered_and_left_with_a_margin_and_forgotten_with_it() {
    let mut bucket = limited(GIB, GIB);
    bucket.place.space = None;
    let mut held = Held::default();
    let mut changes = Vec::new();
    let mut mode = Mode::Optimal;
    let down = (0..=1024).rev();
    for free in down.chain(0..=1024) {
        bucket.limit = limited(GIB, free * MIB).limit;
        let assessed = assess(&bucket, &policy(), held);
        held = assessed.held;
        if assessed.mode != mode {
            mode = assessed.mode;
            changes.push((free, mode));
        }
    }
    // A reserve of two packs, and a pack more.
    let expected = [
        (204, Mode::LowCapacity),
        (47, Mode::NoCapacity),
        (96, Mode::LowCapacity),
        (226, Mode::Optimal),
    ];
    assert_eq!(changes, expected);
    bucket.limit = limited(GIB, 0).limit;
    let full = assess(&bucket, &policy(), held);
    assert_eq!((full.mode, full.causes[0].value), (Mode::NoCapacity, 0));
    bucket.limit = None;
    let without = assess(&bucket, &policy(), full.held);
    assert_eq!((without.mode, without.held), (Mode::Optimal, Held::default()));
}

#[test]
fn the_reserve_is_bounded() {
    assert_eq!(reserve(1000 * GIB, 16 * MIB), GIB);
    assert_eq!(reserve(GIB, 16 * MIB), 32 * MIB);
    assert_eq!(reserve(64 * MIB, 16 * MIB), (64 * MIB) / 10);
}

#[test]
fn held_thresholds_survive_as_bits() {
    for bits in 0..64 {
        assert_eq!(Held::from_bits(bits).to_bits(), bits);
    }
}

#[test]
fn an_operator_sees_what_noobaas_shows() {
    let view = |mode: Mode| {
        let status = Status {
            boot_id: [0; 16],
            mode,
            since_ms: 0,
            sequence: 1,
            causes: Vec::new(),
            capacity: Capacity::default(),
            repositories: Vec::new(),
            closed: Vec::new(),
        };
        let view = status.backing_store();
        assert_eq!(
            view.conditions.each_ref().map(|condition| condition.kind),
            ["Available", "Progressing", "Degraded", "Upgradeable"]
        );
        (view.phase, view.conditions.map(|condition| condition.status))
    };
    let ready = ("Ready", ["True", "False", "False", "True"]);
    let rejected = ("Rejected", ["Unknown", "False", "True", "Unknown"]);
    let other = ["False", "True", "False", "False"];
    assert_eq!(view(Mode::Optimal), ready);
    assert_eq!(view(Mode::LowCapacity), ready);
    assert_eq!(view(Mode::ReadOnly), ("Ready", ["True", "False", "True", "True"]));
    for mode in [
        Mode::NoCapacity,
        Mode::IoErrors,
        Mode::KeysUnavailable,
        Mode::AuthFailed,
        Mode::StorageNotExist,
    ] {
        assert_eq!(view(mode), rejected, "{mode:?}");
    }
    assert_eq!(view(Mode::Initializing), ("Creating", other));
    assert_eq!(view(Mode::Deleting), ("Deleting", other));
}
