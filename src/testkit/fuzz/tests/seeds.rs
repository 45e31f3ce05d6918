//! Inputs for a fuzzer to begin with: of every branch one that is taken.

use prost::Message;

use super::super::catalog::rows;
use super::super::golden::{KEK, METADATA, PACKS};
use super::super::structures::STRUCTURES;
use crate::catalog::Table;
use crate::codec::RepositoryId;
use crate::format::names::KeyringCopy;
use crate::format::{Layout, StoredKind};
use crate::service::proto;

/// An input that is kept.
pub(super) struct Seed {
    pub(super) target: &'static str,
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// Decisions, in the order in which a body asks for them.
#[derive(Clone, Default)]
struct Decisions(Vec<u8>);

impl Decisions {
    fn new() -> Self {
        Self::default()
    }

    fn u8(mut self, number: u8) -> Self {
        self.0.push(number);
        self
    }

    fn u16(self, number: u16) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// For `below`.
    fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Edit: everything gives way to these bytes.
    fn replace(self, bytes: &[u8]) -> Self {
        self.u8(7).u32(0).bytes(bytes)
    }

    /// Edit: these bits of one byte change.
    fn flip(self, at: u32, bits: u8) -> Self {
        self.u8(6).u32(at).u8(bits)
    }

    /// Edit: everything from here on goes.
    fn cut(self, at: u32) -> Self {
        self.u8(0).u32(at)
    }
}

/// All of them.
pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = Seeds(Vec::new());
    seeds.streams();
    seeds.stored_bytes();
    seeds.structures();
    seeds.rows();
    seeds.damage();
    seeds.names();
    seeds.texts();
    seeds.operations();
    seeds.reclaims();
    seeds.messages();
    seeds.settings();
    seeds.0
}

struct Seeds(Vec<Seed>);

impl Seeds {
    fn add(&mut self, target: &'static str, name: impl Into<String>, decisions: Decisions) {
        self.0.push(Seed {
            target,
            name: name.into(),
            bytes: decisions.0,
        });
    }

    fn streams(&mut self) {
        let runs = [
            ("random", Decisions::new().u8(3).u16(1).u8(0).u32(90_000)),
            ("zeros", Decisions::new().u8(1).u8(0).u32(90_000)),
            ("period", Decisions::new().u8(2).u8(2).bytes(b"abc").u32(70_000)),
            (
                "repeat",
                Decisions::new().u8(3).u16(2).u8(0).u32(40_000).u8(4).u32(5).u32(30_000),
            ),
            ("literal", Decisions::new().u8(0).u8(5).bytes(b"short")),
        ];
        for (index, (name, run)) in runs.into_iter().enumerate() {
            let kind = index as u8;
            // Sizes; a table of each kind.
            let sizes = Decisions::new().u8(kind).u32(7).u32(900);
            let table = |decisions: Decisions| decisions.u8(kind).u16(3).u64(0x0101_0101_0101_0101);
            let arrivals = |decisions: Decisions| decisions.u8(4).u8(0).u8(9).u8(1).u16(900).u8(2).u8(3).u8(3).u8(4);
            let edit = |decisions: Decisions| decisions.u32(20_000).u16(300).u8(0).u16(500).u8(0).u8(7);
            self.add("chunker", name, edit(arrivals(table(sizes))).bytes(&run.0));
            let scan = table(Decisions::new())
                .u64(u64::MAX)
                .u64(0xff << 40)
                .u8(3)
                .u16(40)
                .u8(0);
            self.add("lanes", name, scan.bytes(&run.0));
        }
    }

    fn stored_bytes(&mut self) {
        let plain = Decisions::new().u8(1).u8(40).u8(2).u8(9);
        let seed = |source, promise| plain.clone().u32(1000).u8(source).u8(promise);
        self.add("decompression", "intact", seed(0, 0));
        self.add("decompression", "another-length", seed(0, 1));
        self.add("decompression", "flipped", seed(0, 2).flip(9, 1));
        self.add("decompression", "raw", seed(1, 2).bytes(b"stored as it is"));
        // A frame of one block that says 4 GiB.
        let header = [0xe0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 3, 0, 0];
        self.add("decompression", "frame-of-much", seed(3, 2).bytes(&header));
    }

