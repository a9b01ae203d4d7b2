//! No secret in a log, in an answer to somebody else, or in the debug form of a value: agent and mesh at work, everything that
//! they write kept at the most talkative level there is, and every private key that was issued looked for in it.
//!
//! The simulator's own attestation key is published (`init/agent/src/simulator/pki`), so it is no secret; it is looked for
//! all the same.

use std::fmt::Write as _;

use casemate_mesh::CertificateKey;
use casemate_mesh::ring::{Limits, Reader};
use p256::pkcs8::DecodePrivateKey as _;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::backend::Backend;
use crate::callers::GET;
use crate::client::{call, plain};
use crate::logs::{self, logging};
use crate::machine::{CALLER, DEMO, EXTERNAL, Machine, another_image, image};

/// The published key of the simulated TEE.
const SIMULATOR: &str = include_str!("../../init/agent/src/simulator/pki/attestation.key.hex");

/// A secret in every spelling that a program might print it in.
struct Secret {
    name: String,
    spellings: Vec<(&'static str, String)>,
}

impl Secret {
    /// Any part of 16 bytes at the begin, in the middle and at the end is as good as all of it.
    fn new(name: &str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 32, "{name}: {} bytes", bytes.len());
        let mut spellings = Vec::new();
        let middle = bytes.len() / 2;
        for part in [&bytes[..16], &bytes[middle - 8..middle + 8], &bytes[bytes.len() - 16..]] {
            let list = |one: fn(&u8) -> String| part.iter().map(one).collect::<Vec<_>>();
            let lower = hex::encode(part);
            spellings.push(("HEX", lower.to_uppercase()));
            spellings.push(("hex", lower));
            spellings.push(("decimal list", list(|b| b.to_string()).join(", ")));
            spellings.push(("decimal list, tight", list(|b| b.to_string()).join(",")));
            spellings.push(("hex list", list(|b| format!("0x{b:02x}")).join(", ")));
            spellings.push(("hex list of {:x?}", list(|b| format!("{b:x}")).join(", ")));
            spellings.push(("hex list of {:02x?}", list(|b| format!("{b:02x}")).join(", ")));
            spellings.push(("hex with colons", list(|b| format!("{b:02x}")).join(":")));
            spellings.push(("raw, escaped", part.escape_ascii().to_string()));
        }
        // Three alignments, since what stands before it shifts base64; the ends of each depend on what is beside them.
        for alphabet in [STANDARD, URL] {
            for skip in 0..3 {
                let whole = &bytes[skip..bytes.len() - (bytes.len() - skip) % 3];
                let text = base64(whole, alphabet);
                let half = text.len() / 2;
                spellings.push(("base64", text[..20].to_owned()));
                spellings.push(("base64", text[half - 10..half + 10].to_owned()));
                spellings.push(("base64", text[text.len() - 20..].to_owned()));
            }
        }
        Self { name: name.to_owned(), spellings }
    }

    /// A private key in PEM: the text, its DER, and the scalar in it.
    fn of_pem(name: &str, pem: &str) -> Vec<Self> {
        let body = pem.lines().filter(|line| !line.starts_with("-----")).map(|line| ("PEM", line.to_owned()));
        let spellings: Vec<_> = body.filter(|(_, line)| line.len() >= 16).collect();
        assert!(spellings.len() >= 3, "{pem}");
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let scalar = p256::SecretKey::from_pkcs8_der(der.secret_der()).unwrap().to_bytes();
        // The first bytes of DER are the same in every key: what is looked for lies behind them.
        let inner = &der.secret_der()[36..68];
        assert_eq!(inner, &scalar[..], "RFC 5208 and RFC 5915: where the scalar of P-256 lies");
        // The first line of PEM holds 48 bytes, 36 of them the same in every key.
        let spellings = spellings.into_iter().skip(1).collect();
        vec![Self { name: format!("{name}, PEM"), spellings }, Self::new(&format!("{name}, scalar"), &scalar)]
    }

    /// How it is spelled there, if it is there.
    fn found_in(&self, text: &str) -> Option<&'static str> {
        self.spellings.iter().find(|(_, spelling)| text.contains(spelling)).map(|(how, _)| *how)
    }
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648 sections 4 and 5, of whole groups of three bytes.
fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for group in bytes.chunks_exact(3) {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for shift in [18, 12, 6, 0] {
            text.push(char::from(alphabet[bits >> shift & 63]));
        }
    }
    text
}

