//! AEAD_AES_SIV_CMAC_256 (RFC 5297), as RFC 8915 section 5.6 uses it.

use aes_siv::KeyInit as _;
use aes_siv::siv::Aes128Siv;

use crate::time::TimeError;

/// The two keys of an association, from the key exchange's TLS session.
#[derive(Clone)]
pub struct Keys {
    /// What we send.
    pub to_server: [u8; 32],
    /// What we get.
    pub to_client: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// The nonce is the last of the associated data (RFC 5297 section 3).
pub(super) fn seal(key: &[u8; 32], data: &[u8], nonce: &[u8], plain: &[u8]) -> Result<Vec<u8>, TimeError> {
    Aes128Siv::new(key.into())
        .encrypt([data, nonce], plain)
        .map_err(|_| TimeError::answer("a request that can be sealed", "another"))
}

pub(super) fn open(key: &[u8; 32], data: &[u8], nonce: &[u8], sealed: &[u8]) -> Result<Vec<u8>, TimeError> {
    Aes128Siv::new(key.into())
        .decrypt([data, nonce], sealed)
        .map_err(|_| TimeError::answer("an authentic one", "another"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5297 appendix A.1 (without a nonce) and A.2.
    #[test]
    fn vectors_of_the_rfc() {
        let hex = |text: &str| hex::decode(text.replace(' ', "")).unwrap();
        let key: [u8; 32] =
            hex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let sealed = Aes128Siv::new((&key).into())
            .encrypt(
                [hex("101112131415161718191a1b1c1d1e1f2021222324252627")],
                &hex("112233445566778899aabbccddee"),
            )
            .unwrap();
        assert_eq!(sealed, hex("85632d07c6e8f37f950acd320a2ecc93 40c02b9690c4dc04daef7f6afe5c"));

        let key: [u8; 32] =
            hex("7f7e7d7c7b7a79787776757473727170 404142434445464748494a4b4c4d4e4f").try_into().unwrap();
        let data = [
            hex("00112233445566778899aabbccddeeff deaddadadeaddadaffeeddccbbaa9988 7766554433221100"),
            hex("102030405060708090a0"),
            hex("09f911029d74e35bd84156c5635688c0"),
        ];
        let plain = b"this is some plaintext to encrypt using SIV-AES";
        let sealed = Aes128Siv::new((&key).into()).encrypt(&data, plain).unwrap();
        assert_eq!(
            sealed,
            hex("7bdb6e3b432667eb06f4d14bff2fbd0f cb900f2fddbe404326601965c889bf17
                dba77ceb094fa663b7a3f748ba8af829 ea64ad544a272e9c485b62a3fd5c0d"
                .replace('\n', "")
                .as_str())
        );
    }

    #[test]
    fn only_what_was_sealed_is_opened() {
        let key = [7; 32];
        let sealed = seal(&key, b"data", b"nonce", b"plain").unwrap();
        assert_eq!(open(&key, b"data", b"nonce", &sealed).unwrap(), b"plain");
        let mut bent = sealed.clone();
        bent[20] ^= 1;
        for (key, data, nonce, sealed) in [
            (&[8; 32], b"data".as_slice(), b"nonce".as_slice(), sealed.as_slice()),
            (&key, b"date", b"nonce", &sealed),
            (&key, b"data", b"nonsense", &sealed),
            (&key, b"data", b"nonce", &bent),
            (&key, b"data", b"nonce", &sealed[..15]),
            (&key, b"data", b"nonce", b""),
        ] {
            assert!(open(key, data, nonce, sealed).is_err());
        }
    }
}
