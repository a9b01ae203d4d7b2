//! DHCP messages, good and spoiled (RFC 2131 figure 1, options of RFC 2132).

/// A DHCP message of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// DISCOVER, REQUEST, or anything else.
    pub kind: Kind,
    /// The transaction.
    pub xid: u32,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The whole message, from the first BOOTP byte.
    pub bytes: Vec<u8>,
}

/// Option 53 of the guest's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST.
    Request,
    /// Another type, or none: our client sends none of these.
    Other,
}

/// An answer that a test may spoil. All fields are as they go on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The transaction id.
    pub xid: u32,
    /// `chaddr`.
    pub mac: [u8; 6],
    /// `yiaddr`.
    pub address: [u8; 4],
    /// Options in order, without the end option, which [`Answer::bytes`] adds.
    pub options: Vec<(u8, Vec<u8>)>,
}

/// What an honest answer says: QEMU's own numbers, so that one document serves both networks.
pub const GUEST: [u8; 4] = [10, 0, 2, 15];
/// The gateway of an honest answer, also its server.
pub const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// Where hostile options point. No frame of the guest may ever name it.
pub const ATTACKER: [u8; 4] = [10, 0, 2, 66];

impl Asked {
    /// Reads a message of a client; `None` if it is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let xid = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
        let mac = bytes.get(28..34)?.try_into().ok()?;
        let is_request = bytes.first() == Some(&1) && bytes.get(236..240) == Some(&COOKIE);
        let kind = match option(bytes.get(240..)?, 53) {
            Some([1]) => Kind::Discover,
            Some([3]) => Kind::Request,
            _ => Kind::Other,
        };
        is_request.then(|| Self { kind, xid, mac, bytes: bytes.to_vec() })
    }

    /// An option of the message.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        option(self.bytes.get(240..)?, code)
    }

    /// Where answers come from: the server that the guest chose, else [`GATEWAY`].
    pub(super) fn server_address(&self) -> [u8; 4] {
        self.option(54).and_then(|value| value.try_into().ok()).unwrap_or(GATEWAY)
    }
}

impl Answer {
    /// A good one: an OFFER to a DISCOVER, else an ACK; [`GUEST`]/24 by [`GATEWAY`] for an hour.
    pub fn to(asked: &Asked) -> Self {
        let kind = if asked.kind == Kind::Discover { 2 } else { 5 };
        Self {
            xid: asked.xid,
            mac: asked.mac,
            address: GUEST,
            options: vec![
                (53, vec![kind]),
                (54, GATEWAY.to_vec()),
                (51, 3600_u32.to_be_bytes().to_vec()),
                (1, vec![255, 255, 255, 0]),
                (3, GATEWAY.to_vec()),
            ],
        }
    }

    /// A refusal.
    pub fn nak(asked: &Asked) -> Self {
        let mut answer = Self::to(asked);
        answer.address = [0; 4];
        answer.options = vec![(53, vec![6]), (54, GATEWAY.to_vec())];
        answer
    }

    /// With one option replaced, or taken away.
    #[must_use]
    pub fn with(mut self, code: u8, value: Option<&[u8]>) -> Self {
        self.options.retain(|(one, _)| *one != code);
        self.options.extend(value.map(|value| (code, value.to_vec())));
        self
    }

