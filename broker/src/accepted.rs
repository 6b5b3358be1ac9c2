//! An accepted connection of a program: whose it is, and what it asked for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_rules::{Application, Destination, EntryProtocol, Judgement, Policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

/// An accepted connection. Dropped, it is reset: its program must not take an end that nobody meant for the end of an answer.
#[derive(Debug)]
pub struct Accepted {
    tcp: Option<TcpStream>,
    ends: Ends,
    manner: Manner,
}

/// The addresses of an accepted connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The listener that accepted it.
    pub listener: SocketAddr,
    /// The peer that it saw.
    pub source: SocketAddr,
    /// Where the program's own socket is connected to.
    pub destination: SocketAddr,
    /// Whether the kernel led it here: then the program's own socket may have another address than `source`.
    pub is_redirected: bool,
}

/// What a program asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// This destination.
    Destination(Destination),
    /// Where a static tunnel leads to.
    Tunnel {
        /// Its name.
        name: Arc<str>,
        /// Where it leads to.
        to: Destination,
    },
}

/// How a program learns what became of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It believes itself connected: a refusal is a reset.
    Unasked,
    /// It waits for a reply.
    Told(EntryProtocol),
}

impl Asked {
    /// Where the program wants to go.
    pub fn destination(&self) -> &Destination {
        match self {
            Self::Destination(destination) => destination,
            Self::Tunnel { to, .. } => to,
        }
    }

    /// What the rules say of it.
    pub fn judge(&self, policy: &Policy, application: Option<&Application>) -> Judgement {
        match self {
            Self::Destination(destination) => policy.judge(destination, application),
            Self::Tunnel { name, .. } => policy.judge_static(name, application),
        }
    }
}

impl From<SocketAddr> for Asked {
    fn from(address: SocketAddr) -> Self {
        Self::Destination(Destination {
            address: Some(address.ip()),
            name: None,
            port: address.port(),
        })
    }
}

impl Accepted {
    /// What a listener accepted.
    pub fn new(tcp: TcpStream, ends: Ends, manner: Manner) -> Self {
        Self {
            tcp: Some(tcp),
            ends,
            manner,
        }
    }

    /// Who spoke to whom, for those who outlive the socket.
    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// How its program learns what became of it.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// Whether the client has reset it: its address may be another socket's by now. While this is not so, the kernel gives
    /// the four-tuple to nobody else.
    pub fn is_reset(&self) -> bool {
        self.tcp
            .as_ref()
            .is_none_or(|tcp| !matches!(tcp.take_error(), Ok(None)))
    }

    /// Resolves when the client has reset it.
    pub async fn reset(&self) {
        if let Some(tcp) = &self.tcp {
            // What it was, whoever ends it says.
            let _ = tcp.ready(Interest::ERROR).await;
        }
    }

    /// Resolves when the client has finished, without a word before that.
    pub async fn finished(&self) {
        if let Some(tcp) = &self.tcp {
            match tcp.peek(&mut [0]).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Tells its program of an end, and waits for its own: whether it had no other word. Else it is reset.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn end(mut self) -> io::Result<bool> {
        let Some(tcp) = &mut self.tcp else {
            return Ok(true);
        };
        tcp.shutdown().await?;
        let has_ended = tcp.read(&mut [0]).await? == 0;
        if has_ended {
            self.tcp = None;
        }
        Ok(has_ended)
    }

    /// The accepted socket, for whoever relays from now on.
    pub fn into_tcp(mut self) -> TcpStream {
        self.tcp
            .take()
            .unwrap_or_else(|| unreachable!("taken only here"))
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            adit_link::reset(tcp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::time::Duration;
    use tokio::net::TcpListener;

    async fn accepted() -> (Accepted, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let (tcp, source) = listener.accept().await.unwrap();
        let ends = Ends {
            listener: own,
            source,
            destination: own,
            is_redirected: false,
        };
        (Accepted::new(tcp, ends, Manner::Unasked), client)
    }

    fn reset(client: std::net::TcpStream) {
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// What a client does to its end, and whether that is a reset.
    async fn check(act: impl FnOnce(std::net::TcpStream), expected: bool) {
        let (mut accepted, client) = accepted().await;
        assert!(!accepted.is_reset());
        act(client);
        accepted.tcp.as_ref().unwrap().readable().await.unwrap();
        assert_eq!(accepted.is_reset(), expected);
        if !expected {
            let read = accepted.tcp.as_mut().unwrap().read(&mut [0]).await;
            assert_eq!(read.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_reset_is_told_from_an_end() {
        check(drop, false).await;
        check(reset, true).await;
    }

    #[tokio::test]
    async fn an_end_and_a_reset_are_awaited() {
        let (one, client) = accepted().await;
        drop(client);
        one.finished().await;
        let (other, client) = accepted().await;
        reset(client);
        other.reset().await;
    }
}
