//! What the host hands to a guest beside its image: the document and its companions on the share, and MRCONFIGID, which
//! binds the document at launch. Pure but for reading the files; everything is checked before anything starts.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use casemate_measure::{AppId, ComposeHash, KeyProvider, MeasuredConfig, MrConfigId, Platform};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::image::CheckedImage;
use crate::share::Share;

/// The longest file that is read at all, in bytes: dstack's own limit for the document (dstack
/// `dstack-util/src/host_shared.rs`). What our guest takes is less, and checked unless the caller says otherwise.
const FILE_MAX: u64 = 50 << 20;
/// The longest `.sys-config.json` that a dstack guest copies, in bytes (ibid.).
const SYS_CONFIG_MAX: usize = 32 << 10;
/// The longest `.instance_info` that a dstack guest copies, in bytes (ibid.).
const INSTANCE_INFO_MAX: usize = 10 << 10;

/// Which MRCONFIGID the host binds at launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigId {
    /// Version 1 of a document on the share, else what the image's `registers.json` says.
    Auto,
    /// Version 1: the compose hash.
    V1,
    /// Version 2: compose hash, app id and key provider.
    V2,
    /// Version 3: the `MrConfigV3` document, which goes into `.sys-config.json`.
    V3,
    /// This one; all zero binds nothing.
    Exact(MrConfigId),
}

impl FromStr for ConfigId {
    type Err = Error;

    /// `auto`, `v1`, `v2`, `v3`, `zero` or 96 hex digits.
    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "auto" => Self::Auto,
            "v1" => Self::V1,
            "v2" => Self::V2,
            "v3" => Self::V3,
            "zero" => Self::Exact(MrConfigId::ZERO),
            hex => Self::Exact(MrConfigId::from_hex(hex).ok_or_else(|| Error::ConfigId(text.into()))?),
        })
    }
}

/// A file of the host, whole.
#[derive(Clone, Debug)]
pub struct HostFile {
    /// Where it lies, for errors.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl HostFile {
    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read or is longer than 50 MiB.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Error::file(path))?;
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(Error::file(path))?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(refused(path, format!("at most {FILE_MAX} bytes"), "more".into()));
        }
        Ok(Self { path: path.into(), bytes })
    }

    fn object(&self, most: usize) -> Result<Map<String, Value>, Error> {
        if self.bytes.len() > most {
            return Err(refused(&self.path, format!("at most {most} bytes"), self.bytes.len().to_string()));
        }
        serde_json::from_slice(&self.bytes)
            .map_err(|error| refused(&self.path, "a JSON object".into(), error.to_string()))
    }
}

/// What the host has for the share.
#[derive(Clone, Debug)]
pub struct HostFiles {
    /// The document.
    pub document: HostFile,
    /// `.sys-config.json`; without one, one that says nothing but what the machine looks like is made.
    pub sys_config: Option<HostFile>,
    /// `.instance_info`.
    pub instance_info: Option<HostFile>,
}

/// What a machine is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The share; `None` for an image with a document of its own.
    pub share: Option<Share>,
    /// MRCONFIGID.
    pub mrconfigid: MrConfigId,
}

