//! Expressions, the elements of nf_tables rules.

use crate::message::DecodeError;
use crate::message::attribute::{self, attributes};
use crate::message::nfnetlink::Writer;

const OBJECT: &str = "expression";

/// The first of the 16-byte registers (`NFT_REG_1`).
pub const REGISTER_1: u32 = 1;
/// The second one.
pub const REGISTER_2: u32 = 2;
/// The register of verdicts (`NFT_REG_VERDICT`).
const REGISTER_VERDICT: u32 = 0;

/// The packet mark (`NFT_META_MARK`), four bytes in host order.
pub const META_MARK: u32 = 3;
/// The name of the incoming interface (`NFT_META_IIFNAME`), sixteen bytes.
pub const META_INPUT_NAME: u32 = 6;

/// The address family of the packet (`NFT_META_NFPROTO`), one byte: the number of a [`super::TableFamily`].
pub const META_NFPROTO: u32 = 15;
/// The transport protocol (`NFT_META_L4PROTO`), one byte.
pub const META_L4PROTO: u32 = 16;
/// The state of the connection (`NFT_CT_STATUS`), four bytes in host order.
pub const CT_STATUS: u32 = 2;
/// In [`CT_STATUS`]: the destination was translated (`IPS_DST_NAT`).
pub const DESTINATION_NAT: u32 = 1 << 5;
/// The value that [`Expr::DestinationType`] loads for an address of this host (`RTN_LOCAL`).
pub const LOCAL_ADDRESS: u32 = 2;
/// `NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// `NFT_NAT_DNAT`; the flags for "address" and "port given", which the kernel sets if they are missing.
const NAT_DESTINATION: u32 = 1;
const NAT_RANGE: u32 = 3;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub const MASQUERADE_FULLY_RANDOM: u32 = 0x10;

/// One expression of a rule. The rule ends at the first comparison that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// Header from which `offset` counts.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Destination.
        register: u32,
    },
    /// Loads a property of the packet (`NFT_META_*`).
    Meta {
        /// Which.
        key: u32,
        /// Destination.
        register: u32,
    },
    /// Loads a property of the connection (`NFT_CT_*`).
    Connection {
        /// Which.
        key: u32,
        /// Destination.
        register: u32,
    },
    /// Loads the type of the destination address (`RTN_*`), four bytes in host order.
    DestinationType {
        /// Destination.
        register: u32,
    },
    /// `destination = (source & mask) ^ xor`.
    Bitwise {
        /// Source register.
        source: u32,
        /// Destination register.
        destination: u32,
        /// Mask; as long as `xor`.
        mask: Vec<u8>,
        /// Bits to invert.
        xor: Vec<u8>,
    },
    /// Compares a register with a value.
    Cmp {
        /// Comparison.
        op: CmpOp,
        /// Left operand.
        register: u32,
        /// Right operand.
        data: Vec<u8>,
    },
    /// Loads a constant.
    Immediate {
        /// Destination.
        register: u32,
        /// Value.
        data: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Masquerades and accepts.
    Masquerade {
        /// `NF_NAT_RANGE_*`.
        flags: u32,
    },
    /// Translates destination address and port, and accepts.
    DestinationNat {
        /// `NFPROTO_*` of the address.
        family: u8,
        /// Register of the address.
        address: u32,
        /// Register of the port, two bytes in network order.
        port: u32,
    },
    /// Another expression, undecoded.
    Other {
        /// Name of the expression in the kernel.
        name: String,
        /// Its attributes.
        data: Vec<u8>,
    },
}

/// The header at which a payload offset begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// Ethernet.
    Link,
    /// IP.
    Network,
    /// TCP, UDP and the like.
    Transport,
}

/// A comparison; those by order are [`Expr::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// A verdict on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accept the packet in this base chain.
    Accept,
    /// Drop the packet.
    Drop,
    /// Continue after the jump, or in a base chain with its policy.
    Return,
    /// Continue in another chain, then return.
    Jump(String),
    /// Continue in another chain without returning.
    Goto(String),
}

