//! Where an agent is, and what proves who is who on the way there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::failure::{Failure, innermost};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is asked for a sign of life, and how long that may take: puts and maintenance wait for
/// the agent's disks, and only an agent that is gone does not answer meanwhile.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What may be under way without the other side having taken it: enough for a disk that stalls and a network that is far.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An address that can be connected to.
#[derive(Clone)]
pub(crate) struct Address {
    text: String,
    endpoint: Endpoint,
}

/// Files for TLS, as named.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Address {
    /// Reads `unix:///path`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// If it is none of these, or a file that TLS needs cannot be read.
    pub(crate) fn resolve(text: &str, tls: &Tls) -> Result<Self, Failure> {
        let wrong = |why: &dyn fmt::Display| {
            let line =
                format!("--agent {text:?}: {why}; an address is unix:///path, http://host:port or https://host:port");
            Failure::usage(line)
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong(&"has no scheme"))?;
        match scheme {
            "unix" if !rest.starts_with('/') => return Err(wrong(&"the path of a socket begins with /")),
            "http" | "https" if rest.trim_end_matches('/').contains('/') => return Err(wrong(&"has a path")),
            "http" | "https" if !has_port(rest) => return Err(wrong(&"has no port")),
            "unix" | "http" | "https" => {}
            _ => return Err(wrong(&format_args!("{scheme} is no scheme of an agent"))),
        }
        let mut endpoint = Endpoint::from_shared(text.to_owned()).map_err(|_| wrong(&"is not an address"))?;
        if scheme == "https" {
            let refused = |error| Failure::usage(format!("--tls-ca, --tls-cert, --tls-key: {}", innermost(&error)));
            endpoint = endpoint.tls_config(tls.config()?).map_err(refused)?;
        }
        Ok(Self {
            text: text.to_owned(),
            endpoint: tuned(endpoint),
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

fn has_port(authority: &str) -> bool {
    let port = authority.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| port.parse::<u16>().is_ok())
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Tls {
    fn config(&self) -> Result<ClientTlsConfig, Failure> {
        let Some(ca) = &self.ca else {
            let line = "https:// needs --tls-ca FILE: the certificates that the agent's own must come from";
            return Err(Failure::usage(line));
        };
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--tls-ca", ca)?));
        match (&self.cert, &self.key) {
            (None, None) => Ok(config),
            (Some(cert), Some(key)) => {
                let (cert, key) = (read("--tls-cert", cert)?, read("--tls-key", key)?);
                Ok(config.identity(Identity::from_pem(cert, key)))
            }
            _ => Err(Failure::usage("--tls-cert and --tls-key go together")),
        }
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("{flag} {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_three_kinds() {
        let resolve = |text| Address::resolve(text, &Tls::default());
        for right in [
            "unix:///run/cairn.sock",
            "http://localhost:7420",
            "http://[::1]:7420",
            "http://10.0.0.1:1/",
        ] {
            assert_eq!(resolve(right).unwrap().to_string(), right);
        }
        for wrong in [
            "",
            "localhost:7420",
            "unix://relative",
            "http://host",
            "http://host:x",
            "http://h:1/path",
            "ftp://h:1",
        ] {
            assert!(resolve(wrong).is_err(), "{wrong:?}");
        }
        // Needs to know whom to trust.
        assert!(resolve("https://host:7420").is_err());
    }
}
