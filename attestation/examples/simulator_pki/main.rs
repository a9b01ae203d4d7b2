//! Writes the simulated TEE's committed files, from the repository's root:
//! `cargo run -p casemate-verify --example simulator_pki -- attestation/src/simulator init/agent/src/simulator/pki`.
//! A test generates them again and compares every byte.

mod files;
mod pki;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(verifier), Some(agent), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: simulator_pki VERIFIER_FOLDER AGENT_FOLDER");
    };
    let pki = pki::Pki::generate(&pki::Variant::default())?;
    for (folder, files) in [(verifier, files::of_verifier(&pki)?), (agent, files::of_agent(&pki))] {
        for (name, bytes) in files {
            let path = folder.join(name);
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
