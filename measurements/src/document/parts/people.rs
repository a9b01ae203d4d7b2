//! `logs`, `operators`, `server`: who may read, act and join.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::section::{
    AllowedApp, DnsLabel, Headscale, LogReader, Logs, Mesh, OperatorCertificate, Operators, Role, Server,
};

use super::Surroundings;

pub(super) fn logs(node: &Node<'_>, mesh: &Mesh) -> Result<Logs, Problem> {
    let list = node.at("readers")?;
    let readers = list.each(|item| {
        item.form("\"operators\" or 40 lower-case hex digits", |text| match text {
            "operators" => Some(LogReader::Operators),
            _ => forms::app_id(text).map(LogReader::App),
        })
    })?;
    if !readers.is_empty() && mesh.backends.is_empty() {
        return Err(list.problem("[] without mesh.backends, on whose ports the logs are served"));
    }
    Ok(Logs { readers })
}

pub(super) fn operators(node: &Node<'_>) -> Result<Operators, Problem> {
    let mut seen = BTreeSet::new();
    let mut certificates = Vec::new();
    for item in node.at("certificates")?.items()? {
        let digest = item.at("sha256")?;
        let sha256 = digest.form("64 lower-case hex digits", forms::digest)?;
        if !seen.insert(sha256) {
            return Err(digest.problem("each certificate once"));
        }
        let projects = item.at("projects")?.each(|project| {
            project.form("a DNS label", |text| DnsLabel::new(text).map(|_| text.to_owned()))
        })?;
        certificates.push(OperatorCertificate { sha256, projects });
    }
    Ok(Operators { certificates })
}

pub(super) fn server(
    node: Node<'_>,
    role: Role,
    around: &Surroundings<'_>,
) -> Result<Option<Server>, Problem> {
    let expected = match role {
        Role::Node => "null with role \"node\"",
        Role::Server => "an object with role \"server\"",
    };
    let problem = node.problem(expected);
    let node = match (role, node.present()) {
        (Role::Node, None) => return Ok(None),
        (Role::Server, Some(node)) => node,
        (Role::Node, Some(_)) | (Role::Server, None) => return Err(problem),
    };
    let mut allowed_apps = BTreeMap::new();
    for (app, value) in node.at("allowed_apps")?.entries()? {
        let app = forms::app_id(app).ok_or_else(|| value.problem("a key of 40 lower-case hex digits"))?;
        let tags = value.at("tags")?.each(|tag| tag.form("tag:NAME", forms::tag))?;
        allowed_apps.insert(app, AllowedApp { tags });
    }
    let ephemeral = node.at("ephemeral")?;
    if !ephemeral.boolean()? && !around.keeps_keys {
        return Err(
            ephemeral.problem("true with role \"server\" without a KMS: its keys die with the machine")
        );
    }
    Ok(Some(Server {
        allowed_apps,
        headscale: headscale(&node.at("headscale")?)?,
        ephemeral: ephemeral.boolean()?,
    }))
}

fn headscale(node: &Node<'_>) -> Result<Headscale, Problem> {
    match (node.at("kind")?.text()?, node.at("address")?.present()) {
        ("bundled", None) => Ok(Headscale::Bundled),
        ("bundled", Some(address)) => Err(address.problem("nothing with kind \"bundled\"")),
        (_, Some(address)) => {
            Ok(Headscale::External(address.form(super::network::SOCKET, forms::remote_socket)?))
        }
        (_, None) => Err(node.at("address")?.problem("IP:PORT with kind \"external\"")),
    }
}
