//! After a change of policy, keys or revocation: what would not be allowed any more is closed.
//!
//! A session is judged as its login was, and each of its flows as it was when it was opened, with the
//! same functions.
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::asked::Asked;
use crate::asker::Asker;
use crate::gateway::Gateway;
use crate::login::Logins;
use crate::policy::{Judgement, Policy};
use crate::sessions::{Flow, Session, Subject};

/// What a change closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Logins that would be refused now, with all that was open on them.
    pub sessions: usize,
    /// Of the others, flows that would be refused now.
    pub flows: usize,
}

/// Judges everything that is live.
pub(crate) async fn all(gateway: &Arc<Gateway>, logins: &Logins) -> Closed {
    gateway.changed();
    let mut judging = JoinSet::new();
    for session in gateway.sessions().all() {
        let (gateway, logins) = (Arc::clone(gateway), logins.clone());
        // At once: the files of some may lie where nothing answers.
        judging.spawn(async move { one(&gateway, &logins, &session).await });
    }
    let mut closed = Closed::default();
    while let Some(judged) = judging.join_next().await {
        if let Ok(of_one) = judged {
            closed.sessions += of_one.sessions;
            closed.flows += of_one.flows;
        }
    }
    closed
}

async fn one(gateway: &Gateway, logins: &Logins, session: &Session) -> Closed {
    if let Some(proof) = &session.proof {
        match logins.again(&session.who.user, proof).await {
            Ok(login) => session.permit(login.permissions),
            Err(why) => {
                let (id, user) = (session.id, session.who.user.as_str());
                tracing::info!(id, user, why = why.to_string(), "session closed");
                session.ending.end("this login is not accepted any more");
                return Closed {
                    sessions: 1,
                    flows: 0,
                };
            }
        }
    }
    let flows = session.flows();
    let closed = flows.iter().filter(|open| !flow(gateway, session, open));
    Closed {
        sessions: 0,
        flows: closed.count(),
    }
}

/// Ends a flow that would not be opened now. Does it go on?
pub(crate) fn flow(gateway: &Gateway, session: &Session, flow: &Flow) -> bool {
    let permissions = session.permissions();
    let allowed = match &flow.subject {
        Subject::Dialled(way, asked) => {
            // As it is in the audit, where `-` stands for an application that is not known.
            let application = Some(flow.application.as_str()).filter(|known| *known != "-");
            let asker = session.who.asker(&permissions, application);
            permissions.opens(*way, asked).is_ok()
                && is_allowed(&gateway.policy(), &asker, asked, flow.dialled)
        }
        Subject::Accepted { host, wanted, .. } => permissions.listens(host, *wanted),
    };
    if !allowed {
        flow.ending.end("not allowed any more");
    }
    allowed
}

/// Of a name, the address that was dialled is what counts: nothing is looked up again.
fn is_allowed(policy: &Policy, asker: &Asker<'_>, asked: &Asked, dialled: SocketAddr) -> bool {
    match policy.judge(asker, asked) {
        Ok(Judgement::Dial(_)) => true,
        Ok(Judgement::Resolve(resolvable)) => policy
            .judge_resolved(asker, &resolvable, &[dialled.ip()])
            .is_ok(),
        Err(_) => false,
    }
}
