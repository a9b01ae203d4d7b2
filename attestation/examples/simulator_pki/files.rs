//! Which part of the infrastructure lies in which committed file.

use anyhow::Result;

use crate::pki::Pki;

/// Name and content.
pub(crate) type File = (&'static str, Vec<u8>);

/// What the verifier is compiled with.
pub(crate) fn of_verifier(pki: &Pki) -> Result<Vec<File>> {
    let collateral = serde_json::to_string_pretty(&pki.collateral)?;
    Ok(vec![("root.der", pki.root_der.clone()), ("collateral.json", line(&collateral))])
}

/// What the simulated TEE is compiled with.
pub(crate) fn of_agent(pki: &Pki) -> Vec<File> {
    vec![
        ("pck.key.hex", line(&hex::encode(pki.pck_key.to_bytes()))),
        ("attestation.key.hex", line(&hex::encode(pki.attestation_key.to_bytes()))),
        ("pck_chain.pem", pki.pck_chain_pem.clone().into_bytes()),
        ("qe_report.hex", line(&hex::encode(pki.qe_report))),
    ]
}

fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}
