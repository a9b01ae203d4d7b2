//! `casemate-agent simulate`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use casemate_agent::{Agent, Handover, TeeHandover, boot_events, serve};
use casemate_measure::{EventLog, InstanceId, KeyProvider, LaunchRegisters, MeasuredConfig, Platform};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// The largest document (design section 2), and far more than registers.json needs.
const FILE_MAX: u64 = 4 << 20;

pub(crate) async fn run(image: &Path, document: &Path, socket: &Path) -> anyhow::Result<()> {
    let agent = Agent::new(handover(image, document)?)?;
    let listener = bind(socket)?;
    println!("simulated agent on {} (its evidence proves nothing)", socket.display());
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = serve(listener, agent) => ended.map(|never| match never {}),
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    };
    std::fs::remove_file(socket).with_context(|| socket.display().to_string())?;
    Ok(ended?)
}

/// What PID 1 would hand over after booting this document on this image.
fn handover(image: &Path, document: &Path) -> anyhow::Result<Handover> {
    let registers = image.join("registers.json");
    let launch: LaunchRegisters =
        serde_json::from_str(&read(&registers)?).with_context(|| registers.display().to_string())?;
    let text = read(document)?;
    let name = document.display().to_string();
    let config = MeasuredConfig::parse(&name, text.as_bytes(), Platform::Appliance)?;
    let (compose_hash, app_id) = (config.compose_hash(), config.app_id());
    let mut seed = [0; 20];
    SystemRandom::new().fill(&mut seed).map_err(|_| anyhow::anyhow!("the random number generator failed"))?;
    let instance_id = InstanceId::derive(&seed, &app_id);
    Ok(Handover {
        app_name: config.name().to_owned(),
        compose_hash,
        app_id,
        instance_id: Some(instance_id),
        key_provider: KeyProvider::None.event_payload(),
        events: EventLog::new(boot_events(&compose_hash, &app_id, Some(&instance_id))),
        tee: TeeHandover::Simulator { launch },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        document: text,
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    let place = || path.display().to_string();
    let mut text = String::new();
    File::open(path).with_context(place)?.take(FILE_MAX + 1).read_to_string(&mut text).with_context(place)?;
    ensure!(text.len() as u64 <= FILE_MAX, "{}: expected at most {FILE_MAX} bytes, found more", place());
    Ok(text)
}

/// Readable by its owner only: whoever can connect speaks as this agent.
fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let place = || socket.display().to_string();
    if let Ok(found) = std::fs::symlink_metadata(socket) {
        ensure!(
            found.file_type().is_socket(),
            "{}: expected a socket or nothing, found another file",
            place()
        );
        std::fs::remove_file(socket).with_context(place)?;
    }
    let listener = UnixListener::bind(socket).with_context(place)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).with_context(place)?;
    Ok(listener)
}
