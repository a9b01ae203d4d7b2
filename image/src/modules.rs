//! The kernel modules of the image: which, why, in which order.
//!
//! Debian's packages carry no `modules.dep` (depmod writes it on installation), so the order comes from the modules'
//! own `.modinfo` sections. Modules stay compressed as packaged: PID 1 has the kernel decompress them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use casemate_measure::manifest::ModuleGroup;

use crate::elf;
use crate::error::{ImageError, Result};
use crate::tree::{Node, Tree};
use crate::unpack;

/// What each stage of the boot needs (`images.md` sections 2.1, 3.2 and 8.1; `init/egress` for the rules' expressions).
/// Loading is disabled afterwards, so what is not here can never be loaded.
pub const WANTED: &[(ModuleGroup, &[&str])] = &[
    // The TEE's report interface; RTMR sysfs comes with tdx_guest.
    (ModuleGroup::Tee, &["configfs", "tsm_report", "tdx_guest"]),
    // The disk that carries the document of an image without one; with a baked document it is never loaded.
    (ModuleGroup::Share, &["virtio_blk"]),
    // Everything that the egress lock's rules and read-back use; nfnetlink itself is built in.
    (
        ModuleGroup::Lock,
        &[
            "nf_tables",
            "nf_conntrack",
            "nft_ct",
            "nft_limit",
            "nft_log",
            "nft_reject",
            "nft_reject_inet",
            "nft_chain_nat",
            "nft_nat",
            "nft_masq",
            "nft_socket",
            "nfnetlink_log",
            "nf_conntrack_netlink",
        ],
    ),
    // Entropy that is mixed but never credited, the links, and the power button (ACPI event to input device).
    (
        ModuleGroup::Late,
        &["virtio_rng", "failover", "net_failover", "virtio_net", "veth", "tun", "button", "evdev"],
    ),
];

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The stage that loads it.
    pub group: ModuleGroup,
    /// Its file name, such as `nf_tables.ko.xz`.
    pub file: String,
    /// The file as packaged.
    pub content: Arc<[u8]>,
}

/// The modules of a package, by name with underscores.
#[derive(Debug)]
pub struct Available {
    package: String,
    files: BTreeMap<String, (String, Arc<[u8]>)>,
    builtin: BTreeSet<String>,
}

impl Available {
    /// From an unpacked module package and the text of `modules.builtin`.
    pub fn new(package: &str, tree: &Tree, builtin: &str) -> Self {
        let files = tree
            .iter()
            .filter_map(|(path, node)| match node {
                Node::File { content, .. } => {
                    let name = module_name(path.name())?;
                    Some((name, (path.name().to_owned(), Arc::clone(content))))
                }
                Node::Directory | Node::Symlink { .. } => None,
            })
            .collect();
        let builtin =
            builtin.lines().filter_map(|line| module_name(line.rsplit('/').next().unwrap_or(line))).collect();
        Self { package: package.to_owned(), files, builtin }
    }

    /// Everything wanted and everything that it needs, each after what it needs, in the group that asks first.
    ///
    /// # Errors
    /// If a module is neither in the package nor built in, is of another kernel than `release`, is no module, or if
    /// modules need each other in a circle.
    pub fn closure(&self, wanted: &[(ModuleGroup, &[&str])], release: &str) -> Result<Vec<Loaded>> {
        let mut walk =
            Walk { available: self, release, order: Vec::new(), done: BTreeSet::new(), path: Vec::new() };
        for (group, names) in wanted {
            for name in *names {
                walk.visit(*group, &name.replace('-', "_"), "the image")?;
            }
        }
        Ok(walk.order)
    }
}

struct Walk<'a> {
    available: &'a Available,
    release: &'a str,
    order: Vec<Loaded>,
    done: BTreeSet<String>,
    path: Vec<String>,
}

impl Walk<'_> {
    fn visit(&mut self, group: ModuleGroup, name: &str, by: &str) -> Result<()> {
        if self.done.contains(name) || self.available.builtin.contains(name) {
            return Ok(());
        }
        if self.path.iter().any(|above| above == name) {
            return Err(ImageError::ModuleCycle(format!("{} -> {name}", self.path.join(" -> "))));
        }
        let (file, content) = self.available.files.get(name).ok_or_else(|| ImageError::NoModule {
            module: name.to_owned(),
            by: by.to_owned(),
            package: self.available.package.clone(),
        })?;
        let needs = needs(file, content, self.release)?;
        self.path.push(name.to_owned());
        for need in needs.hard {
            self.visit(group, &need, name)?;
        }
        for need in needs.soft {
            // modprobe.d(5): a soft dependency that does not exist is no failure.
            if self.available.files.contains_key(&need) {
                self.visit(group, &need, name)?;
            }
        }
        self.path.pop();
        self.done.insert(name.to_owned());
        self.order.push(Loaded { group, file: file.clone(), content: Arc::clone(content) });
        Ok(())
    }
}

