//! Every document in `configs/` is read, and says what its name promises.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its folder has failed")]

use std::path::{Path, PathBuf};

use casemate_measure::document::Warning;
use casemate_measure::section::{
    AcceptableImage, AuthKey, EgressMode, Network, Restart, ServiceQuote, VpnMode,
};
use casemate_measure::{MeasuredConfig, Platform};

/// The documents in a folder and below it.
fn documents(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, into);
        } else if path.to_str().is_some_and(|path| path.ends_with(".app-compose.json")) {
            into.push(path);
        }
    }
}

#[test]
fn every_document_is_accepted() {
    let mut paths = Vec::new();
    documents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs"), &mut paths);
    assert!(paths.iter().any(|path| path.ends_with("node.app-compose.json")), "{paths:?}");
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        MeasuredConfig::parse(path.to_str().unwrap(), &bytes, Platform::Appliance).unwrap();
    }
}

/// One cannot name the hash of a document that names its own, but the other way round: whoever changes the demo's document
/// sees here what the second one has to say.
#[test]
fn the_demos_second_document_names_the_first_one() {
    let read =
        |name: &str, document: &[u8]| MeasuredConfig::parse(name, document, Platform::Appliance).unwrap();
    let demo = read("demo", include_bytes!("../../configs/demo.app-compose.json"));
    let peer = read("demo-peer", include_bytes!("../../configs/demo-peer.app-compose.json"));
    let targets: Vec<_> = peer.section().mesh.targets.iter().collect();
    assert_eq!(targets, [(&demo.app_id(), &"10.0.2.2:20443".parse().unwrap())]);
    for document in [&demo, &peer] {
        assert_eq!(document.section().mesh.images, [AcceptableImage::Same]);
        assert_eq!(document.section().egress.mode, EgressMode::InternalOnly);
    }
    assert_ne!(demo.compose_hash(), peer.compose_hash());
}

#[test]
fn the_tunnel_names_its_server_and_says_that_its_key_is_no_secret() {
    let document = include_bytes!("../../configs/tunnel.app-compose.json");
    let config = MeasuredConfig::parse("tunnel.app-compose.json", document, Platform::Appliance).unwrap();
    let vpn = &config.section().vpn;
    assert_eq!((vpn.mode, vpn.require_policy), (VpnMode::Tunnel, true));
    let login = vpn.login_server.as_ref().unwrap();
    assert!(login.url == "http://10.0.2.2:8080" && login.plain_http && login.noise_key.is_some());
    assert_eq!(login.authkey, AuthKey::Literal("hskey-auth-replace-me".to_owned()));
    assert_eq!(config.warnings(), [Warning::OpenAuthKey]);
}

/// What the README says to write instead of an address.
#[test]
fn the_tunnel_may_name_its_server() {
    let (_, block) = include_str!("../../configs/README.md").split_once("```json\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let named: serde_json::Value = serde_json::from_str(&format!("{{{block}}}")).unwrap();
    let document = include_bytes!("../../configs/tunnel.app-compose.json");
    let mut document: serde_json::Value = serde_json::from_slice(document).unwrap();
    document["casemate"]["dns"] = named["dns"].clone();
    document["casemate"]["vpn"]["login_server"] = named["vpn"]["login_server"].clone();
    document["casemate"]["vpn"]["login_server"]["authkey"] = "hskey-auth-replace-me".into();
    document["casemate"]["vpn"]["derp_ports"] = named["vpn"]["derp_ports"].clone();
    let bytes = serde_json::to_vec(&document).unwrap();
    let config = MeasuredConfig::parse("README.md", &bytes, Platform::Appliance).unwrap();
    let (vpn, dns) = (&config.section().vpn, &config.section().dns);
    assert_eq!(vpn.login_server.as_ref().unwrap().url, "https://headscale.example.com:8443");
    assert_eq!((vpn.derp_ports.as_slice(), dns.resolvers.len()), (&[443, 8443][..], 1));
}

#[test]
fn the_example_becomes_what_it_says() {
    let document = include_bytes!("../../configs/node.app-compose.json");
    let config = MeasuredConfig::parse("node.app-compose.json", document, Platform::Appliance).unwrap();
    let section = config.section();
    assert_eq!(config.name(), "casemate-node");
    assert_eq!((section.node.name.as_str(), section.node.kind.as_str()), ("rag-1", "rag"));
    assert!(matches!(section.network, Network::Static { .. }));
    assert_eq!(section.vpn.mode, VpnMode::Direct);
    assert_eq!((section.egress.mode, section.egress.allow.len()), (EgressMode::Allowlist, 2));
    assert_eq!(section.egress.mode.tag(), "tag:internal-only");
    assert_eq!(section.mesh.backends[1].to.service, 1);
    assert_eq!(section.mesh.images[0], AcceptableImage::Same);
    let [web, api] = section.services.as_slice() else { panic!("expected two services") };
    assert_eq!((web.tmpfs["/tmp"], web.memory_max, web.cpu_max), (16 << 20, 64 << 20, 50));
    let dstack = web.dstack.as_ref().unwrap();
    assert_eq!((dstack.get_key.as_slice(), dstack.quote), (&["web/*".to_owned()][..], ServiceQuote::AppData));
    // What is left out has the defaults of the table.
    assert_eq!(
        (api.memory_max, api.pids_max, api.cpu_max, api.restart),
        (256 << 20, 128, 100, Restart::OnFailure)
    );
    assert!(api.env.is_empty() && api.tmpfs.is_empty() && api.dstack.is_none());
}
