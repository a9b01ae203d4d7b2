//! Asks an agent everything with dstack's Rust SDK, and prints as JSON what the SDK made of the answers.
//!
//!     client ENDPOINT

use alloy::primitives::{Signature, keccak256};
use anyhow::{Context as _, ensure};
use dstack_sdk::dstack_client::{DstackClient, GetQuoteResponse, TlsKeyConfig};
use dstack_sdk::ethereum::to_account;
use dstack_sdk_types::tappd::DeriveKeyResponse;
use serde_json::{Value, json};
use x509_parser::oid_registry::asn1_rs::{FromDer as _, OctetString, oid};
use x509_parser::pem::Pem;

async fn key(client: &DstackClient, path: &str, purpose: &str) -> anyhow::Result<Value> {
    let answer = client.get_key(Some(path.to_owned()), Some(purpose.to_owned())).await?;
    let chain = answer.decode_signature_chain()?;
    let account = to_account(&answer).map_err(|error| anyhow::anyhow!("{error}"))?;
    let public = hex::encode(account.credential().verifying_key().to_encoded_point(true));
    let message = keccak256(format!("{purpose}:{public}"));
    let by_app = Signature::from_raw(chain.first().context("no signature")?)?;
    let signer = by_app.recover_from_prehash(&message)?;
    Ok(json!({
        "path": path,
        "purpose": purpose,
        "algorithm": "secp256k1",
        "key": hex::encode(answer.decode_key()?),
        "signature_chain": chain.iter().map(hex::encode).collect::<Vec<_>>(),
        "public": public,
        "signer": hex::encode(signer.to_encoded_point(true)),
    }))
}

async fn tls(client: &DstackClient, name: &str, config: TlsKeyConfig) -> anyhow::Result<Value> {
    let answer = client.get_tls_key(config).await?;
    let pem = |text: &str| -> anyhow::Result<Vec<u8>> {
        let mut blocks = Pem::iter_from_buffer(text.as_bytes());
        let block = blocks.next().context("no PEM")??;
        ensure!(blocks.next().is_none(), "more than one block of PEM");
        Ok(block.contents)
    };
    let key = pem(&answer.key)?;
    let certificates =
        answer.certificate_chain.iter().map(|one| pem(one)).collect::<anyhow::Result<Vec<_>>>()?;
    let (rest, leaf) = x509_parser::parse_x509_certificate(certificates.first().context("no certificate")?)?;
    ensure!(rest.is_empty(), "bytes behind the certificate");
    let attestation = leaf
        .get_extension_unique(&oid!(1.3.6.1.4.1.62397.1.8))?
        .map(|extension| anyhow::Ok(OctetString::from_der(extension.value)?.1.into_cow().into_owned()))
        .transpose()?;
    // The only reader of such a key that the SDK has is that of the older API.
    let older =
        DeriveKeyResponse { key: answer.key.clone(), certificate_chain: answer.certificate_chain.clone() };
    Ok(json!({
        "name": name,
        "key": hex::encode(key),
        "scalar": hex::encode(older.decode_key()?),
        "certificates": certificates.iter().map(hex::encode).collect::<Vec<_>>(),
        "spki": hex::encode(leaf.public_key().raw),
        "not_after": leaf.validity().not_after.timestamp(),
        "attestation": attestation.map(hex::encode),
    }))
}

fn replay(answer: &GetQuoteResponse) -> anyhow::Result<Vec<String>> {
    Ok(answer.replay_rtmrs()?.into_values().collect())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let endpoint = std::env::args().nth(1).context("usage: client ENDPOINT")?;
    let client = DstackClient::new(Some(&endpoint));
    let info = client.info().await?;
    let quote = client.get_quote(b"casemate".to_vec()).await?;
    let whole = GetQuoteResponse {
        quote: quote.quote.clone(),
        event_log: serde_json::to_string(&info.tcb_info.event_log)?,
        report_data: String::new(),
        vm_config: String::new(),
    };
    let server = TlsKeyConfig::builder().subject("web").alt_names(vec!["web.internal".to_owned()]).build();
    let ra = TlsKeyConfig::builder().subject("mesh").usage_ra_tls(true).usage_client_auth(true).build();
    let seen = json!({
        "version": client.version().await?,
        "info": info,
        "quote": {
            "quote": hex::encode(quote.decode_quote()?),
            "report_data": quote.report_data,
            "vm_config": quote.vm_config,
            "event_log": quote.decode_event_log()?,
        },
        "replayed": replay(&quote)?,
        "replayed_whole": replay(&whole)?,
        "keys": [key(&client, "wallet", "signing").await?, key(&client, "another", "").await?],
        "tls": [tls(&client, "server", server).await?, tls(&client, "ra", ra).await?],
        "refused": {
            "attest": client.attest(b"casemate".to_vec()).await.map_or_else(|error| error.to_string(), |_| String::new()),
            "sign": client.sign("ed25519", b"casemate".to_vec()).await.map_or_else(|error| error.to_string(), |_| String::new()),
            "emit_event": client.emit_event("casemate".to_owned(), b"payload".to_vec()).await
                .map_or_else(|error| error.to_string(), |()| String::new()),
        },
    });
    println!("{seen}");
    Ok(())
}
