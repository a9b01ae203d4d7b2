//! At which of its addresses a relay is reached.

use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{Dial, first_of, in_turn};
use crate::netmap::DerpNode;

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A look-up: what connects afterwards has limits of its own.
    pub(super) look_up: Duration,
    /// One address.
    pub(super) dial: Duration,
}

impl Limits {
    /// Ours; Go has 1.5 s for an address (tailscale `derp/derphttp/derphttp_client.go`, `dialNodeTimeout`).
    pub(super) const REAL: Self = Self { look_up: Duration::from_secs(6), dial: Duration::from_secs(3) };
}

/// Something to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// An address that the map gives.
    Given(IpAddr),
    /// What the name leads to, of these families.
    Named { v4: bool, v6: bool },
}

/// The addresses that the map gives, and for the families that it neither gives nor denies those that the name leads to (tailscale
/// `derp/derphttp/derphttp_client.go`, `dialNode`): each a little after the one before, so that a name is looked up only where what is given does
/// not answer at once.
fn targets(node: &DerpNode) -> impl Iterator<Item = Target> {
    let given = [node.ipv4, node.ipv6].into_iter().flatten().map(Target::Given);
    let v4 = node.ipv4.is_none() && !node.without_ipv4;
    let v6 = node.ipv6.is_none() && !node.without_ipv6;
    given.chain((v4 || v6).then_some(Target::Named { v4, v6 }))
}

/// Connects to a server, at the first of its addresses that answers.
///
/// # Errors
/// If none does; of the addresses that the map gives, if there are any.
pub(super) async fn dial(node: &DerpNode, dial: &dyn Dial, limits: Limits) -> io::Result<TcpStream> {
    let one = |ip: IpAddr| async move {
        timeout(limits.dial, dial.dial(&node.host, Some(ip), node.derp_port))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    };
    let given_failed = Mutex::new(None);
    let given_failed = &given_failed;
    let result = first_of(targets(node), |target| async move {
        match target {
            Target::Given(ip) => one(ip).await.map_err(|error| {
                let kind = error.kind();
                *given_failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                kind.into()
            }),
            Target::Named { v4, v6 } => {
                let found = timeout(limits.look_up, dial.addresses(&node.host))
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                let wanted = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
                first_of(in_turn(found.into_iter().filter(wanted).collect()), one).await
            }
        }
    })
    .await;
    let given_failed = given_failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    result.map_err(|error| given_failed.unwrap_or(error))
}
