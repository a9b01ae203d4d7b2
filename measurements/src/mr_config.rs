//! The document behind MRCONFIGID version 3: dstack's `MrConfigV3` (dstack `dstack-types/src/mr_config.rs`), which the host
//! hands over beside the measured document and binds at launch by its hash.

use serde::Deserialize;

use crate::identity::{AppId, ComposeHash, InstanceId, KeyProvider};

/// Why the document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MrConfigError {
    /// No such document.
    #[error("mr_config: expected dstack's MrConfigV3, found {0}")]
    Form(String),
    /// Another version.
    #[error("mr_config.version: expected 3, found {0}")]
    Version(u64),
    /// A field that says something else than what was measured.
    #[error("mr_config.{field}: expected {expected}, found {found}")]
    Differs {
        /// Which.
        field: &'static str,
        /// What was measured.
        expected: String,
        /// What the document says, in quotes.
        found: String,
    },
}

/// What the guest has measured, and the document must say.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// The compose hash.
    pub compose_hash: &'a ComposeHash,
    /// The app id.
    pub app_id: &'a AppId,
    /// Where keys come from.
    pub key_provider: &'a KeyProvider,
    /// This boot's instance id.
    pub instance_id: &'a InstanceId,
}

/// The fields as they are spelt; a field twice and a field that is not here are refused by serde.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default = "three")]
    version: u64,
    app_id: Option<String>,
    compose_hash: String,
    gpu_policy_hash: Option<String>,
    key_provider: String,
    key_provider_id: Option<String>,
    instance_id: Option<String>,
    init_script_hashes: Option<Vec<String>>,
}

const fn three() -> u64 {
    3
}

/// Reads the document and compares every field that it has with what was measured. An optional field that is absent says
/// nothing, as in dstack's own guest; the compose hash and the key provider must be there.
///
/// # Errors
/// The first field that is wrong, with what was expected.
pub fn check(document: &[u8], measured: &Measured<'_>) -> Result<(), MrConfigError> {
    // serde would take a list of values in the order of the fields, too.
    let document = if document.trim_ascii_start().starts_with(b"{") { document } else { b"" };
    let fields: Fields =
        serde_json::from_slice(document).map_err(|error| MrConfigError::Form(tame(&error.to_string())))?;
    if fields.version != 3 {
        return Err(MrConfigError::Version(fields.version));
    }
    let hex = |field, expected: &[u8], found: &str| {
        let same = hex::decode(found).is_ok_and(|bytes| bytes == expected);
        if same { Ok(()) } else { Err(differs(field, &hex::encode(expected), found)) }
    };
    let optional = |field, expected: &[u8], found: &Option<String>| {
        found.as_ref().map_or(Ok(()), |found| hex(field, expected, found))
    };
    hex("compose_hash", &measured.compose_hash.0, &fields.compose_hash)?;
    optional("app_id", &measured.app_id.0, &fields.app_id)?;
    if fields.key_provider != measured.key_provider.word() {
        return Err(differs("key_provider", measured.key_provider.word(), &fields.key_provider));
    }
    optional("key_provider_id", measured.key_provider.id(), &fields.key_provider_id)?;
    optional("instance_id", &measured.instance_id.0, &fields.instance_id)?;
    if let Some(policy) = &fields.gpu_policy_hash {
        return Err(differs("gpu_policy_hash", "nothing: no GPU policy is carried out", policy));
    }
    match fields.init_script_hashes.as_deref() {
        None | Some([]) => Ok(()),
        Some([first, ..]) => {
            Err(differs("init_script_hashes", "nothing: no init script is carried out", first))
        }
    }
}

/// How many characters of the host's are shown: longer than any right value.
const SHOWN: usize = 128;

fn differs(field: &'static str, expected: &str, found: &str) -> MrConfigError {
    let found = format!("{:?}", found.chars().take(SHOWN).collect::<String>());
    MrConfigError::Differs { field, expected: expected.to_owned(), found }
}

