//! Reading a policy file, and what no policy may say.

use std::collections::BTreeSet;

use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::{LaunchRegisters, Register};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Freshness, Platform, Policy, PolicyApp, PolicyParts, TcbRules, images};
use crate::error::PolicyError;
use crate::key_provider::ProviderClaim;
use crate::kms::KmsRoot;

/// The only version there is.
const VERSION: u32 = 1;

/// The file, its images unread.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    version: u32,
    #[serde(borrow, default)]
    images: Vec<&'a RawValue>,
    #[serde(default)]
    kms: Vec<KmsRoot>,
    apps: Vec<PolicyApp>,
    #[serde(default)]
    key_providers: Vec<ProviderClaim>,
    #[serde(default)]
    os_image_hashes: BTreeSet<Hash256>,
    #[serde(default)]
    tdx_modules: BTreeSet<Register>,
    #[serde(default)]
    platforms: Vec<Platform>,
    #[serde(default)]
    tcb: TcbRules,
    #[serde(default)]
    freshness: Freshness,
}

pub(super) fn read(file: &str, json: &[u8], own: Option<&LaunchRegisters>) -> Result<Policy, PolicyError> {
    let raw: Raw<'_> = serde_json::from_slice(json).map_err(|error| PolicyError {
        file: file.into(),
        path: format!("line {}, column {}", error.line(), error.column()),
        problem: error.to_string(),
    })?;
    if raw.version != VERSION {
        return refuse(file, "version", format!("expected {VERSION}, found {}", raw.version));
    }
    let mut read = Vec::new();
    for (index, entry) in raw.images.into_iter().enumerate() {
        match images::read(entry, own) {
            Ok(image) => read.push(image),
            Err(problem) => return refuse(file, format!("images[{index}]"), problem),
        }
    }
    let parts = PolicyParts {
        images: read,
        kms: raw.kms,
        apps: raw.apps,
        key_providers: raw.key_providers,
        os_image_hashes: raw.os_image_hashes,
        tdx_modules: raw.tdx_modules,
        platforms: raw.platforms,
        tcb: raw.tcb,
        freshness: raw.freshness,
    };
    check(file, parts)
}

pub(super) fn check(file: &str, parts: PolicyParts) -> Result<Policy, PolicyError> {
    let PolicyParts {
        images,
        kms,
        apps,
        mut key_providers,
        os_image_hashes,
        tdx_modules,
        platforms,
        tcb,
        freshness,
    } = parts;
    if images.is_empty() && kms.is_empty() {
        return refuse(
            file,
            "images",
            "expected at least one acceptable image (or a KMS that judges them), found none",
        );
    }
    for (index, image) in images.iter().enumerate() {
        let named = image.named();
        let zero = named.iter().find(|(_, register)| register.is_some_and(|r| r.is_zero()));
        if let Some((name, _)) = zero {
            let expected =
                if *name == "rtmr2" { "a measured register" } else { "a measured register or null" };
            let problem = format!("expected {expected}, found zero (not measured: nothing satisfies it)");
            return refuse(file, format!("images[{index}].{name}"), problem);
        }
    }
    for (index, root) in kms.iter().enumerate() {
        if let Err(problem) = root.check() {
            return refuse(file, format!("kms[{index}].certificate"), problem);
        }
    }
    if key_providers.is_empty() {
        key_providers.push(ProviderClaim::none());
    }
    if let Some(index) = key_providers.iter().position(|provider| !provider.is_known()) {
        let problem =
            "expected none or tpm without id, kms or local-sgx with one (lower-case hex), found another";
        return refuse(file, format!("key_providers[{index}]"), problem);
    }
    check_apps(file, &apps, key_providers.iter().any(ProviderClaim::is_kms))?;
    if tdx_modules.contains(&Register::ZERO) {
        return refuse(file, "tdx_modules", "expected measured modules, found zero");
    }
    if let Some(index) =
        platforms.iter().position(|platform| platform.ppid.is_none() && platform.piid.is_none())
    {
        return refuse(file, format!("platforms[{index}]"), "expected a ppid or a piid, found neither");
    }
    if let Some((path, problem)) = tcb.contradiction() {
        return refuse(file, path, problem);
    }
    Ok(Policy {
        version: VERSION,
        images,
        kms,
        apps,
        key_providers,
        os_image_hashes,
        tdx_modules,
        platforms,
        tcb,
        freshness,
    })
}

fn check_apps(file: &str, apps: &[PolicyApp], has_kms: bool) -> Result<(), PolicyError> {
    if apps.is_empty() {
        return refuse(file, "apps", "expected at least one acceptable app, found none");
    }
    for (index, app) in apps.iter().enumerate() {
        match app.compose_hash {
            None if !has_kms => {
                let problem = "expected 64 hex digits (null is for apps of a KMS, and key_providers names none), found null";
                return refuse(file, format!("apps[{index}].compose_hash"), problem);
            }
            Some(hash) if !has_kms && hash.app_id() != app.app_id => {
                let problem =
                    format!("expected {} (the start of compose_hash), found {}", hash.app_id(), app.app_id);
                return refuse(file, format!("apps[{index}].app_id"), problem);
            }
            _ => {}
        }
        let same =
            |earlier: &PolicyApp| (earlier.app_id, earlier.compose_hash) == (app.app_id, app.compose_hash);
        if apps.iter().take(index).any(same) {
            let problem = format!("expected each app once, found {} again", app.app_id);
            return refuse(file, format!("apps[{index}]"), problem);
        }
    }
    Ok(())
}

fn refuse<T>(file: &str, path: impl Into<String>, problem: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError { file: file.into(), path: path.into(), problem: problem.into() })
}
