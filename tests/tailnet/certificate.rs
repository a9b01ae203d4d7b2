//! Certificates for servers with an address and no name.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest as _, Sha256};

/// A server's certificate and key, in files.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// The certificates that whoever trusts it has among its roots.
    pub(crate) roots: PathBuf,
    /// As `CertName` of a relay has it: `sha256-raw:` and the digest of the certificate itself.
    pub(crate) pin: String,
}

impl Certificate {
    /// Under a root of its own.
    pub(crate) fn issued(folder: &Path, address: IpAddr) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a test's root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(address).signed_by(&key, &root).unwrap();
        Self::written(folder, &leaf, &key, &root.pem())
    }

    /// Signed by itself: good for whoever has its pin.
    pub(crate) fn self_signed(folder: &Path, address: IpAddr) -> Self {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(address).self_signed(&key).unwrap();
        Self::written(folder, &leaf, &key, &leaf.pem())
    }

    fn written(folder: &Path, leaf: &rcgen::Certificate, key: &KeyPair, roots: &str) -> Self {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            chain: file("certificate.pem", &leaf.pem()),
            key: file("certificate.key", &key.serialize_pem()),
            roots: file("roots.pem", roots),
            pin: format!("sha256-raw:{}", hex::encode(Sha256::digest(leaf.der()))),
        }
    }
}

fn leaf(address: IpAddr) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, address.to_string());
    params.subject_alt_names.push(SanType::IpAddress(address));
    params
}
