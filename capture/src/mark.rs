//! Socket marks (`SO_MARK`, socket(7)): how the kernel's rules tell the broker's own sockets from an application's.
//!
//! Only the bits of [`MASK`] are ours; the upper half of a mark is left to whoever else uses marks on the host.

/// On a socket that the broker dials with: the capture rules let it through.
pub const MARK: u32 = 0xad17;
/// On a socket that a broker accepts captured connections with: whoever else binds that port does not have it.
pub const LISTENER_MARK: u32 = 0xad18;
/// The bits of a mark that are compared.
pub const MASK: u32 = 0xffff;
