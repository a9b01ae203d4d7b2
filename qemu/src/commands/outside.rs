//! `outside`: the demo's outside world, a listener that counts who reaches it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Outside {
    /// Where to listen; a guest reaches 127.0.0.1 of the host as 10.0.2.2
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Holds the number of accepted connections, from 0, replaced whole at each
    #[arg(long, value_name = "FILE")]
    count: PathBuf,
}

impl Outside {
    /// Runs until it is killed.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let listener = TcpListener::bind(self.listen).with_context(|| self.listen.to_string())?;
        let mut accepted = 0_u64;
        loop {
            write(&self.count, accepted)?;
            let (stream, _) = listener.accept().context("accept")?;
            drop(stream);
            accepted = accepted.saturating_add(1);
        }
    }
}

fn write(path: &Path, count: u64) -> anyhow::Result<()> {
    let fresh = path.with_added_extension("new");
    let replace = std::fs::write(&fresh, format!("{count}\n")).and_then(|()| std::fs::rename(&fresh, path));
    replace.with_context(|| path.display().to_string())
}
