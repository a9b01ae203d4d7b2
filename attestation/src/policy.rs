//! The policy file of a relying party: which apps, on which images.

use casemate_measure::{AppId, ComposeHash, LaunchRegisters, Register};
use serde::{Deserialize, Serialize};

use crate::acceptable::{self, Image};
use crate::error::{NotTrusted, PolicyError, Reason};
use crate::peer::{AuthenticPeer, VerifiedPeer};

/// A policy that passed its checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    version: u32,
    images: Vec<PolicyImage>,
    apps: Vec<PolicyApp>,
}

/// One acceptable image. A register that is `null` or absent is not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyImage {
    /// Firmware.
    #[serde(default)]
    pub mrtd: Option<Register>,
    /// Firmware configuration and ACPI.
    #[serde(default)]
    pub rtmr0: Option<Register>,
    /// Kernel.
    #[serde(default)]
    pub rtmr1: Option<Register>,
    /// Command line and initramfs, thus the code: always compared.
    pub rtmr2: Register,
}

/// One acceptable app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyApp {
    /// What a person calls it.
    pub name: String,
    /// Its app id.
    pub app_id: AppId,
    /// SHA-256 of its measured document.
    pub compose_hash: ComposeHash,
    /// The tags that its document gives it.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The only version there is.
const VERSION: u32 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    version: u32,
    images: Vec<PolicyImage>,
    apps: Vec<PolicyApp>,
}

impl From<&LaunchRegisters> for PolicyImage {
    /// The registers that were measured; a zero one becomes `null`.
    fn from(launch: &LaunchRegisters) -> Self {
        let measured = |register: Register| (!register.is_zero()).then_some(register);
        Self {
            mrtd: measured(launch.mrtd),
            rtmr0: measured(launch.rtmr0),
            rtmr1: measured(launch.rtmr1),
            rtmr2: launch.rtmr2,
        }
    }
}

impl Policy {
    /// A policy of these images and apps. `file` is only named in errors.
    ///
    /// # Errors
    /// As [`Policy::from_json`], less the syntax.
    pub fn new(file: &str, images: Vec<PolicyImage>, apps: Vec<PolicyApp>) -> Result<Self, PolicyError> {
        let refuse = |path: String, problem: String| Err(PolicyError { file: file.into(), path, problem });
        if images.is_empty() {
            return refuse("images".into(), "expected at least one acceptable image, found none".into());
        }
        if apps.is_empty() {
            return refuse("apps".into(), "expected at least one acceptable app, found none".into());
        }
        for (index, image) in images.iter().enumerate() {
            let named = [
                ("mrtd", image.mrtd),
                ("rtmr0", image.rtmr0),
                ("rtmr1", image.rtmr1),
                ("rtmr2", Some(image.rtmr2)),
            ];
            let zero = named.iter().find(|(_, register)| register.is_some_and(|r| r.is_zero()));
            if let Some((name, _)) = zero {
                let expected =
                    if *name == "rtmr2" { "a measured register" } else { "a measured register or null" };
                return refuse(
                    format!("images[{index}].{name}"),
                    format!("expected {expected}, found zero (not measured: nothing satisfies it)"),
                );
            }
        }
        for (index, app) in apps.iter().enumerate() {
            let of_document = app.compose_hash.app_id();
            if app.app_id != of_document {
                return refuse(
                    format!("apps[{index}].app_id"),
                    format!("expected {of_document} (the start of compose_hash), found {}", app.app_id),
                );
            }
            if apps.iter().take(index).any(|earlier| earlier.compose_hash == app.compose_hash) {
                return refuse(
                    format!("apps[{index}]"),
                    format!("expected each app once, found {} again", app.app_id),
                );
            }
        }
        Ok(Self { version: VERSION, images, apps })
    }

