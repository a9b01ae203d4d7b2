//! What a host can do, and which way of running a guest follows from it. Pure: [`crate::io::probe`] gathers the facts.

use casemate_measure::image::Flavor;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A fact about the host: it is so, or why it is not.
pub type Fact = Result<String, String>;

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub struct HostFacts {
    /// QEMU's program, and its version.
    pub qemu: Result<QemuFacts, String>,
    /// Whether `/dev/kvm` opens.
    pub kvm_device: Fact,
    /// Whether the CPU can run guests: `vmx` or `svm` among its flags.
    pub cpu_flags: Fact,
    /// Whether a guest of 37 bytes ran to its end under KVM. Tried only where device and flags are there.
    pub kvm_try: Fact,
    /// Whether the host kernel has an initialised TDX module.
    pub tdx_module: Fact,
}

/// What QEMU says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QemuFacts {
    /// Its program.
    pub program: String,
    /// Major and minor version.
    pub version: (u32, u32),
    /// Whether it can make a `tdx-guest` object.
    pub tdx_guest: bool,
}

/// What the caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeeRequest {
    /// No TEE, even if there is one.
    None,
    /// TDX or nothing.
    Tdx,
    /// TDX for a production image where it is possible, else none.
    Auto,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runner {
    /// Software emulation.
    Tcg,
    /// KVM without a TEE.
    Kvm,
    /// A trust domain.
    Tdx,
}

/// A decision, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// What runs the guest.
    pub runner: Runner,
    /// Why this and nothing better.
    pub why: String,
}

impl HostFacts {
    /// Why KVM cannot be used, if it cannot.
    pub fn kvm_obstacle(&self) -> Option<&str> {
        let facts = [&self.kvm_device, &self.cpu_flags, &self.kvm_try];
        facts.into_iter().find_map(|fact| fact.as_ref().err().map(String::as_str))
    }

    /// Why TDX cannot be used, if it cannot.
    pub fn tdx_obstacle(&self) -> Option<String> {
        if let Some(why) = self.kvm_obstacle() {
            return Some(format!("no KVM: {why}"));
        }
        if let Err(why) = &self.tdx_module {
            return Some(why.clone());
        }
        match &self.qemu {
            Err(why) => Some(why.clone()),
            Ok(qemu) if !qemu.tdx_guest => Some(format!(
                "QEMU {}.{} has no tdx-guest object (QEMU 10.1 is the first with it)",
                qemu.version.0, qemu.version.1
            )),
            Ok(_) => None,
        }
    }

    /// Picks what runs the guest.
    ///
    /// # Errors
    /// If what was asked for, or QEMU itself, is not there.
    pub fn choose(&self, request: TeeRequest, flavor: Flavor) -> Result<Choice, Error> {
        self.qemu.as_ref().map_err(|why| Error::Host(why.clone()))?;
        let tdx = self.tdx_obstacle();
        let without = match (request, flavor, tdx) {
            (TeeRequest::Tdx, _, Some(why)) => return Err(Error::Host(format!("--tee tdx: {why}"))),
            (TeeRequest::Tdx, _, None) => {
                return Ok(Choice { runner: Runner::Tdx, why: "asked for, and the host has it".into() });
            }
            (TeeRequest::Auto, Flavor::Prod, None) => {
                return Ok(Choice { runner: Runner::Tdx, why: "the host has it".into() });
            }
            (TeeRequest::Auto, Flavor::Prod, Some(why)) => {
                format!("no TDX ({why}), and a production image says so and powers off; ")
            }
            (TeeRequest::Auto, Flavor::Dev, _) => "a development image brings a simulated TEE; ".into(),
            (TeeRequest::None, _, _) => "no TEE was asked for; ".into(),
        };
        Ok(match self.kvm_obstacle() {
            None => Choice { runner: Runner::Kvm, why: format!("{without}KVM ran a test guest") },
            Some(why) => Choice { runner: Runner::Tcg, why: format!("{without}no KVM: {why}") },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(tdx_guest: bool) -> HostFacts {
        HostFacts {
            qemu: Ok(QemuFacts { program: "qemu".into(), version: (11, 1), tdx_guest }),
            kvm_device: Ok("opens".into()),
            cpu_flags: Ok("vmx".into()),
            kvm_try: Ok("ran".into()),
            tdx_module: Ok("initialised".into()),
        }
    }

    fn runner(facts: &HostFacts, request: TeeRequest, flavor: Flavor) -> Runner {
        facts.choose(request, flavor).unwrap().runner
    }

    #[test]
    fn a_host_with_everything() {
        let facts = facts(true);
        assert_eq!(runner(&facts, TeeRequest::Auto, Flavor::Prod), Runner::Tdx);
        assert_eq!(runner(&facts, TeeRequest::Auto, Flavor::Dev), Runner::Kvm);
        assert_eq!(runner(&facts, TeeRequest::Tdx, Flavor::Dev), Runner::Tdx);
        assert_eq!(runner(&facts, TeeRequest::None, Flavor::Prod), Runner::Kvm);
    }

    #[test]
    fn every_missing_fact_is_named_and_leads_to_tcg_or_a_refusal() {
        let without_device = HostFacts { kvm_device: Err("device".into()), ..facts(true) };
        let without_flags = HostFacts { cpu_flags: Err("flags".into()), ..facts(true) };
        let without_try = HostFacts { kvm_try: Err("try".into()), ..facts(true) };
        for (facts, why) in [(without_device, "device"), (without_flags, "flags"), (without_try, "try")] {
            let choice = facts.choose(TeeRequest::Auto, Flavor::Prod).unwrap();
            assert_eq!(choice.runner, Runner::Tcg);
            assert!(choice.why.contains(why), "{}", choice.why);
            let refusal = facts.choose(TeeRequest::Tdx, Flavor::Prod).unwrap_err();
            assert!(refusal.to_string().contains(why), "{refusal}");
            assert_eq!(refusal.exit_status(), 10);
        }
        let no_module = HostFacts { tdx_module: Err("module".into()), ..facts(true) };
        let old_qemu = facts(false);
        for (facts, why) in [(no_module, "module"), (old_qemu, "tdx-guest")] {
            assert_eq!(runner(&facts, TeeRequest::Auto, Flavor::Prod), Runner::Kvm);
            let refusal = facts.choose(TeeRequest::Tdx, Flavor::Prod).unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
        let no_qemu = HostFacts { qemu: Err("no such program".into()), ..facts(true) };
        let refusal = no_qemu.choose(TeeRequest::None, Flavor::Dev).unwrap_err().to_string();
        assert!(refusal.contains("no such program"), "{refusal}");
    }
}
