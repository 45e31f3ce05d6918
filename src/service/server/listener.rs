//! Sockets that are listened on.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::tls::Certificates;
use crate::config::serve::{Address, HostPort};

/// Group members may connect: in a pod the containers share a group, not a user. What they may do is another question.
const SOCKET_MODE: u32 = 0o660;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    address: String,
    #[source]
    source: io::Error,
}

/// A socket that is listened on. A Unix socket's file goes with it.
pub struct Listener {
    socket: Socket,
    tls: Option<Arc<Certificates>>,
}

enum Socket {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener, HostPort),
}

/// A new connection, not yet spoken on.
pub(super) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr, Option<Arc<Certificates>>),
}

impl Listener {
    /// Begins to listen. `tls` is used for `https`.
    ///
    /// # Errors
    /// What the operating system says, or that another process listens there.
    pub async fn bind(address: &Address, tls: Option<&Arc<Certificates>>) -> Result<Self, BindError> {
        let failed = |source| BindError {
            address: address.to_string(),
            source,
        };
        let (socket, tls) = match address {
            Address::Unix(path) => (bind_unix(path).map_err(failed)?, None),
            Address::Tcp { host, tls: wanted } => {
                let listener = bind_tcp(host).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?.into();
                (Socket::Tcp(listener, bound), tls.filter(|_| *wanted).cloned())
            }
        };
        Ok(Self { socket, tls })
    }

    /// Where it listens, with the port that the operating system chose if it was to.
    pub fn address(&self) -> Address {
        match &self.socket {
            Socket::Unix(_, file) => Address::Unix(file.path.clone()),
            Socket::Tcp(_, bound) => Address::Tcp {
                host: bound.clone(),
                tls: self.tls.is_some(),
            },
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
            Socket::Tcp(listener, _) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, peer, self.tls.clone()))
            }
        }
    }
}

impl BindError {
    /// Whether it may work later: another process has the address now.
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// Begins to listen at a host and port, for HTTP.
///
/// # Errors
/// What the operating system says.
pub async fn bind_http(host: &HostPort) -> Result<TcpListener, BindError> {
    bind_tcp(host).await.map_err(|source| BindError {
        address: host.to_string(),
        source,
    })
}

async fn bind_tcp(host: &HostPort) -> io::Result<TcpListener> {
    let host = host.clone();
    let addresses = tokio::task::spawn_blocking(move || host.resolve())
        .await
        .map_err(io::Error::other)??;
    TcpListener::bind(addresses.as_slice()).await
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::of(path)?;
    // Between the two calls others may connect; they are judged by their user id all the same.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(Socket::Unix(listener, file))
}

/// Removes a socket that a process left behind when it was killed. One that somebody listens on stays, as does any other file.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::other("a file that is no socket is there"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there",
        )),
    }
}

/// The file of a socket, removed on drop unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |file: fs::Metadata| (file.dev(), file.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // It would be taken for stale at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(path: &Path) -> Address {
        Address::Unix(path.to_owned())
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "dropping a listener leaves its file");
        let listener = Listener::bind(&address(&path), None).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let error = Listener::bind(&address(&path), None).await.err().unwrap();
        assert!(error.is_in_use(), "{error}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "mine").unwrap();
        let error = Listener::bind(&address(&path), None).await.err().unwrap();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_socket_that_took_our_place_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = Listener::bind(&address(&path), None).await.unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn the_port_chosen_by_the_system_is_told() {
        let listener = Listener::bind(&"http://127.0.0.1:0".parse().unwrap(), None)
            .await
            .unwrap();
        let Address::Tcp { host, tls: false } = listener.address() else {
            panic!("{}", listener.address());
        };
        assert_ne!(host.port, 0);
    }
}