    /// Reads a policy file. `file` is only named in errors.
    ///
    /// # Errors
    /// Bad JSON, an unknown or doubled key, another version, no image, no app, a register that nothing can satisfy, an app
    /// id that does not follow from its compose hash.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self, PolicyError> {
        let raw: RawPolicy = serde_json::from_slice(json).map_err(|error| PolicyError {
            file: file.into(),
            path: format!("line {}, column {}", error.line(), error.column()),
            problem: error.to_string(),
        })?;
        if raw.version != VERSION {
            return Err(PolicyError {
                file: file.into(),
                path: "version".into(),
                problem: format!("expected {VERSION}, found {}", raw.version),
            });
        }
        Self::new(file, raw.images, raw.apps)
    }

    /// The acceptable images.
    pub fn images(&self) -> &[PolicyImage] {
        &self.images
    }

    /// The acceptable apps.
    pub fn apps(&self) -> &[PolicyApp] {
        &self.apps
    }

    /// Whether this peer is acceptable: one of the images, and one of the apps.
    ///
    /// # Errors
    /// Every difference that was found.
    pub fn judge(&self, peer: AuthenticPeer) -> Result<VerifiedPeer, NotTrusted> {
        let mut reasons = Vec::new();
        let images: Vec<Image> = self.images.iter().map(PolicyImage::as_image).collect();
        if let Err(NotTrusted(of_images)) = acceptable::judge(&images, &peer) {
            reasons.extend(of_images);
        }
        let app = self.apps.iter().find(|a| a.compose_hash == peer.compose_hash && a.app_id == peer.app_id);
        if app.is_none() {
            let listed = self.apps.iter().map(|a| format!("{} ({})", a.compose_hash, a.name));
            let expected = listed.collect::<Vec<_>>().join(" or ");
            reasons.push(Reason::new("compose_hash", expected, peer.compose_hash));
        }
        match app {
            Some(app) if reasons.is_empty() => Ok(VerifiedPeer { peer, tags: app.tags.clone() }),
            _ => Err(NotTrusted(reasons)),
        }
    }
}

impl PolicyImage {
    const fn as_image(&self) -> Image {
        Image::Explicit { mrtd: self.mrtd, rtmr0: self.rtmr0, rtmr1: self.rtmr1, rtmr2: self.rtmr2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> serde_json::Value {
        serde_json::json!({
            "version": 1,
            "images": [{ "mrtd": null, "rtmr2": "aa".repeat(48) }],
            "apps": [{
                "name": "web",
                "app_id": "11".repeat(20),
                "compose_hash": "11".repeat(32),
                "tags": ["tag:internal-only"]
            }]
        })
    }

    fn refusal(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut policy = valid();
        change(&mut policy);
        Policy::from_json("p.json", policy.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_policy_survives_writing_and_reading() {
        let policy = Policy::from_json("p.json", valid().to_string().as_bytes()).unwrap();
        assert_eq!(policy.apps()[0].tags, ["tag:internal-only"]);
        assert_eq!(policy.images()[0].mrtd, None);
        let written = serde_json::to_vec(&policy).unwrap();
        assert_eq!(Policy::from_json("p.json", &written).unwrap(), policy);
    }

    #[test]
    fn unknown_and_doubled_keys_are_refused_at_every_level() {
        assert!(refusal(|p| p["allow_simulator"] = true.into()).contains("unknown field `allow_simulator`"));
        assert!(refusal(|p| p["images"][0]["rtmr3"] = "".into()).contains("unknown field `rtmr3`"));
        assert!(refusal(|p| p["apps"][0]["tag"] = "".into()).contains("unknown field `tag`"));
        let doubled = valid().to_string().replacen('{', "{\"version\":1,", 1);
        let error = Policy::from_json("p.json", doubled.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("duplicate field `version`"), "{error}");
    }

    #[test]
    fn each_error_names_file_place_expectation_and_finding() {
        assert_eq!(refusal(|p| p["version"] = 2.into()), "p.json: version: expected 1, found 2");
        assert_eq!(
            refusal(|p| p["images"] = serde_json::json!([])),
            "p.json: images: expected at least one acceptable image, found none"
        );
        assert_eq!(
            refusal(|p| p["apps"] = serde_json::json!([])),
            "p.json: apps: expected at least one acceptable app, found none"
        );
        assert!(
            refusal(|p| p["images"][0]["mrtd"] = "00".repeat(48).into())
                .starts_with("p.json: images[0].mrtd: expected a measured register or null, found zero")
        );
        assert!(
            refusal(|p| p["images"][0]["rtmr2"] = "00".repeat(48).into())
                .starts_with("p.json: images[0].rtmr2: expected a measured register, found zero")
        );
        assert!(
            refusal(|p| p["images"][0]["rtmr2"] = "aa".into())
                .contains("expected 96 hex digits, found \"aa\"")
        );
        assert!(refusal(|p| p["images"][0] = serde_json::json!({})).contains("missing field `rtmr2`"));
        assert!(
            refusal(|p| p["apps"][0]["app_id"] = "22".repeat(20).into())
                .starts_with("p.json: apps[0].app_id")
        );
        assert!(
            refusal(|p| {
                let app = p["apps"][0].clone();
                p["apps"] = serde_json::json!([app.clone(), app]);
            })
            .starts_with("p.json: apps[1]: expected each app once")
        );
    }
}
