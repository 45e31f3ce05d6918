//! A pack that is sealed with the right keys, for its name, and does not hold what was put: what a fault in memory at the
//! time of the put, or a wrong program with the key, would leave behind.

use cairn_agent::codec::Codec;
use cairn_agent::engine::{ByteRange, PutOptions, Reason};
use cairn_agent::format::keyring::open_keyring;
use cairn_agent::format::names::{KeyringCopy, parse_pack};
use cairn_agent::format::pack::open_pack_directory;
use cairn_agent::format::{Layout, PackBuffer, PackWriter};

use crate::world::{Agent, Place, noise, read, rng};

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_and_is_not_what_was_put_is_an_error() {
    get_forged(Codec::Raw, None).await;
}

/// No memory is taken for what an entry promises beyond the chunk.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_another_length_than_its_chunk_is_an_error() {
    let line = get_forged(Codec::Zstd, Some(64 << 20)).await;
    assert!(line.contains("length of its entry"), "{line}");
}

/// Puts an object, replaces its pack by one whose entries say this of other bytes, and gets it. Returns the error of who never saw
/// the right one.
async fn get_forged(codec: Codec, plain_len: Option<u32>) -> String {
    let (agent, place) = (Agent::forgetful(), Place::memory());
    let (_store, repository) = agent.open(&place).await.unwrap();
    let bytes = noise(&mut rng(31), 3 << 10);
    repository
        .put("object", bytes.as_slice(), PutOptions::default())
        .await
        .unwrap();
    let (backend, layout) = (place.backend().await, Layout::new(repository.id()));
    let keyring = backend.get(&layout.keyring(1, KeyringCopy::First)).await.unwrap();
    let secrets = open_keyring(&keyring, agent.kek()).unwrap();
    let listed = backend.list(&layout.packs_prefix(), None).await.unwrap();
    let path = &listed[0].path;
    let name = parse_pack(path).unwrap();
    let directory = open_pack_directory(&secrets, &name, &backend.get(path).await.unwrap()).unwrap();
    let mut forged = PackWriter::new(&secrets, name, PackBuffer::default(), 1 << 20);
    for entry in &directory.entries {
        assert_eq!(entry.codec, Codec::Raw);
        let other = noise(&mut rng(32), entry.plain_len as usize);
        let plain_len = plain_len.unwrap_or(entry.plain_len);
        forged.push(entry.id, entry.kind, codec, plain_len, &other);
    }
    let forged = forged.finish(directory.commit, |padding| padding.fill(0));
    backend.put(path, forged.bytes.into()).await.unwrap();
    // With the catalog that saw the put, and without.
    let (_other_store, other) = Agent::forgetful().open(&place).await.unwrap();
    let mut lines = Vec::new();
    for repository in [repository, other] {
        let error = read(&repository, "object", ByteRange::All).await.unwrap_err();
        assert_eq!(error.reason(), Reason::DataLoss, "{error}");
        lines.push(error.to_string());
    }
    lines.pop().unwrap()
}
