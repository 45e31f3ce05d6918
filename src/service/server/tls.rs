//! Certificates from files that are replaced while they are in use.
//!
//! The files are read again every few seconds and taken if all of them together make a good configuration; otherwise the
//! former one stays. A mounted Secret changes by one rename, others file by file: between two of them a certificate and a
//! key do not fit, which is the same as any other bad file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::config::serve::TlsFiles;

/// How often the files are read.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longer files are none of ours.
const FILE_MAX: u64 = 1 << 20;

/// Why a set of files makes no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting} {path}: {source}")]
    Io {
        /// Its setting.
        setting: &'static str,
        /// Its name.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{setting} {path}: {problem}")]
    File {
        /// Its setting.
        setting: &'static str,
        /// Its name.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The files do not fit together.
    #[error("tls.cert and tls.key: {0}")]
    Pair(#[source] rustls::Error),
}

/// The present TLS configuration of a listener.
pub struct Certificates {
    files: TlsFiles,
    present: Mutex<Present>,
}

struct Present {
    configuration: Arc<ServerConfig>,
    /// Of the files it was made from: equal ones need no second look.
    fingerprint: [u8; 32],
}

/// What the files hold.
struct Contents {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    ca: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let contents = Contents::read(&files)?;
        let present = Present {
            configuration: configuration(&files, &contents)?,
            fingerprint: contents.fingerprint(),
        };
        Ok(Arc::new(Self {
            files,
            present: Mutex::new(present),
        }))
    }

    /// What new connections get.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.present.lock().configuration.clone()
    }

    /// Follows changes of the files. Never returns.
    pub async fn follow(self: Arc<Self>) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let certificates = self.clone();
            // Files may be on a file system that does not answer.
            let look = tokio::task::spawn_blocking(move || certificates.look());
            let problem = match look.await {
                Ok(Ok(())) | Err(_) => String::new(),
                Ok(Err(error)) => error.to_string(),
            };
            if !problem.is_empty() && problem != told {
                tracing::error!(
                    error = problem,
                    "new TLS files are not used, the former certificate stays"
                );
            }
            told = problem;
        }
    }

    /// Reads the files and uses them if they are others than before and good.
    fn look(&self) -> Result<(), TlsError> {
        let contents = Contents::read(&self.files)?;
        let fingerprint = contents.fingerprint();
        if self.present.lock().fingerprint == fingerprint {
            return Ok(());
        }
        let configuration = configuration(&self.files, &contents)?;
        *self.present.lock() = Present {
            configuration,
            fingerprint,
        };
        tracing::info!("new TLS files are in use");
        Ok(())
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            cert: read("tls.cert", &files.cert)?,
            key: Zeroizing::new(read("tls.key", &files.key)?),
            ca: files.ca.as_ref().map(|path| read("tls.ca", path)).transpose()?,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.cert, &*self.key, self.ca.as_deref().unwrap_or_default()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.finalize().into()
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Io {
        setting,
        path: path.display().to_string(),
        source,
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_MAX {
        return Err(bad(setting, path, "too long for a certificate or a key"));
    }
    std::fs::read(path).map_err(failed)
}

fn configuration(files: &TlsFiles, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?;
    let builder = match (&files.ca, &contents.ca) {
        (Some(path), Some(ca)) => {
            let roots = Arc::new(roots(path, ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| bad("tls.ca", path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let chain = certificates("tls.cert", &files.cert, &contents.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|_| bad("tls.key", &files.key, "no private key in PEM in it"))?;
    let mut configuration = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
    configuration.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(configuration))
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", path, pem)? {
        roots.add(certificate).map_err(|error| bad("tls.ca", path, error))?;
    }
    Ok(roots)
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(bad(setting, path, "no certificate in PEM in it")),
    }
}

fn bad(setting: &'static str, path: &Path, problem: impl std::fmt::Display) -> TlsError {
    TlsError::File {
        setting,
        path: path.display().to_string(),
        problem: problem.to_string(),
    }
}