    fn structures(&mut self) {
        for (index, structure) in STRUCTURES.iter().enumerate() {
            // There are several records of some kinds.
            let name = format!("{index:02}-{}", structure.name);
            let index = Decisions::new().u8(index as u8);
            self.add("structures", name.clone(), index.clone());
            if structure.sample.len() <= 4096 {
                self.add(
                    "structures",
                    format!("{name}-as-bytes"),
                    index.replace(&structure.sample),
                );
            }
        }
    }

    fn rows(&mut self) {
        for (place, (table, row)) in (0..).zip(rows()) {
            assert_eq!(table, Table::OF_REPOSITORIES[usize::from(place)], "each has rows");
            self.add("catalog_rows", table.name(), Decisions::new().u8(place).bytes(&row));
        }
        for (place, table) in (0..).zip(Table::ALL) {
            let choice = Decisions::new().u8(place).u8(0);
            self.add("catalog_files", format!("{}-as-it-is", table.name()), choice.clone());
            self.add(
                "catalog_files",
                format!("{}-flipped", table.name()),
                choice.clone().u8(0).flip(3, 1),
            );
            self.add(
                "catalog_files",
                format!("{}-elsewhere", table.name()),
                choice.clone().u8(2).u8(0).u8(0),
            );
            self.add(
                "catalog_files",
                format!("{}-another", table.name()),
                choice.u8(3).u8(8).u8(1).u8(1),
            );
        }
    }

    fn damage(&mut self) {
        for (index, kind) in StoredKind::ALL.into_iter().enumerate() {
            let object = Decisions::new().u8(index as u8);
            // How the kind is looked at, which sample, and whether it is forged.
            let views: Vec<(&str, Decisions)> = match kind {
                StoredKind::Metadata | StoredKind::Owner => vec![("", object)],
                StoredKind::Keyring => vec![("", object.clone().u8(1)), ("-forged", object.u8(0))],
                StoredKind::Pack => vec![
                    ("-chunks", object.clone().u8(0).u8(0).u8(1)),
                    ("-chunks-forged", object.clone().u8(0).u8(0).u8(0)),
                    ("-commit", object.clone().u8(0).u8(1).u8(1)),
                    ("-commit-forged", object.clone().u8(0).u8(1).u8(0)),
                    ("-blobs", object.clone().u8(1).u8(0)),
                    ("-entry", object.clone().u8(2).u8(0).u8(1).u8(0)),
                    ("-birth", object.u8(2).u8(0).u8(1).u8(1)),
                ],
                StoredKind::Checkpoint => vec![
                    ("-root", object.clone().u8(0).u8(0).u8(0).u8(0)),
                    ("-renamed", object.clone().u8(0).u8(1).u8(0).u8(1)),
                    ("-other-kind", object.clone().u8(0).u8(2).u8(2).u8(1)),
                    ("-messages", object.u8(1).u8(3).u8(0).u8(1).u8(2).u32(0)),
                ],
            };
            for (view, decisions) in views {
                self.add("damage", format!("{kind}{view}"), decisions.clone());
                self.add(
                    "damage",
                    format!("{kind}{view}-flipped"),
                    decisions.clone().flip(100, 4),
                );
                self.add("damage", format!("{kind}{view}-cut"), decisions.cut(60));
            }
        }
    }