struct Needs {
    hard: Vec<String>,
    soft: Vec<String>,
}

fn needs(file: &str, content: &[u8], release: &str) -> Result<Needs> {
    let object = unpack::decompress(file, content)?;
    let info = elf::modinfo(&object).ok_or_else(|| {
        ImageError::form(file, "ELF", "a kernel module with a .modinfo section", "something else")
    })?;
    let names = |text: &str| -> Vec<String> {
        text.split([',', ' ']).filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")).collect()
    };
    let mut needs = Needs { hard: Vec::new(), soft: Vec::new() };
    let mut built_for = None;
    for (key, value) in info {
        match key {
            "depends" => needs.hard.extend(names(value)),
            "softdep" => {
                // `pre: a b post: c`
                let pre = value.split("post:").next().unwrap_or_default();
                needs.soft.extend(pre.split_once("pre:").map(|(_, list)| names(list)).unwrap_or_default());
            }
            "vermagic" => built_for = value.split(' ').next().map(str::to_owned),
            _ => {}
        }
    }
    match built_for {
        Some(found) if found == release => Ok(needs),
        found => Err(ImageError::form(
            file,
            "vermagic",
            format!("the release of the pinned kernel, {release}"),
            found.unwrap_or_else(|| "none".to_owned()),
        )),
    }
}

/// `nft_ct.ko.xz` is `nft_ct`, `virtio-rng.ko` is `virtio_rng`.
fn module_name(file: &str) -> Option<String> {
    let (stem, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

/// The load order file: `GROUP FILE` lines.
pub fn load_order(modules: &[Loaded]) -> String {
    modules.iter().map(|module| format!("{} {}\n", module.group.word(), module.file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::object;
    use crate::path::MemberPath;
    use crate::unpack::tests::xz;

    fn package(modules: &[(&str, &str)]) -> Available {
        let mut tree = Tree::new();
        for (file, info) in modules {
            let strings: Vec<&str> = info.split('|').chain(["vermagic=7.3.4 SMP"]).collect();
            let path = MemberPath::parse(&format!("kernel/net/{file}.ko.xz")).unwrap();
            tree.insert(path, Node::plain(xz(&object(&strings)))).unwrap();
        }
        Available::new(
            "linux-modules",
            &tree,
            "kernel/lib/zlib_inflate/zlib_inflate.ko\nkernel/drivers/virtio/virtio-pci.ko\n",
        )
    }

    fn order(available: &Available, wanted: &[(ModuleGroup, &[&str])]) -> String {
        load_order(&available.closure(wanted, "7.3.4").unwrap())
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let available = package(&[
            ("nft-ct", "depends=nf_tables,nf_conntrack"),
            ("nf_tables", "depends=nfnetlink"),
            ("nf_conntrack", "depends=nf_defrag|softdep=pre: helper missing post: later"),
            ("nf_defrag", "depends="),
            ("nfnetlink", "depends="),
            ("helper", "depends=zlib_inflate"),
            ("later", "depends="),
            ("net", "depends=nfnetlink"),
        ]);
        let wanted: &[(ModuleGroup, &[&str])] =
            &[(ModuleGroup::Lock, &["nft_ct", "virtio_pci"]), (ModuleGroup::Late, &["net", "nf_tables"])];
        assert_eq!(
            order(&available, wanted),
            "lock nfnetlink.ko.xz\nlock nf_tables.ko.xz\nlock nf_defrag.ko.xz\nlock helper.ko.xz\n\
             lock nf_conntrack.ko.xz\nlock nft-ct.ko.xz\nlate net.ko.xz\n"
        );
    }

    #[test]
    fn what_cannot_be_loaded_is_named() {
        let wanted: &[(ModuleGroup, &[&str])] = &[(ModuleGroup::Lock, &["a"])];
        let missing = package(&[("a", "depends=b")]).closure(wanted, "7.3.4").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "kernel module b, needed by a, is neither in package linux-modules nor built in"
        );
        let circle = package(&[("a", "depends=b"), ("b", "depends=a")]).closure(wanted, "7.3.4").unwrap_err();
        assert_eq!(circle.to_string(), "kernel modules need each other in a circle: a -> b -> a");
        let other = package(&[("a", "depends=")]).closure(wanted, "7.3.5").unwrap_err();
        assert_eq!(
            other.to_string(),
            "a.ko.xz: vermagic: expected the release of the pinned kernel, 7.3.5, found 7.3.4"
        );
    }
}