/// serde's words, into which it puts some of the host's as they are.
fn tame(words: &str) -> String {
    words.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPOSE: ComposeHash = ComposeHash([0x22; 32]);
    const APP: AppId = AppId([0x11; 20]);
    const INSTANCE: InstanceId = InstanceId([0x44; 20]);

    fn judge(document: &str, provider: &KeyProvider) -> Result<(), String> {
        let measured =
            Measured { compose_hash: &COMPOSE, app_id: &APP, key_provider: provider, instance_id: &INSTANCE };
        check(document.as_bytes(), &measured).map_err(|error| error.to_string())
    }

    fn full() -> String {
        format!(
            r#"{{"app_id":"{APP}","compose_hash":"{COMPOSE}","init_script_hashes":[],"instance_id":"{INSTANCE}","key_provider":"kms","key_provider_id":"3333","version":3}}"#
        )
    }

    #[test]
    fn a_document_that_says_what_was_measured_passes() {
        let kms = KeyProvider::Kms(vec![0x33; 2]);
        judge(&full(), &kms).unwrap();
        let least = format!(r#"{{"compose_hash":"{COMPOSE}","key_provider":"none"}}"#);
        judge(&least, &KeyProvider::None).unwrap();
        let empty_id = format!(r#"{{"compose_hash":"{COMPOSE}","key_provider":"tpm","key_provider_id":""}}"#);
        judge(&empty_id, &KeyProvider::Tpm).unwrap();
    }

    #[test]
    fn every_field_that_differs_is_named() {
        let kms = KeyProvider::Kms(vec![0x33; 2]);
        let app = APP.to_string();
        let compose = COMPOSE.to_string();
        let instance = INSTANCE.to_string();
        let cases = [
            (compose.as_str(), "23".repeat(32), "mr_config.compose_hash: expected 2222"),
            (&compose, "22".repeat(31), "mr_config.compose_hash: expected 2222"),
            (&app, "12".repeat(20), "mr_config.app_id: expected 1111"),
            (&app, String::new(), "mr_config.app_id: expected 1111"),
            (&instance, "45".repeat(20), "mr_config.instance_id: expected 4444"),
            ("kms", "none".into(), "mr_config.key_provider: expected kms, found \"none\""),
            ("3333", "3334".into(), "mr_config.key_provider_id: expected 3333, found \"3334\""),
            ("\"version\":3", "\"version\":2".into(), "mr_config.version: expected 3, found 2"),
            ("[]", "[\"aa\"]".into(), "mr_config.init_script_hashes: expected nothing"),
            (
                "\"version\":3",
                "\"gpu_policy_hash\":\"55\"".into(),
                "mr_config.gpu_policy_hash: expected nothing",
            ),
            ("\"version\":3", "\"other\":3".into(), "unknown field `other`"),
            ("\"version\":3", "\"\\u0061pp_id\":\"00\"".into(), "duplicate field `app_id`"),
            ("\"version\":3}", "\"version\":3} {}".into(), "trailing characters"),
            ("\"compose_hash\"", "\"init_script_hashes\"".into(), "expected a sequence"),
        ];
        for (from, to, says) in cases {
            let document = full().replacen(from, &to, 1);
            assert_ne!(document, full(), "{from}");
            let error = judge(&document, &kms).unwrap_err();
            assert!(error.contains(says), "expected {says:?}, found {error}");
        }
        let error = judge(&full(), &KeyProvider::Kms(vec![0x33; 3])).unwrap_err();
        assert!(error.starts_with("mr_config.key_provider_id: expected 333333, found"), "{error}");
        let list = format!(r#"[3,null,"{COMPOSE}",null,"none"]"#);
        assert!(judge(&list, &KeyProvider::None).is_err(), "a list is no object");
        let error = judge("{\"key_provider\":\"none\"}", &KeyProvider::None).unwrap_err();
        assert!(error.contains("missing field `compose_hash`"), "{error}");
    }

    #[test]
    fn what_the_host_wrote_is_shown_short_and_escaped() {
        for text in
            [r#"{"compose_hash":"WORD","key_provider":"none"}"#, r#"{"WORD":1}"#, r#"{"version":"WORD"}"#]
        {
            let long = text.replace("WORD", &format!("\\u001b{}", "x".repeat(1000)));
            let error = judge(&long, &KeyProvider::None).unwrap_err();
            assert!(error.len() < 300 && !error.contains('\u{1b}'), "{error}");
        }
    }
}