const BASES: [PayloadBase; 3] = [PayloadBase::Link, PayloadBase::Network, PayloadBase::Transport];
const OPS: [CmpOp; 2] = [CmpOp::Equal, CmpOp::NotEqual];

const ACCEPT: i32 = 1;
const DROP: i32 = 0;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

impl Expr {
    /// Writes `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.text(1, self.name());
        match self {
            Self::Other { data, .. } => writer.nested_bytes(2, data),
            _ => writer.nested(2, |w| self.encode_attributes(w)),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } => "meta",
            Self::Connection { .. } => "ct",
            Self::DestinationType { .. } => "fib",
            Self::Bitwise { .. } => "bitwise",
            Self::Cmp { .. } => "cmp",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Masquerade { .. } => "masq",
            Self::DestinationNat { .. } => "nat",
            Self::Other { name, .. } => name,
        }
    }

    fn encode_attributes(&self, w: &mut Writer) {
        match self {
            Self::Payload { base, offset, len, register } => {
                w.be32s(&[*register, *base as u32, *offset, *len]);
            }
            Self::Meta { key, register } | Self::Connection { key, register } => w.be32s(&[*register, *key]),
            Self::DestinationType { register } => {
                w.be32s(&[*register, FIB_ADDRESS_TYPE, FIB_DESTINATION]);
            }
            Self::Bitwise { source, destination, mask, xor } => {
                let length = u32::try_from(mask.len()).expect("a register has 16 bytes");
                w.be32s(&[*source, *destination, length]);
                w.nested(4, |w| w.bytes(1, mask));
                w.nested(5, |w| w.bytes(1, xor));
            }
            Self::Cmp { op, register, data } => {
                w.be32s(&[*register, *op as u32]);
                w.nested(3, |w| w.bytes(1, data));
            }
            Self::Immediate { register, data } => {
                w.be32(1, *register);
                w.nested(2, |w| w.bytes(1, data));
            }
            Self::Verdict(verdict) => {
                w.be32(1, REGISTER_VERDICT);
                w.nested(2, |w| w.nested(2, |w| verdict.encode(w)));
            }
            Self::Masquerade { flags: 0 } | Self::Other { .. } => {}
            Self::Masquerade { flags } => w.be32(1, *flags),
            Self::DestinationNat { family, address, port } => {
                // Each range begins and ends with the same value.
                let family = u32::from(*family);
                w.be32s(&[NAT_DESTINATION, family, *address, *address, *port, *port, NAT_RANGE]);
            }
        }
    }

    /// Returns name and struct of an iptables match or target. Layout: the kernel's include/uapi/linux/netfilter/xt_*.h.
    #[must_use]
    pub fn extension(&self) -> Option<(String, &[u8])> {
        let Self::Other { name, data } = self else { return None };
        if name != "match" && name != "target" {
            return None;
        }
        let name = attribute::required(OBJECT, data, 1).ok()?.text();
        Some((name, attribute::required(OBJECT, data, 3).ok()?.value))
    }

    /// Decodes an element of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn decode(element: &[u8]) -> Result<Self, DecodeError> {
        let name = attribute::required(OBJECT, element, 1)?.text();
        // Some expressions (`notrack`) have no attributes at all.
        let data = attribute::required(OBJECT, element, 2).map(|data| data.value).unwrap_or_default();
        let known = Fields::read(data).and_then(|fields| fields.known(&name));
        Ok(known.unwrap_or_else(|| Self::Other { name, data: data.to_owned() }))
    }
}

/// The attributes of an expression by number. Known expressions have at most eight.
struct Fields<'a>([Option<&'a [u8]>; 9]);

