//! `casemate-agent certificate`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use casemate_agent::TlsKeyRequest;
use casemate_agent::client::AgentClient;

/// As long as the guest's own certificates live: they are made anew daily (design section 6).
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) async fn run(socket: &Path, out: &Path) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let request = TlsKeyRequest {
        subject: "casemate client".into(),
        usage_ra_tls: true,
        usage_client_auth: true,
        not_after: Some((now + VALID).as_secs()),
        ..TlsKeyRequest::default()
    };
    let key = AgentClient::new(socket).get_tls_key(request).await?;
    let certificates: String = key.certificate_chain.iter().flat_map(|pem| [pem.trim_end(), "\n"]).collect();
    write(&out.join("client.key"), 0o600, key.key_pem.as_bytes())?;
    write(&out.join("client.crt"), 0o644, certificates.as_bytes())?;
    println!("{} and client.crt are valid for 24 hours", out.join("client.key").display());
    Ok(())
}

/// Under a name of its own first: a reader never sees half a file, and the mode is right from the first byte on.
fn write(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let new = path.with_added_extension("new");
    let place = || -> std::io::Result<()> {
        if new.exists() {
            fs::remove_file(&new)?;
        }
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    place().with_context(|| path.display().to_string())
}
