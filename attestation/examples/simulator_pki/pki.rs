//! The simulated TEE's whole public key infrastructure, from one published seed: what Intel's provisioning certification
//! service and a quoting enclave would hold, in the same forms (Intel SGX PCK Certificate and CRL Profile Specification;
//! Intel Provisioning Certification Service API v4). Same seed, same bytes: keys are hashes of the seed, signatures are
//! RFC 6979, dates are fixed.

use anyhow::{Context as _, Result};
use casemate_verify::QuoteCollateralV3;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, DnValue, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SerialNumber,
};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::macros::datetime;

#[path = "sgx_extension.rs"]
mod sgx_extension;

/// The published seed of the committed files.
pub(crate) const SEED: &str = "casemate simulated TEE, not secret";

const NOT_BEFORE: OffsetDateTime = datetime!(2026-01-01 00:00:00 UTC);
/// The last second that X.509's UTCTime can say (RFC 5280, 4.1.2.5).
const NOT_AFTER: OffsetDateTime = datetime!(2049-12-31 23:59:59 UTC);
const ISSUED: &str = "2026-01-01T00:00:00Z";
const NEXT_UPDATE: &str = "2049-12-31T23:59:59Z";

/// Platform family of the simulated machine: no Intel platform has it.
const FMSPC: [u8; 6] = [0xca, 0x5e, 0x3a, 0x7e, 0, 0];
const PCE_ID: [u8; 2] = [0, 0];
/// Every component of CPUSVN, and PCESVN.
const SVN: u8 = 1;
/// ISVPRODID of a TD quoting enclave.
const QE_PRODUCT: u16 = 2;
/// INIT, MODE64BIT and PROVISIONKEY, then XFRM, as a real TD quoting enclave shows them.
const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];
/// Length of an SGX report (Intel SDM volume 3D, table 38-21).
const SGX_REPORT_LEN: usize = 384;

/// What differs between the committed infrastructure and those that tests make.
pub(crate) struct Variant<'a> {
    pub(crate) seed: &'a str,
    pub(crate) tcb_status: &'a str,
    pub(crate) pck_revoked: bool,
    /// Serial number of a certificate that the root revokes.
    pub(crate) root_revokes: Option<u64>,
}

impl Default for Variant<'_> {
    fn default() -> Self {
        Self { seed: SEED, tcb_status: "UpToDate", pck_revoked: false, root_revokes: None }
    }
}

/// The finished infrastructure.
pub(crate) struct Pki {
    pub(crate) root_der: Vec<u8>,
    pub(crate) collateral: QuoteCollateralV3,
    /// Leaf, intermediate, root.
    pub(crate) pck_chain_pem: String,
    pub(crate) pck_key: SigningKey,
    pub(crate) attestation_key: SigningKey,
    /// A report of the quoting enclave whose report data are zero.
    pub(crate) qe_report: [u8; SGX_REPORT_LEN],
}

