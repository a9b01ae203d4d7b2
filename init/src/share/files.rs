//! The two small files beside the document. The host wrote them and nothing measures them, so little of them is used, and
//! what is used is bound some other way: `mr_config` by MRCONFIGID, `app_id` and the instance id by RTMR3.

use casemate_measure::AppId;
use serde::Deserialize;

use super::error::ShareError;
use super::{INSTANCE_INFO, SYS_CONFIG};

/// The most entries of a list of addresses.
const LIST_MAX: usize = 32;
/// The longest address in bytes.
const URL_MAX: usize = 2048;

/// What is used of `.sys-config.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysConfig {
    /// The document behind MRCONFIGID version 3, as it was supplied.
    pub mr_config: Option<String>,
}

/// What is used of `.instance_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceInfo {
    /// The seed of an earlier boot's instance id; 20 bytes.
    pub seed: Option<[u8; 20]>,
    /// The app id, where a KMS gave it one that is not of its compose hash.
    pub app_id: Option<AppId>,
}

/// Every field that dstack documents (dstack `dstack-types/src/lib.rs`, `SysConfig`); serde refuses any other, and each one
/// that comes twice, under whichever of its names.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SysConfigFields {
    kms_urls: Option<Vec<String>>,
    #[serde(alias = "tproxy_urls")]
    gateway_urls: Option<Vec<String>>,
    pccs_url: Option<String>,
    collateral_urls: Option<CollateralUrls>,
    nvidia_attestation_proxy_url: Option<String>,
    docker_registry: Option<String>,
    host_api_url: Option<String>,
    vm_config: Option<String>,
    mr_config: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CollateralUrls {
    pccs: Option<String>,
    amd_kds: Option<String>,
}

/// Reads `.sys-config.json`; only `mr_config` is used. Its length and `vm_config`'s are bounded by the file's.
///
/// # Errors
/// The first field that is not as dstack documents it.
pub fn sys_config(bytes: &[u8]) -> Result<SysConfig, ShareError> {
    let fields: SysConfigFields = object(SYS_CONFIG, bytes)?;
    for (field, list) in [("kms_urls", &fields.kms_urls), ("gateway_urls", &fields.gateway_urls)] {
        let list = list.as_deref().unwrap_or_default();
        if list.len() > LIST_MAX {
            let (expected, found) = (format!("at most {LIST_MAX} entries"), list.len().to_string());
            return Err(wrong(SYS_CONFIG, field, expected, found));
        }
        list.iter().try_for_each(|url| address(field, url))?;
    }
    let collateral = fields.collateral_urls.unwrap_or_default();
    let single = [
        ("pccs_url", &fields.pccs_url),
        ("collateral_urls.pccs", &collateral.pccs),
        ("collateral_urls.amd_kds", &collateral.amd_kds),
        ("nvidia_attestation_proxy_url", &fields.nvidia_attestation_proxy_url),
        ("docker_registry", &fields.docker_registry),
        ("host_api_url", &fields.host_api_url),
    ];
    for (field, url) in single {
        url.iter().try_for_each(|url| address(field, url))?;
    }
    // A JSON document in a string: that it is one is for whoever uses it some day.
    drop(fields.vm_config);
    Ok(SysConfig { mr_config: fields.mr_config })
}

fn address(field: &str, url: &str) -> Result<(), ShareError> {
    if url.len() > URL_MAX {
        let expected = format!("at most {URL_MAX} bytes");
        return Err(wrong(SYS_CONFIG, field, expected, url.len().to_string()));
    }
    match url.chars().find(|c| c.is_control() || c.is_whitespace()) {
        Some(c) => Err(wrong(SYS_CONFIG, field, "an address", format!("{c:?} in it"))),
        None => Ok(()),
    }
}

/// dstack writes all three fields and leaves what it does not know empty (dstack `dstack-util/src/system_setup.rs`,
/// `InstanceInfo`).
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InstanceInfoFields {
    instance_id_seed: Option<String>,
    instance_id: Option<String>,
    app_id: Option<String>,
}

