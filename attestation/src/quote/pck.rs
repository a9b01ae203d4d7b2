//! What the PCK certificate of a quote says about its platform (Intel SGX PCK Certificate and CRL Profile, section 1.3.5).

use x509_parser::oid_registry::{Oid, asn1_rs::oid};

use super::certificate_chain;
use crate::error::EvidenceError;
use crate::platform::{Ca, PlatformKind};

/// Intel's extension of a PCK certificate (the same, section 1.3.5).
const SGX_EXTENSIONS: Oid<'static> = oid!(1.2.840.113741.1.13.1);
/// FMSPC in it, DER: the identifier 1.2.840.113741.1.13.1.4, then an OCTET STRING of 6 bytes.
const FMSPC: &[u8] = &[6, 10, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1, 4, 4, 6];
/// What stands in the issuer's name of multi-package platforms, Intel's and simulated ones.
const PLATFORM_CA: &str = "PCK Platform CA";

impl PlatformKind {
    /// As a PCK certificate says, unverified: what collateral is looked up by. `dcap-qvl` reads the certificate in full, and
    /// refuses collateral that is for others.
    pub(crate) fn of_pck(pck_der: &[u8]) -> Result<Self, EvidenceError> {
        const WHAT: &str = "quote: PCK certificate";
        let (_, certificate) = x509_parser::parse_x509_certificate(pck_der)
            .map_err(|error| EvidenceError::malformed(WHAT, "X.509 v3, DER", error))?;
        let extension = certificate.extensions().iter().find(|extension| extension.oid == SGX_EXTENSIONS);
        let fmspc = extension.and_then(|extension| {
            let mut windows = extension.value.windows(FMSPC.len().saturating_add(6));
            windows.find_map(|window| window.strip_prefix(FMSPC)?.try_into().ok())
        });
        let fmspc =
            fmspc.ok_or_else(|| EvidenceError::malformed(WHAT, "an FMSPC in Intel's extension", "none"))?;
        let is_platform = |name: &str| name.contains(PLATFORM_CA);
        let mut names = certificate.issuer().iter_common_name().filter_map(|name| name.as_str().ok());
        let ca = if names.any(is_platform) { Ca::Platform } else { Ca::Processor };
        Ok(Self { fmspc, ca })
    }

    /// As the quote's own PCK certificate says, unverified.
    ///
    /// # Errors
    /// A quote that cannot be read.
    pub fn of_quote(quote: &[u8]) -> Result<Self, EvidenceError> {
        let [pck, ..] = certificate_chain(quote)?;
        Self::of_pck(&pck)
    }
}

#[cfg(test)]
mod tests {
    use dcap_qvl::config::PckCa;
    use dcap_qvl::intel;

    use super::*;

    #[test]
    fn it_is_what_dcap_qvl_reads() {
        let quotes: [&[u8]; 4] = [
            include_bytes!("../../tests/fixtures/tdx_quote"),
            include_bytes!("../../tests/fixtures/tdx_quote_outdated"),
            include_bytes!("../../tests/fixtures/tdx_quote_td15ex"),
            include_bytes!("../../tests/fixtures/tdx_prod_quote_SPR_E4"),
        ];
        for quote in quotes {
            let [pck, ..] = certificate_chain(quote).unwrap();
            let ca = match intel::pck_ca(&pck).unwrap() {
                PckCa::Platform => Ca::Platform,
                PckCa::Processor => Ca::Processor,
            };
            let fmspc = intel::parse_pck_extension(&pck).unwrap().fmspc;
            assert_eq!(PlatformKind::of_quote(quote), Ok(PlatformKind { fmspc, ca }));
        }
    }

    #[test]
    fn another_certificate_has_none() {
        let [_, _, root] = certificate_chain(include_bytes!("../../tests/fixtures/tdx_quote")).unwrap();
        let error = PlatformKind::of_pck(&root).unwrap_err().to_string();
        assert_eq!(error, "quote: PCK certificate: expected an FMSPC in Intel's extension, found none");
    }
}
