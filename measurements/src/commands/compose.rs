//! `compose`: a document, checked, and its identities.

use std::path::Path;

use casemate_measure::document;
use casemate_measure::{KeyProvider, MeasuredConfig, MrConfigId, Platform};
use clap::ValueEnum;

use super::Exit;

/// Where a document is to run.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Where {
    /// Casemate's own image
    Appliance,
    /// A container under stock dstack
    Container,
}

pub(crate) fn run(path: &Path, json: bool, platform: Where) -> anyhow::Result<(String, Exit)> {
    let platform = match platform {
        Where::Appliance => Platform::Appliance,
        Where::Container => Platform::Container,
    };
    let (file, bytes) = super::read(path, document::MAX_BYTES)?;
    let config = MeasuredConfig::parse(&file, &bytes, platform)?;
    Ok((if json { as_json(&config) } else { as_lines(&config) }, Exit::Yes))
}

fn identities(config: &MeasuredConfig) -> (String, String, String, String) {
    let (hash, app) = (config.compose_hash(), config.app_id());
    let (v1, v2) = (MrConfigId::v1(&hash), MrConfigId::v2(&hash, &app, &KeyProvider::None));
    (hash.to_string(), app.to_string(), v1.to_string(), v2.to_string())
}

fn as_lines(config: &MeasuredConfig) -> String {
    let (hash, app, v1, v2) = identities(config);
    let (name, tag) = (config.name(), config.section().egress.mode.tag());
    let mut lines = format!(
        "name            {name:?}\ncompose hash    {hash}\napp id          {app}\n\
         MRCONFIGID v1   {v1}\nMRCONFIGID v2   {v2} (key provider none)\ntag             {tag}\n"
    );
    lines.extend(config.warnings().iter().map(|warning| format!("warning         {warning}\n")));
    lines
}

fn as_json(config: &MeasuredConfig) -> String {
    let (compose_hash, app_id, v1, v2) = identities(config);
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    let object = serde_json::json!({
        "name": config.name(), "compose_hash": compose_hash, "app_id": app_id,
        "mrconfigid": { "v1": v1, "v2": v2 }, "tag": config.section().egress.mode.tag(), "warnings": warnings,
    });
    format!("{object:#}\n")
}
