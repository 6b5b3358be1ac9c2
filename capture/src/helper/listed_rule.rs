//! One rule of a user's, from nft's JSON (libnftables-json(5)) back to a value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_capture::wire::QueueBy;
use adit_capture::{Family, mark};
use ipnet::IpNet;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::large_set::SetName;
use super::program::{Action, ChainName, QueueRule, Role, Rule};
use super::ranges::Ranges;
use super::render::{BURST, RATE};
use super::xtables;

/// Whether these are the rules of a user's guard: who is not that user's listener is refused.
pub(crate) fn is_guard(uid: u32, rules: &[&RawValue]) -> bool {
    // Some versions of nft list what a reset implies, and some do not.
    let tcp = json!({"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}});
    let other = mark::of_listener(uid).map(|mark| {
        let left = json!({"socket": {"key": "mark"}});
        json!({"match": {"op": "!=", "left": left, "right": mark}})
    });
    let refused = json!({"reject": {"type": "tcp reset"}});
    let expected: Vec<Value> = other.into_iter().chain([refused]).collect();
    let [rule] = rules else { return false };
    serde_json::from_str::<Vec<Value>>(rule.get())
        .is_ok_and(|parts| parts.iter().filter(|part| **part != tcp).eq(&expected))
}

/// What these rules of a queue's chain make of it: first the rate, then the queue, if that was written. `None`: not ours.
pub(crate) fn queue_rule(number: u16, rules: &[&RawValue]) -> Option<QueueRule> {
    let read = |rule: &&RawValue| serde_json::from_str::<Value>(rule.get()).ok();
    let rules = rules.iter().map(read).collect::<Option<Vec<_>>>()?;
    let (limit, queue) = rules.split_first()?;
    let limit = limit.as_array()?;
    let (rate, dropped) = (limit.first()?.get("limit")?, limit.get(1)?.get("drop"));
    let is = |field, number: u32| rate.get(field).and_then(Value::as_u64) == Some(number.into());
    let ours = limit.len() == 2
        && dropped.is_some()
        && is("rate", RATE)
        && is("burst", BURST)
        && rate.get("per").and_then(Value::as_str) == Some("second")
        && rate.get("inv").and_then(Value::as_bool) == Some(true);
    let by = match (ours, queue) {
        (true, []) => None,
        (true, [queue]) => Some(queued(number, queue)?),
        (true | false, _) => return None,
    };
    Some(QueueRule { number, by })
}

/// How this rule leads to that queue. What nft does not know it lists by its name alone.
pub(crate) fn queued(number: u16, rule: &Value) -> Option<QueueBy> {
    let [statement] = rule.as_array()?.as_slice() else {
        return None;
    };
    if let Some(queue) = statement.get("queue") {
        // One flag is listed as a word or as a list, by the version of nft.
        let flags = queue.get("flags")?;
        let bypass = *flags == json!("bypass") || *flags == json!(["bypass"]);
        let ours = bypass && queue.get("num")?.as_u64()? == u64::from(number);
        return ours.then_some(QueueBy::Nft);
    }
    let target = statement.get("xt")?;
    let ours = target.get("type")?.as_str()? == "target"
        && target.get("name")?.as_str()? == xtables::TARGET;
    ours.then_some(QueueBy::Xtables)
}

/// Sets with a name, and what is in each.
pub(crate) type Sets = BTreeMap<SetName, Ranges>;

/// The rule that `RuleText` would have written as this. `None`: it would not.
pub(crate) fn rule(uid: u32, expression: &Value, sets: &Sets) -> Option<Rule> {
    let mut destination = None;
    let mut ports = Ranges::all_ports();
    let mut action = None;
    for part in expression.as_array()? {
        if let Some(matched) = part.get("match") {
            if matched.get("op")?.as_str()? != "==" {
                return None;
            }
            let right = matched.get("right")?;
            match field(matched.get("left")?)? {
                ("meta", "l4proto") => (right.as_str()? == "tcp").then_some(())?,
                ("ip", "daddr") => destination = Some(to(uid, right, Family::V4, sets)?),
                ("ip6", "daddr") => destination = Some(to(uid, right, Family::V6, sets)?),
                ("tcp", "dport") => ports = port_ranges(right)?,
                _ => return None,
            }
        } else if part.get("accept").is_some() {
            action = Some(Action::Accept);
        } else if let Some(reject) = part.get("reject") {
            (reject.get("type")?.as_str()? == "tcp reset").then_some(())?;
            action = Some(Action::Reject);
        } else if let Some(goto) = part.get("goto") {
            let name = ChainName::parse(goto.get("target")?.as_str()?)?;
            action = match name.role {
                Role::Queue(number) if name.uid == uid => Some(Action::Ask(number)),
                Role::Queue(_)
                | Role::Nat
                | Role::Open
                | Role::Gone(_)
                | Role::Guard
                | Role::Hold => return None,
            };
        } else {
            let port = part.get("redirect")?.get("port")?.as_u64()?;
            action = Some(Action::Redirect(u16::try_from(port).ok()?));
        }
    }
    let (family, to) = destination?;
    Some(Rule {
        family,
        to,
        ports,
        action: action?,
    })
}

/// The addresses, or the user's set of them that is named.
fn to(uid: u32, right: &Value, family: Family, sets: &Sets) -> Option<(Family, Ranges)> {
    let named = right.as_str().and_then(|text| text.strip_prefix('@'));
    let to = match named {
        Some(name) => {
            let name = SetName::parse(name).filter(|name| name.uid == uid && name.family == family);
            sets.get(&name?)?.clone()
        }
        None => addresses(right, family)?,
    };
    Some((family, to))
}

fn field(left: &Value) -> Option<(&str, &str)> {
    if let Some(meta) = left.get("meta") {
        return Some(("meta", meta.get("key")?.as_str()?));
    }
    let payload = left.get("payload")?;
    Some((
        payload.get("protocol")?.as_str()?,
        payload.get("field")?.as_str()?,
    ))
}

/// A set's members; a set of one is listed as its only member.
fn members(value: &Value) -> &[Value] {
    match value.get("set").unwrap_or(value).as_array() {
        Some(members) => members,
        None => std::slice::from_ref(value),
    }
}

fn port_ranges(value: &Value) -> Option<Ranges> {
    let number = |value: &Value| value.as_u64().map(u128::from);
    let range = |member: &Value| match member.get("range") {
        Some(range) => Some((number(range.get(0)?)?, number(range.get(1)?)?)),
        None => number(member).map(|port| (port, port)),
    };
    members(value)
        .iter()
        .map(range)
        .collect::<Option<Vec<_>>>()
        .map(Ranges::new)
}

/// Of a rule's own set, or of the members of one with a name.
pub(crate) fn addresses(value: &Value, family: Family) -> Option<Ranges> {
    let number = |value: &Value| match (value.as_str()?.parse().ok()?, family) {
        (IpAddr::V4(address), Family::V4) => Some(u128::from(address.to_bits())),
        (IpAddr::V6(address), Family::V6) => Some(address.to_bits()),
        (IpAddr::V4(_), Family::V6) | (IpAddr::V6(_), Family::V4) => None,
    };
    let range = |member: &Value| {
        if let Some(range) = member.get("range") {
            return Some((number(range.get(0)?)?, number(range.get(1)?)?));
        }
        if let Some(prefix) = member.get("prefix") {
            let address: IpAddr = prefix.get("addr")?.as_str()?.parse().ok()?;
            let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
            let network = IpNet::new(address, length).ok()?;
            return Ranges::of_networks(&[network], family).iter().next();
        }
        number(member).map(|address| (address, address))
    };
    members(value)
        .iter()
        .map(range)
        .collect::<Option<Vec<_>>>()
        .map(Ranges::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 lists it of the kernel's.
    const LIMIT: &str = r#"[{"limit": {"rate": 16000, "burst": 8192, "per": "second", "inv": true}}, {"drop": null}]"#;
    /// Of libnftables-json(5), and what it leaves open.
    const BY_NFT: &str = r#"[{"queue": {"num": 44288, "flags": "bypass"}}]"#;
    const BY_NFT_TOO: &str = r#"[{"queue": {"num": 44288, "flags": ["bypass"]}}]"#;
    /// As nft 1.0.6 lists what it cannot write.
    const BY_XTABLES: &str = r#"[{"xt": {"type": "target", "name": "NFQUEUE"}}]"#;

    fn check(rules: &[&str], expected: Option<Option<QueueBy>>) {
        let raw: Vec<Box<RawValue>> = rules
            .iter()
            .map(|rule| RawValue::from_string((*rule).to_owned()).unwrap())
            .collect();
        let raw: Vec<&RawValue> = raw.iter().map(AsRef::as_ref).collect();
        let number = 44_288;
        let expected = expected.map(|by| QueueRule { number, by });
        assert_eq!(queue_rule(number, &raw), expected, "{rules:?}");
    }

    #[test]
    fn both_ways_to_a_queue_are_known_again() {
        check(&[LIMIT, BY_NFT], Some(Some(QueueBy::Nft)));
        check(&[LIMIT, BY_NFT_TOO], Some(Some(QueueBy::Nft)));
        check(&[LIMIT, BY_XTABLES], Some(Some(QueueBy::Xtables)));
        // Between the two steps of the second way.
        check(&[LIMIT], Some(None));
        check(&[], None);
        check(&[BY_XTABLES], None);
        check(&[BY_XTABLES, LIMIT], None);
        check(&[LIMIT, BY_NFT, BY_NFT], None);
        check(&[&LIMIT.replace("16000", "16001"), BY_NFT], None);
        check(&[&LIMIT.replace("8192", "5"), BY_NFT], None);
        check(&[&LIMIT.replace("true", "false"), BY_NFT], None);
        check(&[&LIMIT.replace("drop", "accept"), BY_NFT], None);
        check(&[LIMIT, &BY_NFT.replace("44288", "44289")], None);
        check(&[LIMIT, &BY_NFT.replace("\"bypass\"", "[]")], None);
        check(&[LIMIT, r#"[{"queue": {"num": 44288}}]"#], None);
        check(&[LIMIT, &BY_XTABLES.replace("NFQUEUE", "DROP")], None);
        check(&[LIMIT, &BY_XTABLES.replace("target", "match")], None);
        check(&[LIMIT, r#"[{"accept": null}]"#], None);
    }
}
