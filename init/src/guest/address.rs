//! The physical link's address: where it comes from, and when it ends.

use std::net::Ipv4Addr;
use std::time::Duration;

use casemate_measure::status::Reason;

use super::vpn::GuestVpn;
use super::{Guest, Health, OWN_LIMITS, Recipe, lock, power};
use crate::boot::Failure;
use crate::layout::{DHCP_MARK, DHCP_UID};
use crate::net;
use crate::net::dhcp::Report;
use crate::supervise::{PACE, Restarts};

impl Guest {
    /// Takes what the DHCP client says. It reads what the network sends, so that is judged again.
    pub(super) fn take_lease(&mut self, bytes: &[u8]) {
        let private = self.vpn.iter().flat_map(GuestVpn::private);
        let judged = Report::decode(bytes).and_then(|report| {
            if let Report::Lease(lease) = &report {
                lease.outside_of(private)?;
            }
            Ok(report)
        });
        match judged {
            Ok(report) => self.lease = Some(report),
            Err(error) => crate::log::print("casemate", &format!("DHCP report: {error}")),
        }
    }

    /// Takes a lease, or a renewed one, to the lock and the link.
    pub(super) fn apply_lease(&mut self) -> Result<(), Failure> {
        // PID 1 keeps the lease's end itself: a client that died cannot say that it is over.
        let over = self.lease_ends.is_some_and(|end| power::uptime() > end);
        match self.lease.take() {
            Some(Report::Lease(lease)) => {
                let seconds = Duration::from_secs(lease.seconds().into());
                self.lease_ends = Some(power::uptime().saturating_add(seconds));
                self.apply_address(lease.address(), lease.gateway())
            }
            Some(Report::Lost) => self.drop_address(),
            None if over => self.drop_address(),
            None => Ok(()),
        }
    }

    pub(super) fn apply_address(&mut self, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), Failure> {
        let link = self.link.clone().ok_or_else(|| Failure::new(Reason::LinkFailed, "no link"))?;
        if let Some(lock) = &mut self.lock {
            lock::set_address(lock, address, gateway)?;
        }
        net::links::set_address(&link, address, gateway)
            .map_err(|error| Failure::new(Reason::LinkFailed, error.to_string()))
    }

    /// The address is no longer ours: the link stays up and silent until there is another.
    fn drop_address(&mut self) -> Result<(), Failure> {
        self.lease_ends = None;
        let link = self.link.clone().ok_or_else(|| Failure::new(Reason::LinkFailed, "no link"))?;
        if let Some(lock) = &mut self.lock {
            lock::clear_address(lock)?;
        }
        net::links::clear_address(&link).map_err(|error| Failure::new(Reason::LinkFailed, error.to_string()))
    }

    pub(super) fn dhcp_recipe(&self) -> Result<Recipe, Failure> {
        let failed = |error: net::NetError| Failure::new(Reason::NoAddress, error.to_string());
        let link = self.link.as_deref().ok_or_else(|| Failure::new(Reason::LinkFailed, "no link"))?;
        let socket = net::dhcp::open_socket(link, DHCP_MARK).map_err(failed)?;
        let mac = net::links::hardware_address(link).map_err(failed)?;
        let handover = serde_json::to_vec(&crate::roles::DhcpHandover { mac })
            .map_err(|error| Failure::new(Reason::NoAddress, error.to_string()))?;
        Ok(Recipe {
            name: "dhcp".into(),
            role: crate::roles::DHCP,
            handover,
            extra: vec![socket],
            uid: Some(DHCP_UID),
            namespaces: crate::sys::Namespaces::Shared,
            leaf: Self::leaf("dhcp", OWN_LIMITS, Reason::NoAddress)?,
            restarts: Restarts::for_ever(PACE),
            health: Health::Reports,
        })
    }
}
