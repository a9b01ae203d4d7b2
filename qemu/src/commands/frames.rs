//! `frames`: what a packet dump holds.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use casemate_qemu::pcap;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Frames {
    /// The dump, as `boot --pcap` writes it
    #[arg(long, value_name = "FILE")]
    pcap: PathBuf,
    /// Count TCP and UDP frames to this address, and port if one is given
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = target)]
    to: Target,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug)]
struct Target {
    address: IpAddr,
    port: Option<u16>,
}

fn target(text: &str) -> anyhow::Result<Target> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Target { address: socket.ip(), port: Some(socket.port()) });
    }
    let address = text
        .parse()
        .map_err(|_| anyhow!("expected ADDRESS or ADDRESS:PORT, an IPv6 address with a port in brackets"))?;
    Ok(Target { address, port: None })
}

impl Frames {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let dump = std::fs::read(&self.pcap).with_context(|| self.pcap.display().to_string())?;
        let frames = pcap::read(&self.pcap, &dump)?;
        let packets = frames.iter().filter_map(|frame| frame.packet);
        let matching = packets.filter(|packet| packet.is_to(self.to.address, self.to.port)).count();
        if self.json {
            println!("{}", serde_json::json!({ "frames": frames.len(), "to": matching }));
        } else {
            println!("{matching} of {} frames", frames.len());
        }
        Ok(0)
    }
}
