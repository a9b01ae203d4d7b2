//! The app's keys and what is derived from them, as dstack does (`guest-agent/src/rpc_service.rs`, `ra-tls/src/kdf.rs`).

use std::fmt;

use k256::ecdsa::SigningKey;
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha3::{Digest as _, Keccak256};

use crate::arguments::quoted;
use crate::error::AgentError;
use crate::messages::{Key, KeyRequest};

/// HKDF salt (dstack `ra-tls/src/kdf.rs`).
const SALT: &[u8] = b"RATLS";

/// The app's secp256k1 key. With key provider `none` it is random and lives as long as this process.
pub(crate) struct AppKey(SigningKey);

impl fmt::Debug for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppKey(..)")
    }
}

/// Why a key could not be derived. The text goes to the caller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// dstack's words.
    #[error("Unsupported algorithm: expected `secp256k1`, `k256` or `ed25519`, found {}", quoted(.0))]
    Algorithm(String),
    #[error("the key could not be derived")]
    Derivation,
    #[error("the key could not be signed")]
    Signature,
}

impl AppKey {
    /// A random key.
    pub(crate) fn random() -> Result<Self, AgentError> {
        let random = SystemRandom::new();
        let mut scalar = [0; 32];
        loop {
            random.fill(&mut scalar).map_err(|_| AgentError::Random)?;
            // Not a scalar once in 2^128 times.
            if let Some(key) = Self::from_scalar(&scalar) {
                return Ok(key);
            }
        }
    }

    fn from_scalar(scalar: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(scalar).ok().map(Self)
    }

    /// The key for a path, the same for both algorithms, and the app key's signature over its public key.
    pub(crate) fn derive(&self, request: &KeyRequest) -> Result<Key, KeyError> {
        let key = self.expand(request.path.as_bytes()).ok_or(KeyError::Derivation)?;
        let public = match request.algorithm.as_str() {
            "" | "secp256k1" | "k256" => {
                let derived = SigningKey::from_slice(&key).map_err(|_| KeyError::Derivation)?;
                derived.verifying_key().to_encoded_point(true).as_bytes().to_vec()
            }
            "ed25519" => {
                let derived = Ed25519KeyPair::from_seed_unchecked(&key).map_err(|_| KeyError::Derivation)?;
                derived.public_key().as_ref().to_vec()
            }
            other => return Err(KeyError::Algorithm(other.to_owned())),
        };
        let message = Keccak256::new_with_prefix(format!("{}:{}", request.purpose, hex::encode(public)));
        let (signature, id) = self.0.sign_digest_recoverable(message).map_err(|_| KeyError::Signature)?;
        let mut by_app = signature.to_vec();
        by_app.push(id.to_byte());
        // Who vouches for the app's key: nobody, with key provider `none`. dstack keeps an empty signature then.
        let by_provider = Vec::new();
        Ok(Key { key, signature_chain: vec![by_app, by_provider] })
    }

    /// HKDF-SHA256(salt, ikm = app key, info, 32).
    fn expand(&self, info: &[u8]) -> Option<[u8; 32]> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&self.0.to_bytes());
        let mut key = [0; 32];
        secret.expand(&[info], hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
    use sha2::Sha256;

    use super::*;

    fn request(path: &str, purpose: &str, algorithm: &str) -> KeyRequest {
        KeyRequest { path: path.into(), purpose: purpose.into(), algorithm: algorithm.into() }
    }

    /// RFC 2104, written out.
    fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
        Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
    }

    /// RFC 5869 for one block of output, written out.
    fn hkdf_by_hand(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
        hmac(&hmac(salt, secret), &[info, &[1]].concat())
    }

    #[test]
    fn derivation_is_hkdf_sha256() {
        // RFC 5869 A.1: the independent formulation is right.
        let prk = hmac(&(0..=0x0c).collect::<Vec<u8>>(), &[0x0b; 22]);
        assert_eq!(hex::encode(prk), "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let app = AppKey::from_scalar(&[7; 32]).unwrap();
        // By Python's hmac and hashlib.
        assert_eq!(
            hex::encode(app.derive(&request("web/1", "", "")).unwrap().key),
            "1bcb3d915e3a7e5c17a59b18c7b474cfa5259b9caafe7f51a761f93c1b69038f"
        );
        for path in ["", "web/1", "vms", &"long".repeat(100)] {
            let expected = hkdf_by_hand(b"RATLS", &[7; 32], path.as_bytes());
            assert_eq!(app.derive(&request(path, "", "")).unwrap().key, expected, "{path}");
            assert_eq!(app.derive(&request(path, "x", "ed25519")).unwrap().key, expected, "{path}");
        }
    }

    #[test]
    fn the_signature_recovers_the_app_key() {
        let app = AppKey::from_scalar(&[7; 32]).unwrap();
        for (algorithm, length) in [("", 33), ("k256", 33), ("secp256k1", 33), ("ed25519", 32)] {
            let key = app.derive(&request("a/path", "signing", algorithm)).unwrap();
            let public = match length {
                33 => SigningKey::from_slice(&key.key).unwrap().verifying_key().to_sec1_bytes().to_vec(),
                _ => Ed25519KeyPair::from_seed_unchecked(&key.key).unwrap().public_key().as_ref().to_vec(),
            };
            assert_eq!(public.len(), length);
            let [by_app, by_provider] = key.signature_chain.as_slice() else { panic!("two signatures") };
            assert!(by_provider.is_empty());
            let (signature, id) = by_app.split_at(64);
            let recovered = VerifyingKey::recover_from_digest(
                Keccak256::new_with_prefix(format!("signing:{}", hex::encode(public))),
                &Signature::from_slice(signature).unwrap(),
                RecoveryId::from_byte(id[0]).unwrap(),
            )
            .unwrap();
            assert_eq!(&recovered, app.0.verifying_key(), "{algorithm}");
        }
    }

    #[test]
    fn other_algorithms_are_refused_and_keys_are_not_shown() {
        let app = AppKey::random().unwrap();
        let error = app.derive(&request("", "", "rsa")).unwrap_err().to_string();
        assert_eq!(error, "Unsupported algorithm: expected `secp256k1`, `k256` or `ed25519`, found \"rsa\"");
        let key = app.derive(&request("", "", "")).unwrap();
        let shown = format!("{key:?}{app:?}");
        assert!(!shown.contains(&hex::encode(key.key)) && !shown.contains(&format!("{:?}", key.key)));
        assert_ne!(app.0, AppKey::random().unwrap().0);
    }
}
