//! Servers that are configured by name.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;

use super::Config;

/// Somebody has to know the names of the servers that are configured by name.
pub(super) fn refuse_names(config: &Config, resolvers: &[SocketAddr]) -> anyhow::Result<()> {
    let asked = !resolvers.is_empty() || !config.dns.resolvers.is_empty();
    let registration = config.registration.as_ref().map(|one| ("registration.url", one.url.as_str()));
    let servers = [("login_server.url", config.login_server.url.as_str())].into_iter().chain(registration);
    for (field, url) in servers.filter(|_| !asked) {
        let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let known =
            |host: &str| host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if !(authority.is_empty() || known(authority) || known(host)) {
            bail!(
                "{field}: expected an address as host, or in dns.resolvers somebody to ask for the name, found {url:?}"
            );
        }
    }
    Ok(())
}
