//! Writes the policy that accepts one document on one image.

use std::path::Path;

use casemate_measure::tdx::Expected;
use casemate_measure::{KeyProvider, LaunchRegisters, MeasuredConfig, Platform};
use casemate_verify::{Policy, PolicyApp, PolicyImage, PolicyParts};

use super::arguments::WritePolicy;
use super::exit::Exit;
use super::{Failure, io};

pub(super) fn run(arguments: &WritePolicy) -> Result<Exit, Failure> {
    let (image_name, image) = match (&arguments.expected, &arguments.image) {
        (Some(expected), _) => of_expected(expected)?,
        (None, image) => of_directory(image.as_deref().unwrap_or_else(|| Path::new(".")))?,
    };
    warn(&image_name, &image);

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
    let parts = PolicyParts { images: vec![image], apps: vec![app], ..PolicyParts::default() };
    let policy = Policy::new(&image_name, parts).map_err(Failure::usage)?;
    let json = serde_json::to_string_pretty(&policy).map_err(Failure::usage)? + "\n";
    io::files::write(arguments.out.as_deref(), json.as_bytes()).map_err(Failure::usage)?;
    Ok(Exit::Trusted)
}

/// What the builder of an image measured of it alone.
fn of_directory(directory: &Path) -> Result<(String, PolicyImage), Failure> {
    let path = directory.join("registers.json");
    let name = path.display().to_string();
    let bytes = io::files::read(&path).map_err(Failure::usage)?;
    let launch: LaunchRegisters =
        serde_json::from_slice(&bytes).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    Ok((name, PolicyImage::from(&launch)))
}

/// What was computed for the image on one machine.
fn of_expected(path: &Path) -> Result<(String, PolicyImage), Failure> {
    let name = path.display().to_string();
    let bytes = io::files::read(path).map_err(Failure::usage)?;
    let expected = Expected::read(&name, &bytes).map_err(Failure::usage)?;
    let image = PolicyImage::of_expected(&expected)
        .map_err(|problem| Failure::usage(format!("{name}: {problem}")))?;
    Ok((name, image))
}

/// A policy that does not compare firmware and kernel is written all the same: it is right for the simulator.
fn warn(name: &str, image: &PolicyImage) {
    let missing: Vec<_> = [("MRTD", image.mrtd), ("RTMR1", image.rtmr1)]
        .into_iter()
        .filter_map(|(register, value)| value.is_none().then_some(register))
        .collect();
    if !missing.is_empty() {
        eprintln!(
            "[casemate-verify warning]: {name}: {} not measured: this policy can trust the simulated TEE only; a real TD needs \
             --expected FILE (cargo measure image --json)",
            missing.join(" and ")
        );
    }
}