impl Pki {
    pub(crate) fn generate(variant: &Variant<'_>) -> Result<Self> {
        let seed = variant.seed;
        let root_key = Key::derive(seed, "root CA")?;
        let ca_key = Key::derive(seed, "PCK platform CA")?;
        let pck_key = Key::derive(seed, "PCK")?;
        let signing_key = Key::derive(seed, "TCB signing")?;

        let root_params = authority("Root CA", 1, 1);
        let root_pem = root_params.self_signed(&root_key)?;
        let root = Issuer::new(root_params, &root_key);

        let ca_params = authority("PCK Platform CA", CA_SERIAL, 0);
        let ca_pem = ca_params.signed_by(&ca_key, &root)?.pem();
        let ca = Issuer::new(ca_params, &ca_key);

        let mut pck_params = end_entity("PCK Certificate", PCK_SERIAL);
        pck_params.custom_extensions = vec![CustomExtension::from_oid_content(
            sgx_extension::OID,
            sgx_extension::encode(&sgx_extension::Platform {
                ppid: bytes(seed, "PPID"),
                instance: bytes(seed, "platform instance"),
                svn: SVN,
                pce_id: PCE_ID,
                fmspc: FMSPC,
            }),
        )];
        let pck_pem = pck_params.signed_by(&pck_key, &ca)?.pem();

        let signing_pem = end_entity("TCB Signing", SIGNING_SERIAL).signed_by(&signing_key, &root)?.pem();
        let tcb_info = tcb_info(variant.tcb_status);
        let qe_mrsigner = digest(seed, "quoting enclave signer");
        let qe_identity = qe_identity(&qe_mrsigner);
        let issuer_chain = [signing_pem, root_pem.pem()].concat();
        let collateral = QuoteCollateralV3 {
            pck_crl_issuer_chain: [ca_pem.as_str(), &root_pem.pem()].concat(),
            root_ca_crl: revocation_list(&root, 1, variant.root_revokes.map(revoked).into_iter().collect())?,
            pck_crl: revocation_list(
                &ca,
                1,
                if variant.pck_revoked { vec![revoked(PCK_SERIAL)] } else { Vec::new() },
            )?,
            tcb_info_issuer_chain: issuer_chain.clone(),
            tcb_info_signature: signing_key.raw_signature(tcb_info.as_bytes()),
            tcb_info,
            qe_identity_issuer_chain: issuer_chain,
            qe_identity_signature: signing_key.raw_signature(qe_identity.as_bytes()),
            qe_identity,
            pck_certificate_chain: None,
        };
        Ok(Self {
            root_der: root_pem.der().to_vec(),
            collateral,
            pck_chain_pem: [pck_pem, ca_pem, root_pem.pem()].concat(),
            pck_key: pck_key.signing,
            attestation_key: Key::derive(seed, "attestation")?.signing,
            qe_report: qe_report(&qe_mrsigner, &digest(seed, "quoting enclave")),
        })
    }
}

/// Serial number of the PCK certificate, which a test revokes.
const PCK_SERIAL: u64 = 3;
/// Serial number of the intermediate, which a test revokes.
pub(crate) const CA_SERIAL: u64 = 2;
/// Serial number of the certificate that signs TCB info and QE identity, which a test revokes.
pub(crate) const SIGNING_SERIAL: u64 = 4;

/// A P-256 key whose signatures are deterministic.
struct Key {
    signing: SigningKey,
    /// SEC1, uncompressed.
    public: Vec<u8>,
}

impl Key {
    fn derive(seed: &str, role: &str) -> Result<Self> {
        let scalar = digest(seed, role);
        let signing = SigningKey::from_slice(&scalar).with_context(|| format!("key {role}"))?;
        let public = signing.verifying_key().to_encoded_point(false).as_bytes().to_vec();
        Ok(Self { signing, public })
    }

