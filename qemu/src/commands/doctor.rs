//! `doctor`: what this host can and cannot do.

use casemate_measure::image::Flavor;
use casemate_qemu::host::{Fact, HostFacts, TeeRequest};
use casemate_qemu::io::probe;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// QEMU's program
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// Print the facts as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Status 0 if a guest can be run at all, 10 if not.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let facts = probe::facts(&self.qemu);
        let able = facts.choose(TeeRequest::None, Flavor::Dev).is_ok();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&facts)?);
        } else {
            print(&facts);
        }
        Ok(if able { 0 } else { 10 })
    }
}

fn print(facts: &HostFacts) {
    let qemu: Fact = match &facts.qemu {
        Ok(qemu) => Ok(format!(
            "{} {}.{}, {} tdx-guest object",
            qemu.program,
            qemu.version.0,
            qemu.version.1,
            if qemu.tdx_guest { "with a" } else { "without a" }
        )),
        Err(why) => Err(why.clone()),
    };
    line("QEMU", &qemu);
    line("KVM device", &facts.kvm_device);
    line("CPU", &facts.cpu_flags);
    line("KVM", &facts.kvm_try);
    line("TDX module", &facts.tdx_module);
    println!();
    for (what, request, flavor) in [
        ("development image", TeeRequest::Auto, Flavor::Dev),
        ("production image", TeeRequest::Auto, Flavor::Prod),
        ("--tee tdx", TeeRequest::Tdx, Flavor::Prod),
    ] {
        match facts.choose(request, flavor) {
            Ok(choice) => println!("{what}: {:?}, because {}", choice.runner, choice.why),
            Err(error) => println!("{what}: {error}"),
        }
    }
}

fn line(what: &str, fact: &Fact) {
    match fact {
        Ok(words) => println!("{what:<11} yes  {words}"),
        Err(words) => println!("{what:<11} no   {words}"),
    }
}