/// Reads `.instance_info`. An empty or absent field says nothing.
///
/// # Errors
/// The first field that is neither empty nor 40 hex digits.
pub fn instance_info(bytes: &[u8]) -> Result<InstanceInfo, ShareError> {
    let fields: InstanceInfoFields = object(INSTANCE_INFO, bytes)?;
    // Derived from the seed at each boot, so it is not used; that it has a form is checked all the same.
    twenty("instance_id", fields.instance_id.as_deref())?;
    Ok(InstanceInfo {
        seed: twenty("instance_id_seed", fields.instance_id_seed.as_deref())?,
        app_id: twenty("app_id", fields.app_id.as_deref())?.map(AppId),
    })
}

fn twenty(field: &str, text: Option<&str>) -> Result<Option<[u8; 20]>, ShareError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let mut bytes = [0; 20];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(_) => Err(wrong(INSTANCE_INFO, field, "40 hex digits or nothing", shown(text))),
    }
}

/// How many characters of the host's are shown.
const SHOWN: usize = 100;

fn object<'a, T: Deserialize<'a>>(file: &'static str, bytes: &'a [u8]) -> Result<T, ShareError> {
    // serde would take a list of values in the order of the fields, too.
    let bytes = if bytes.trim_ascii_start().starts_with(b"{") { bytes } else { b"" };
    serde_json::from_slice(bytes).map_err(|error| {
        // serde puts words of the host's into its own, some of them as they are.
        let words = error.to_string().chars().take(SHOWN).flat_map(char::escape_debug).collect::<String>();
        wrong(file, "(top level)", "a JSON object of dstack's documented fields", words)
    })
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN).collect::<String>())
}

