//! `services`: the workload.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::section::{DnsLabel, OUTBOUND_PORT, OWN_PROCESSES, Restart, Service, ServiceDstack, ServiceQuote};

const LABEL: &str = "a DNS label";

/// A page, and as much as a tmpfs of a service may take.
const TMPFS: std::ops::RangeInclusive<u64> = (4 << 10)..=(64 << 30);
/// Less than this no program starts in.
const MEMORY: std::ops::RangeInclusive<u64> = (1 << 20)..=(1024 << 30);

pub(super) fn services(node: &Node<'_>) -> Result<Vec<Service>, Problem> {
    let (mut names, mut uids) = (BTreeSet::new(), BTreeSet::new());
    let mut services = Vec::new();
    for item in node.items()? {
        let service = service(&item)?;
        if OWN_PROCESSES.contains(&service.name.as_str()) {
            return Err(item.at("name")?.problem("a name that none of our own processes has"));
        }
        if !names.insert(service.name.clone()) {
            return Err(item.at("name")?.problem("a name that no other service has"));
        }
        if !uids.insert(service.uid) {
            return Err(item.at("uid")?.problem("a uid that no other service has"));
        }
        services.push(service);
    }
    Ok(services)
}

fn service(node: &Node<'_>) -> Result<Service, Problem> {
    let dstack = node.at("dstack")?.present();
    Ok(Service {
        name: label(&node.at("name")?)?,
        exec: exec(&node.at("exec")?)?,
        rootfs: label(&node.at("rootfs")?)?,
        uid: node.at("uid")?.integer()?,
        env: env(&node.at("env")?)?,
        ports: ports(&node.at("ports")?)?,
        tmpfs: tmpfs(&node.at("tmpfs")?)?,
        restart: node.at("restart")?.word(&[
            ("always", Restart::Always),
            ("on-failure", Restart::OnFailure),
            ("never", Restart::Never),
        ])?,
        memory_max: size(&node.at("memory_max")?, "a size from 1M to 1024G", MEMORY)?,
        pids_max: node.at("pids_max")?.integer()?,
        cpu_max: node.at("cpu_max")?.integer()?,
        dstack: dstack.map(|node| service_dstack(&node)).transpose()?,
    })
}

fn label(node: &Node<'_>) -> Result<DnsLabel, Problem> {
    node.form(LABEL, DnsLabel::new)
}

fn exec(node: &Node<'_>) -> Result<Vec<String>, Problem> {
    let arguments = node.each(|item| item.form("text without NUL", forms::c_text))?;
    if let Some(program) = node.items()?.first() {
        program.form("an absolute path without empty, . or .. components", forms::absolute_path)?;
    }
    Ok(arguments)
}

fn env(node: &Node<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let mut env = BTreeMap::new();
    for (name, value) in node.entries()? {
        let name = forms::variable(name)
            .ok_or_else(|| value.problem("a key of letters, digits and _, not starting with a digit"))?;
        env.insert(name, value.form("text without NUL", forms::c_text)?);
    }
    Ok(env)
}

fn ports(node: &Node<'_>) -> Result<Vec<u16>, Problem> {
    let mut ports = Vec::new();
    for item in node.items()? {
        let port: u16 = item.integer()?;
        if port == OUTBOUND_PORT {
            return Err(item.problem("a port other than that of the outbound mesh proxy"));
        }
        if ports.contains(&port) {
            return Err(item.problem("each port once"));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Mount points of PID 1's own inside a service's root.
const OWN_MOUNTS: &[&str] = &["/proc", "/sys", "/dev"];

fn tmpfs(node: &Node<'_>) -> Result<BTreeMap<String, u64>, Problem> {
    let inside = |path: &str, mount: &str| {
        path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut mounts = BTreeMap::new();
    for (path, value) in node.entries()? {
        let path = forms::absolute_path(path)
            .filter(|path| !OWN_MOUNTS.iter().any(|mount| inside(path, mount)))
            .ok_or_else(|| {
                value.problem("a key that is an absolute path without . and .., not in /proc, /sys or /dev")
            })?;
        mounts.insert(path, size(&value, "a size from 4K to 64G", TMPFS)?);
    }
    Ok(mounts)
}

fn size(node: &Node<'_>, expected: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, Problem> {
    node.form(expected, |text| forms::size(text).filter(|size| range.contains(size)))
}

fn service_dstack(node: &Node<'_>) -> Result<ServiceDstack, Problem> {
    let get_key = node.at("get_key")?.each(|item| {
        item.form("a key path of visible ASCII, with * at its end only", |text| {
            let stem = text.strip_suffix('*').unwrap_or(text);
            let plain = stem.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
            (plain && !text.is_empty()).then(|| text.to_owned())
        })
    })?;
    let quote = node.at("quote")?.word(&[
        ("none", ServiceQuote::None),
        ("app-data", ServiceQuote::AppData),
        ("raw", ServiceQuote::Raw),
    ])?;
    Ok(ServiceDstack { get_key, quote })
}
