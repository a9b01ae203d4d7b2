//! Whether what a client saw is what the agent has to say. One judge for all of them; what a client has no function for is
//! not asked of it.

use dcap_qvl::quote::Quote;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use sha3::Keccak256;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{FromDer as _, OctetString, oid};

use crate::client::Sdk;
use crate::machine::{Machine, VERSION};

/// What is wrong with what was seen.
pub(crate) fn judge(sdk: Sdk, machine: &Machine, seen: &Value) -> Vec<String> {
    let mut judge = Judge { sdk, machine, wrong: Vec::new() };
    judge.whole(seen);
    judge.wrong
}

struct Judge<'a> {
    sdk: Sdk,
    machine: &'a Machine,
    wrong: Vec<String>,
}

/// Bytes that a client wrote in hex.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?).ok()
}

/// Report data of so many bytes, filled up with zeros.
fn padded(data: &[u8]) -> [u8; 64] {
    let mut all = [0; 64];
    all[..data.len()].copy_from_slice(data);
    all
}

impl Judge<'_> {
    fn equal(&mut self, what: &str, expected: &Value, found: &Value) {
        if expected != found {
            self.wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    }

    fn must(&mut self, what: &str, holds: Option<bool>) {
        if holds != Some(true) {
            self.wrong.push(what.to_owned());
        }
    }

    /// The fields are these and no others.
    fn fields(&mut self, what: &str, expected: &[&str], found: &Value) {
        let names: Option<Vec<_>> =
            found.as_object().map(|object| object.keys().map(String::as_str).collect());
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let mut names = names.unwrap_or_default();
        names.sort_unstable();
        if names != expected {
            self.wrong.push(format!("{what}: expected fields {expected:?}, found {names:?}"));
        }
    }

    fn whole(&mut self, seen: &Value) {
        let mut fields =
            vec!["version", "info", "quote", "replayed", "replayed_whole", "keys", "tls", "refused"];
        if self.sdk != Sdk::Rust {
            fields.extend(["client", "reachable", "compose_hash"]);
            let version = if self.sdk == Sdk::Python { "0.5.4" } else { "0.5.8" };
            self.equal("client", &json!(version), &seen["client"]);
            self.equal("reachable", &json!(true), &seen["reachable"]);
            self.equal("compose_hash", &json!(self.machine.canonical_hash()), &seen["compose_hash"]);
        }
        self.fields("all", &fields, seen);
        self.equal("version", &json!({ "version": VERSION, "rev": "" }), &seen["version"]);
        self.info(&seen["info"]);
        self.quote(&seen["quote"]);
        let [_, _, _, _, rtmr3] = self.machine.registers();
        // The simulated TEE has no log of the firmware: its three registers are replayed from nothing.
        let replayed = |last: Value| json!(["0".repeat(96), "0".repeat(96), "0".repeat(96), last]);
        let stripped = json!(self.machine.replay_without_digests());
        self.equal("replayed", &replayed(stripped), &seen["replayed"]);
        self.equal("replayed_whole", &replayed(json!(rtmr3)), &seen["replayed_whole"]);
        self.keys(&seen["keys"]);
        self.tls(&seen["tls"]);
        let refused = match self.sdk {
            Sdk::Python => json!({ "attest": 400, "sign": 400, "emit_event": 400 }),
            Sdk::JavaScript => json!({ "attest": "not implemented in this version: Attest" }),
            Sdk::Rust => {
                let status = "HTTP response was not successful, status code = 400 Bad Request";
                json!({ "attest": status, "sign": status, "emit_event": status })
            }
        };
        self.equal("refused", &refused, &seen["refused"]);
    }

    fn info(&mut self, found: &Value) {
        let mut expected = self.machine.info();
        if self.sdk == Sdk::Rust {
            // Fields that the client does not know.
            for name in ["cloud_vendor", "cloud_product"] {
                expected.as_object_mut().unwrap().remove(name);
            }
            expected["tcb_info"].as_object_mut().unwrap().remove("mr_aggregated");
        }
        self.equal("info", &expected, found);
    }

    fn quote(&mut self, found: &Value) {
        let report_data = padded(b"casemate");
        self.fields("quote", &["quote", "report_data", "vm_config", "event_log"], found);
        self.equal("quote.report_data", &json!(hex::encode(report_data)), &found["report_data"]);
        self.equal("quote.vm_config", &json!("{}"), &found["vm_config"]);
        self.equal("quote.event_log", &self.machine.event_log(false), &found["event_log"]);
        self.quote_bytes("quote.quote", bytes(&found["quote"]), &report_data);
    }

    fn quote_bytes(&mut self, what: &str, quote: Option<Vec<u8>>, report_data: &[u8; 64]) {
        let quote = quote.and_then(|quote| Quote::parse(&quote).ok());
        let report = quote.as_ref().and_then(|quote| quote.report.as_td10());
        let found =
            report.map(|report| [report.mr_td, report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3]);
        self.must(
            &format!("{what}: registers"),
            found.map(|found| found == self.machine.registers().map(|one| one.0)),
        );
        self.must(&format!("{what}: report data"), report.map(|report| report.report_data == *report_data));
    }

    fn keys(&mut self, found: &Value) {
        let mut asked = vec![("wallet", "signing", "secp256k1"), ("another", "", "secp256k1")];
        if self.sdk != Sdk::Rust {
            asked.insert(1, ("wallet", "other", "ed25519"));
        }
        let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
        self.must("keys: all of them", Some(found.len() == asked.len()));
        let mut signers = Vec::new();
        for ((path, purpose, algorithm), found) in asked.iter().zip(found) {
            let what = format!("key {path}, {algorithm}");
            let mut fields =
                vec!["path", "purpose", "algorithm", "key", "signature_chain", "public", "signer"];
            if self.sdk != Sdk::Rust {
                fields.push("vouched");
                self.equal(&format!("{what}: vouched"), &json!(false), &found["vouched"]);
            }
            self.fields(&what, &fields, found);
            for (name, expected) in [("path", path), ("purpose", purpose), ("algorithm", algorithm)] {
                self.equal(&format!("{what}: {name}"), &json!(expected), &found[name]);
            }
            let public = bytes(&found["key"]).and_then(|key| public_of(algorithm, &key)).unwrap_or_default();
            self.equal(&format!("{what}: public"), &json!(public), &found["public"]);
            let chain = found["signature_chain"].as_array().map(Vec::as_slice).unwrap_or_default();
            self.must(&format!("{what}: two signatures"), Some(chain.len() == 2));
            let by_app =
                chain.first().and_then(bytes).and_then(|one| signer(&one, &format!("{purpose}:{public}")));
            self.equal(&format!("{what}: signer"), &json!(by_app.clone()), &found["signer"]);
            self.must(&format!("{what}: signed"), Some(by_app.is_some()));
            // With key provider `none` nobody vouches for the app's key.
            self.equal(
                &format!("{what}: second signature"),
                &json!(""),
                chain.get(1).unwrap_or(&Value::Null),
            );
            signers.push(by_app);
        }
        self.must("keys: one app key signs all", Some(signers.windows(2).all(|pair| pair[0] == pair[1])));
        let of = |path: &str| -> Vec<_> {
            found.iter().filter(|one| one["path"] == path).map(|one| &one["key"]).collect()
        };
        let (wallet, another) = (of("wallet"), of("another"));
        self.must("keys: a path has one", Some(wallet.windows(2).all(|pair| pair[0] == pair[1])));
        self.must("keys: another path has another", Some(!another.iter().any(|one| wallet.contains(one))));
    }

    fn tls(&mut self, found: &Value) {
        let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
        self.must("tls: all of them", Some(found.len() == 2));
        for (name, found) in ["server", "ra"].into_iter().zip(found) {
            let mut fields = vec!["name", "key", "certificates", "spki", "not_after", "attestation"];
            if self.sdk == Sdk::Rust {
                fields.push("scalar");
            } else {
                fields.push("is_pair");
                self.equal(&format!("tls {name}: is_pair"), &json!(true), &found["is_pair"]);
            }
            if self.sdk == Sdk::JavaScript {
                fields.push("decoded");
            }
            self.fields(&format!("tls {name}"), &fields, found);
            self.equal(&format!("tls {name}: name"), &json!(name), &found["name"]);
            let certificates = found["certificates"].as_array().map(Vec::as_slice).unwrap_or_default();
            let certificates: Vec<_> = certificates.iter().filter_map(bytes).collect();
            let chain: Vec<_> = certificates.iter().filter_map(|der| parsed(der)).collect();
            match chain.as_slice() {
                [leaf, authority] => self.certificate(name, leaf, authority, found),
                _ => self.wrong.push(format!("tls {name}: expected a leaf and its CA")),
            }
        }
    }

    fn certificate(
        &mut self,
        name: &str,
        leaf: &X509Certificate<'_>,
        authority: &X509Certificate<'_>,
        found: &Value,
    ) {
        let tls = |what: &str| format!("tls {name}: {what}");
        self.must(&tls("the CA signs the leaf"), issued(leaf, authority));
        self.must(&tls("the CA signs itself"), issued(authority, authority));
        let spki = leaf.public_key().raw;
        self.equal(&tls("spki"), &json!(hex::encode(spki)), &found["spki"]);
        let key = bytes(&found["key"]).and_then(|der| p256::SecretKey::from_pkcs8_der(&der).ok());
        let public = key.as_ref().and_then(|key| key.public_key().to_public_key_der().ok());
        self.must(&tls("the key is the certificate's"), public.map(|der| der.as_bytes() == spki));
        if self.sdk == Sdk::Rust {
            let scalar = key.map(|key| hex::encode(key.to_bytes()));
            self.equal(&tls("scalar"), &json!(scalar), &found["scalar"]);
        }
        let not_after = leaf.validity().not_after.timestamp();
        self.equal(&tls("not_after"), &json!(not_after), &found["not_after"]);
        let usages = leaf
            .extended_key_usage()
            .ok()
            .flatten()
            .map(|usage| (usage.value.server_auth, usage.value.client_auth));
        self.must(&tls("extended usages"), Some(usages == Some((true, name == "ra"))));
        let is_named =
            leaf.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.len() == 1);
        self.must(&tls("other names"), Some(is_named == (name == "server").then_some(true)));
        // What dstack's verifiers read, and how it is wrapped: OCTET STRING in OCTET STRING.
        let extension = leaf.get_extension_unique(&oid!(1.3.6.1.4.1.62397.1.8)).ok().flatten();
        let attestation =
            extension.and_then(|one| OctetString::from_der(one.value).ok()).map(|(_, one)| one.into_cow());
        self.equal(&tls("attestation"), &json!(attestation.map(hex::encode)), &found["attestation"]);
        self.must(&tls("attestation where it was asked for"), Some(extension.is_some() == (name == "ra")));
        if name == "ra" && self.sdk != Sdk::Rust {
            self.must(&tls("ends when it was asked to"), Some(not_after == 4_000_000_000));
        }
        if self.sdk == Sdk::JavaScript {
            if name == "ra" {
                self.attestation(&found["decoded"], spki);
            } else {
                self.equal(&tls("decoded"), &Value::Null, &found["decoded"]);
            }
        }
    }

    /// An attestation as a reader of SCALE understood it that is not ours.
    fn attestation(&mut self, found: &Value, spki: &[u8]) {
        let fields = ["quote", "event_log", "runtime_events", "report_data", "config"];
        self.fields("attestation", &fields, found);
        // dstack's `QuoteContentType::RaTlsCert`.
        let report_data: [u8; 64] =
            Sha512::new().chain_update(b"ratls-cert:").chain_update(spki).finalize().into();
        self.equal("attestation.report_data", &json!(hex::encode(report_data)), &found["report_data"]);
        self.quote_bytes("attestation.quote", bytes(&found["quote"]), &report_data);
        self.equal("attestation.event_log", &self.machine.event_log(false), &found["event_log"]);
        self.equal("attestation.runtime_events", &self.machine.runtime_events(), &found["runtime_events"]);
        self.equal("attestation.config", &json!("{}"), &found["config"]);
    }
}