    fn names(&mut self) {
        let layout = Layout::new(RepositoryId([0xab; 16]));
        let paths = [
            ("pack", layout.pack(&PACKS[0].name)),
            ("owner", layout.owner(3)),
            ("keyring", layout.keyring(1, KeyringCopy::First)),
            ("keyring-copy", layout.keyring(1, KeyringCopy::Second)),
            (
                "checkpoint",
                layout.checkpoint(&super::super::golden::CHECKPOINTS[0].name),
            ),
            ("metadata", "metadata.yaml".to_owned()),
            ("object", "a name/with ünusual characters".to_owned()),
            ("repository", "default-2".to_owned()),
        ];
        for (name, path) in paths {
            self.add("names", name, Decisions::new().bytes(path.as_bytes()));
        }
        self.add("metadata", "golden", Decisions::new().bytes(METADATA));
        let later = b"format: 2\nstore_id: \"00\"\ncreated: x\nmore: [1, {a: b}]\n";
        self.add("metadata", "later", Decisions::new().bytes(later));
        self.add(
            "metadata",
            "anchors",
            Decisions::new().bytes(b"format: &a 1\nstore_id: *a\ncreated: !!str *a\n"),
        );
    }

    fn texts(&mut self) {
        for (name, text) in [
            ("size", "64 KiB"),
            ("size-large", "16383TiB"),
            ("directory", "./cairn-store"),
            ("file-url", "file:///some/di%20r"),
            ("file-url-of-bytes", "file:///%ff"),
            ("file-url-with-scheme", "file:///a://b"),
            ("memory", "memory://name"),
            ("s3", "s3://bucket/some/prefix"),
            ("other-scheme", "gs://bucket"),
            ("depth", "structure"),
            ("reason", "STORE_NOT_FOUND"),
            ("cursor-path", "1 bytes path ab/packs/x y"),
            ("cursor-packs", "1 full packs 0000000000000003000000000000004d"),
            (
                "cursor-packs-upper-case",
                "1 full packs 0000000000000003000000000000004D",
            ),
            ("cursor-tables", "1 structure tables"),
            ("cursor-objects", "1 full objects"),
            ("cursor-counters", "1 full counters"),
        ] {
            self.add("texts", name, Decisions::new().bytes(text.as_bytes()));
        }
        for (kind, name) in ["raw", "digits", "line"].into_iter().enumerate() {
            let decisions = Decisions::new().u8(kind as u8);
            self.add("key_files", name, decisions.clone());
            self.add("key_files", format!("{name}-flipped"), decisions.clone().flip(1, 1));
            self.add("key_files", format!("{name}-cut"), decisions.cut(31));
        }
        let upper = hex::encode_upper(KEK.secret.expose());
        self.add(
            "key_files",
            "upper-case",
            Decisions::new().u8(3).bytes(upper.as_bytes()),
        );
    }

    /// Steps as for `operations`, each with a reclaim: how thorough, and whether it is killed (0), disturbed (1) or left alone.
    fn reclaims(&mut self) {
        let put = |steps: Decisions, name: u8, contents: &Decisions| steps.u8(0).u8(0).u8(name).bytes(&contents.0);
        let fresh = |seed: u8, len: u32| Decisions::new().u8(2).u32(len).u8(0).u8(seed).u8(0);
        // The last contents, with a few bytes in one place instead of many.
        let shortened = Decisions::new().u8(5).u8(0).u32(1000).u16(60_000).u8(3).u16(10);
        let alone = |steps: Decisions| steps.u8(0).u8(2);
        let shared = put(alone(put(Decisions::new(), 0, &fresh(1, 200_000))), 1, &shortened);
        let replaced = put(alone(shared), 0, &fresh(2, 900));
        self.add("reclaims", "sparse", alone(replaced.clone()));
        for at in [4, 9, 14, 19] {
            let killed = replaced.clone().u8(0).u8(0).u8(at).u8(0).u8(1);
            self.add(
                "reclaims",
                format!("killed-at-{at}"),
                alone(put(killed, 2, &fresh(3, 5000))),
            );
            let disturbed = replaced.clone().u8(1).u8(1).u8(at).u8(at % 5);
            self.add(
                "reclaims",
                format!("disturbed-at-{at}"),
                alone(put(disturbed, 2, &fresh(3, 5000))),
            );
        }
    }

