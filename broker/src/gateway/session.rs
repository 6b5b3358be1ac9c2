//! An authenticated SSH session with a gateway, over its jump hosts.

use std::sync::Arc;
use std::time::Duration;

use adit_link::ssh::Backlog;
use russh::client::{self, Handle};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::authentication::authenticate;
use super::carrier::Carrier;
use super::connection::{ConnectError, HANDSHAKE_TIMEOUT, Target, client_config};
use super::dial::dial;
use super::host_key::HostKeyCheck;
use super::known_hosts::KnownHost;
use super::more_host_keys::Announced;
use super::questions::Questions;
use crate::capture_session::MarkedSockets;

/// A session. Dropping it ends it.
pub(super) struct Session {
    pub(super) ssh: Handle<HostKeyCheck>,
    /// How much has yet to be sent.
    pub(super) backlog: Backlog,
    /// The words for channels that were refused.
    pub(super) refusals: mpsc::Receiver<String>,
    /// The sessions with jump hosts, the first one's first.
    jumps: Vec<Handle<HostKeyCheck>>,
}

impl Session {
    /// Dials, passes jump hosts, checks host keys, authenticates.
    pub(super) async fn open(
        target: &Target,
        sockets: &MarkedSockets,
        questions: &Questions,
        announced: Option<Announced>,
    ) -> Result<Self, ConnectError> {
        let (carrier, jumps) = pass_jumps(target, sockets, questions).await?;
        let session = enter(target, sockets, questions, carrier, announced).await?;
        Ok(Self { jumps, ..session })
    }

    /// Resolves when the server is gone.
    pub(super) async fn ended(mut self) {
        // Why is in the log of who tries next.
        let _ = (&mut self.ssh).await;
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        say_goodbye(&self.ssh).await;
        pass_back(&self.jumps).await;
    }
}

/// Where goes what a server says beside the login.
struct Heard {
    refusals: mpsc::Sender<String>,
    announced: Option<Announced>,
}

/// Says goodbye to jump hosts, the last one first.
pub(super) async fn pass_back(jumps: &[Handle<HostKeyCheck>]) {
    for ssh in jumps.iter().rev() {
        say_goodbye(ssh).await;
    }
}

async fn say_goodbye(ssh: &Handle<HostKeyCheck>) {
    let goodbye = ssh.disconnect(russh::Disconnect::ByApplication, "the link has ended", "en");
    // The peer may be gone already; a goodbye that can't be said changes nothing.
    let _ = timeout(Duration::from_secs(1), goodbye).await;
}

/// Sessions with the jump hosts, and what leads on from the last one.
pub(super) async fn pass_jumps(
    target: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<(Option<Carrier>, Vec<Handle<HostKeyCheck>>), ConnectError> {
    let mut jumps = Vec::new();
    let mut carrier = None;
    for (index, jump) in target.via.iter().enumerate() {
        let at_jump = |error| ConnectError::OnTheWay {
            place: format!("jump host {}", jump.gateway),
            error: Box::new(error),
        };
        let next = target.via.get(index + 1).unwrap_or(target);
        let passed = async {
            let session = enter(jump, sockets, questions, carrier.take(), None).await?;
            let onwards = Carrier::onwards(&session.ssh, session.backlog, next).await?;
            Ok((session.ssh, onwards))
        };
        let (ssh, onwards) = passed.await.map_err(at_jump)?;
        jumps.push(ssh);
        carrier = Some(onwards);
    }
    Ok((carrier, jumps))
}

/// A session with `target` on a carrier that leads there, or else dialled.
async fn enter(
    target: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
    carrier: Option<Carrier>,
    announced: Option<Announced>,
) -> Result<Session, ConnectError> {
    let carrier = match carrier {
        Some(carrier) => carrier,
        None => Carrier::of(dial(target, sockets).await?),
    };
    let backlog = carrier.backlog();
    let (tell, refusals) = mpsc::channel(1);
    let heard = Heard {
        refusals: tell,
        announced,
    };
    let mut ssh = match carrier {
        Carrier::Tcp(socket) => handshake(target, socket, questions, heard).await?,
        Carrier::Channel(socket) => handshake(target, socket, questions, heard).await?,
    };
    authenticate(&mut ssh, target, questions).await?;
    Ok(Session {
        ssh,
        backlog,
        refusals,
        jumps: Vec::new(),
    })
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    target: &Target,
    socket: S,
    questions: &Questions,
    heard: Heard,
) -> Result<Handle<HostKeyCheck>, ConnectError> {
    let gateway = target.as_known();
    let known = KnownHost::read_aside(&target.known_hosts, &gateway.host, gateway.port).await?;
    let config = Arc::new(client_config(&known));
    let check = HostKeyCheck {
        gateway,
        files: target.known_hosts.clone(),
        known,
        unknown_is: target.host_keys,
        questions: questions.clone(),
        announced: heard.announced,
        refusals: heard.refusals,
    };
    let connecting = client::connect_stream(config, socket, check);
    let connected = timeout(HANDSHAKE_TIMEOUT, connecting).await;
    let timed_out = ConnectError::TimedOut {
        step: "exchanging keys",
        after: HANDSHAKE_TIMEOUT,
    };
    Ok(connected.map_err(|_| timed_out)??)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::gateway::plain_target::plain_target;

    /// Here the disk answers once someone else has had a turn on the runtime's only thread.
    #[test]
    fn known_hosts_are_read_while_others_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let slow = directory.path().join("known_hosts");
        assert!(
            Command::new("mkfifo")
                .arg(&slow)
                .status()
                .unwrap()
                .success()
        );
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().unwrap();
            runtime.block_on(async {
                let target = Target {
                    known_hosts: vec![slow.clone()],
                    ..plain_target("gw.example")
                };
                let (near, far) = tokio::io::duplex(1);
                drop(far);
                let heard = Heard {
                    refusals: mpsc::channel(1).0,
                    announced: None,
                };
                let questions = Questions::default();
                let (connected, written) = tokio::join!(
                    handshake(&target, near, &questions, heard),
                    tokio::fs::write(slow, "")
                );
                written.unwrap();
                assert!(matches!(connected, Err(ConnectError::Ssh(_))));
            });
            tell.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(20))
            .expect("the others wait for the disk");
    }
}
