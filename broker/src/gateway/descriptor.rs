//! Descriptors on their way between processes (unix(7), `SCM_RIGHTS`), as OpenSSH sends and expects them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// One byte, as `mm_receive_fd` of OpenSSH (monitor_fdpass.c) expects, and the descriptor.
pub(super) fn send(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(&[0])],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The descriptor that was sent with one byte; does not wait for it.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut [0])],
        &mut control,
        flags,
    )?;
    let descriptor = control.drain().find_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut rights) = message else {
            return None;
        };
        rights.next()
    });
    descriptor.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_descriptor_arrives_as_what_it_is() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(receive(far.as_fd()).is_err(), "nothing is there yet");
        let file = tempfile::tempfile().unwrap();
        send(near.as_fd(), file.as_fd()).unwrap();
        let got = std::fs::File::from(receive(far.as_fd()).unwrap());
        let id = |file: &std::fs::File| {
            use std::os::unix::fs::MetadataExt;
            file.metadata().unwrap().ino()
        };
        assert_eq!(id(&got), id(&file));
    }
}
