//! `mesh`: who may call whom.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::identity::KeyProvider;
use crate::section::{
    AcceptableImage, Backend, BackendKind, Caller, Forward, ImageRegisters, Mesh, OUTBOUND_PORT, Service,
    ServicePort, TlsVersion, Verify,
};

use super::Surroundings;

pub(super) fn mesh(
    node: &Node<'_>,
    services: &[Service],
    around: &Surroundings<'_>,
) -> Result<Mesh, Problem> {
    let backends = backends(&node.at("backends")?, services)?;
    let forwards = forwards(&node.at("forwards")?, services)?;
    let mut targets = BTreeMap::new();
    for (app, address) in node.at("targets")?.entries()? {
        let app = forms::app_id(app).ok_or_else(|| address.problem("a key of 40 lower-case hex digits"))?;
        targets.insert(app, address.form(super::network::SOCKET, forms::remote_socket)?);
    }
    let how = node.at("verify")?;
    let verify =
        how.word(&[("ca", Verify::Ca), ("quote", Verify::Quote), ("ca+quote", Verify::CaAndQuote)])?;
    if verify != Verify::Quote && !around.has_ca {
        return Err(
            how.problem("\"quote\" without a KMS: with key provider none each boot has a CA of its own")
        );
    }
    let list = node.at("images")?;
    let images = list.each(image)?;
    let used = !(backends.is_empty() && forwards.is_empty() && targets.is_empty());
    if used && verify != Verify::Ca && images.is_empty() {
        return Err(list.problem("at least one image, since verify contains \"quote\": a genuine quote alone says nothing about the code"));
    }
    let tls_min = node.at("tls_min")?.word(&[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)])?;
    Ok(Mesh { backends, forwards, targets, verify, images, tls_min })
}

fn backends(node: &Node<'_>, services: &[Service]) -> Result<Vec<Backend>, Problem> {
    let mut ports = BTreeSet::new();
    node.each(|item| {
        let listen = item.at("listen")?;
        Ok((
            listen.clone(),
            Backend {
                listen: listen.integer()?,
                kind: item.at("kind")?.word(&[("http", BackendKind::Http), ("tcp", BackendKind::Tcp)])?,
                to: service_port(&item.at("to")?, services)?,
                allow: item.at("allow")?.each(caller)?,
            },
        ))
    })?
    .into_iter()
    .map(|(listen, backend)| {
        let unique = ports.insert(backend.listen);
        unique.then_some(backend).ok_or_else(|| listen.problem("a port that no other backend listens on"))
    })
    .collect()
}

fn service_port(node: &Node<'_>, services: &[Service]) -> Result<ServicePort, Problem> {
    let (name, port) = node.form("SERVICE:PORT", |text| {
        let (name, port) = text.split_once(':')?;
        let plain = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        Some((name, port.parse::<u16>().ok().filter(|_| plain)?))
    })?;
    let known = |service: &Service| service.name.as_str() == name;
    let service =
        services.iter().position(known).ok_or_else(|| node.problem("the name of one of the services"))?;
    let listens = services.get(service).is_some_and(|s| s.ports.contains(&port));
    if listens { Ok(ServicePort { service, port }) } else { Err(node.problem("one of the service's ports")) }
}

fn caller(node: &Node<'_>) -> Result<Caller, Problem> {
    node.form("\"any\", 40 lower-case hex digits or tag:NAME", |text| match text {
        "any" => Some(Caller::Any),
        _ => forms::app_id(text).map(Caller::App).or_else(|| forms::tag(text).map(Caller::Tag)),
    })
}

fn forwards(node: &Node<'_>, services: &[Service]) -> Result<Vec<Forward>, Problem> {
    let mut taken = BTreeSet::new();
    let mut forwards = Vec::new();
    for item in node.items()? {
        let (name, listen) = (item.at("service")?, item.at("listen")?);
        let wanted = name.text()?;
        let position = services.iter().position(|s| s.name.as_str() == wanted);
        let service = position.ok_or_else(|| name.problem("the name of one of the services"))?;
        let port: u16 = listen.integer()?;
        let own = services.get(service).is_some_and(|s| s.ports.contains(&port));
        if own || port == OUTBOUND_PORT || !taken.insert((service, port)) {
            return Err(listen.problem("a port that is free on 127.0.0.1 inside the service"));
        }
        forwards.push(Forward {
            service,
            listen: port,
            app_id: item.at("app_id")?.form("40 lower-case hex digits", forms::app_id)?,
            port: item.at("port")?.integer()?,
        });
    }
    Ok(forwards)
}

fn image(node: &Node<'_>) -> Result<AcceptableImage, Problem> {
    if !node.is_object() {
        return node.form("\"same\" or registers", |text| (text == "same").then_some(AcceptableImage::Same));
    }
    // A zero register is "not measured": it satisfies no explicit value (design section 6).
    let read = |node: &Node<'_>| {
        node.form("96 lower-case hex digits, not all zero", |text| {
            forms::register(text).filter(|register| !register.is_zero())
        })
    };
    let optional = |key| node.at(key)?.present().map(|register| read(&register)).transpose();
    Ok(AcceptableImage::Registers(ImageRegisters {
        mrtd: optional("mrtd")?,
        rtmr0: optional("rtmr0")?,
        rtmr1: optional("rtmr1")?,
        rtmr2: read(&node.at("rtmr2")?)?,
    }))
}

/// Whether peers can be verified by a CA at all: a KMS signs, or stock dstack carries identity out.
pub(super) const fn has_ca(provider: &KeyProvider, container: bool) -> bool {
    container || matches!(provider, KeyProvider::Kms(_))
}