/// The public key of 32 bytes, in hex.
fn public_of(algorithm: &str, key: &[u8]) -> Option<String> {
    if algorithm == "ed25519" {
        let pair = Ed25519KeyPair::from_seed_unchecked(key).ok()?;
        return Some(hex::encode(pair.public_key()));
    }
    let key = SigningKey::from_slice(key).ok()?;
    Some(hex::encode(key.verifying_key().to_encoded_point(true)))
}

/// Who signed, in hex: dstack's `r ‖ s ‖ recovery id` over Keccak-256.
fn signer(signature: &[u8], message: &str) -> Option<String> {
    let (id, scalars) = signature.split_last()?;
    let signature = Signature::from_slice(scalars).ok()?;
    let digest = Keccak256::new_with_prefix(message);
    let key = VerifyingKey::recover_from_digest(digest, &signature, RecoveryId::from_byte(*id)?).ok()?;
    Some(hex::encode(key.to_encoded_point(true)))
}

/// A certificate with nothing behind it.
fn parsed(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der)
        .ok()
        .filter(|(rest, _)| rest.is_empty())
        .map(|(_, certificate)| certificate)
}

fn issued(certificate: &X509Certificate<'_>, by: &X509Certificate<'_>) -> Option<bool> {
    let key = p256::ecdsa::VerifyingKey::from_public_key_der(by.public_key().raw).ok()?;
    let signature = p256::ecdsa::DerSignature::from_bytes(&certificate.signature_value.data).ok()?;
    let signed = certificate.tbs_certificate.as_ref();
    Some(certificate.issuer().as_raw() == by.subject().as_raw() && key.verify(signed, &signature).is_ok())
}

