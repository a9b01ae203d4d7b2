//! Intel's signed statements about a kind of platform: what its TCB is worth, which quoting enclave is genuine, which
//! certificates are revoked. Signed, so it may come from anyone, the peer included.

pub mod pccs;
mod store;

use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::anchor::TrustAnchor;
use crate::error::EvidenceError;
use crate::platform::PlatformKind;

pub use store::{Kept, Store};

/// The longest collateral that is read, bytes of JSON. Intel's has 16 to 25 KiB.
pub const MAX_COLLATERAL: usize = 256 * 1024;

/// The longest issuer chain in it, bytes of PEM. Intel's have two certificates and 1.9 KiB; no signature covers what stands
/// between them.
const MAX_CHAIN: usize = 16 * 1024;

const WHAT: &str = "collateral";

/// Collateral as somebody gave it: read, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    parts: QuoteCollateralV3,
    times: Times,
}

/// When the parts were signed and how long they count, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The oldest of TCB info, QE identity and the PCK CRL. The root's CRL is left out: it is renewed once a year.
    pub oldest_issue: u64,
    /// The newest of all four: a clock that is behind it is wrong.
    pub newest_issue: u64,
    /// When the first of the four wants to be replaced.
    pub next_update: u64,
    /// The evaluation number of the TCB info: which of Intel's rounds of updates it knows of.
    pub evaluation_number: u32,
    /// Of each part, so that none is ever replaced by an older one.
    pub(crate) parts: PartTimes,
}

/// The parts' own times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartTimes {
    pub(crate) tcb_info: Window,
    pub(crate) qe_identity: Window,
    pub(crate) pck_crl: Window,
    pub(crate) root_crl: Window,
}

impl PartTimes {
    /// Each, with its counterpart of other collateral.
    pub(crate) const fn beside(&self, other: &Self) -> [(Window, Window); 4] {
        [
            (self.tcb_info, other.tcb_info),
            (self.qe_identity, other.qe_identity),
            (self.pck_crl, other.pck_crl),
            (self.root_crl, other.root_crl),
        ]
    }
}

/// When one part was signed and until when it counts, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) issued: u64,
    pub(crate) until: u64,
}

impl Window {
    /// Whether another of these is older than this one while this one counts. What has expired hides nothing.
    pub(crate) const fn is_rolled_back_by(&self, other: &Self, now: u64) -> bool {
        other.issued < self.issued && now <= self.until
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dated {
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
}

impl Collateral {
    /// Reads the JSON form of [`QuoteCollateralV3`], as `dcap-qvl` and PCCS clients write it.
    ///
    /// # Errors
    /// More than [`MAX_COLLATERAL`] bytes, another form, dates or revocation lists that cannot be read.
    pub fn from_json(json: &[u8]) -> Result<Self, EvidenceError> {
        if json.len() > MAX_COLLATERAL {
            return Err(EvidenceError::TooLarge { what: WHAT, limit: MAX_COLLATERAL, found: json.len() });
        }
        let parts = serde_json::from_slice(json)
            .map_err(|error| EvidenceError::malformed(WHAT, "JSON of a QuoteCollateralV3", error))?;
        Self::new(parts)
    }

    /// Takes the parts. A certificate chain for the platform is dropped: `dcap-qvl` would believe it instead of the
    /// quote's own, and which platform made a quote is for the quote to say.
    ///
    /// # Errors
    /// A chain above 16 KiB; dates or revocation lists that cannot be read.
    pub fn new(mut parts: QuoteCollateralV3) -> Result<Self, EvidenceError> {
        parts.pck_certificate_chain = None;
        let chains = [
            ("collateral: pck_crl_issuer_chain", &parts.pck_crl_issuer_chain),
            ("collateral: tcb_info_issuer_chain", &parts.tcb_info_issuer_chain),
            ("collateral: qe_identity_issuer_chain", &parts.qe_identity_issuer_chain),
        ];
        if let Some((what, chain)) = chains.into_iter().find(|(_, chain)| chain.len() > MAX_CHAIN) {
            return Err(EvidenceError::TooLarge { what, limit: MAX_CHAIN, found: chain.len() });
        }
        let times = Times::of(&parts)?;
        Ok(Self { parts, times })
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        // Strings and bytes in hex always serialise.
        serde_json::to_string(&self.parts).unwrap_or_default()
    }

    /// When it was signed, and how long it counts.
    pub const fn times(&self) -> &Times {
        &self.times
    }

    /// Whether everything that is signed is the same; how it is wrapped may differ.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let signed = |parts: &QuoteCollateralV3| {
            (
                parts.tcb_info.clone(),
                parts.qe_identity.clone(),
                parts.pck_crl.clone(),
                parts.root_ca_crl.clone(),
            )
        };
        signed(&self.parts) == signed(&other.parts)
    }

    pub(crate) const fn parts(&self) -> &QuoteCollateralV3 {
        &self.parts
    }
}