    /// With every option in front by which a host could reroute, rename or misconfigure a naive client, and a lease for
    /// ever: classless routes (121, 249) and a static one (33) that send everything through [`ATTACKER`], resolver (6), host
    /// name (12), domain (15), an MTU of 68 (26), NTP (42), vendor data (43), the claim of options in other fields (52), boot
    /// server and file (66, 67), search list (119) and WPAD (252).
    #[must_use]
    pub fn with_hostile_options(self) -> Self {
        let [a, b, c, d] = ATTACKER;
        let routes = vec![0, a, b, c, d, 1, 0, a, b, c, d, 1, 128, a, b, c, d];
        let hostile = [
            (121, routes.clone()),
            (249, routes),
            (6, ATTACKER.to_vec()),
            (12, b"attacker".to_vec()),
            (15, b"attacker.example".to_vec()),
            (26, vec![0, 68]),
            (33, [[1, 1, 1, 1], ATTACKER].concat()),
            (42, ATTACKER.to_vec()),
            (43, vec![255; 200]),
            (52, vec![3]),
            (66, b"10.0.2.66".to_vec()),
            (67, b"/boot".to_vec()),
            (119, vec![0xc0; 250]),
            (252, b"http://10.0.2.66/wpad.dat".to_vec()),
        ];
        let mut answer = self.with(51, Some(&[255; 4]));
        answer.options.splice(0..0, hostile);
        answer
    }

    /// The same answer spoiled in each way that must make a client ignore it: other transaction, other hardware address,
    /// impossible addresses, masks of 32, 0 and none, a gateway outside or missing, no lease time or 0, no or unknown
    /// message type, no server or an impossible one, cut short, a repeated and an overlapping option, no cookie.
    pub fn spoiled(&self) -> Vec<Vec<u8>> {
        let changed = |change: fn(&mut Self)| {
            let mut bad = self.clone();
            change(&mut bad);
            bad.bytes()
        };
        let option = |code: u8, value: Option<&[u8]>| self.clone().with(code, value).bytes();
        let good = self.bytes();
        let cut = |len: usize| good.get(..len).unwrap_or_default().to_vec();
        // The end option is swallowed by the length of the one before it.
        let mut overlapping = cut(good.len() - 1);
        overlapping.extend([12, 200, END]);
        let mut no_cookie = good.clone();
        no_cookie.splice(236..240, [0; 4]);
        vec![
            changed(|answer| answer.xid ^= 1),
            changed(|answer| answer.mac = [2, 0, 0, 0, 0, 9]),
            changed(|answer| answer.address = [255; 4]),
            changed(|answer| answer.address = [127, 0, 0, 1]),
            changed(|answer| answer.address = [198, 18, 1, 2]),
            changed(|answer| answer.options.push((3, ATTACKER.to_vec()))),
            option(1, Some(&[255; 4])),
            option(1, Some(&[0; 4])),
            option(1, Some(&[255, 0, 255, 0])),
            option(1, None),
            option(3, Some(&[192, 0, 2, 1])),
            option(3, Some(&GUEST)),
            option(3, Some(&[10, 0, 2, 255])),
            option(3, None),
            option(51, None),
            option(51, Some(&[0; 4])),
            option(53, None),
            option(53, Some(&[9])),
            option(54, None),
            option(54, Some(&[255; 4])),
            cut(0),
            cut(239),
            cut(good.len() - 1),
            overlapping,
            no_cookie,
        ]
    }

    /// The bytes.
    ///
    /// An option longer than 255 bytes has its length cut off modulo 256, which is hostile, too.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.address);
        bytes.extend([0; 8]);
        bytes.extend(self.mac);
        bytes.extend([0; 202]);
        bytes.extend(COOKIE);
        for (code, value) in &self.options {
            let [.., len] = value.len().to_be_bytes();
            bytes.extend([*code, len]);
            bytes.extend(value);
        }
        bytes.push(END);
        bytes
    }
}

/// `yiaddr` of a message, if it is long enough and gives one.
pub(super) fn your_address(message: &[u8]) -> Option<[u8; 4]> {
    let address = message.get(16..20)?.try_into().ok()?;
    (address != [0; 4]).then_some(address)
}

fn option(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match rest {
            [0, after @ ..] => rest = after,
            [END, ..] | [] | [_] => return None,
            [code, len, after @ ..] => {
                let (value, after) = after.split_at_checked(usize::from(*len))?;
                if *code == wanted {
                    return Some(value);
                }
                rest = after;
            }
        }
    }
}

/// RFC 2131 section 3.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const END: u8 = 255;
