//! Answers of a simulated PCCS, made from Intel's real collateral.

use super::*;
use crate::platform::Ca;

const COLLATERAL: &str = include_str!("../../../tests/fixtures/tdx_quote_collateral.json");
const QUOTE: &[u8] = include_bytes!("../../../tests/fixtures/tdx_quote");

/// What a PCCS says, as owned values.
struct Pccs {
    chains: [Option<String>; 4],
    bodies: [Vec<u8>; 4],
}

/// Everything but what a URL may carry as it is (RFC 3986 section 2.3), as Intel's service does it.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Pccs {
    fn genuine() -> Self {
        let genuine = genuine();
        let chain = |pem: &str| Some(percent_encoded(pem));
        let body = |name: &str, text: &str, signature: &[u8]| {
            format!(r#"{{"{name}":{text},"signature":"{}"}}"#, hex::encode(signature)).into_bytes()
        };
        Self {
            chains: [
                chain(&genuine.pck_crl_issuer_chain),
                chain(&genuine.tcb_info_issuer_chain),
                chain(&genuine.qe_identity_issuer_chain),
                None,
            ],
            bodies: [
                genuine.pck_crl,
                body("tcbInfo", &genuine.tcb_info, &genuine.tcb_info_signature),
                body("enclaveIdentity", &genuine.qe_identity, &genuine.qe_identity_signature),
                hex::encode(genuine.root_ca_crl).into_bytes(),
            ],
        }
    }

    fn read(&self) -> Result<QuoteCollateralV3, PccsError> {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| Answer {
            chain: self.chains[index].as_deref(),
            body: self.bodies[index].as_slice(),
        });
        collateral([a, b, c, d])
    }
}

fn genuine() -> QuoteCollateralV3 {
    serde_json::from_str(COLLATERAL).unwrap()
}

fn json(collateral: &QuoteCollateralV3) -> String {
    serde_json::to_string(collateral).unwrap()
}

#[test]
fn the_answers_give_the_collateral_byte_for_byte() {
    assert_eq!(json(&Pccs::genuine().read().unwrap()), json(&genuine()));
}

#[test]
fn what_is_signed_is_not_written_anew() {
    let mut pccs = Pccs::genuine();
    // Spaces, an order and numbers that no serialiser of ours would write.
    let odd = r#"{"z" : 1.50e0, "a":"A",  "é":[ ]}"#;
    let signature = "ab".repeat(64);
    pccs.bodies[1] =
        format!("{{\n \"signature\":\"{signature}\", \"tcbInfo\" : {odd} , \"more\":1}}\n").into_bytes();
    let read = pccs.read().unwrap();
    assert_eq!((read.tcb_info.as_str(), read.tcb_info_signature), (odd, vec![0xab; 64]));
}

#[test]
fn lists_may_be_der_or_hex() {
    let mut pccs = Pccs::genuine();
    let hex = hex::encode_upper(&pccs.bodies[0]);
    pccs.bodies[0] = format!("{hex}\n").into_bytes();
    pccs.bodies[3] = hex::decode(&pccs.bodies[3]).unwrap();
    assert_eq!(json(&pccs.read().unwrap()), json(&genuine()));
}

#[test]
fn the_urls_are_the_apis() {
    let platform = PlatformKind::of_quote(QUOTE).unwrap();
    let paths = Item::ALL.map(|item| item.path(&platform));
    assert_eq!(
        paths,
        [
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "/tdx/certification/v4/tcb?fmspc=B0C06F000000",
            "/tdx/certification/v4/qe/identity",
            "/sgx/certification/v4/rootcacrl",
        ]
    );
    let processor = Item::PckCrl.path(&PlatformKind { ca: Ca::Processor, ..platform });
    assert_eq!(processor, "/sgx/certification/v4/pckcrl?ca=processor&encoding=der");
}

#[test]
fn anything_else_is_named() {
    let refused = |change: &dyn Fn(&mut Pccs)| {
        let mut pccs = Pccs::genuine();
        change(&mut pccs);
        pccs.read().unwrap_err().to_string()
    };
    for (index, header) in [
        (0, "pckcrl: expected the header SGX-PCK-CRL-Issuer-Chain, found none"),
        (1, "tcb: expected the header TCB-Info-Issuer-Chain, found none"),
        (2, "qe/identity: expected the header SGX-Enclave-Identity-Issuer-Chain, found none"),
    ] {
        assert_eq!(refused(&|pccs| pccs.chains[index] = None), header);
        for bad in ["", "%", "%2", "%GG", "%FF", "-----BEGIN%20CERTIFICATE", "%2B-----BEGIN CERTIFICATE-----"]
        {
            let found = refused(&|pccs| pccs.chains[index] = Some(bad.to_owned()));
            assert!(
                found.ends_with("expected certificates in PEM, percent-encoded, found something else"),
                "{found}"
            );
        }
        let long = refused(&|pccs| pccs.chains[index] = Some("a".repeat(MAX_CHAIN + 1)));
        assert!(long.ends_with(": expected at most 16384 bytes, found 16385"), "{long}");
    }
    for (index, item) in Item::ALL.into_iter().enumerate() {
        let long = refused(&|pccs| pccs.bodies[index] = vec![b' '; MAX_BODY + 1]);
        assert_eq!(long, format!("{item}: expected at most 1048576 bytes, found 1048577"));
    }
    for index in [0, 3] {
        for bad in [b"".as_slice(), b"xyz", b"3", b"1234", b"<html>"] {
            let found = refused(&|pccs| pccs.bodies[index] = bad.to_vec());
            assert!(found.contains(": body: expected a revocation list in DER or hex, found "), "{found}");
        }
    }
    for (index, name) in [(1, "tcbInfo"), (2, "enclaveIdentity")] {
        let other = format!("{{\"{name}x\":{{}},\"signature\":\"\"}}");
        let twice = format!("{{\"{name}\":{{}},\"{name}\":{{}},\"signature\":\"\"}}");
        for bad in ["", "[]", "null", "{}", other.as_str(), twice.as_str(), "{\"a\":\u{1b}"] {
            let found = refused(&|pccs| pccs.bodies[index] = bad.as_bytes().to_vec());
            let expected = format!(": body: expected an object with {name} and signature, found ");
            assert!(found.contains(&expected) && !found.contains('\u{1b}'), "{found}");
        }
        for bad in ["", "ab", &"g".repeat(128), &"ab".repeat(65)] {
            let body = format!("{{\"{name}\":{{}},\"signature\":\"{bad}\"}}");
            let found = refused(&|pccs| pccs.bodies[index] = body.as_bytes().to_vec());
            assert!(found.contains(": signature: expected 128 hex digits, found "), "{found}");
        }
    }
}
