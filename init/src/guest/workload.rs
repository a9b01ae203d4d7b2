//! What runs on the machine: the agent, the services, the mesh proxy.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use casemate_measure::manifest::SERVICES_DIR;
use casemate_measure::section::Service;
use casemate_measure::status::Reason;
use casemate_vpn::parent::network::NAMES_V4;

use super::{Guest, Health, OWN_LIMITS, Recipe, cgroup};
use crate::boot::{Failure, Measured};
use crate::layout::{AGENT_UID, MESH_UID};
use crate::net;
use crate::roles::{self, ServiceHandover};
use crate::supervise::{PACE, Restarts};
use crate::sys::Namespaces;

/// What the mesh's own limits on connections and requests are a half of.
const MESH_LIMITS: cgroup::Limits =
    cgroup::Limits { memory_max: Some(casemate_mesh::limits::MEMORY as u64), ..OWN_LIMITS };

impl Guest {
    /// How the agent is started.
    pub(super) fn agent_recipe(&mut self, measured: &Measured) -> Result<Recipe, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Reason::AgentFailed, error.to_string());
        let handover = self.agent_handover(measured)?;
        Ok(Recipe {
            name: "agent".into(),
            role: roles::AGENT,
            handover: serde_json::to_vec(&handover).map_err(|e| failed(&e))?,
            extra: Vec::new(),
            uid: Some(AGENT_UID),
            namespaces: Namespaces::Shared,
            leaf: Self::leaf("agent", OWN_LIMITS, Reason::AgentFailed)?,
            restarts: Restarts::for_ever(PACE),
            health: Health::Heartbeat,
        })
    }

    fn agent_handover(&mut self, measured: &Measured) -> Result<casemate_agent::Handover, Failure> {
        Ok(casemate_agent::Handover {
            document: String::from_utf8_lossy(&measured.document).into_owned(),
            app_name: measured.config.name().to_owned(),
            compose_hash: measured.config.compose_hash(),
            app_id: measured.app_id,
            instance_id: Some(measured.instance_id),
            key_provider: measured.config.key_provider().event_payload(),
            events: measured.events.clone(),
            tee: self.tee()?.handover()?,
            version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    /// Makes each service's namespace, and starts it there.
    pub(super) fn start_services(&mut self, measured: &Measured) -> Result<(), Failure> {
        for (number, service) in (1_u8..).zip(&measured.config.section().services) {
            let failed = |error: &dyn std::fmt::Display| service_failure(number, &service.name, error);
            let net = net::namespace::create(number, casemate_mesh::OUTBOUND_PORT).map_err(|e| failed(&e))?;
            let root = service_root(service);
            prepare_root(&root, service).map_err(|e| failed(&e))?;
            if self.vpn.is_some() {
                say_where_names_are(&root).map_err(|e| failed(&e))?;
            }
            let handover = ServiceHandover::new(service, root);
            let limits = cgroup::Limits {
                memory_max: Some(service.memory_max),
                pids_max: Some(service.pids_max),
                cpu_max: Some(service.cpu_max),
            };
            let netns = net.netns().try_clone_to_owned().map_err(|e| failed(&e))?;
            let health = match service.ports.as_slice() {
                [] => Health::Unknown,
                ports => Health::Ports {
                    ports: ports.to_vec(),
                    address: net::namespace::ServiceNet::address(number),
                },
            };
            let recipe = Recipe {
                name: service.name.to_string(),
                role: roles::SERVICE,
                handover: serde_json::to_vec(&handover).map_err(|e| failed(&e))?,
                extra: vec![netns],
                uid: None,
                namespaces: Namespaces::Service,
                leaf: Self::leaf(&format!("service-{}", service.name), limits, Reason::ServiceFailed)?,
                restarts: Restarts::of_service(service.restart),
                health,
            };
            self.namespaces.push(net);
            self.processes()?.start(recipe).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// How the mesh proxy is started: with every service's outbound listener, and, if anybody may read them, every log ring.
    pub(super) fn mesh_recipe(&mut self, measured: &Measured) -> Result<Recipe, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Reason::MeshFailed, error.to_string());
        let mut handover = self.mesh_config(measured)?;
        let listeners: Result<Vec<OwnedFd>, _> =
            self.namespaces.iter().map(|net| net.outbound().try_clone_to_owned()).collect();
        let mut extra = listeners.map_err(|e| failed(&e))?;
        if !handover.log_readers.is_empty() {
            for (name, ring) in self.processes()?.logs(&["mesh"]).map_err(|e| failed(&e))? {
                handover.logs.push(name);
                extra.push(ring);
            }
        }
        Ok(Recipe {
            name: "mesh".into(),
            role: roles::MESH,
            handover: serde_json::to_vec(&handover).map_err(|e| failed(&e))?,
            extra,
            uid: Some(MESH_UID),
            namespaces: Namespaces::Shared,
            leaf: Self::leaf("mesh", MESH_LIMITS, Reason::MeshFailed)?,
            restarts: Restarts::for_ever(PACE),
            health: Health::Heartbeat,
        })
    }

    fn mesh_config(&mut self, measured: &Measured) -> Result<casemate_mesh::Config, Failure> {
        let tee = self.tee()?;
        casemate_mesh::Config::of(
            measured.config.section(),
            tee.launch(),
            measured.app_id,
            measured.config.compose_hash(),
            tee.trust(),
        )
        .map_err(|error| Failure::new(Reason::MeshFailed, error.to_string()))
    }
}

fn service_failure(number: u8, name: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Reason::ServiceFailed, format!("service {name}: {error}")).numbered(number.into())
}

fn service_root(service: &Service) -> PathBuf {
    Path::new("/").join(SERVICES_DIR).join(service.rootfs.as_str())
}

/// Makes the mount points that the workload's tree lacks: the tree is read-only once the service runs.
fn prepare_root(root: &Path, service: &Service) -> std::io::Result<()> {
    for point in ["proc", "dev"].into_iter().chain(service.tmpfs.keys().map(String::as_str)) {
        let inside = root.join(point.trim_start_matches('/'));
        let named = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("{}: {error}", inside.display()))
        };
        // A link in the workload's tree would lead outside of it here.
        let mut walked = root.to_owned();
        for part in Path::new(point.trim_start_matches('/')).components() {
            walked.push(part);
            match fs::symlink_metadata(&walked) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    return Err(named(std::io::Error::other("expected a directory, found something else")));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    fs::create_dir(&walked).map_err(named)?;
                }
                Err(error) => return Err(named(error)),
            }
        }
    }
    Ok(())
}

