//! Collateral from a provisioning certification caching service (PCCS): what to ask for, and what the answers mean. Pure: whoever
//! calls does the asking.
//!
//! The API is Intel's "Provisioning Certification Service" of version 4, which a PCCS repeats (Intel SGX and TDX PCS API v4:
//! Get Revocation List, Get TDX TCB Info, Get TDX QE Identity) and to which it adds the root's revocation list. Intel's own service lacks that
//! one: there it lies where the root certificate says. Only a root that is believed may say so, never a quote's own.
//!
//! Nothing here is verified. The signed parts are taken out of the answers byte for byte, since the signatures are over those bytes.

use std::fmt;

use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::platform::PlatformKind;

/// The largest body of an answer, in bytes. Intel's PCK revocation lists, the longest, are below 100 KiB.
pub const MAX_BODY: usize = 1 << 20;

/// The largest issuer chain in a header, percent-encoded, in bytes: two certificates of 1 KiB, with room for a third.
pub const MAX_CHAIN: usize = 16 << 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Which PCK certificates are revoked.
    PckCrl,
    /// How current which TCB of the platform is.
    TcbInfo,
    /// Which quoting enclave may sign.
    QeIdentity,
    /// Which of the root's authorities are revoked.
    RootCrl,
}

impl Item {
    /// All of them, in the order in which [`collateral`] takes their answers.
    pub const ALL: [Self; 4] = [Self::PckCrl, Self::TcbInfo, Self::QeIdentity, Self::RootCrl];

    /// The path and query of its URL, behind the service's base URL.
    pub fn path(self, platform: &PlatformKind) -> String {
        match self {
            Self::PckCrl => format!("/sgx/certification/v4/pckcrl?ca={}&encoding=der", platform.ca.word()),
            Self::TcbInfo => format!("/tdx/certification/v4/tcb?fmspc={}", hex::encode_upper(platform.fmspc)),
            Self::QeIdentity => "/tdx/certification/v4/qe/identity".to_owned(),
            Self::RootCrl => "/sgx/certification/v4/rootcacrl".to_owned(),
        }
    }

    /// The headers of which the first that is there carries the issuers' certificates; none for the root's own list.
    pub const fn chain_headers(self) -> &'static [&'static str] {
        match self {
            Self::PckCrl => &["SGX-PCK-CRL-Issuer-Chain"],
            // The one name is of API version 4, the other older.
            Self::TcbInfo => &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"],
            Self::QeIdentity => &["SGX-Enclave-Identity-Issuer-Chain"],
            Self::RootCrl => &[],
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PckCrl => "pckcrl",
            Self::TcbInfo => "tcb",
            Self::QeIdentity => "qe/identity",
            Self::RootCrl => "rootcacrl",
        })
    }
}

/// An answer with status 200.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The value of the header that [`Item::chain_headers`] names.
    pub chain: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// Answers that are no collateral.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PccsError {
    /// More than any collateral takes.
    #[error("{item}: expected at most {limit} bytes, found {found}")]
    TooLong {
        /// Which answer.
        item: Item,
        /// The limit.
        limit: usize,
        /// What is there.
        found: usize,
    },
    /// No header with the issuers' certificates.
    #[error("{item}: expected the header {header}, found none")]
    NoChain {
        /// Which answer.
        item: Item,
        /// Its name.
        header: &'static str,
    },
    /// Something in it is not what it must be.
    #[error("{item}: {what}: expected {expected}, found {found}")]
    Malformed {
        /// Which answer.
        item: Item,
        /// Which part of it.
        what: &'static str,
        /// The rule.
        expected: &'static str,
        /// What is there, in short.
        found: String,
    },
}

