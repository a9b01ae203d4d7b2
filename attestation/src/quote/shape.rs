//! The frame of a quote: that its parts fill each other exactly, and which certificate chain it brings. `dcap-qvl`
//! reads the same bytes leniently (it skips what lies between the parts), so the frame is checked first.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{HEADER_LEN, TD_REPORT_LEN, TEE_TYPE_TDX};
use crate::error::EvidenceError;

/// The largest quote that is read, bytes. Real ones have about 5,000.
const MAX_QUOTE: usize = 64 * 1024;
/// ECDSA signature and attestation public key, 64 bytes each.
const SIGNATURE_AND_KEY: usize = 128;
/// Report of the quoting enclave and its signature.
const QE_REPORT_AND_SIGNATURE: usize = 384 + 64;
/// Certification data that hold a quoting enclave report.
const QE_REPORT_CERTIFICATION: u16 = 6;
/// Certification data that hold a PEM certificate chain.
const PCK_CHAIN: u16 = 5;
/// Leaf, intermediate, root.
const CHAIN_LEN: usize = 3;

/// Takes bytes from the front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], EvidenceError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| {
            EvidenceError::malformed(format!("quote: {what}"), format!("{length} more bytes"), self.0.len())
        })?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], EvidenceError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u16(&mut self, what: &str) -> Result<u16, EvidenceError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &str) -> Result<u32, EvidenceError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A part whose length stands before it.
    fn part(&mut self, what: &str) -> Result<&'a [u8], EvidenceError> {
        let length = self.u32(what)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX), what)
    }

    fn end(&self, what: &str) -> Result<(), EvidenceError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(EvidenceError::malformed(
            format!("quote: {what}"),
            "nothing after it",
            format_args!("{} more bytes", self.0.len()),
        ))
    }
}

/// The first [`TD_REPORT_LEN`] bytes of a quote's TD report.
pub(super) fn report(quote: &[u8]) -> Result<&[u8], EvidenceError> {
    let (report, _) = split(quote)?;
    Reader::new(report).take(TD_REPORT_LEN, "TD report")
}

/// The DER certificates of the quote's PCK chain, leaf first: exactly three.
pub(crate) fn certificate_chain(quote: &[u8]) -> Result<[Vec<u8>; CHAIN_LEN], EvidenceError> {
    let (_, mut rest) = split(quote)?;
    let signature_data = rest.part("signature data")?;
    // Quotes come in a buffer of fixed size: zero bytes behind them are usual, anything else is not.
    if rest.0.iter().any(|byte| *byte != 0) {
        return Err(EvidenceError::malformed("quote", "nothing but zero bytes after it", "other bytes"));
    }

    let mut data = Reader::new(signature_data);
    data.take(SIGNATURE_AND_KEY, "signature and attestation key")?;
    expect("certification data type", QE_REPORT_CERTIFICATION, data.u16("certification data type")?)?;
    let certification = data.part("certification data")?;
    data.end("certification data")?;

    let mut data = Reader::new(certification);
    data.take(QE_REPORT_AND_SIGNATURE, "quoting enclave report")?;
    let authentication_len = data.u16("authentication data")?;
    data.take(usize::from(authentication_len), "authentication data")?;
    let kind = data.u16("PCK certification data type")?;
    if kind != PCK_CHAIN {
        return Err(EvidenceError::NotImplemented {
            what: format!(
                "quote: PCK certification data type {kind} (only {PCK_CHAIN}, a certificate chain)"
            ),
        });
    }
    let pem = data.part("PCK certificate chain")?;
    data.end("PCK certificate chain")?;
    decode_chain(pem)
}

fn decode_chain(pem: &[u8]) -> Result<[Vec<u8>; CHAIN_LEN], EvidenceError> {
    const WHAT: &str = "quote: PCK certificate chain";
    check_frames(pem)?;
    let certificates = CertificateDer::pem_slice_iter(pem)
        .take(CHAIN_LEN.saturating_add(1))
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| EvidenceError::malformed(WHAT, "PEM certificates", error))?;
    let found = certificates.len();
    certificates.try_into().map_err(|_| {
        EvidenceError::malformed(
            WHAT,
            "3 certificates (leaf, intermediate, root)",
            format_args!("{found} or more"),
        )
    })
}

/// Readers of PEM differ in where they see a frame. Every frame must be one for all of them: at the start of its line, one for
/// each certificate; else a chain could be one platform's here and another's in `dcap-qvl`.
fn check_frames(pem: &[u8]) -> Result<(), EvidenceError> {
    // Base64 has no dashes: most lines are passed over.
    let lines: Vec<_> = pem.split(|byte| *byte == b'\n').filter(|line| line.contains(&b'-')).collect();
    for frame in [b"-----BEGIN ".as_slice(), b"-----END "] {
        let anywhere =
            lines.iter().flat_map(|line| line.windows(frame.len())).filter(|found| *found == frame).count();
        let at_lines = lines.iter().filter(|line| line.starts_with(frame)).count();
        if (anywhere, at_lines) != (CHAIN_LEN, CHAIN_LEN) {
            return Err(EvidenceError::malformed(
                "quote: PCK certificate chain",
                "3 certificates (leaf, intermediate, root), each framed at the start of a line",
                format_args!("{anywhere} frames, {at_lines} of them at the start of a line"),
            ));
        }
    }
    Ok(())
}

/// Whether bytes begin as a TDX quote does.
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    matches!(bytes, [4 | 5, 0, _, _, 0x81, 0, 0, 0, ..])
}

/// The TD report and what follows it, after a look at the header.
fn split(quote: &[u8]) -> Result<(&[u8], Reader<'_>), EvidenceError> {
    if quote.len() > MAX_QUOTE {
        return Err(EvidenceError::TooLarge { what: "quote", limit: MAX_QUOTE, found: quote.len() });
    }
    let mut rest = Reader::new(quote);
    let mut header = Reader::new(rest.take(HEADER_LEN, "header")?);
    let version = header.u16("version")?;
    header.u16("attestation key type")?;
    let tee_type = header.u32("TEE type")?;
    if tee_type != TEE_TYPE_TDX {
        return Err(EvidenceError::malformed(
            "quote: TEE type",
            format!("{TEE_TYPE_TDX:#x} (TDX)"),
            format_args!("{tee_type:#x}"),
        ));
    }
    let report = match version {
        4 => rest.take(TD_REPORT_LEN, "TD report")?,
        5 => {
            rest.u16("body type")?;
            rest.part("TD report")?
        }
        _ => return Err(EvidenceError::malformed("quote: version", "4 or 5", version)),
    };
    Ok((report, rest))
}

fn expect(what: &str, expected: u16, found: u16) -> Result<(), EvidenceError> {
    if expected == found {
        return Ok(());
    }
    Err(EvidenceError::malformed(format!("quote: {what}"), expected.to_string(), found))
}
