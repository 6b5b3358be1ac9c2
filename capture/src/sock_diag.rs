//! The kernel's own word on one socket: an exact lookup over netlink (sock_diag(7)). Needs no privilege.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::net::if_::if_nameindex;
use socket2::SockRef;

/// `TCP_SYN_SENT` of the kernel's tcp_states.h.
const SYN_SENT: u8 = 2;
/// `TCP_LISTEN` of the kernel's tcp_states.h.
const LISTEN: u8 = 10;
/// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV` there: no socket of a program any more, or not yet.
const WITHOUT_SOCKET: [u8; 2] = [6, 12];
/// `ENOENT`: no such socket.
const NO_ENTRY: i32 = 2;
/// Any socket of that address, whatever its cookie (sock_diag(7), `INET_DIAG_NOCOOKIE`).
const ANY_COOKIE: [u8; 8] = [0xff; 8];
/// The kernel answers while the request is being sent; this only bounds what cannot happen.
const DEADLINE: Duration = Duration::from_secs(1);
/// Devices that are asked about.
const DEVICES: usize = 256;
/// Answers that belong to other requests, before we give up.
const STRAYS: usize = 16;

/// A lookup that failed. Not finding a socket is no failure.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The netlink socket could not be made.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The request was not taken, or nothing came back.
    #[error("netlink: {0}")]
    Exchange(#[from] io::Error),
    /// The kernel refused.
    #[error("the kernel refused the lookup: {0}")]
    Refused(#[source] io::Error),
    /// The answer could not be understood.
    #[error("an answer that cannot be understood: {0}")]
    Decode(#[from] DecodeError),
    /// No answer to this request among those that came.
    #[error("no answer")]
    NoAnswer,
}

/// Whose a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The user.
    pub uid: u32,
    /// Its inode, as in `/proc/PID/fd`.
    pub inode: u64,
    /// Whether its connection has yet to be answered.
    pub is_connecting: bool,
    /// Whether its program lets it use one network device only (socket(7), `SO_BINDTODEVICE`).
    pub is_bound_to_device: bool,
}

/// A netlink socket for lookups.
#[derive(Debug)]
pub struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no sock_diag, or descriptors ran out.
    pub fn open() -> Result<Diag, DiagError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(DiagError::Open)?;
        socket.bind_auto().map_err(DiagError::Open)?;
        socket
            .connect(&NetlinkAddr::new(0, 0))
            .map_err(DiagError::Open)?;
        SockRef::from(&socket)
            .set_read_timeout(Some(DEADLINE))
            .map_err(DiagError::Open)?;
        Ok(Diag {
            socket,
            sequence: 0,
            buffer: vec![0; 8192],
        })
    }

    /// The connected (or connecting) socket of exactly this local and remote address. `None`: there is none that a program
    /// still holds.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn connection(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Found>, DiagError> {
        let device = scope(local).max(scope(remote));
        if let Some(found) = self.connection_over(device, local, remote)? {
            return Ok(Some(found));
        }
        // One that is bound to a device is only told to who names that (inet_bound_dev_eq in the kernel's inet_hashtables.h).
        for device in devices().filter(|other| *other != device) {
            if let Some(found) = self.connection_over(device, local, remote)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn connection_over(
        &mut self,
        device: u32,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Found>, DiagError> {
        let found = self.find(device, local, remote)?.filter(|header| {
            let id = &header.socket_id;
            header.state != LISTEN
                && !WITHOUT_SOCKET.contains(&header.state)
                && same(id.source_address, id.source_port, local)
                && same(id.destination_address, id.destination_port, remote)
        });
        Ok(found.and_then(|header| owned(&header)))
    }

    /// The socket that listens at exactly this address.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn listener(&mut self, local: SocketAddr) -> Result<Option<Found>, DiagError> {
        let nowhere = match local {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        };
        let found = self.find(scope(local), local, nowhere)?.filter(|header| {
            let id = &header.socket_id;
            header.state == LISTEN && same(id.source_address, id.source_port, local)
        });
        Ok(found.and_then(|header| owned(&header)))
    }

    fn find(
        &mut self,
        device: u32,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<InetResponseHeader>, DiagError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence, device, local, remote);
        self.socket.send(&request, 0)?;
        for _ in 0..STRAYS {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let bytes = self.buffer.get(..length).ok_or(DiagError::NoAnswer)?;
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)?;
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    return Ok(Some(response.header));
                }
                NetlinkPayload::Error(error) if error.raw_code() == -NO_ENTRY => return Ok(None),
                NetlinkPayload::Error(error) => return Err(DiagError::Refused(error.to_io())),
                NetlinkPayload::InnerMessage(_)
                | NetlinkPayload::Done(_)
                | NetlinkPayload::Noop
                | NetlinkPayload::Overrun(_)
                | _ => return Err(DiagError::NoAnswer),
            }
        }
        Err(DiagError::NoAnswer)
    }
}

fn owned(header: &InetResponseHeader) -> Option<Found> {
    // A socket that its program has closed has no inode, and on older kernels claims to be root's.
    (header.inode != 0).then_some(Found {
        uid: header.uid,
        inode: header.inode.into(),
        is_connecting: header.state == SYN_SENT,
        is_bound_to_device: header.socket_id.interface_id != 0,
    })
}

/// An IPv6 socket that is connected to an IPv4 address says so in IPv6's words.
fn same(address: IpAddr, port: u16, expected: SocketAddr) -> bool {
    address.to_canonical() == expected.ip().to_canonical() && port == expected.port()
}

fn request(sequence: u32, device: u32, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (local_ip, remote_ip) = (local.ip().to_canonical(), remote.ip().to_canonical());
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let body = InetRequest {
        family: if local_ip.is_ipv4() {
            AF_INET
        } else {
            AF_INET6
        },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local_ip,
            destination_address: remote_ip,
            interface_id: device,
            cookie: ANY_COOKIE,
        },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(body).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Indices of the network devices.
fn devices() -> impl Iterator<Item = u32> {
    let devices = if_nameindex().ok();
    let indices = devices.map(|devices| {
        devices
            .iter()
            .map(|device| device.index())
            .collect::<Vec<_>>()
    });
    indices.unwrap_or_default().into_iter().take(DEVICES)
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}