    /// Steps: see `operations`.
    fn operations(&mut self) {
        // A step of the first kind is an operation; of 13 one during which the process is killed, of 14 one that is disturbed.
        let put = |name: u8, seed: u8, len: u32| {
            let contents = Decisions::new().u8(2).u32(len).u8(0).u8(seed).u8(0);
            Decisions::new().u8(0).u8(name).bytes(&contents.0)
        };
        let step = |steps: Decisions, operation: &Decisions| steps.u8(0).bytes(&operation.0);
        let kill = |steps: Decisions, operation: &Decisions, at: u8, stop: u8, older: u8| {
            steps.u8(13).bytes(&operation.0).u8(at).u8(stop).u8(older)
        };
        let disturb =
            |steps: Decisions, operation: &Decisions, at: u8, how: u8| steps.u8(14).bytes(&operation.0).u8(at).u8(how);
        let again = |name: u8| Decisions::new().u8(0).u8(name).u8(4).u8(0);
        let copy = Decisions::new().u8(8).u8(0).u8(1);
        let delete = |name: u8| Decisions::new().u8(11).u8(name);
        let reclaim = Decisions::new().u8(15);
        let (small, large) = (put(0, 1, 900), put(1, 2, 300_000));
        let get = Decisions::new().u8(9).u8(1).u8(5).u32(90_000).u32(150_000);

        let used = step(step(step(step(Decisions::new(), &small), &large), &again(2)), &copy);
        self.add("operations", "use", step(step(used.clone(), &get), &delete(1)));
        let emptied = step(
            step(step(step(used.clone(), &delete(0)), &delete(1)), &delete(2)),
            &reclaim,
        );
        self.add("operations", "reclaim", step(emptied, &large));
        let scrubbed = used
            .clone()
            .u8(10)
            .u8(2)
            .u16(0)
            .u8(10)
            .u8(0)
            .u16(4095)
            .u8(10)
            .u8(1)
            .u16(1);
        self.add("operations", "scrub", scrubbed);
        self.add(
            "operations",
            "rebuild-and-open",
            used.clone().u8(11).u8(12).u8(1).u8(12).u8(0),
        );
        let broken = Decisions::new().u8(7).bytes(&put(3, 3, 200_000).0[1..]).u32(150_000);
        self.add(
            "operations",
            "broken-source",
            step(step(used.clone(), &broken), &reclaim),
        );
        for at in [0, 1, 2, 3, 5, 8] {
            let killed = kill(used.clone(), &large, at, 0, 1);
            let killed = kill(killed, &put(3, 9, 200_000), at, at * 2 + 1, 0);
            self.add(
                "operations",
                format!("killed-at-{at}"),
                step(step(killed, &small), &reclaim),
            );
            let in_reclaim = kill(step(used.clone(), &delete(1)), &reclaim, at, 0, 2);
            self.add(
                "operations",
                format!("killed-in-reclaim-at-{at}"),
                step(in_reclaim, &large),
            );
        }
        for (how, name) in [
            "refused",
            "unanswered",
            "refused-twice",
            "catalog-refuses",
            "catalog-unanswered",
        ]
        .into_iter()
        .enumerate()
        {
            let how = how as u8;
            let one = disturb(disturb(used.clone(), &put(3, 4, 100_000), 1, how), &delete(0), 0, how);
            let two = disturb(disturb(one, &reclaim, 2, how), &put(4, 5, 2_000), 0, how);
            self.add("operations", name, step(two, &small));
        }
    }

