//! The policy as rules: one module for each group of hooks.

mod from_outside;
mod guard;
mod link;
mod our_own;
mod services;

#[cfg(test)]
pub(crate) mod tests;

pub use guard::guard_ruleset;
pub use link::link_ruleset;
pub(crate) use link::{gateways, own_addresses};

use crate::names::{LOGIN_SERVER, TABLE, priority};
use crate::policy::{Ifname, Policy, Service};
use crate::ruleset::{Rule, Ruleset, Set};
use crate::term::Term;
use crate::wire::{BaseChain, ChainType, Family, Hook, Policy as ChainPolicy, SetType};

/// Names of the chains that others jump to.
mod chain {
    pub(super) const LOOPBACK: &str = "loopback";
    pub(super) const FROM_LINK: &str = "from_link";
    pub(super) const LINK_TO_SERVICES: &str = "link_to_services";
    pub(super) const FORWARDED: &str = "forwarded";
    pub(super) const DHCP: &str = "dhcp";
    pub(super) const OUR_OWN: &str = "our_own";
    pub(super) const SOCKETS: &str = "sockets";
    pub(super) const MESH: &str = "mesh";
    pub(super) const TIME: &str = "time";
    pub(super) const VPN: &str = "vpn";
    pub(super) const FROM_TUNNEL: &str = "from_tunnel";
    pub(super) const TUNNEL_TO_SERVICES: &str = "tunnel_to_services";
}

/// The `inet` table of a policy. Pure: equal policies give equal rule sets.
///
/// A packet is judged where it cannot change its destination any more: in `input`; in `forward` and `output`, after
/// destination translation; and by the same rules once more in `postrouting`, the last hook before source translation,
/// where the interface it leaves by is certain too (after a translation in `output` the kernel still shows that hook the
/// old one).
pub fn ruleset(policy: &Policy) -> Ruleset {
    let mut set = Ruleset::new(Family::Inet, TABLE);
    set.add("prerouting", base(Hook::Prerouting, priority::RAW), from_outside::prerouting(policy));
    set.add("input", base(Hook::Input, priority::JUDGE), from_outside::input(policy));
    set.add("forward", base(Hook::Forward, priority::JUDGE), vec![Rule::goto([], chain::FORWARDED)]);
    set.add("output", base(Hook::Output, priority::JUDGE), our_own::output());
    set.add("postrouting", base(Hook::Postrouting, priority::LAST), our_own::postrouting(policy));
    let srcnat = BaseChain {
        kind: ChainType::Nat,
        hook: Hook::Postrouting,
        priority: priority::SRCNAT,
        // A verdict of a nat chain is about translation; what may leave was decided one hook before.
        policy: ChainPolicy::Accept,
    };
    set.add("srcnat", Some(srcnat), services::source_translation(policy));
    set.add(chain::LOOPBACK, None, from_outside::loopback());
    set.add(chain::FROM_LINK, None, from_outside::from_link(policy));
    set.add(chain::DHCP, None, our_own::dhcp(policy));
    set.add(chain::OUR_OWN, None, our_own::our_own(policy));
    set.add(chain::SOCKETS, None, our_own::sockets(policy));
    set.add(chain::MESH, None, our_own::mesh(policy));
    set.add(chain::TIME, None, our_own::time(policy));
    set.add(chain::FORWARDED, None, services::forwarded(policy));
    set.add(chain::LINK_TO_SERVICES, None, services::link_to_services(policy));
    if let Some(tunnel) = &policy.tunnel {
        if tunnel.login_server.is_named() {
            set.sets.push(Set::empty(LOGIN_SERVER.to_owned(), SetType::Ipv4));
        }
        set.add(chain::FROM_TUNNEL, None, from_outside::from_tunnel(policy));
        set.add(chain::TUNNEL_TO_SERVICES, None, services::tunnel_to_services(policy));
        set.add(chain::VPN, None, our_own::vpn(policy, tunnel));
    }
    for service in &policy.services {
        set.add(service_chain(service), None, services::service(policy, service));
    }
    set
}

fn base(hook: Hook, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind: ChainType::Filter, hook, priority, policy: ChainPolicy::Drop })
}

fn service_chain(service: &Service) -> String {
    format!("service_{}", service.number)
}

fn from(interface: &Ifname) -> Term {
    Term::InputInterface(interface.clone())
}

fn to(interface: &Ifname) -> Term {
    Term::OutputInterface(interface.clone())
}

fn lo() -> Ifname {
    crate::policy::loopback()
}
