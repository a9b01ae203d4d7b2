//! Challenge mode: evidence for this connection and this moment.
//!
//! The evidence in a certificate says that an attested machine held the key once; whoever takes that key out of any accepted
//! machine can show it elsewhere. A challenge asks for a quote over the verifier's nonce (so it is of now), the connection's
//! exporter (so nobody relays it from another connection) and the key (so it speaks for this certificate).

use sha2::{Digest as _, Sha512};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 32;
/// Bytes of the exporter's value (RFC 9266, section 2).
pub const EXPORTER_LEN: usize = 32;
/// The exporter's label (RFC 9266, section 2); its context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// What tells such report data from every other: no input of `ratls-cert:` or `app-data:` gives the same hash.
const TAG: &[u8] = b"casemate-challenge:";

/// A verifier's nonce: chosen at random, used once.
pub type Nonce = [u8; NONCE_LEN];

/// `SHA512("casemate-challenge:" ‖ nonce ‖ exporter ‖ SubjectPublicKeyInfo)`. The first two have fixed lengths, so no two
/// inputs run together.
pub fn report_data(nonce: &Nonce, exporter: &[u8; EXPORTER_LEN], spki_der: &[u8]) -> [u8; 64] {
    let hash = Sha512::new().chain_update(TAG).chain_update(nonce).chain_update(exporter);
    hash.chain_update(spki_der).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ratls::{report_data_for_app, report_data_for_key};

    /// SHA-512 of the parts by `sha512sum`.
    #[test]
    fn it_is_the_hash_of_its_parts() {
        let digest = report_data(&[1; 32], &[2; 32], &[3; 91]);
        let expected = "66f53949e0f955dd66bfd1fcdf07fc54a055f85f77f81fac0172409e850f32a17f43bcc5b956ac1b4fd0066a57582b60f6dc25d00c3652080735ca7393636d89";
        assert_eq!(hex::encode(digest), expected);
    }

    #[test]
    fn each_part_counts_and_no_other_binding_is_like_it() {
        let one = report_data(&[1; 32], &[2; 32], &[3; 91]);
        assert_ne!(one, report_data(&[0; 32], &[2; 32], &[3; 91]));
        assert_ne!(one, report_data(&[1; 32], &[0; 32], &[3; 91]));
        assert_ne!(one, report_data(&[1; 32], &[2; 32], &[0; 91]));
        let parts = [[1; 32].as_slice(), &[2; 32], &[3; 91]].concat();
        assert_ne!(one, report_data_for_app(&parts));
        assert_ne!(one, report_data_for_key(&parts));
    }
}
