//! What a program has that was told of a forwarded port.

use adit_tests::load::port;
use adit_tests::{Host, Lab, Process, User, address};
use anyhow::Result;

use crate::peer::{login, ssh_words, sshd};

/// `ssh -L` for each port of the load.
#[derive(Debug)]
pub(crate) struct Forward {
    _ssh: Process,
    _sshd: Process,
}

impl Forward {
    pub(crate) fn start(lab: &Lab) -> Result<Forward> {
        let sshd = sshd(lab)?;
        let mut words = ssh_words();
        words.push("-N".to_owned());
        for port in [port::ECHO, port::SINK, port::SOURCE, port::STALL] {
            let forward = format!("127.0.0.1:{port}:{}:{port}", address::SERVER);
            words.extend(["-L".to_owned(), forward]);
        }
        words.push(login());
        let ssh = lab.client().user(User::Root).start("ssh", &words)?;
        lab.wait_listening(Host::Client, port::STALL)?;
        Ok(Forward {
            _ssh: ssh,
            _sshd: sshd,
        })
    }
}