fn assert_none_in(secrets: &[Secret], text: &str, what: &str) {
    for secret in secrets {
        let found = secret.found_in(text);
        assert!(found.is_none(), "{what}: {} as {}", secret.name, found.unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_what_agent_and_mesh_write() {
    let mark = crate::log::mark();
    let (machine, backend) = (Machine::boot(DEMO, image()), Backend::answering("the page").await);
    let (reader, other) = (Machine::boot(CALLER, image()), Machine::boot(EXTERNAL, image()));
    let mesh = logging(&machine, &backend, &reader).await;
    let mut heard = String::new();

    // Everybody at work: served, refused, malformed, outbound.
    for caller in [Some(&reader), Some(&other), None] {
        for request in [GET, logs::GET, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n", "nonsense\r\n\r\n"] {
            let certificate = match caller {
                Some(caller) => Some(caller.certificate().await),
                None => None,
            };
            write!(heard, "{:?}", call(mesh.inbound, certificate, request).await).unwrap();
        }
    }
    write!(heard, "{:?}", plain(mesh.outbound, GET).await).unwrap();
    let foreign = Machine::boot(CALLER, another_image());
    write!(heard, "{:?}", call(mesh.inbound, Some(foreign.certificate().await), GET).await).unwrap();
    mark.line(&["handshake refused"]).await;

    // The agent at work: every kind of key, evidence, and requests that it refuses.
    let mut secrets = vec![Secret::new("the simulator's key", &hex::decode(SIMULATOR.trim()).unwrap())];
    for (index, machine) in [&machine, &reader, &other, &foreign].into_iter().enumerate() {
        let agent = machine.agent();
        for algorithm in ["secp256k1", "ed25519"] {
            for path in ["", "web/session", "a/much longer/path"] {
                let key = agent.get_key(path, "signing", algorithm).await.unwrap();
                let name = format!("GetKey({path:?}, {algorithm}) of machine {index}");
                write!(heard, "{key:?} {key:#?}").unwrap();
                secrets.push(Secret::new(&name, &key.key));
            }
        }
        write!(heard, "{:?}", agent.get_key("x", "y", "rsa").await.unwrap_err()).unwrap();
        write!(heard, "{:?}", agent.get_quote(&[7; 64]).await.unwrap()).unwrap();
        write!(heard, "{:?}", agent.get_quote(&[7; 65]).await.unwrap_err()).unwrap();
        write!(heard, "{:?} {:?} {agent:?}", agent.info().await.unwrap(), agent.version().await.unwrap())
            .unwrap();
        let request = casemate_agent::TlsKeyRequest { usage_ra_tls: true, ..Default::default() };
        let key = agent.get_tls_key(request).await.unwrap();
        write!(heard, "{key:?} {key:#?}").unwrap();
        let parsed = CertificateKey::from_pem(&key.certificate_chain, key.key_pem.as_bytes()).unwrap();
        write!(heard, "{parsed:?} {parsed:#?}").unwrap();
        secrets.extend(Secret::of_pem("GetTlsKey, directly", &key.key_pem));
        for pem in machine.issued() {
            secrets.extend(Secret::of_pem(&format!("GetTlsKey of machine {index}"), &pem));
        }
    }
    assert!(
        machine.issued().len() == 1 && reader.issued().len() == 4,
        "the mesh's own, and one for each call"
    );

    // The log of the service, as the mesh's reader sees it, is untouched by any of it.
    let page = Reader::new(logs::ring("x")).read(0, Limits { lines: 9, bytes: 99 }).unwrap();
    write!(heard, "{page:?}").unwrap();
    let log = mark.text();
    for level in [" INFO ", "DEBUG "] {
        assert!(log.contains(level), "nothing of level{level}was kept");
    }
    assert!(secrets.len() > 40, "{}", secrets.len());
    assert_none_in(&secrets, &log, "the log");
    // `Outcome` holds nothing but answers of the mesh; the keys' own answers are not in it.
    assert_none_in(&secrets, &heard, "answers and debug forms");
}

/// The check itself: every spelling of a key is noticed, wherever it stands.
#[test]
fn a_key_is_noticed_however_it_is_spelled() {
    let made = rcgen::KeyPair::generate().unwrap();
    let pem = made.serialize_pem();
    let secrets = Secret::of_pem("a key", &pem);
    let scalar = p256::SecretKey::from_pkcs8_der(made.serialized_der()).unwrap().to_bytes().to_vec();
    let noticed = |text: &str| secrets.iter().any(|secret| secret.found_in(text).is_some());
    let der = made.serialized_der().to_vec();
    let padded = |n: usize| base64(&[vec![0; n], der.clone(), vec![0; 6]].concat(), STANDARD);
    for text in [
        pem.clone(),
        pem.replace('\n', "\\n"),
        format!("{pem:?}"),
        hex::encode(&der),
        hex::encode_upper(&scalar),
        hex::encode(&scalar[..20]),
        format!("{der:?}"),
        format!("{:x?}", scalar),
        format!("{scalar:02x?}"),
        format!("Key {{ key: {:?} }}", &scalar[16..]),
        padded(0),
        padded(1),
        padded(2),
        base64(&[scalar.clone(), vec![0]].concat(), URL),
        scalar.escape_ascii().to_string(),
    ] {
        assert!(noticed(&format!("something before {text} and after")), "{text}");
    }
    assert!(!noticed(&rcgen::KeyPair::generate().unwrap().serialize_pem()), "another key is not this one");
}
