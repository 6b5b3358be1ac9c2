//! What a client may do over Secure Shell: log in, ask for links, and forward ports. Everything else is
//! refused; nobody runs a shell, a command or a file transfer.
use std::sync::Arc;

use adit_link::ssh::SUBSYSTEM;
use bytes::Bytes;
use russh::keys::Certificate;
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session as Ssh,
    VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty};

use crate::audit::Who;
use crate::authentication::Tried;
use crate::client::{Client, ConversationError};
use crate::forward::Wanted;
use crate::link_channel::LinkChannel;
use crate::login::NotAuthorized;
use crate::methods::Method;
use crate::metrics::Metrics;
use crate::sessions::Session;
use crate::time_outs::TimeOuts;

/// RFC 4254 section 5.2, SSH_EXTENDED_DATA_STDERR.
const STDERR: u32 = 1;

impl Handler for Client {
    type Error = ConversationError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        self.turn(user);
        Ok(self.rejection(user))
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, Self::Error> {
        Ok(self.reject_method(user, "password").await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        match response {
            None => self.ask(user).await,
            Some(response) => self.take_answer(user, response).await,
        }
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let attempt = self.count_offer()?;
        self.attempt.take_unsigned();
        let changes = self.gateway.changes();
        let login = self.logins.certificate(user, certificate, attempt);
        let login = self.awaited(login).await?;
        let tried = Tried::certificate(certificate);
        Ok(self.answer(user, &tried, login, changes).await)
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let attempt = self.count_offer()?;
        let (key, algorithm) = (offer.public_key, offer.algorithm);
        let offered = match self.comes_next(user, Method::PublicKey) {
            true => {
                let offered = self.logins.offer(user, key, algorithm, attempt);
                self.awaited(offered).await?
            }
            false => Err(NotAuthorized::NotNext),
        };
        match offered {
            Ok(()) => {
                self.await_signature(user, key.key_data());
                Ok(Auth::Accept)
            }
            Err(why) => {
                self.turn(user);
                self.refuse_login(user, &Tried::key(key.key_data()), &why);
                Ok(self.rejection(user))
            }
        }
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        // Asked again, not remembered: the file may have changed, or the offer been of another
        // user.
        let attempt = self.count_offer()?;
        let (key, algorithm) = (key.public_key, key.algorithm);
        self.attempt.take_unsigned();
        let changes = self.gateway.changes();
        let login = self.logins.key(user, key, algorithm, attempt);
        let login = self.awaited(login).await?;
        let tried = Tried::key(key.key_data());
        Ok(self.answer(user, &tried, login, changes).await)
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(self.gateway.banner().map(|banner| banner.to_string()))
    }

    async fn auth_succeeded(&mut self, ssh: &mut Ssh) -> Result<(), Self::Error> {
        let Some((login, changes)) = self.login.take() else {
            return Err(russh::Error::NotAuthenticated.into());
        };
        let tried = Tried {
            method: login.proof.how(),
            credential: login.credential.clone(),
        };
        if self.gateway.is_draining() {
            let words = "the gateway takes no new connections";
            self.audit_refused(login.user.as_str(), &tried, words);
            return Ok(ssh.disconnect(Disconnect::ByApplication, words, "")?);
        }
        let user = login.user.clone();
        let own = self.gateway.allowance(&user).sessions;
        let place = match self.connections.take_within(&user, own) {
            Ok(place) => place,
            Err(full) => {
                let words = format!("too many connections: {full}");
                self.audit_refused(user.as_str(), &tried, &words);
                return Ok(ssh.disconnect(Disconnect::TooManyConnections, &words, "")?);
            }
        };
        self.guest = None;
        self.attempt.done();
        if login.permissions.forwarding {
            self.in_use.keep();
        }
        let who = Who {
            session: 0,
            user,
            from: self.peer.to_string(),
            address: Some(self.peer.ip()),
            credential: login.credential,
            how: login.proof.how(),
        };
        let ending = Arc::clone(&self.ending);
        let session = Session::new(who, login.permissions, Some(login.proof), ending);
        Metrics::count(&self.gateway.metrics().logins);
        self.time_outs = TimeOuts::start(&session, self.gateway.limits());
        // It authenticates once.
        let _ = (self.shared.place).set((place, self.gateway.sessions().enter(&session)));
        self.session = Some(session);
        // What was judged again in between did not know of this one.
        if self.gateway.changes() != changes {
            self.ending.end("who may log in has just changed");
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.count_open()?;
        let channel_place = Arc::clone(&self.channels).try_acquire_owned();
        let (Some(session), Ok(place)) = (&self.session, channel_place) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let link = LinkChannel {
            gateway: Arc::clone(&self.gateway),
            session: Arc::clone(session),
            handle: ssh.handle(),
            backlog: self.backlog.clone(),
            _place: place,
            _use: self.in_use.begin(),
        };
        reply.accept().await;
        self.begun.retain(|begun| *begun != channel.id());
        tokio::spawn(link.serve(channel));
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        if name != SUBSYSTEM || self.begun.contains(&channel) {
            return self.refuse(channel, &format!("subsystem {name}"), ssh);
        }
        self.begun.push(channel);
        Ok(ssh.channel_success(channel)?)
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.begun.retain(|begun| *begun != channel);
        Ok(())
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        // One a channel: what a client without a window does not take waits in the session.
        let motd = self
            .gateway
            .motd()
            .filter(|_| !self.begun.contains(&channel));
        let Some(motd) = motd else {
            return self.refuse(channel, "shell", ssh);
        };
        self.begun.push(channel);
        // RFC 4254 section 6.5: it is granted, says this on its standard error, and is over.
        self.log_refused("shell");
        ssh.channel_success(channel)?;
        ssh.extended_data(channel, STDERR, Bytes::copy_from_slice(motd.as_bytes()))?;
        ssh.exit_status_request(channel, 1)?;
        ssh.eof(channel)?;
        Ok(ssh.close(channel)?)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "exec", ssh)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "pty", ssh)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "x11", ssh)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        // Clients send their locale with every session: refused without a word.
        Ok(ssh.channel_failure(channel)?)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        let place = self.opening()?;
        let Some(forwarding) = self.forwarding(ssh.handle()) else {
            return self.refuse_open("direct-tcpip", reply).await;
        };
        let (wanted, in_use) = (Wanted::new(host, port), self.in_use.begin());
        // Nothing is waited for here: the session would wait as well, and all that is open on it.
        tokio::spawn(forwarding.serve(channel, reply, wanted, place, in_use));
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("direct-streamlocal", reply).await
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("forwarded-tcpip", reply).await
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("x11", reply).await
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        ssh: &mut Ssh,
    ) -> Result<bool, Self::Error> {
        let Some(forwarding) = self.forwarding(ssh.handle()) else {
            return Ok(false);
        };
        match self.listeners.start(forwarding, address, *port) {
            Ok(listens) => {
                *port = u32::from(listens);
                Ok(true)
            }
            Err(why) => {
                let (place, why) = (format!("{address}:{port}"), why.to_string());
                self.log_refused(&format!("to listen at {place}: {why}"));
                Ok(false)
            }
        }
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _ssh: &mut Ssh,
    ) -> Result<bool, Self::Error> {
        Ok(self.listeners.stop(address, port))
    }
}
