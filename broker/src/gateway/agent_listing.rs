//! What an agent says that it holds (draft-ietf-sshm-ssh-agent, section 4.4). A key or a comment that can't be read hides no other.

use std::io::{self, ErrorKind};

use russh::keys::PublicKey;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::Certificate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
/// As much as OpenSSH takes from an agent (authfd.c, MAX_AGENT_REPLY_LEN).
const LONGEST: u32 = 256 << 10;
/// How the name of a kind of certificate ends (PROTOCOL.certkeys of OpenSSH).
const CERTIFICATE: &[u8] = b"-cert-v01@openssh.com";

/// Asks for all of it.
pub(super) async fn held_by(agent: &mut UnixStream) -> io::Result<Vec<AgentIdentity>> {
    agent.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES]).await?;
    let length = agent.read_u32().await?;
    if length > LONGEST {
        return Err(not_understood());
    }
    let mut answer = vec![0; length as usize];
    agent.read_exact(&mut answer).await?;
    read(&answer).ok_or_else(not_understood)
}

fn not_understood() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "what it holds is not understood")
}

fn read(answer: &[u8]) -> Option<Vec<AgentIdentity>> {
    let rest = &mut answer.strip_prefix(&[IDENTITIES_ANSWER])?;
    let mut held = Vec::new();
    for _ in 0..number(rest)? {
        let (key, comment) = (string(rest)?, string(rest)?);
        held.extend(identity(key, comment));
    }
    Some(held)
}

/// `None`: it is of a kind that is not supported.
fn identity(key: &[u8], comment: &[u8]) -> Option<AgentIdentity> {
    let comment = String::from_utf8_lossy(comment);
    let comment = comment.chars().filter(|it| !it.is_control()).collect();
    let kind = string(&mut &*key)?;
    if kind.ends_with(CERTIFICATE) {
        let certificate = Certificate::from_bytes(key).ok()?;
        return Some(AgentIdentity::Certificate {
            certificate,
            comment,
        });
    }
    let key = PublicKey::from_bytes(key).ok()?;
    Some(AgentIdentity::PublicKey { key, comment })
}

fn number(from: &mut &[u8]) -> Option<u32> {
    let (number, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u32::from_be_bytes(*number))
}

fn string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(from)?;
    let (string, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(held: &[(&[u8], &[u8])]) -> Vec<u8> {
        let length = |all: usize| u32::try_from(all).unwrap().to_be_bytes();
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend(length(held.len()));
        for string in held.iter().flat_map(|(key, comment)| [key, comment]) {
            answer.extend(length(string.len()));
            answer.extend_from_slice(string);
        }
        answer
    }

    // Made by ssh-keygen -t ed25519.
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn what_cannot_be_read_hides_no_other() {
        let own = PublicKey::from_openssh(KEY).unwrap();
        let blob = own.to_bytes().unwrap();
        let other = b"\0\0\0\x07unknown-key";
        let held = answer(&[(other, b"other"), (b"", b""), (&blob, b"m\xffne\x1b[2J")]);
        let held = read(&held).unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].public_key().key_data(), own.key_data());
        assert_eq!(held[0].comment(), "m\u{fffd}ne[2J");
        assert!(read(&answer(&[])).unwrap().is_empty());
        assert!(read(&[5]).is_none(), "it refuses");
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_survived(rest in proptest::collection::vec(0..=255u8, 0..200)) {
            let _ = read(&[&[IDENTITIES_ANSWER][..], &rest].concat());
        }
    }
}
