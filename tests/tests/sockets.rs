//! What TCP promises to a program, scripted at both ends: through Adit both see what they see directly.

use adit_tests::{Conversation, Exchange, Lab, RunningAdit, Shared, address};
use anyhow::{Context, Result, ensure};

/// One lab for the whole file.
fn lab() -> Result<&'static Lab> {
    static LAB: Shared<(Lab, RunningAdit)> = Shared::new();
    let started = LAB.get(|| {
        let lab = Lab::new()?;
        let adit = RunningAdit::start(&lab)?;
        Ok((lab, adit))
    });
    Ok(&started?.0)
}

/// The conversation as it goes directly, and the same through Adit, over IPv4 and IPv6.
/// `client` and `server` are the last words that each end must report in any case.
fn check(conversation: Conversation<'_>, client: &str, server: &str) -> Result<()> {
    let lab = lab()?;
    for address in [address::SERVER, address::SERVER6] {
        let conversation = conversation.clone().at(address);
        let direct = conversation.hold(lab, &lab.direct()).context("direct")?;
        ends_with(&direct, client, server).with_context(|| format!("directly to {address}"))?;
        let through = conversation
            .hold(lab, &lab.client())
            .context("through Adit")?;
        through
            .same_as(&direct)
            .with_context(|| format!("through Adit to {address}"))?;
    }
    Ok(())
}

fn ends_with(exchange: &Exchange, client: &str, server: &str) -> Result<()> {
    for (sights, expected) in [(&exchange.client, client), (&exchange.server, server)] {
        ensure!(!sights.is_empty());
        for sight in sights {
            let last = sight.steps.last().map(String::as_str);
            ensure!(
                last == Some(expected),
                "expected `{expected}` at last: {sight:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn sixty_four_mebibytes_up() -> Result<()> {
    check(
        Conversation::new("send 64M; finish; end", "expect 64M; end"),
        "end",
        "end",
    )
}

#[test]
fn sixty_four_mebibytes_down() -> Result<()> {
    check(
        Conversation::new("expect 64M; end", "send 64M"),
        "end",
        "sent",
    )
}

#[test]
fn sixty_four_mebibytes_both_ways_at_once() -> Result<()> {
    check(
        Conversation::new("both 64M; finish; end", "both 64M; end"),
        "end",
        "end",
    )
}

#[test]
fn client_half_closes_then_server_replies() -> Result<()> {
    let conversation = Conversation::new(
        "send 300K; finish; expect 500K; end",
        "expect 300K; end; send 500K; finish",
    );
    check(conversation, "end", "finished")
}

#[test]
fn server_half_closes_then_client_uploads() -> Result<()> {
    let conversation = Conversation::new(
        "expect 1000; end; send 700K; finish",
        "send 1000; finish; expect 700K; end",
    );
    check(conversation, "finished", "end")
}

#[test]
fn reset_by_the_server_is_a_reset() -> Result<()> {
    let conversation = Conversation::new("send 10; expect 5; end", "expect 10; send 5; reset");
    check(conversation, "End: connection reset", "reset it")
}

#[test]
fn reset_by_the_client_is_a_reset() -> Result<()> {
    let conversation = Conversation::new("send 10; expect 5; reset", "expect 10; send 5; end");
    check(conversation, "reset it", "End: connection reset")
}

#[test]
fn server_speaks_first() -> Result<()> {
    let conversation = Conversation::new(
        "expect 100; send 50; expect 30; finish; end",
        "send 100; expect 50; send 30; end",
    );
    check(conversation, "end", "end")
}

#[test]
fn server_closes_at_once() -> Result<()> {
    check(Conversation::new("end", "finish; end"), "end", "end")
}

#[test]
fn client_closes_at_once() -> Result<()> {
    check(Conversation::new("finish; end", "end"), "end", "end")
}

#[test]
fn server_closes_while_the_client_writes() -> Result<()> {
    let conversation = Conversation::new("flood", "expect 100K");
    check(conversation, "stopped by a reset", "received 102400 intact")
}

#[test]
fn client_closes_while_the_server_writes() -> Result<()> {
    let conversation = Conversation::new("expect 100K", "flood");
    check(conversation, "received 102400 intact", "stopped by a reset")
}

#[test]
fn three_thousand_tiny_writes_each_way() -> Result<()> {
    let conversation = Conversation::new(
        "dribble 3000; expect-dribble 3000; finish; end",
        "expect-dribble 3000; dribble 3000; end",
    );
    check(conversation, "end", "end")
}

#[test]
fn two_hundred_at_once_of_random_sizes() -> Result<()> {
    let conversation = Conversation::new(
        "number; send-random 300K; expect-random 300K; finish; end",
        "number; expect-random 300K; send-random 300K; end",
    );
    check(conversation.times(200), "end", "end")
}

#[test]
fn server_reads_slowly() -> Result<()> {
    check(
        Conversation::new("send 6M; finish; end", "slowly 6M; end"),
        "end",
        "end",
    )
}

#[test]
fn client_reads_slowly() -> Result<()> {
    check(
        Conversation::new("slowly 6M; end", "send 6M"),
        "end",
        "sent",
    )
}