impl Times {
    fn of(parts: &QuoteCollateralV3) -> Result<Self, EvidenceError> {
        let tcb_info = signed_json("collateral: tcb_info", &parts.tcb_info)?;
        let qe_identity = signed_json("collateral: qe_identity", &parts.qe_identity)?;
        let pck_crl = crl("collateral: pck_crl", &parts.pck_crl)?;
        let root_crl = crl("collateral: root_ca_crl", &parts.root_ca_crl)?;
        let often = [tcb_info.0, qe_identity.0, pck_crl];
        let all = often.iter().chain([&root_crl]);
        Ok(Self {
            oldest_issue: often.iter().map(|window| window.issued).min().unwrap_or(0),
            newest_issue: all.clone().map(|window| window.issued).max().unwrap_or(u64::MAX),
            next_update: all.map(|window| window.until).min().unwrap_or(0),
            evaluation_number: tcb_info.1,
            parts: PartTimes { tcb_info: tcb_info.0, qe_identity: qe_identity.0, pck_crl, root_crl },
        })
    }
}

fn signed_json(what: &str, json: &str) -> Result<(Window, u32), EvidenceError> {
    let dated: Dated = serde_json::from_str(json).map_err(|error| {
        EvidenceError::malformed(what, "JSON with its dates and evaluation number", error)
    })?;
    let seconds = |name: &str, text: &str| {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| u64::try_from(time.unix_timestamp()).ok())
            .ok_or_else(|| EvidenceError::malformed(format!("{what}.{name}"), "a time (RFC 3339)", text))
    };
    let window = Window {
        issued: seconds("issueDate", &dated.issue_date)?,
        until: seconds("nextUpdate", &dated.next_update)?,
    };
    Ok((window, dated.tcb_evaluation_data_number))
}

fn crl(what: &str, der: &[u8]) -> Result<Window, EvidenceError> {
    let (_, list) = CertificateRevocationList::from_der(der)
        .map_err(|error| EvidenceError::malformed(what, "a revocation list (RFC 5280, DER)", error))?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let until = list
        .next_update()
        .ok_or_else(|| EvidenceError::malformed(format!("{what}.nextUpdate"), "a time", "none"))?;
    Ok(Window { issued: seconds(list.last_update()), until: seconds(until) })
}

/// Collateral that held when it was used to verify a genuine quote of such a platform.
/// [`Verifier::verify_collateral`](crate::Verifier::verify_collateral) makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCollateral {
    pub(crate) anchor: TrustAnchor,
    pub(crate) platform: PlatformKind,
    pub(crate) collateral: Collateral,
    /// When the first piece expires, signing certificates included.
    pub(crate) expires: u64,
}

impl VerifiedCollateral {
    /// Whose quotes it is for.
    pub const fn platform(&self) -> PlatformKind {
        self.platform
    }

    /// What it says.
    pub const fn collateral(&self) -> &Collateral {
        &self.collateral
    }

    /// When the first piece expires, Unix seconds.
    pub const fn expires(&self) -> u64 {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = include_str!("../../tests/fixtures/tdx_quote_collateral.json");

    #[test]
    fn times_are_those_of_the_parts() {
        let collateral = Collateral::from_json(JSON.as_bytes()).unwrap();
        let times = collateral.times();
        // tcb_info.issueDate 2025-06-19T10:16:03Z; its nextUpdate is a month later.
        assert_eq!(times.evaluation_number, 17);
        assert!((1_750_327_000..1_750_329_600).contains(&times.oldest_issue), "{times:?}");
        assert!((1_750_329_000..1_750_329_600).contains(&times.newest_issue), "{times:?}");
        assert_eq!(times.next_update / 86_400, (times.oldest_issue + 30 * 86_400) / 86_400);
        assert_eq!(Collateral::from_json(collateral.to_json().as_bytes()).unwrap(), collateral);
    }

    #[test]
    fn a_platforms_chain_in_it_is_dropped() {
        let mut parts: QuoteCollateralV3 = serde_json::from_str(JSON).unwrap();
        parts.pck_certificate_chain = Some("somebody else's".into());
        assert_eq!(Collateral::new(parts).unwrap(), Collateral::from_json(JSON.as_bytes()).unwrap());
    }

    #[test]
    fn bad_collateral_names_the_place() {
        let error = |change: fn(&mut QuoteCollateralV3)| {
            let mut parts = serde_json::from_str(JSON).unwrap();
            change(&mut parts);
            Collateral::new(parts).unwrap_err().to_string()
        };
        assert!(error(|c| c.tcb_info.clear()).starts_with("collateral: tcb_info: expected JSON"));
        assert!(
            error(|c| c.qe_identity = c.qe_identity.replacen("202", "x02", 1))
                .starts_with("collateral: qe_identity.issueDate: expected a time (RFC 3339), found x02")
        );
        assert!(error(|c| c.pck_crl.clear()).starts_with("collateral: pck_crl: expected a revocation list"));
        let long = vec![b' '; MAX_COLLATERAL + 1];
        let error = Collateral::from_json(&long).unwrap_err().to_string();
        assert_eq!(error, "collateral: expected at most 262144 bytes, found 262145");
    }
}
