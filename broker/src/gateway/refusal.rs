//! Why a gateway that knows of no link does not open a channel, as a link would say it.

use adit_link::{Refusal, RefusalReason};

/// Characters that are kept of a gateway's words: it may send hundreds of thousands, for each of thousands of flows.
const LONGEST: usize = 200;

/// What is kept of a gateway's words, which are shown and written to the log.
pub(super) fn brief(words: &str) -> String {
    let shown = words.chars().filter(|it| !it.is_control());
    shown.take(LONGEST).collect()
}

/// Of a channel that was not opened. The words are the system's, as OpenSSH passes them on (`channel_post_connecting` in its channels.c).
pub(super) fn refusal(is_prohibited: bool, words: &str) -> Refusal {
    if is_prohibited {
        let advice =
            "its sshd does not allow it (AllowTcpForwarding, PermitOpen, the key's options)";
        return refused(RefusalReason::Denied, advice);
    }
    let known = [
        ("Connection refused", RefusalReason::Refused),
        ("No route to host", RefusalReason::HostUnreachable),
        ("Network is unreachable", RefusalReason::NetworkUnreachable),
        ("Connection timed out", RefusalReason::TimedOut),
        ("Name or service not known", RefusalReason::Unresolvable),
        ("name resolution", RefusalReason::Unresolvable),
        ("No address associated", RefusalReason::Unresolvable),
    ];
    let words = brief(words);
    let known = known.iter().find(|(text, _)| words.contains(text));
    refused(
        known.map_or(RefusalReason::Failed, |(_, reason)| *reason),
        &words,
    )
}

pub(super) fn refused(reason: RefusalReason, detail: &str) -> Refusal {
    Refusal {
        reason,
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_says_is_what_programs_are_told() {
        let check = |is_prohibited, words: &str, expected| {
            assert_eq!(refusal(is_prohibited, words).reason, expected, "{words}");
        };
        check(false, "Connection refused", RefusalReason::Refused);
        check(false, "No route to host", RefusalReason::HostUnreachable);
        check(
            false,
            "Name or service not known",
            RefusalReason::Unresolvable,
        );
        check(
            false,
            "unknown host (Temporary failure in name resolution)",
            RefusalReason::Unresolvable,
        );
        check(false, "", RefusalReason::Failed);
        check(true, "open failed", RefusalReason::Denied);
    }

    #[test]
    fn little_is_kept_of_what_a_gateway_says() {
        let long = format!("\u{1b}[31mConnection\n refused\0{}", "ü".repeat(100_000));
        let kept = refusal(false, &long);
        assert_eq!(kept.reason, RefusalReason::Refused);
        assert_eq!(kept.detail.chars().count(), 200);
        assert!(kept.detail.starts_with("[31mConnection refusedü"), "{kept}");
    }
}