    fn messages(&mut self) {
        let object = proto::ObjectInfo {
            name: "a".to_owned(),
            version: 3,
            bytes: 5,
            chunks: 1,
            crc32c: 7,
            created: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5_000_000,
            }),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
        };
        let repository = proto::Repository {
            name: "default".to_owned(),
            id: "ab".repeat(16),
            open: true,
            key_id: "file:golden".to_owned(),
            keyring_generation: 1,
            totals: Some(proto::RepositoryTotals {
                head: vec![7; 32].into(),
                ..Default::default()
            }),
            parameters: None,
            quota: None,
        };
        let status = proto::Status {
            boot_id: "cd".repeat(16),
            sequence: 2,
            mode: proto::Mode::LowCapacity.into(),
            since: object.created,
            causes: vec![proto::Cause {
                code: "CAPACITY".to_owned(),
                ..Default::default()
            }],
            capacity: Some(Default::default()),
            repositories: vec![repository.clone()],
            backing_store: None,
        };
        let evacuation = proto::EvacuateReport {
            to: "s3://bucket".to_owned(),
            repository_ids: vec!["ab".repeat(16)],
            packs_copied: 1,
            lost: vec![proto::EvacuateLost {
                repository_id: "ab".repeat(16),
                path: "pack".to_owned(),
                length: 9,
                ..Default::default()
            }],
            lost_count: 1,
            ..Default::default()
        };
        let put = proto::PutResult {
            object: Some(object.clone()),
            new_chunks: 1,
            new_bytes: 2,
            stored_bytes: 3,
        };
        let create = proto::CreateRequest {
            name: "logs".to_owned(),
            chunk_avg_bytes: 65_536,
            compression_level: Some(3),
            key_id: String::new(),
        };
        let range = proto::ByteRange {
            range: Some(proto::byte_range::Range::LastBytes(9)),
        };
        let condition = proto::Precondition {
            condition: Some(proto::precondition::Condition::IfVersion(4)),
        };
        let details = super::super::service::details_of_a_refusal();
        for (kind, name, bytes) in [
            (0, "put-result", put.encode_to_vec()),
            (1, "create", create.encode_to_vec()),
            (2, "status", status.encode_to_vec()),
            (3, "range", range.encode_to_vec()),
            (4, "precondition", condition.encode_to_vec()),
            (6, "repository", repository.encode_to_vec()),
            (7, "id", vec![9; 16]),
            (11, "evacuation", evacuation.encode_to_vec()),
            (7, "head", vec![9; 32]),
            (8, "refusal", [&[5, 2, b'n', b'o'], details.as_slice()].concat()),
        ] {
            self.add("messages", name, Decisions::new().u8(kind).bytes(&bytes));
        }
        // Its map has one entry, so that there is one order.
        self.add(
            "messages",
            "object",
            Decisions::new().u8(5).bytes(&object.encode_to_vec()),
        );
    }

    fn settings(&mut self) {
        let sample = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cairn.toml"));
        for (name, text) in [
            ("sample", sample),
            ("empty", ""),
            (
                "tls",
                "[listen]\ngrpc = [\"https://0.0.0.0:1\"]\n[tls]\ncert = \"c\"\nkey = \"k\"\nca = \"a\"\n",
            ),
            ("open-to-anybody", "[listen]\ngrpc = [\"http://0.0.0.0:1\"]\n"),
            (
                "client",
                "[[client]]\nidentity = \"anonymous\"\nroles = [\"read\"]\n[[client]]\nuid = 1\nroles = [\"admin\"]\n",
            ),
            ("times", "[limits]\ndrain = \"5 m\"\nstream_idle = \"500ms\"\n"),
            ("key-of-two-lines", "\"a\\nb\" = 1\n"),
            ("value-of-two-lines", "[store]\nlocation = \"gopher://a\\nb\"\n"),
            ("address", "http://[::1]:7420"),
            ("socket", "unix:///run/cairn/agent.sock"),
            ("host", "localhost:1"),
        ] {
            self.add("settings", name, Decisions::new().u8(0).bytes(text.as_bytes()));
        }
        let variable = b"http://localhost";
        let variables = Decisions::new().u8(1).u8(0).u8(variable.len() as u8).bytes(variable);
        self.add("settings", "variable", variables.bytes(b"[log]\nlevel = \"off\"\n"));
    }
}