impl<'a> Fields<'a> {
    /// Returns `None` if there is an attribute that no known expression has.
    fn read(data: &'a [u8]) -> Option<Self> {
        let mut fields = [None; 9];
        for (kind, value) in attributes(data) {
            *fields.get_mut(usize::from(kind))? = Some(value);
        }
        Some(Self(fields))
    }

    fn number(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.0[at]?.try_into().ok()?))
    }

    /// Returns the value of a nested `NFTA_DATA_VALUE`.
    fn value(&self, at: usize) -> Option<Vec<u8>> {
        Some(attribute::required(OBJECT, self.0[at]?, 1).ok()?.value.to_owned())
    }

    /// Returns true if all attributes above `last` are zero, which is the default everywhere.
    fn end_at(&self, last: usize) -> bool {
        self.0[last + 1..].iter().flatten().all(|value| value.iter().all(|byte| *byte == 0))
    }

    fn known(&self, name: &str) -> Option<Expr> {
        let (expr, last) = match name {
            "payload" => (
                Expr::Payload {
                    register: self.number(1)?,
                    base: *BASES.get(usize::try_from(self.number(2)?).ok()?)?,
                    offset: self.number(3)?,
                    len: self.number(4)?,
                },
                4,
            ),
            "meta" => (Expr::Meta { register: self.number(1)?, key: self.number(2)? }, 2),
            "ct" => (Expr::Connection { register: self.number(1)?, key: self.number(2)? }, 2),
            "fib" if self.number(2)? == FIB_ADDRESS_TYPE && self.number(3)? == FIB_DESTINATION => {
                (Expr::DestinationType { register: self.number(1)? }, 3)
            }
            "nat"
                if self.number(1)? == NAT_DESTINATION
                    && self.0[3] == self.0[4]
                    && self.0[5] == self.0[6]
                    && self.number(7)? == NAT_RANGE =>
            {
                let family = u8::try_from(self.number(2)?).ok()?;
                (Expr::DestinationNat { family, address: self.number(3)?, port: self.number(5)? }, 7)
            }
            "bitwise" => (
                Expr::Bitwise {
                    source: self.number(1)?,
                    destination: self.number(2)?,
                    mask: self.value(4)?,
                    xor: self.value(5)?,
                },
                5,
            ),
            "cmp" => (
                Expr::Cmp {
                    register: self.number(1)?,
                    op: *OPS.get(usize::try_from(self.number(2)?).ok()?)?,
                    data: self.value(3)?,
                },
                3,
            ),
            "immediate" if self.number(1)? == REGISTER_VERDICT => {
                let verdict = attribute::required(OBJECT, self.0[2]?, 2).ok()?;
                (Expr::Verdict(Verdict::decode(verdict.value)?), 2)
            }
            "immediate" => (Expr::Immediate { register: self.number(1)?, data: self.value(2)? }, 2),
            "masq" => (Expr::Masquerade { flags: self.number(1).unwrap_or_default() }, 1),
            _ => return None,
        };
        self.end_at(last).then_some(expr)
    }
}

impl Verdict {
    fn encode(&self, writer: &mut Writer) {
        let (code, chain) = match self {
            Self::Accept => (ACCEPT, None),
            Self::Drop => (DROP, None),
            Self::Return => (RETURN, None),
            Self::Jump(chain) => (JUMP, Some(chain)),
            Self::Goto(chain) => (GOTO, Some(chain)),
        };
        writer.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            writer.text(2, chain);
        }
    }

    fn decode(data: &[u8]) -> Option<Self> {
        let code = attribute::required(OBJECT, data, 1).ok()?.be32().ok()?.cast_signed();
        let chain = || Some(attribute::required(OBJECT, data, 2).ok()?.text());
        match code {
            ACCEPT => Some(Self::Accept),
            DROP => Some(Self::Drop),
            RETURN => Some(Self::Return),
            JUMP => Some(Self::Jump(chain()?)),
            GOTO => Some(Self::Goto(chain()?)),
            _ => None,
        }
    }
}
