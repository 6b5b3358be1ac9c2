//! The early order at a gateway that has nothing but sshd, where the zone says `hand_over`: the system's `ssh` reads and writes the program's connection
//! itself. It is kept here as well, for its count, its end, and to reset it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_capture::moved::moved;
use adit_link::{OpenHeader, Refusal, RefusalReason, RelayEnd};
use socket2::SockRef;
use tokio::time::sleep;

use super::Dispatcher;
use super::ending::{Cause, Ending};
use crate::accepted::{Accepted, Ends, Manner};
use crate::flow_table::Flow;
use crate::gateway::{Handed, Handing, NotHanded};

/// How old the count of bytes may be.
const COUNTED_EVERY: Duration = Duration::from_secs(1);

/// What became of it.
pub(super) enum HandedOver {
    /// It is over.
    Over(Ending),
    /// It was not taken: it goes like any other.
    Not(Accepted),
}

impl Dispatcher {
    /// Hands a connection over, and sees it to its end.
    pub(super) async fn hand_over(
        &self,
        accepted: Accepted,
        handing: &Handing,
        header: &OpenHeader,
        flow: &Arc<Flow>,
    ) -> HandedOver {
        let ends = accepted.ends();
        let mut carrying = pin!(self.carry_handed(accepted, handing, header, flow));
        tokio::select! {
            outcome = &mut carrying => return outcome,
            learnt = self.learn_opener(ends, flow) => {
                if let Err(foreign) = learnt {
                    return HandedOver::Over(foreign);
                }
            }
        }
        carrying.await
    }

    async fn carry_handed(
        &self,
        accepted: Accepted,
        handing: &Handing,
        header: &OpenHeader,
        flow: &Flow,
    ) -> HandedOver {
        let ends = accepted.ends();
        let kept = match Kept::new(accepted) {
            Ok(kept) => kept,
            Err(error) => return HandedOver::Over(broken(&error)),
        };
        match handing.hand(kept.as_fd(), header).await {
            Ok(handed) => {
                self.opened(flow);
                HandedOver::Over(kept.until_done(handed, ends, flow).await)
            }
            Err(not @ NotHanded::Unanswered) => {
                let refusal = Refusal {
                    reason: RefusalReason::TimedOut,
                    detail: not.to_string(),
                };
                HandedOver::Over(Ending::of_refusal(&refusal))
            }
            // A channel is told the reason.
            Err(not) => {
                tracing::debug!(flow = flow.id, "not handed over: {not}");
                match kept.untouched().and_then(|kept| kept.back(ends)) {
                    Ok(accepted) => HandedOver::Not(accepted),
                    Err(error) => HandedOver::Over(broken(&error)),
                }
            }
        }
    }
}

fn broken(error: &io::Error) -> Ending {
    Ending::failed(Cause::Broken, error.to_string())
}

/// A program's connection that `ssh` has as well. Dropped, it is reset, whoever has it.
struct Kept(Option<TcpStream>);

impl Kept {
    /// What comes on it wakes nobody here any more.
    fn new(accepted: Accepted) -> io::Result<Self> {
        let tcp = accepted.into_tcp().into_std()?;
        // What is left of it when the broker is killed must not look like the end of an answer.
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
        Ok(Self(Some(tcp)))
    }

    fn tcp(&self) -> &TcpStream {
        match &self.0 {
            Some(tcp) => tcp,
            None => unreachable!("taken only with all of it"),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }

    /// The same, if nothing of what its program has sent was read by an `ssh` that went before it gave an answer: what comes after that must not
    /// be taken for the beginning.
    fn untouched(self) -> io::Result<Self> {
        let unread = rustix::io::ioctl_fionread(self.tcp())?;
        match moved(self.tcp())?.received == unread {
            true => Ok(self),
            false => Err(io::Error::other("ssh took some of it and went")),
        }
    }

    /// Nobody else has it.
    fn back(mut self, ends: Ends) -> io::Result<Accepted> {
        let Some(tcp) = self.0.take() else {
            unreachable!("taken only with all of it");
        };
        let tcp = tokio::net::TcpStream::from_std(tcp)?;
        // Not before: what fails is reset.
        SockRef::from(&tcp).set_linger(None)?;
        Ok(Accepted::new(tcp, ends, Manner::Unasked))
    }

    /// ssh is done with it: what its program sends now, and what it had sent and nobody took, reaches nobody, and of that a reset tells it.
    async fn end(self, ends: Ends) -> io::Result<bool> {
        self.back(ends)?.end().await
    }

    async fn until_done(self, handed: Handed, ends: Ends, flow: &Flow) -> Ending {
        let counting = async {
            loop {
                sleep(COUNTED_EVERY).await;
                self.count(flow);
            }
        };
        let done = tokio::select! {
            done = handed.done() => done,
            () = counting => Ok(()),
        };
        self.count(flow);
        match done {
            Ok(()) => match self.end(ends).await {
                Ok(true) => Ending::of_relay(RelayEnd::Finished, flow),
                Ok(false) => Ending::closed(Some(
                    "reset: the destination had ended, and ssh takes nothing more then".to_owned(),
                )),
                Err(error) => Ending::of_relay(RelayEnd::ResetHere(error), flow),
            },
            Err(end) => Ending::of_relay(RelayEnd::LinkEnded(end), flow),
        }
    }

    fn count(&self, flow: &Flow) {
        // Where the kernel can't tell, what it told last stands.
        if let Ok(moved) = moved(self.tcp()) {
            flow.counters.up.store(moved.received, Ordering::Relaxed);
            flow.counters.down.store(moved.written, Ordering::Relaxed);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(tcp) = &self.0 {
            // A close says nothing as long as ssh has it; this does (tcp_disconnect in the kernel's tcp.c). Without a connection there is nobody to be told.
            let _ = rustix::net::connect_unspec(tcp);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};

    use tokio::net::TcpListener;

    use super::*;

    /// A program's end, and what is kept of ours.
    async fn kept() -> (TcpStream, Kept, Ends) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let program = TcpStream::connect(own).unwrap();
        let (tcp, source) = listener.accept().await.unwrap();
        let ends = Ends {
            listener: own,
            source,
            destination: own,
            is_redirected: true,
        };
        let accepted = Accepted::new(tcp, ends, Manner::Unasked);
        (program, Kept::new(accepted).unwrap(), ends)
    }

    #[tokio::test]
    async fn what_nobody_took_anything_of_goes_another_way() {
        let (mut program, kept, ends) = kept().await;
        program.write_all(b"all of it").unwrap();
        program.shutdown(std::net::Shutdown::Write).unwrap();
        let back = kept.untouched().and_then(|kept| kept.back(ends)).unwrap();
        let mut tcp = back.into_tcp();
        let mut read = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut read)
            .await
            .unwrap();
        assert_eq!(read, b"all of it");
        // And it is closed as any other.
        drop(tcp);
        assert_eq!(program.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_something_was_taken_of_is_reset() {
        let (mut program, kept, _) = kept().await;
        program.write_all(b"all of it").unwrap();
        let mut taken = kept.tcp().try_clone().unwrap();
        taken.set_nonblocking(false).unwrap();
        taken.read_exact(&mut [0]).unwrap();
        assert!(kept.untouched().is_err());
        let told = program.read(&mut [0]).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::ConnectionReset);
    }
}