/// The collateral that the answers are, in the order of [`Item::ALL`].
///
/// # Errors
/// The first answer that is too long or not of its form.
pub fn collateral(answers: [Answer<'_>; 4]) -> Result<QuoteCollateralV3, PccsError> {
    let [pck_crl, tcb_info, qe_identity, root_crl] = answers;
    for (item, answer) in Item::ALL.into_iter().zip([pck_crl, tcb_info, qe_identity, root_crl]) {
        bounded(item, MAX_BODY, answer.body.len())?;
    }
    let tcb = signed::<TcbInfo<'_>>(Item::TcbInfo, &tcb_info)?;
    let qe = signed::<QeIdentity<'_>>(Item::QeIdentity, &qe_identity)?;
    Ok(QuoteCollateralV3 {
        pck_crl_issuer_chain: chain(Item::PckCrl, &pck_crl)?,
        root_ca_crl: list(Item::RootCrl, &root_crl)?,
        pck_crl: list(Item::PckCrl, &pck_crl)?,
        tcb_info_issuer_chain: chain(Item::TcbInfo, &tcb_info)?,
        tcb_info: tcb.tcb_info.get().to_owned(),
        tcb_info_signature: signature(Item::TcbInfo, tcb.signature)?,
        qe_identity_issuer_chain: chain(Item::QeIdentity, &qe_identity)?,
        qe_identity: qe.enclave_identity.get().to_owned(),
        qe_identity_signature: signature(Item::QeIdentity, qe.signature)?,
        // The quote carries it.
        pck_certificate_chain: None,
    })
}

#[derive(Deserialize)]
struct TcbInfo<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    tcb_info: &'a RawValue,
    signature: &'a str,
}

#[derive(Deserialize)]
struct QeIdentity<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    enclave_identity: &'a RawValue,
    signature: &'a str,
}

fn signed<'a, T: Deserialize<'a>>(item: Item, answer: &Answer<'a>) -> Result<T, PccsError> {
    let expected = match item {
        Item::TcbInfo => "an object with tcbInfo and signature",
        _ => "an object with enclaveIdentity and signature",
    };
    serde_json::from_slice(answer.body).map_err(|error| malformed(item, "body", expected, error))
}

/// ECDSA over P-256: two numbers of 32 bytes.
fn signature(item: Item, text: &str) -> Result<Vec<u8>, PccsError> {
    let bytes = hex::decode(text).ok().filter(|bytes| bytes.len() == 64);
    bytes.ok_or_else(|| malformed(item, "signature", "128 hex digits", format_args!("{} bytes", text.len())))
}

/// A revocation list in DER; some services write it in hex.
fn list(item: Item, answer: &Answer<'_>) -> Result<Vec<u8>, PccsError> {
    /// SEQUENCE, constructed (X.690 section 8.1.2): what a list begins with, and no hex digit that one in hex could begin with
    /// (its first byte is "3").
    const SEQUENCE: u8 = 0x30;
    let wrong = |found: &dyn fmt::Display| malformed(item, "body", "a revocation list in DER or hex", found);
    match answer.body.first() {
        Some(&SEQUENCE) => Ok(answer.body.to_vec()),
        Some(_) => {
            let der = hex::decode(answer.body.trim_ascii()).map_err(|error| wrong(&error))?;
            if der.first() == Some(&SEQUENCE) { Ok(der) } else { Err(wrong(&"something else in hex")) }
        }
        None => Err(wrong(&"nothing")),
    }
}

/// The certificates in a header: PEM, percent-encoded (RFC 3986 section 2.1).
fn chain(item: Item, answer: &Answer<'_>) -> Result<String, PccsError> {
    let header = item.chain_headers().first().copied().unwrap_or_default();
    let value = answer.chain.ok_or(PccsError::NoChain { item, header })?;
    bounded(item, MAX_CHAIN, value.len())?;
    let pem = percent_decoded(value).filter(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----"));
    pem.ok_or_else(|| malformed(item, header, "certificates in PEM, percent-encoded", "something else"))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let mut one = [0];
        hex::decode_to_slice(digits, &mut one).ok()?;
        decoded.extend(one);
    }
    String::from_utf8(decoded).ok()
}

fn bounded(item: Item, limit: usize, found: usize) -> Result<(), PccsError> {
    if found > limit { Err(PccsError::TooLong { item, limit, found }) } else { Ok(()) }
}

fn malformed(item: Item, what: &'static str, expected: &'static str, found: impl fmt::Display) -> PccsError {
    PccsError::Malformed { item, what, expected, found: crate::error::printable(&found.to_string()) }
}

#[cfg(test)]
mod tests;
