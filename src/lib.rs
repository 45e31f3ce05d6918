//! Cairn keeps object data deduplicated, compressed and encrypted in a backing store: a directory or a bucket.
//!
//! # Using it
//!
//! ```
//! use cairn_agent::engine::{ByteRange, NewRepository, PutOptions, Store, StoreOptions};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let options = StoreOptions::in_memory("example")?;
//! let store = Store::open_or_create(options, NewRepository::named("default")?).await?;
//! let repository = store.repository("default").await?;
//!
//! let put = repository.put("greeting", &b"hello, world"[..], PutOptions::default()).await?;
//! assert_eq!(put.object.bytes, 12);
//!
//! let mut reader = repository.get("greeting", ByteRange::From(7)).await?;
//! assert_eq!(reader.next().await?.as_deref(), Some(&b"world"[..]));
//!
//! let status = store.status().await?;
//! assert_eq!(status.mode.as_str(), "OPTIMAL");
//! assert_eq!(status.repositories[0].logical_bytes, 12);
//! store.close().await;
//! # Ok::<(), cairn_agent::engine::Error>(())
//! # }).unwrap();
//! ```
//!
//! # How data flows
//!
//! ```text
//! source ─► slabs ─► cut ─► id ─► known? ── yes ─► refer to it
//!                                   │ no
//!                                   └─► compress ─► seal ─► pack ─► durable ─► record in a commit pack ─► durable
//!                                                                                        └─► catalog ─► acknowledge
//! ```
//!
//! # Layers
//!
//! Imports go down only:
//!
//! | layer | what it does |
//! |---|---|
//! | `bin/cairn` | the command line and the process |
//! | `service` | gRPC: the contract, the accept loop (feature `serve`) |
//! | `http` | metrics and health (feature `serve`) |
//! | [`config`] | flags and environment become options |
//! | [`engine`] | write, read, log, reclaim, rebuild, status |
//! | [`catalog`] | the database over all of it: an index, never the truth |
//! | [`backend`] | directory, bucket, memory; errors by what can be done about them |
//! | [`keys`] | where a key-encryption key comes from |
//! | [`format`](mod@format) | every byte that reaches a backend; pure |
//! | [`codec`] | cutting, ids, compression, sealing, key derivation; pure |
//!
//! # Reading order
//!
//! [`codec`] and [`format`](mod@format) are plain functions over bytes. Then [`engine`]: `write` shows how a stream becomes packs,
//! `log` how a record becomes durable and what a start does, `read` the way back, `reclaim` how space returns.
//! `docs/format.md` describes every stored byte, `docs/design.md` the decisions behind them.

pub mod backend;
pub mod catalog;
pub mod codec;
pub mod config;
pub mod engine;
pub mod format;
#[cfg(feature = "serve")]
pub mod http;
pub mod keys;
#[cfg(feature = "serve")]
pub mod service;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
