//! What can go wrong while the network is set up.

use std::io;
use std::net::Ipv4Addr;

/// Why a step of the network set-up failed. PID 1 decides what follows (design section 5).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A system call failed.
    #[error("{subject}: could not {action}")]
    System {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The interface, file or socket it was attempted on.
        subject: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's rtnetlink answer was none that the request can have, or none came in time.
    #[error("{subject}: could not {action}: {found}")]
    Netlink {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The interface.
        subject: String,
        /// What came instead.
        found: String,
    },
    /// A kernel setting reads back differently from what was written.
    #[error("{path}: expected {expected:?} after writing it, found {found:?}")]
    Sysctl {
        /// The file under /proc/sys.
        path: String,
        /// What was written.
        expected: &'static str,
        /// What was read back.
        found: String,
    },
    /// There is no network device, or there are several, so that none can be chosen.
    #[error("/sys/class/net: expected exactly one network device, found {}", list(found))]
    PhysicalLinks {
        /// The devices found, sorted.
        found: Vec<String>,
    },
    /// The one network device is not a virtio NIC.
    #[error("{link}: expected a device of driver virtio_net, found driver {found:?}")]
    NotVirtio {
        /// The interface.
        link: String,
        /// The driver's name, empty if it has none.
        found: String,
    },
    /// Addresses or routes read back differently from what was set.
    #[error("{link}: expected {expected} after setting it, found {found}")]
    ReadBack {
        /// The interface.
        link: String,
        /// What was set.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The gateway is our own address: there is no route to make.
    #[error("{link}: expected a gateway other than our own address, found {address} for both")]
    GatewayIsSelf {
        /// The interface.
        link: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// Service numbers count from 1.
    #[error("service number: expected 1 to 255, found 0")]
    ServiceNumber,
    /// A helper thread ended without a result.
    #[error("{subject}: the helper thread ended without a result")]
    Thread {
        /// What it worked on.
        subject: String,
    },
}

impl NetError {
    /// The errno behind it, for the `detail` of a status frame; `None` if the kernel refused nothing.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// For `map_err`: names what was attempted on what.
    pub(super) fn system<E: Into<io::Error>>(action: &'static str, subject: &str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, subject: subject.to_owned(), source: source.into() }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
