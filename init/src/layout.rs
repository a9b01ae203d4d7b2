//! What PID 1 and the processes that it starts agree on (design section 5).

/// The guest agent's uid.
pub const AGENT_UID: u32 = 101;
/// The VPN process's uid.
pub const VPN_UID: u32 = 102;
/// The mesh proxy's uid.
pub const MESH_UID: u32 = 103;
/// The VPC server's uid.
pub const VPC_UID: u32 = 104;
/// The DHCP client's uid.
pub const DHCP_UID: u32 = 105;
/// The uid of the process that reads the host share.
pub const SHARE_UID: u32 = 106;
/// The time client's uid.
pub const TIME_UID: u32 = 107;
/// The private network's TUN.
pub const VPN_INTERFACE: &str = "tailnet0";
/// Its MTU: what tailscale nodes have (tailscale `net/tstun/mtu.go`, `DefaultTUNMTU`).
pub const VPN_MTU: u16 = 1280;
/// The UDP port that peers send to. Not tailscale's 41641, nor any from 32768 on: masquerading takes those, so that a service could
/// take answers meant for the VPN process.
pub const VPN_PORT: u16 = 31641;
/// The mark of the DHCP client's socket, which PID 1 opens.
pub const DHCP_MARK: u32 = 0x0da1;
/// Where the agent's socket is; /run/dstack.sock and so /var/run/dstack.sock lead there.
pub const AGENT_SOCKET: &str = "/run/dstack/dstack.sock";
/// Its directory, the agent's own: a restarted agent makes the socket anew.
pub const AGENT_SOCKET_DIRECTORY: &str = "/run/dstack";