fn wrong(
    file: &'static str,
    field: &str,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> ShareError {
    ShareError::Field { file, field: field.to_owned(), expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a dstack host writes it.
    const HOSTS: &str = r#"{
        "kms_urls": ["https://kms.1022.example:12001"], "gateway_urls": ["https://gateway.example:12002"],
        "pccs_url": "https://pccs.example", "collateral_urls": {"pccs": "https://pccs.example", "amd_kds": null},
        "docker_registry": null, "host_api_url": "vsock://2:10000/api", "nvidia_attestation_proxy_url": "",
        "vm_config": "{\"spec_version\":1,\"cpu_count\":2}", "mr_config": "{\"version\":3}"
    }"#;

    fn refused(text: &str) -> String {
        sys_config(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn only_mr_config_is_kept() {
        let read = sys_config(HOSTS.as_bytes()).unwrap();
        assert_eq!(read.mr_config.as_deref(), Some("{\"version\":3}"));
        assert_eq!(sys_config(b"{}").unwrap(), SysConfig::default());
        let old = HOSTS.replace("gateway_urls", "tproxy_urls");
        assert_eq!(sys_config(old.as_bytes()).unwrap(), read);
    }

    #[test]
    fn each_documented_field_has_its_type_and_its_bounds() {
        let long = format!("\"{}\"", "u".repeat(URL_MAX + 1));
        let many = format!("[{}]", vec!["\"u\""; LIST_MAX + 1].join(","));
        let cases = [
            (r#"{"kms_urls": "u"}"#.to_owned(), "a JSON object of dstack's documented fields"),
            (r#"{"kms_urls": [1]}"#.into(), "a JSON object of dstack's documented fields"),
            (r#"{"mr_config": {"version": 3}}"#.into(), "a JSON object of dstack's documented fields"),
            (r#"{"vm_config": {}}"#.into(), "a JSON object of dstack's documented fields"),
            (r#"{"collateral_urls": {"other": ""}}"#.into(), "unknown field `other`"),
            (r#"{"extra": 1}"#.into(), "unknown field `extra`"),
            (r#"{"mr_config": "a", "mr_\u0063onfig": "b"}"#.into(), "duplicate field `mr_config`"),
            (r#"{"gateway_urls": [], "tproxy_urls": []}"#.into(), "duplicate field `gateway_urls`"),
            (r#"{"docker_registry": "a b"}"#.into(), "docker_registry: expected an address, found ' ' in it"),
            (r#"{"host_api_url": "a\u0000"}"#.into(), "host_api_url: expected an address, found '\\0' in it"),
            (format!(r#"{{"pccs_url": {long}}}"#), "pccs_url: expected at most 2048 bytes, found 2049"),
            (format!(r#"{{"kms_urls": [{long}]}}"#), "kms_urls: expected at most 2048 bytes, found 2049"),
            (format!(r#"{{"tproxy_urls": {many}}}"#), "gateway_urls: expected at most 32 entries, found 33"),
            ("[]".into(), "a JSON object of dstack's documented fields"),
            ("[]{}".into(), "a JSON object of dstack's documented fields"),
            (String::new(), "a JSON object of dstack's documented fields"),
            ("[".repeat(30_000), "a JSON object of dstack's documented fields"),
        ];
        for (text, says) in cases {
            let error = refused(&text);
            assert!(error.starts_with(".sys-config.json: ") && error.contains(says), "{says:?}: {error}");
        }
        for field in ["collateral_urls\": {\"pccs", "collateral_urls\": {\"amd_kds"] {
            let error = refused(&format!("{{\"{field}\": \"a\\n\"}}}}"));
            assert!(error.contains("expected an address"), "{error}");
        }
        let error = refused("{\"nvidia_attestation_proxy_url\": \"\\t\"}");
        assert!(error.contains("nvidia_attestation_proxy_url: expected an address"), "{error}");
    }

    #[test]
    fn instance_info_is_twenty_bytes_or_nothing() {
        let seed = "0a".repeat(20);
        let full = format!(
            r#"{{"instance_id_seed":"{seed}","instance_id":"{seed}","app_id":"{}"}}"#,
            "0B".repeat(20)
        );
        let read = instance_info(full.as_bytes()).unwrap();
        assert_eq!((read.seed, read.app_id), (Some([0x0a; 20]), Some(AppId([0x0b; 20]))));
        for nothing in ["{}", r#"{"instance_id_seed":"","instance_id":"","app_id":""}"#, r#"{"app_id":null}"#]
        {
            assert_eq!(instance_info(nothing.as_bytes()).unwrap(), InstanceInfo::default());
        }
        for field in ["instance_id_seed", "instance_id", "app_id"] {
            for bad in ["0a".repeat(19), "0a".repeat(21), "0".repeat(39), "0g".repeat(20), " ".into()] {
                let text = format!("{{\"{field}\":\"{bad}\"}}");
                let error = instance_info(text.as_bytes()).unwrap_err().to_string();
                let expected =
                    format!(".instance_info: {field}: expected 40 hex digits or nothing, found \"{bad}\"");
                assert_eq!(error, expected);
            }
        }
        for bad in [r#"{"app_id":5}"#, r#"{"other":""}"#, r#"{"app_id":"","app_id":""}"#, "[]", "{}x"] {
            assert!(instance_info(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop((sys_config(&bytes), instance_info(&bytes)));
        }

        /// What the host wrote reaches the console only escaped and cut.
        #[test]
        fn errors_are_short_and_printable(word in "\\PC{0,300}|[\u{0}-\u{1f}]{0,40}") {
            let quoted = serde_json::to_string(&word).unwrap();
            for text in [format!("{{{quoted}:1}}"), format!("{{\"app_id\":{quoted}}}"), format!("{{\"kms_urls\":{quoted}}}")] {
                for error in [sys_config(text.as_bytes()).err(), instance_info(text.as_bytes()).err()] {
                    let words = error.map(|e| e.to_string()).unwrap_or_default();
                    prop_assert!(words.len() < 2000 && !words.contains(char::is_control), "{:?}", words);
                }
            }
        }
    }
}
