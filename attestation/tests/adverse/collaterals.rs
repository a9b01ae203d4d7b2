//! Real collateral, one bit of every byte of its JSON.

use casemate_verify::collateral::Collateral;
use casemate_verify::{Class, Evidence, QuoteCollateralV3};

use crate::flips::{Pass, Region, Tally, every_byte};
use crate::layout::Layout;
use crate::real::{ANSWER, OUTDATED, Real, VERSION_4, VERSION_5, bare, detected};

use Class::{Form, Revocation};

/// By name of its field. Hex digits have two cases, and nothing reads the issuers of the PCK CRL: they are the quote's.
const FIELDS: &[(&str, &[Class], Pass)] = &[
    ("pck_crl_issuer_chain", &[Form], Pass::Unread),
    ("root_ca_crl", SIGNED, Pass::Unread),
    ("pck_crl", SIGNED, Pass::Unread),
    ("tcb_info_issuer_chain", SIGNER, Pass::Unread),
    ("tcb_info", SIGNED, Pass::Never),
    ("tcb_info_signature", SIGNED, Pass::Unread),
    ("qe_identity_issuer_chain", SIGNER, Pass::Unread),
    ("qe_identity", SIGNED, Pass::Never),
    ("qe_identity_signature", SIGNED, Pass::Unread),
    // Dropped when it is read: the quote says who made it.
    ("pck_certificate_chain", &[Form], Pass::Unread),
];

/// Unreadable, or not what was signed.
const SIGNED: &[Class] = &[Form, Class::Collateral];

/// Or a certificate that is not valid at that time: dates are read before the signature over them is checked.
const SIGNER: &[Class] = &[Form, Class::Collateral, Class::Validity];

/// The fields in the order of the file, and what stands between their values.
fn regions(json: &[u8]) -> Vec<Region> {
    let mut layout = Layout::new(json);
    let mut at = 0;
    while let Some((name, value)) = next_field(json, at) {
        let (_, classes, pass) = FIELDS.iter().find(|(field, ..)| *field == name).unwrap();
        // A key that is not known is ignored, one that is missing is not.
        let optional = if name == "pck_certificate_chain" { Pass::Unread } else { Pass::Never };
        layout.to(value.start, &format!("up to {name}"), &[Form], optional);
        at = value.end;
        if name.ends_with("issuer_chain") && name != "pck_crl_issuer_chain" {
            signers(&mut layout, json, value.end);
        } else {
            layout.to(value.end, name, classes, *pass);
        }
    }
    layout.rest("end", &[Form], Pass::Never)
}

/// A signing certificate, and the root behind it, which is not believed because it stands there.
fn signers(layout: &mut Layout<'_>, json: &[u8], end: usize) {
    let mut certificate = 0;
    while layout.at() < end {
        let rest = &json[layout.at()..end];
        let line = rest.windows(2).position(|pair| pair == b"\\n").map_or(rest.len(), |at| at + 2);
        let text = &rest[..line];
        let frame = text.starts_with(b"-----") || text.len() < 4;
        let pass = if frame || certificate > 0 { Pass::Unread } else { Pass::Never };
        if text.starts_with(b"-----END") {
            certificate += 1;
        }
        let line_break = if text.ends_with(b"\\n") { 2 } else { 0 };
        layout.part(if certificate > 0 { "root" } else { "signer" }, line - line_break, SIGNER, pass);
        layout.part("line break", line_break, SIGNER, Pass::Unread);
    }
}

/// Name of the next field behind that place, and where the string is that it has.
fn next_field(json: &[u8], at: usize) -> Option<(&str, std::ops::Range<usize>)> {
    // The string's end, if one was just left.
    let quote = |from: usize| json[from..].iter().position(|byte| *byte == b'"').map(|found| from + found);
    let from = if at == 0 { 0 } else { at + 1 };
    let name = quote(from)? + 1;
    let end = quote(name)?;
    let value = quote(end + 1)? + 1;
    let mut close = value;
    while json[close] != b'"' {
        close += if json[close] == b'\\' { 2 } else { 1 };
    }
    Some((std::str::from_utf8(&json[name..end]).unwrap(), value..close))
}

fn flip(real: &Real, quote: &[u8]) -> Tally {
    let judge = |json: &[u8]| real.verify(quote, &Collateral::from_json(json)?);
    let genuine: QuoteCollateralV3 = serde_json::from_slice(real.collateral).unwrap();
    let plain = |json: &[u8]| {
        let mut parts: QuoteCollateralV3 = serde_json::from_slice(json).unwrap();
        parts.pck_crl_issuer_chain.clone_from(&genuine.pck_crl_issuer_chain);
        parts.pck_certificate_chain.clone_from(&genuine.pck_certificate_chain);
        // What reads as the same, but for what it does not read, is not asked about again.
        parts == genuine || bare(quote, json, real.valid).is_some()
    };
    let without = QuoteCollateralV3 { pck_crl_issuer_chain: String::new(), ..genuine.clone() };
    assert!(bare(quote, &serde_json::to_vec(&without).unwrap(), real.valid).is_some());
    let item = format!("collateral of {}", real.name);
    let tally = every_byte(&item, real.collateral, &regions(real.collateral), judge, plain);
    assert!(!tally.refused.contains_key(&Revocation));
    assert!(tally.refused[&Class::Collateral] > 5000, "{tally:?}");
    tally
}

#[test]
fn of_version_4() {
    flip(&VERSION_4, VERSION_4.quote);
}

#[test]
fn of_version_5() {
    flip(&VERSION_5, VERSION_5.quote);
}

/// With the quote of the dstack answer, whose platform is of that kind and not too old for it.
#[test]
fn of_the_dstack_answer() {
    let (Evidence::Attestation(attestation), _) = detected(ANSWER) else { panic!("no attestation") };
    flip(&OUTDATED, &attestation.quote);
}