/// Every way to change one leaf of a value, or to leave one part out, by its place.
pub(crate) fn lies(value: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let parts: Vec<(String, Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, part)| (name.clone(), part.clone())).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(at, part)| (at.to_string(), part.clone())).collect()
        }
        leaf => return vec![(String::new(), changed(leaf))],
    };
    for (name, part) in parts {
        for (place, lie) in lies(&part) {
            let mut whole = value.clone();
            match &mut whole {
                Value::Array(list) => list[name.parse::<usize>().unwrap()] = lie,
                other => other[name.as_str()] = lie,
            }
            all.push((format!("/{name}{place}"), whole));
        }
        let mut without = value.clone();
        match &mut without {
            Value::Array(list) => drop(list.remove(name.parse().unwrap())),
            other => drop(other.as_object_mut().unwrap().remove(&name)),
        }
        all.push((format!("/{name}: left out"), without));
    }
    all
}

fn changed(leaf: &Value) -> Value {
    match leaf {
        Value::String(text) if text.is_empty() => json!("0"),
        Value::String(text) => {
            json!(format!("{}{}", if text.starts_with('0') { '1' } else { '0' }, &text[1..]))
        }
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        Value::Bool(flag) => json!(!flag),
        _ => json!(true),
    }
}

#[test]
fn every_leaf_is_changed_once() {
    let places: Vec<_> =
        lies(&json!({ "a": [1, ""], "b": null })).into_iter().map(|(place, _)| place).collect();
    assert_eq!(
        places,
        ["/a/0", "/a/0: left out", "/a/1", "/a/1: left out", "/a: left out", "/b", "/b: left out"]
    );
}
