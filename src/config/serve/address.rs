//! Where an agent listens and where it is found: `unix:///path`, `http://host:port`, `https://host:port`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The port of an address that names none.
const PORT: u16 = 7420;
/// Bytes in the path of a Unix socket: the operating system has no room for more.
const SOCKET_PATH_MAX: usize = 107;
/// What a good address looks like.
const EXPECTED: &str = "write unix:///path, http://host:7420 or https://host:7420";

/// The address of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket at this absolute path.
    Unix(PathBuf),
    /// TCP.
    Tcp {
        /// Host and port.
        host: HostPort,
        /// Whether the connection is encrypted: `https` against `http`.
        tls: bool,
    },
}

/// A host, by name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The name, or the number without brackets.
    pub host: String,
    /// The port; 0 lets the operating system choose.
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        match scheme {
            "unix" => socket_path(rest),
            "http" | "https" => Ok(Self::Tcp {
                host: HostPort::parse(rest.strip_suffix('/').unwrap_or(rest), Some(PORT))?,
                tls: scheme == "https",
            }),
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

fn socket_path(path: &str) -> Result<Address, String> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("a socket has an absolute path: write unix:///run/cairn/agent.sock".to_owned());
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err(format!(
            "the path of a socket has at most {SOCKET_PATH_MAX} bytes, this one {}",
            path.len()
        ));
    }
    Ok(Address::Unix(path.into()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, tls } => write!(f, "{}://{host}", if *tls { "https" } else { "http" }),
        }
    }
}

impl HostPort {
    fn parse(text: &str, port_default: Option<u16>) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("a `]` is missing")?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| "no IPv6 address in the brackets")?;
                (host, port.strip_prefix(':').or((!port.is_empty()).then_some("?")))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.contains(['/', '@', '?', '#']) || host.contains(char::is_whitespace) {
            return Err("no host in it; write host:port".to_owned());
        }
        let port = match port {
            Some(port) => port.parse().map_err(|_| format!("{port:?} is no port"))?,
            None => port_default.ok_or("no port in it; write host:port")?,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// Addresses of this host; a name is looked up, which can take a while.
    ///
    /// # Errors
    /// If the name is not known.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        if self.host == "localhost" {
            // Known without asking anybody, and the same wherever we run.
            return Ok(vec![(Ipv4Addr::LOCALHOST, self.port).into()]);
        }
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }

    /// Whether only this machine can reach it. A name that is not `localhost` may lead anywhere.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, None)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}
