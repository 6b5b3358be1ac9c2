//! A gateway that knows of no link, and the system's `ssh` here: one connection of that, with a forwarded port for each flow.

use std::time::Duration;

use adit_link::{Refusal, RefusalReason};
use adit_rules::{HostKeys, Method};
use tokio::time::timeout;

use super::connection::Target;
use super::forwards::{Forwards, Opened, refusal, refused};
use super::mux::{Channels, Reader, Writer};

/// As long as sshd itself may try.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// Channels that were not opened stay in the memory of a master as long as it runs; another takes its place then.
const MOST_REFUSED: usize = 2000;

/// Whether `ssh` gets in without anything that only the broker can ask its user for.
pub(super) fn asks_nothing(target: &Target) -> bool {
    let by_key = |method: &Method| matches!(method, Method::PublicKey);
    target.methods.iter().all(by_key) && !matches!(target.host_keys, HostKeys::Ask)
}

impl Forwards for Channels {
    type Read = Reader;
    type Write = Writer;
    type Held = ();

    async fn open(&self, host: String, port: u16) -> Result<Opened<Self>, Refusal> {
        match timeout(DIAL_PATIENCE, self.open(&host, port)).await {
            Ok(Ok((read, write))) => Ok(Opened {
                read,
                write,
                held: (),
            }),
            Ok(Err(why)) => Err(refusal(why.is_prohibited, &why.words)),
            Err(_) => Err(refused(
                RefusalReason::TimedOut,
                "the gateway did not answer",
            )),
        }
    }

    fn finished(&self, (): ()) {}

    fn is_worn(&self) -> bool {
        self.refused() > MOST_REFUSED
    }
}
