//! The lock's table deleted through the lock's own socket: nobody else may touch it, and nothing of ours does this.

use std::fs;
use std::os::fd::RawFd;

use nix::sys::socket::{MsgFlags, NetlinkAddr, sendto};

/// `NETLINK_NETFILTER` (linux/netlink.h).
const NETFILTER: &str = "12";
/// The lock's table (init/egress/src/names.rs), with the end that netlink wants.
const TABLE: &[u8] = b"casemate\0";
/// `NFPROTO_INET` (linux/netfilter.h).
const INET: u8 = 1;
/// `NFT_MSG_DELTABLE` and `NFTA_TABLE_NAME` (linux/netfilter/nf_tables.h). The kernel does not let an owned table sleep
/// (`NFT_TABLE_F_DORMANT`; nf_tables_updtable, net/netfilter/nf_tables_api.c).
const DELETE: u16 = 2;
const NAME: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`, `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END` (linux/netfilter/nfnetlink.h).
const NFTABLES: u16 = 10;
const BATCH: [u16; 2] = [0x10, 0x11];
/// `NLM_F_REQUEST`: no answer, which would meet the lock's own.
const REQUEST: u16 = 1;

/// Whether the order could be sent. If the kernel refuses it, the lock goes on reading back as it was set.
pub(super) fn delete() -> bool {
    let [begin, end] = BATCH.map(|kind| message(kind, 0, NFTABLES, &[]));
    let change = message(NFTABLES << 8 | DELETE, INET, 0, &attribute(NAME, TABLE));
    let batch = [begin, change, end].concat();
    socket().is_some_and(|fd| sendto(fd, &batch, &NetlinkAddr::new(0, 0), MsgFlags::empty()).is_ok())
}

/// The one netfilter socket among our descriptors: its inode is the last field of its line in /proc/net/netlink.
fn socket() -> Option<RawFd> {
    let table = fs::read_to_string("/proc/net/netlink").ok()?;
    let inodes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&NETFILTER)).then(|| format!("socket:[{}]", fields.last().unwrap_or(&"")))
    });
    let inodes: Vec<String> = inodes.collect();
    fs::read_dir("/proc/self/fd").ok()?.flatten().find_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let known = inodes.iter().any(|inode| target.as_os_str() == inode.as_str());
        known.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

/// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
fn message(kind: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(attributes.len()).unwrap_or_default().saturating_add(20);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence and port.
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// `struct nlattr`, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or_default().saturating_add(4);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_they_say() {
        let attributes = attribute(1, TABLE);
        assert_eq!((attributes.len(), &attributes[..4]), (16, &[13, 0, 1, 0][..]));
        let message = message(NFTABLES << 8 | DELETE, INET, 0, &attributes);
        assert_eq!((message.len(), message[0], message[5], message[16]), (36, 36, 10, INET));
    }
}
