//! Who a connection is, and what that one may do.

use std::net::SocketAddr;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::serve::{Client, Role as RoleWord, Who};
use crate::service::{Caller, Grants, Identity, Role, Transport};

/// What connections may do, by who is at their other end.
#[derive(Clone, Debug, Default)]
pub struct Access {
    clients: Vec<Client>,
}

impl Access {
    /// With entries, exactly what the first that fits a caller grants. Without any, everything to those the transport vouches
    /// for: our own user and root on a Unix socket, this machine in plaintext, whoever our CA signed.
    pub fn new(clients: Vec<Client>) -> Self {
        Self { clients }
    }

    /// The process at the other end of a Unix socket.
    pub(super) fn unix(&self, uid: u32) -> Caller {
        let trusted = uid == 0 || uid == rustix::process::geteuid().as_raw();
        self.caller(Identity::Uid(uid), Transport::Unix, trusted)
    }

    /// Anybody over plaintext TCP.
    pub(super) fn plaintext(&self, peer: SocketAddr) -> Caller {
        let trusted = peer.ip().to_canonical().is_loopback();
        self.caller(Identity::Anonymous, Transport::Plaintext, trusted)
    }

    /// The owner of a certificate that was verified; anybody without one.
    pub(super) fn tls(&self, certificate: Option<&CertificateDer<'_>>, peer: SocketAddr) -> Caller {
        match certificate {
            Some(certificate) => self.caller(Identity::Names(names(certificate)), Transport::Tls, true),
            None => {
                let trusted = peer.ip().to_canonical().is_loopback();
                self.caller(Identity::Anonymous, Transport::Tls, trusted)
            }
        }
    }

    fn caller(&self, identity: Identity, transport: Transport, trusted: bool) -> Caller {
        let grants = match self.clients.is_empty() {
            true if trusted => Grants::all(),
            true => Grants::default(),
            false => self.granted(&identity),
        };
        Caller {
            identity,
            transport,
            grants,
        }
    }

    fn granted(&self, identity: &Identity) -> Grants {
        let fits = |client: &&Client| match (&client.who, identity) {
            (Who::Anonymous, Identity::Anonymous) => true,
            (Who::Uid(uid), Identity::Uid(caller)) => uid == caller,
            (Who::Name(name), Identity::Names(names)) => names.contains(name),
            _ => false,
        };
        self.clients
            .iter()
            .find(fits)
            .map_or_else(Grants::default, |client| Grants {
                roles: client.roles.iter().map(|role| role_of(*role)).collect(),
                repositories: client.repositories.clone(),
            })
    }
}

fn role_of(word: RoleWord) -> Role {
    match word {
        RoleWord::Status => Role::Status,
        RoleWord::Read => Role::Read,
        RoleWord::Write => Role::Write,
        RoleWord::Admin => Role::Admin,
    }
}

/// URIs and DNS names of a certificate. Its common name is none of them: nothing bounds what a CA lets stand there.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = alternatives.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const AWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 1);

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "common");
        parameters.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => rcgen::SanType::URI((*name).try_into().unwrap()),
                false => rcgen::SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        parameters.self_signed(&key).unwrap().der().clone()
    }

    fn client(who: Who, roles: &[RoleWord], repositories: Option<&[&str]>) -> Client {
        Client {
            who,
            roles: roles.iter().copied().collect(),
            repositories: repositories.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        }
    }

    #[test]
    fn without_entries_the_transport_vouches() {
        let access = Access::default();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(access.unix(own).grants, Grants::all());
        assert_eq!(access.unix(0).grants, Grants::all());
        assert_eq!(access.unix(own + 4711).grants, Grants::default());
        assert_eq!(access.plaintext(HERE).grants, Grants::all());
        assert_eq!(access.plaintext(AWAY).grants, Grants::default());
        assert_eq!(access.tls(None, AWAY).grants, Grants::default());
        assert_eq!(access.tls(Some(&certificate(&["a"])), AWAY).grants, Grants::all());
    }

    #[test]
    fn with_entries_only_they_count_and_the_first_that_fits() {
        let access = Access::new(vec![
            client(Who::Name("spiffe://x/core".into()), &[RoleWord::Write], Some(&["one"])),
            client(Who::Name("core".into()), &[RoleWord::Admin], None),
            client(Who::Uid(7), &[RoleWord::Status], None),
        ]);
        assert_eq!(access.unix(0).grants, Grants::default());
        assert_eq!(access.plaintext(HERE).grants, Grants::default());
        assert_eq!(access.unix(7).grants.roles, [Role::Status].into());
        let both = access.tls(Some(&certificate(&["core", "spiffe://x/core"])), HERE);
        assert_eq!(both.grants.roles, [Role::Write].into());
        assert_eq!(both.grants.repositories, Some(vec!["one".to_owned()]));
        let common = access.tls(Some(&certificate(&["common.example"])), HERE);
        assert_eq!(common.grants, Grants::default());
    }

    #[test]
    fn names_of_a_certificate_are_its_uris_and_dns_names() {
        let certificate = certificate(&["core.example", "spiffe://x/core"]);
        assert_eq!(names(&certificate), ["core.example", "spiffe://x/core"]);
        assert!(names(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }
}
