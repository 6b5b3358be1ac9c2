//! Socket marks (`SO_MARK`, socket(7)): how the kernel's rules tell the broker's own sockets from an application's.
//!
//! Of a dialling socket's mark only the bits of [`MASK`] are ours; the upper half is left to whoever else uses marks on the
//! host. On a listening socket all 32 bits are: they say whose it is.

/// On a socket that the broker dials with: the capture rules let it through.
pub const MARK: u32 = 0xad17;
/// What [`of_listener`] is built on: the lower half of it for each user below 65,536.
pub const LISTENER_MARK: u32 = 0xad18;
/// The bits of a mark that are compared.
pub const MASK: u32 = 0xffff;
/// On the SYN of a connection that was held, all 32 bits, from the verdict to the chain that acts by it: past the capture
/// rules. No socket has it, and the packet has lost it again before it leaves.
pub const DIRECT: u32 = 0xad1b;
/// The same: the program sees ECONNREFUSED.
pub const REFUSE: u32 = 0xad1c;
/// The same: the program sees EHOSTUNREACH.
pub const HOST_UNREACHABLE: u32 = 0xad1d;
/// The same: the program sees ENETUNREACH.
pub const NETWORK_UNREACHABLE: u32 = 0xad1e;
/// The same: to the broker's listener or nowhere. By then its program may have closed the socket, and no rule knows whose it was.
pub const REDIRECT: u32 = 0xad1f;

/// Marks that mean something else on a SYN than whose listener it is.
const TAKEN: [u32; 7] = [
    0,
    MARK,
    DIRECT,
    REFUSE,
    HOST_UNREACHABLE,
    NETWORK_UNREACHABLE,
    REDIRECT,
];

/// On a socket that a broker of this user accepts captured connections with: whoever else binds that port does not have it.
///
/// A mark of one user is never another's, at no time: a socket keeps its mark when its program lets go of the port and binds
/// another, and hands it on to the connections that it accepts. So it is the uid itself, its halves exchanged, and no number
/// that is given, taken back and given again. `None` for the seven users whose mark would be none at all, or another one of
/// these.
pub fn of_listener(uid: u32) -> Option<u32> {
    let mark = uid.rotate_left(16) ^ LISTENER_MARK;
    (!TAKEN.contains(&mark)).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_listeners_mark_names_its_user() {
        for (uid, expected) in [
            (0, Some(0x0000_ad18)),
            (1000, Some(0x03e8_ad18)),
            (70_001, Some(0x1171_ad19)),
            (0x0002_0000, Some(0x0000_ad1a)),
            (0x0003_0000, None),
            (0x0004_0000, None),
            (0x0005_0000, None),
            (0x0006_0000, None),
            (0x0007_0000, None),
            (0x000f_0000, None),
            (0xad18_0000, None),
        ] {
            assert_eq!(of_listener(uid), expected, "{uid}");
        }
    }

    proptest! {
        #[test]
        fn no_two_users_have_one_mark(one in any::<u32>(), other in any::<u32>()) {
            let marks = (of_listener(one), of_listener(other));
            prop_assert!(one == other || marks.0 != marks.1 || marks == (None, None));
        }
    }
}
