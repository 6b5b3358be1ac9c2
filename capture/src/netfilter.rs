//! Messages of nfnetlink (linux/netfilter/nfnetlink.h): a `struct nlmsghdr`, a `struct nfgenmsg`, then attributes (netlink(7)).

use netlink_packet_core::NLA_TYPE_MASK;

/// `AF_INET` of Linux.
pub const INET: u8 = 2;
/// `AF_INET6` there.
pub const INET6: u8 = 10;
/// `NLM_F_REQUEST` (linux/netlink.h).
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK` there: the kernel answers with an `NLMSG_ERROR`, of 0 when it was done.
pub const ACK: u16 = 4;
/// `NLMSG_ERROR` there.
pub const ERROR: u16 = 2;

/// `struct nlmsghdr`, then `struct nfgenmsg` (family, version 0, resource).
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// What a message's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Subsystem and kind of message.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Comes back in the answer.
    pub sequence: u32,
    /// `AF_*`.
    pub family: u8,
    /// Of the subsystem's own meaning.
    pub resource: u16,
}

/// The first message of `bytes`, its attributes as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Subsystem and kind of message.
    pub kind: u16,
    /// That of the request it answers.
    pub sequence: u32,
    /// Behind the netlink header: of an [`ERROR`] the code and the request, else a `struct nfgenmsg` and attributes.
    pub body: &'a [u8],
}

/// Bytes that are no message, or not the one expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the kernel's that cannot be understood")]
pub struct Malformed;

impl<'a> Message<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// When there is less than it announces.
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let header = bytes.first_chunk::<HEADER>().ok_or(Malformed)?;
        let [l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        Ok(Message {
            kind: u16::from_ne_bytes([t0, t1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body: bytes.get(HEADER..length).ok_or(Malformed)?,
        })
    }

    /// Its attributes.
    ///
    /// # Errors
    /// When it is too short to have any.
    pub fn attributes(&self) -> Result<&'a [u8], Malformed> {
        self.body.get(GENERIC..).ok_or(Malformed)
    }

    /// The code of an [`ERROR`]: 0 or a negative errno(3).
    ///
    /// # Errors
    /// When it has none.
    pub fn error(&self) -> Result<i32, Malformed> {
        let code = self.body.first_chunk().ok_or(Malformed)?;
        Ok(i32::from_ne_bytes(*code))
    }
}

/// A message.
pub fn message(header: Header, attributes: &[u8]) -> Vec<u8> {
    // Nothing that is written here comes near to 4 GiB.
    let length = u32::try_from(HEADER + GENERIC + attributes.len()).unwrap_or(u32::MAX);
    [
        &length.to_ne_bytes()[..],
        &header.kind.to_ne_bytes(),
        &header.flags.to_ne_bytes(),
        &header.sequence.to_ne_bytes(),
        // The port: the kernel fills in ours.
        &[0; 4],
        &[header.family, 0],
        &header.resource.to_be_bytes(),
        attributes,
    ]
    .concat()
}

/// `struct nlattr`: length without padding, type, value; aligned to four bytes (netlink(7)).
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What the attribute of this kind holds.
///
/// # Errors
/// When there is none.
pub fn value(mut bytes: &[u8], kind: u16) -> Result<&[u8], Malformed> {
    while let Some(&[l0, l1, k0, k1]) = bytes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length).ok_or(Malformed)?;
        if u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK == kind {
            return Ok(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(Malformed)
}

/// The same of an attribute that has exactly this size.
///
/// # Errors
/// When there is none, or it has another size.
pub fn fixed<const SIZE: usize>(bytes: &[u8], kind: u16) -> Result<[u8; SIZE], Malformed> {
    value(bytes, kind)?
        .try_into()
        .map_err(|_other_size| Malformed)
}