/// What a machine looks like, in the `vm_config` of a `.sys-config.json` that we make (dstack `VmConfig`).
#[derive(Clone, Copy, Debug)]
pub struct VmFacts {
    /// Virtual CPUs.
    pub cpus: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// Checks the files against each other and the image, and computes what is bound.
///
/// With `unchecked` the files go to the guest as they are, to see what it says of them: the document need not be one, and
/// an image may go without.
///
/// # Errors
/// The first thing that is wrong, by file, expectation and finding.
pub fn bind(
    image: &CheckedImage,
    files: Option<HostFiles>,
    wanted: ConfigId,
    vm: VmFacts,
    unchecked: bool,
) -> Result<Bound, Error> {
    let Some(files) = files else { return without_share(image, wanted, unchecked) };
    if let Some(baked) = image.baked_document().filter(|_| !unchecked) {
        return Err(refused(
            image.path(),
            "an image without a document of its own, to give it one on the share".into(),
            format!("the document {} baked in", ComposeHash(baked)),
        ));
    }
    let mut share = Share {
        sys_config: files.sys_config.as_ref().map(|file| file.bytes.clone()),
        instance_info: files.instance_info.as_ref().map(|file| file.bytes.clone()),
        document: files.document.bytes.clone(),
    };
    if !unchecked {
        check(image, &files)?;
        share.sys_config.get_or_insert_with(|| sys_config(vm));
    }
    let hash = ComposeHash::of(&files.document.bytes);
    let mrconfigid = match wanted {
        ConfigId::Exact(id) => id,
        ConfigId::Auto | ConfigId::V1 => MrConfigId::v1(&hash),
        ConfigId::V2 => {
            let (app, provider) = identity(&files)?;
            MrConfigId::v2(&hash, &app, &provider)
        }
        ConfigId::V3 => {
            let config = mr_config(&mut share, &files, vm)?;
            MrConfigId::v3(config.as_bytes())
        }
    };
    Ok(Bound { share: Some(share), mrconfigid })
}

fn without_share(image: &CheckedImage, wanted: ConfigId, unchecked: bool) -> Result<Bound, Error> {
    let baked = image.baked_document().map(ComposeHash);
    if baked.is_none() && !unchecked {
        let found = "an image without a document, and no --document";
        return Err(refused(image.path(), "a document".into(), found.into()));
    }
    let mrconfigid = match (wanted, baked) {
        (ConfigId::Exact(id), _) => id,
        (ConfigId::Auto, _) => image.registers().mrconfigid,
        (ConfigId::V1, Some(hash)) => MrConfigId::v1(&hash),
        (ConfigId::V1 | ConfigId::V2 | ConfigId::V3, _) => {
            let expected = "--document, from which this MRCONFIGID is computed".into();
            return Err(refused(image.path(), expected, "none".into()));
        }
    };
    Ok(Bound { share: None, mrconfigid })
}

fn check(image: &CheckedImage, files: &HostFiles) -> Result<(), Error> {
    let config = parse(&files.document)?;
    for service in &config.section().services {
        if !image.workloads().iter().any(|name| *name == service.rootfs.as_str()) {
            return Err(refused(
                &files.document.path,
                format!(
                    "service {}: rootfs: a workload of the image ({})",
                    service.name,
                    image.workloads().join(", ")
                ),
                format!("{:?}", service.rootfs.as_str()),
            ));
        }
    }
    if let Some(file) = &files.sys_config {
        file.object(SYS_CONFIG_MAX)?;
    }
    instance_app_id(files)?;
    Ok(())
}

fn parse(document: &HostFile) -> Result<MeasuredConfig, Error> {
    let name = document.path.display().to_string();
    MeasuredConfig::parse(&name, &document.bytes, Platform::Appliance).map_err(Error::Document)
}

/// The app id that the host keeps, if it keeps one.
fn instance_app_id(files: &HostFiles) -> Result<Option<AppId>, Error> {
    let Some(file) = &files.instance_info else { return Ok(None) };
    match file.object(INSTANCE_INFO_MAX)?.get("app_id") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if let Some(id) = AppId::from_hex(text) => Ok(Some(id)),
        Some(other) => Err(refused(&file.path, "app_id: 40 hex digits, or none".into(), other.to_string())),
    }
}

/// What versions 2 and 3 bind beside the compose hash.
fn identity(files: &HostFiles) -> Result<(AppId, KeyProvider), Error> {
    let config = parse(&files.document)?;
    let app = instance_app_id(files)?.unwrap_or_else(|| config.app_id());
    Ok((app, config.key_provider().clone()))
}

fn sys_config(vm: VmFacts) -> Vec<u8> {
    let memory = u64::from(vm.memory_mib) << 20;
    let vm_config = format!(r#"{{"spec_version":1,"cpu_count":{},"memory_size":{memory}}}"#, vm.cpus);
    serde_json::json!({ "vm_config": vm_config }).to_string().into_bytes()
}

/// The `MrConfigV3` of the share: the one of the host's file, else one made here and put there. Hashed as supplied.
fn mr_config(share: &mut Share, files: &HostFiles, vm: VmFacts) -> Result<String, Error> {
    let mut object = match &files.sys_config {
        Some(file) => file.object(SYS_CONFIG_MAX)?,
        None => serde_json::from_slice(&sys_config(vm))
            .map_err(|error| refused(&files.document.path, "a JSON object".into(), error.to_string()))?,
    };
    match object.get("mr_config") {
        Some(Value::String(supplied)) => Ok(supplied.clone()),
        Some(other) => {
            let path = files.sys_config.as_ref().map_or(&files.document.path, |file| &file.path);
            Err(refused(path, "mr_config: a string".into(), other.to_string()))
        }
        None => {
            let (app, provider) = identity(files)?;
            let config = mr_config_v3(&ComposeHash::of(&files.document.bytes), &app, &provider);
            object.insert("mr_config".into(), config.clone().into());
            share.sys_config = Some(Value::Object(object).to_string().into_bytes());
            Ok(config)
        }
    }
}

/// `MrConfigV3` in canonical JSON (RFC 8785): keys in order, no spaces (dstack `dstack-types/src/mr_config.rs`).
fn mr_config_v3(hash: &ComposeHash, app: &AppId, provider: &KeyProvider) -> String {
    let (name, id) = match provider {
        KeyProvider::None => ("none", None),
        KeyProvider::Local(id) => ("local", Some(id)),
        KeyProvider::Kms(id) => ("kms", Some(id)),
        KeyProvider::Tpm => ("tpm", None),
    };
    let id = id.map(|id| format!(r#""key_provider_id":"{}","#, hex::encode(id))).unwrap_or_default();
    format!(r#"{{"app_id":"{app}","compose_hash":"{hash}","key_provider":"{name}",{id}"version":3}}"#)
}

fn refused(path: &Path, expected: String, found: String) -> Error {
    Error::Share { path: path.into(), expected, found }
}
