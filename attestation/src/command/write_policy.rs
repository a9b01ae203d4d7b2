//! Writes the policy that accepts one document on one image.

use casemate_measure::{KeyProvider, LaunchRegisters, MeasuredConfig, Platform};
use casemate_verify::{Policy, PolicyApp, PolicyImage, PolicyParts};

use super::arguments::WritePolicy;
use super::exit::Exit;
use super::{Failure, io};

pub(super) fn run(arguments: &WritePolicy) -> Result<Exit, Failure> {
    let registers = arguments.image.join("registers.json");
    let registers_name = registers.display().to_string();
    let launch: LaunchRegisters =
        serde_json::from_slice(&io::files::read(&registers).map_err(Failure::usage)?)
            .map_err(|error| Failure::usage(format!("{registers_name}: {error}")))?;

    let document_name = arguments.document.display().to_string();
    let document = io::files::read(&arguments.document).map_err(Failure::usage)?;
    let config =
        MeasuredConfig::parse(&document_name, &document, Platform::Appliance).map_err(Failure::usage)?;
    if *config.key_provider() != KeyProvider::None {
        let text = format!("{document_name}: key_provider: not implemented in this version (only \"none\")");
        return Err(Failure::usage(text));
    }

    let app = PolicyApp {
        name: config.name().to_owned(),
        app_id: config.app_id(),
        compose_hash: Some(config.compose_hash()),
        tags: vec![config.section().egress.mode.tag().to_owned()],
    };
    let parts =
        PolicyParts { images: vec![PolicyImage::from(&launch)], apps: vec![app], ..PolicyParts::default() };
    let policy = Policy::new(&registers_name, parts).map_err(Failure::usage)?;
    let json = serde_json::to_string_pretty(&policy).map_err(Failure::usage)? + "\n";
    io::files::write(arguments.out.as_deref(), json.as_bytes()).map_err(Failure::usage)?;
    Ok(Exit::Trusted)
}