    /// `r ‖ s`, as collateral and quotes carry signatures.
    fn raw_signature(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.signing.sign(message);
        signature.to_bytes().to_vec()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.signing.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

fn digest(seed: &str, role: &str) -> [u8; 32] {
    Sha256::new().chain_update(seed).chain_update(": ").chain_update(role).finalize().into()
}

fn bytes(seed: &str, role: &str) -> [u8; 16] {
    let mut start = [0; 16];
    start.iter_mut().zip(digest(seed, role)).for_each(|(to, from)| *to = from);
    start
}

fn authority(role: &str, serial: u64, path_len: u8) -> CertificateParams {
    let mut params = certificate(role, serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn end_entity(role: &str, serial: u64) -> CertificateParams {
    let mut params = certificate(role, serial);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
    params
}

fn certificate(role: &str, serial: u64) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(
        DnType::CommonName,
        DnValue::Utf8String(format!("Casemate Simulated TEE {role}, key is public")),
    );
    name.push(DnType::OrganizationName, DnValue::Utf8String("Casemate".into()));
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = NOT_BEFORE;
    params.not_after = NOT_AFTER;
    params.serial_number = Some(SerialNumber::from(serial));
    params.use_authority_key_identifier_extension = true;
    params
}

fn revocation_list(
    issuer: &Issuer<'_, &Key>,
    number: u64,
    revoked_certs: Vec<RevokedCertParams>,
) -> Result<Vec<u8>> {
    let list = CertificateRevocationListParams {
        this_update: NOT_BEFORE,
        next_update: NOT_AFTER,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(issuer)?.der().to_vec())
}

fn revoked(serial: u64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: NOT_BEFORE,
        reason_code: None,
        invalidity_date: None,
    }
}

/// TCB info, version 3: one level that the simulated platform meets, one TDX module of version 1. Values in upper-case
/// hex, keys in the order, as Intel's service writes them; the signature covers these very bytes.
fn tcb_info(status: &str) -> String {
    let components = vec![serde_json::json!({"svn": SVN}); 16];
    let components = serde_json::json!(components);
    let zeros = "0".repeat(96);
    let module = format!(
        r#""mrsigner":"{zeros}","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF""#
    );
    // Of the TDX components only the first three are used; the first two are the module's, judged by its identity.
    let tdx = vec![serde_json::json!({"svn": SVN}); 3];
    let tdx = [tdx, vec![serde_json::json!({"svn": 0}); 13]].concat();
    let tdx = serde_json::json!(tdx);
    let fmspc = hex::encode_upper(FMSPC);
    let pce_id = hex::encode_upper(PCE_ID);
    format!(
        r#"{{"id":"TDX","version":3,"issueDate":"{ISSUED}","nextUpdate":"{NEXT_UPDATE}","fmspc":"{fmspc}","pceId":"{pce_id}","tcbType":0,"tcbEvaluationDataNumber":1,"tdxModule":{{{module}}},"tdxModuleIdentities":[{{"id":"TDX_01",{module},"tcbLevels":[{{"tcb":{{"isvsvn":{SVN}}},"tcbDate":"{ISSUED}","tcbStatus":"UpToDate"}}]}}],"tcbLevels":[{{"tcb":{{"sgxtcbcomponents":{components},"pcesvn":{SVN},"tdxtcbcomponents":{tdx}}},"tcbDate":"{ISSUED}","tcbStatus":"{status}"}}]}}"#
    )
}

fn qe_identity(mrsigner: &[u8; 32]) -> String {
    let mrsigner = hex::encode_upper(mrsigner);
    format!(
        r#"{{"id":"TD_QE","version":2,"issueDate":"{ISSUED}","nextUpdate":"{NEXT_UPDATE}","tcbEvaluationDataNumber":1,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{mrsigner}","isvprodid":{QE_PRODUCT},"tcbLevels":[{{"tcb":{{"isvsvn":{SVN}}},"tcbDate":"{ISSUED}","tcbStatus":"UpToDate"}}]}}"#
    )
}

/// An SGX report: CPUSVN at 0, ATTRIBUTES at 48, MRENCLAVE at 64, MRSIGNER at 128, ISVPRODID at 256, ISVSVN at 258,
/// report data at 320.
fn qe_report(mrsigner: &[u8; 32], mrenclave: &[u8; 32]) -> [u8; SGX_REPORT_LEN] {
    let fields: [(usize, &[u8]); 6] = [
        (0, &[SVN; 16]),
        (48, &QE_ATTRIBUTES),
        (64, mrenclave),
        (128, mrsigner),
        (256, &QE_PRODUCT.to_le_bytes()),
        (258, &u16::from(SVN).to_le_bytes()),
    ];
    let mut report = [0; SGX_REPORT_LEN];
    for (offset, field) in fields {
        report.iter_mut().skip(offset).zip(field).for_each(|(to, from)| *to = *from);
    }
    report
}