/// Where a workload's C library asks for names, unless its tree says something itself: the private network's own resolver, the only
/// one that a service reaches (design section 8).
fn say_where_names_are(root: &Path) -> std::io::Result<()> {
    let etc = root.join("etc");
    match fs::symlink_metadata(&etc) {
        Ok(meta) if meta.is_dir() => {}
        // A link would lead outside of the tree here.
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::create_dir(&etc)?,
        Err(error) => return Err(error),
    }
    let file = fs::File::options().write(true).create_new(true).open(etc.join("resolv.conf"));
    match file {
        Ok(mut file) => writeln!(file, "nameserver {NAMES_V4}"),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_measure::section::Restart;
    use std::collections::BTreeMap;

    fn service(tmpfs: &str) -> Service {
        let label = |text| casemate_measure::section::DnsLabel::new(text).unwrap();
        Service {
            name: label("web"),
            exec: vec!["/bin/x".into()],
            rootfs: label("web"),
            uid: 1000,
            env: BTreeMap::new(),
            ports: vec![],
            tmpfs: [(tmpfs.to_owned(), 4096)].into(),
            restart: Restart::Always,
            memory_max: 1 << 20,
            pids_max: 8,
            cpu_max: 100,
            dstack: None,
        }
    }

    #[test]
    fn a_tree_that_says_where_names_are_keeps_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etc/resolv.conf");
        say_where_names_are(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 100.100.100.100\n");
        fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        say_where_names_are(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.1\n");
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("etc")).unwrap();
        say_where_names_are(dir.path()).unwrap();
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn missing_mount_points_are_made_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        prepare_root(dir.path(), &service("/var/cache")).unwrap();
        assert!(dir.path().join("var/cache").is_dir() && dir.path().join("proc").is_dir());
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let error = prepare_root(dir.path(), &service("/link/in")).unwrap_err();
        assert!(error.to_string().contains("expected a directory"), "{error}");
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }
}
