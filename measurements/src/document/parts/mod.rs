//! Second pass over the section: from completed values to checked types, with everything that ties keys together.

mod egress;
mod mesh;
mod network;
mod people;
mod services;
mod vpn;

use super::dstack::DstackFields;
use super::error::Problem;
use super::node::Node;
use super::{Platform, Warning};
use crate::identity::KeyProvider;
use crate::section::{DnsLabel, Role, Section};

/// What the rest of the document says that the section depends on.
struct Surroundings<'a> {
    /// dstack's `allowed_envs`.
    allowed_envs: &'a [String],
    /// Something signs certificates that other machines know.
    has_ca: bool,
    /// Keys outlive the machine.
    keeps_keys: bool,
}

/// The section as checked types.
pub(super) fn section(
    node: &Node<'_>,
    dstack: &DstackFields,
    platform: Platform,
) -> Result<Section, Problem> {
    let around = Surroundings {
        allowed_envs: &dstack.allowed_envs,
        has_ca: mesh::has_ca(&dstack.key_provider, platform == Platform::Container),
        keeps_keys: matches!(dstack.key_provider, KeyProvider::Kms(_)),
    };
    let role = node.at("role")?.word(&[("node", Role::Node), ("server", Role::Server)])?;
    let services = services::services(&node.at("services")?)?;
    let dns = network::dns(&node.at("dns")?)?;
    let mesh = mesh::mesh(&node.at("mesh")?, &services, &around)?;
    let section = Section {
        role,
        node: names(&node.at("node")?)?,
        network: network::network(&node.at("network")?)?,
        time: network::time(&node.at("time")?)?,
        collateral: network::collateral(&node.at("collateral")?)?,
        gateway: node.at("gateway")?.present().map(|gateway| network::gateway(&gateway)).transpose()?,
        vpn: vpn::vpn(&node.at("vpn")?, around.allowed_envs, &dns)?,
        dns,
        egress: egress::egress(&node.at("egress")?)?,
        logs: people::logs(&node.at("logs")?, &mesh)?,
        mesh,
        operators: people::operators(&node.at("operators")?)?,
        server: people::server(node.at("server")?, role, &around)?,
        services,
    };
    vpn::outside_of_the_network(node, &section)?;
    Ok(section)
}

fn names(node: &Node<'_>) -> Result<crate::section::Node, Problem> {
    let label = |key| node.at(key)?.form("a DNS label", DnsLabel::new);
    Ok(crate::section::Node { name: label("name")?, kind: label("type")? })
}

/// What is allowed and should be known.
pub(super) fn warnings(section: &Section) -> Vec<Warning> {
    let ephemeral = section.server.as_ref().is_some_and(|server| server.ephemeral);
    vpn::warnings(&section.vpn).chain(ephemeral.then_some(Warning::EphemeralServer)).collect()
}
