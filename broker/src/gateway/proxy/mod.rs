//! Asking a proxy for a connection.

mod http;
mod socks5;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_rules::{Proxy, ProxyPassword, ProxyProtocol, Secret};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;

/// The proxy dials meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
/// A password has at most 255 bytes (RFC 1929).
const LONGEST_PASSWORD: usize = 255;

/// Why a proxy does not connect us.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The file with the password can't be used.
    #[error("cannot use the password in {}: {reason}", file.display())]
    PasswordFile {
        /// Which.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// It wants to know who we are.
    #[error(
        "it asks for a user and a password: write `USER@` before the host in `proxy`, and the password's file as `proxy_password_file`"
    )]
    AsksForPassword,
    /// It does not believe us.
    #[error("it does not take this user and password")]
    PasswordRefused,
    /// It will not connect us to this host, or could not.
    #[error("it gives no connection to {to}: {reason}")]
    Refused {
        /// Where to.
        to: String,
        /// What it said.
        reason: String,
    },
    /// It speaks something else.
    #[error("what answers there is no such proxy: {0}")]
    NotSpoken(String),
    /// It said nothing for too long.
    #[error("no answer in {} s", PATIENCE.as_secs())]
    TimedOut,
    /// The connection to it failed.
    #[error("the connection to it failed: {0}")]
    Io(#[from] io::Error),
}

impl ProxyError {
    /// Whether trying again can't help before someone changes something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::PasswordFile { .. } | Self::AsksForPassword | Self::PasswordRefused => true,
            Self::Refused { .. } | Self::NotSpoken(_) | Self::TimedOut | Self::Io(_) => false,
        }
    }
}

/// Who we are at a proxy.
struct Credentials<'p> {
    user: &'p str,
    password: Secret,
}

/// Asks the proxy at the other end of `tcp` for a connection to `host`, whose name it resolves; from then on `tcp` is that.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    proxy: &Proxy,
    home: &Path,
    tcp: &mut S,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    let credentials = credentials(proxy, home).await?;
    let asked = async {
        match proxy.protocol {
            ProxyProtocol::Http => http::ask(tcp, host, port, credentials.as_ref()).await,
            ProxyProtocol::Socks5 => socks5::ask(tcp, host, port, credentials.as_ref()).await,
        }
    };
    timeout(PATIENCE, asked)
        .await
        .map_err(|_| ProxyError::TimedOut)?
}

async fn credentials<'p>(
    proxy: &'p Proxy,
    home: &Path,
) -> Result<Option<Credentials<'p>>, ProxyError> {
    let Some(user) = proxy.user.as_deref() else {
        return Ok(None);
    };
    let password = match &proxy.password {
        None => Secret::new(String::new()),
        Some(ProxyPassword::Written(secret)) => secret.clone(),
        Some(ProxyPassword::File(file)) => {
            let file = crate::zone_targets::expand_home(file, home);
            let unusable = |reason| ProxyError::PasswordFile {
                file: file.clone(),
                reason,
            };
            read_password(&file).await.map_err(unusable)?
        }
    };
    Ok(Some(Credentials { user, password }))
}

/// The first line of a file.
async fn read_password(file: &Path) -> Result<Secret, String> {
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.map_err(|error| error.to_string())?;
    let mut text = String::with_capacity(LONGEST_PASSWORD + 3);
    let mut start = opened.take(LONGEST_PASSWORD as u64 + 2);
    let read = start.read_to_string(&mut text).await;
    let whole = Secret::new(text);
    read.map_err(|error| error.to_string())?;
    let line = whole.expose().lines().next().unwrap_or_default();
    match line.len() {
        0 => Err("its first line is empty".to_owned()),
        1..=LONGEST_PASSWORD => Ok(Secret::new(line.to_owned())),
        _ => Err(format!(
            "its first line has more than {LONGEST_PASSWORD} bytes"
        )),
    }
}
