//! The command line.

mod certificate;
mod simulate;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Simulated guest agent for the host. Its evidence proves nothing: the simulator's keys are published.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve dstack.sock as a development image with this document would, until interrupted.
    Simulate {
        /// Image directory; its registers.json is what the simulated TEE shows at launch.
        #[arg(long, value_name = "DIR")]
        image: PathBuf,
        /// The app-compose document.
        #[arg(long, value_name = "FILE")]
        document: PathBuf,
        /// Where to serve. A socket that is there is replaced.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
    },
    /// Write a client key and its certificate chain, for `curl --key client.key --cert client.crt`.
    Certificate {
        /// An agent's socket.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Existing directory for client.key (mode 0600) and client.crt.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.command {
                Command::Simulate { image, document, socket } => {
                    simulate::run(&image, &document, &socket).await
                }
                Command::Certificate { socket, out } => certificate::run(&socket, &out).await,
            }
        })
    }
}
