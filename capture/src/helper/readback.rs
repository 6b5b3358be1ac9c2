//! From what `nft -j list table` says back to programs: the kernel is the only state that there is.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use adit_capture::OnBrokerGone;

use super::base_chains::{BASE_CHAINS, CAPTURED, GUARDED_V4, GUARDED_V6, HELD, JUDGED, MAPS};
use super::large_set::{SetName, sets};
use super::listed_rule::{Sets, addresses, is_guard, queue_rule, rule};
use super::program::{ChainName, Hold, Live, Ports, Program, Role, Rule, Word};

/// A table that is not one that we would have written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("nft's answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no list of objects in nft's answer")]
    NoList,
    #[error("{0} without {1}")]
    Missing(&'static str, &'static str),
    #[error("the chain or map {0} is not ours")]
    Foreign(String),
    #[error("{what} {name} is missing, not ours, or not as it was written")]
    Skeleton { what: &'static str, name: String },
    #[error("user {0}'s chains are not complete")]
    Incomplete(u32),
    #[error("in chain {chain}: a rule that we do not write: {expression}")]
    Rule { chain: String, expression: String },
}

/// All of the table that is not a user's, as this system's nft lists it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skeleton {
    maps: BTreeMap<String, Value>,
    /// Chains and their rules.
    base: BTreeMap<String, (Value, Vec<String>)>,
}

/// From listings of what [`super::render::probe`] wrote, one of each chain and map.
pub(crate) fn skeleton(listings: &[String]) -> Result<Skeleton, ReadError> {
    let (mut maps, mut base) = (BTreeMap::new(), BTreeMap::new());
    for json in listings {
        let found = Listing::read(json)?.skeleton;
        maps.extend(found.maps);
        base.extend(found.base);
    }
    for chain in BASE_CHAINS {
        let rules = base
            .get(chain.name)
            .map(|(_, rules): &(_, Vec<_>)| rules.len());
        if rules != Some(chain.rules().len()) {
            return Err(ReadError::Foreign(chain.name.into()));
        }
    }
    match MAPS.iter().find(|(name, _)| !maps.contains_key(*name)) {
        Some((name, _)) => Err(ReadError::Foreign((*name).into())),
        None => Ok(Skeleton { maps, base }),
    }
}

/// The programs of all users, by uid. What is not a user's has to be as in `skeleton`.
pub(crate) fn programs(
    json: &str,
    skeleton: &Skeleton,
) -> Result<BTreeMap<u32, Program>, ReadError> {
    let listing = Listing::read(json)?;
    listing.check_skeleton(skeleton)?;
    let users: BTreeSet<u32> = listing.user_chains.keys().map(|name| name.uid).collect();
    let programs = users
        .into_iter()
        .map(|uid| Ok((uid, listing.program(uid)?)))
        .collect::<Result<BTreeMap<_, _>, ReadError>>()?;
    let wrong = |what, name: &str| ReadError::Skeleton {
        what,
        name: name.into(),
    };
    if !listing.elements_used(&programs) {
        return Err(wrong("map", "elements"));
    }
    let used = programs
        .iter()
        .flat_map(|(uid, program)| sets(*uid, program));
    let used: BTreeSet<SetName> = used.map(|(name, _)| name).collect();
    match listing.sets.keys().find(|name| !used.contains(name)) {
        Some(name) => Err(wrong("set", &name.to_string())),
        None => Ok(programs),
    }
}

/// The expressions of all rules that are listed.
pub(crate) fn rules_listed(json: &str) -> Result<Vec<Value>, ReadError> {
    let Objects { nftables: objects } = serde_json::from_str(json)?;
    let rules = objects.iter().filter_map(|object| object.rule.as_ref());
    rules
        .map(|rule| Ok(serde_json::from_str(rule.expr.get())?))
        .collect()
}

/// Whether our table is among those that `nft -j list tables` names.
pub(crate) fn has_table(json: &str) -> Result<bool, ReadError> {
    let value: Value = serde_json::from_str(json)?;
    let objects = value
        .get("nftables")
        .and_then(Value::as_array)
        .ok_or(ReadError::NoList)?;
    Ok(objects
        .iter()
        .filter_map(|object| object.get("table"))
        .any(|table| {
            table.get("family").and_then(Value::as_str) == Some("inet")
                && table.get("name").and_then(Value::as_str) == Some("adit")
        }))
}

/// What is listed of one kind. Rules stay text until they are looked at, one at a time: as values they take a hundred times
/// as much.
#[derive(Debug, Deserialize)]
struct Objects<'a> {
    #[serde(borrow)]
    nftables: Vec<Object<'a>>,
}

#[derive(Debug, Deserialize)]
struct Object<'a> {
    chain: Option<Value>,
    map: Option<Value>,
    #[serde(borrow)]
    set: Option<SetObject<'a>>,
    #[serde(borrow)]
    rule: Option<RuleObject<'a>>,
}

#[derive(Debug, Deserialize)]
struct RuleObject<'a> {
    chain: String,
    #[serde(borrow)]
    expr: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct SetObject<'a> {
    name: String,
    #[serde(rename = "type")]
    kind: Value,
    flags: Option<Value>,
    #[serde(borrow)]
    elem: Option<&'a RawValue>,
}

#[derive(Debug, Default)]
struct Listing<'a> {
    /// Name → element key → chain that it leads to.
    maps: BTreeMap<String, BTreeMap<u32, ChainName>>,
    skeleton: Skeleton,
    sets: Sets,
    user_chains: BTreeMap<ChainName, Vec<&'a RawValue>>,
}

impl<'a> Listing<'a> {
    fn read(json: &'a str) -> Result<Listing<'a>, ReadError> {
        let Objects { nftables: objects } = serde_json::from_str(json)?;
        let mut listing = Listing::default();
        // Rules may be listed before the chain that they are in.
        for chain in objects.iter().filter_map(|object| object.chain.as_ref()) {
            let name = text(chain, "chain", "name")?;
            let base = &mut listing.skeleton.base;
            match ChainName::parse(name) {
                Some(_) if chain.get("hook").is_some() => {
                    return Err(ReadError::Foreign(name.to_owned()));
                }
                Some(known) => drop(listing.user_chains.insert(known, Vec::new())),
                None => drop(base.insert(name.to_owned(), (definition(chain), Vec::new()))),
            }
        }
        for object in &objects {
            if let Some(map) = &object.map {
                let name = text(map, "map", "name")?.to_owned();
                listing.maps.insert(name.clone(), map_elements(map)?);
                listing.skeleton.maps.insert(name, definition(map));
            } else if let Some(set) = &object.set {
                listing.add_set(set)?;
            } else if let Some(rule) = &object.rule {
                listing.add_rule(rule)?;
            }
        }
        Ok(listing)
    }

    fn add_rule(&mut self, rule: &RuleObject<'a>) -> Result<(), ReadError> {
        let name = rule.chain.as_str();
        if let Some((_, rules)) = self.skeleton.base.get_mut(name) {
            rules.push(rule.expr.get().to_owned());
            return Ok(());
        }
        ChainName::parse(name)
            .and_then(|known| self.user_chains.get_mut(&known))
            .ok_or_else(|| ReadError::Foreign(name.to_owned()))?
            .push(rule.expr);
        Ok(())
    }

    fn add_set(&mut self, set: &SetObject<'_>) -> Result<(), ReadError> {
        let foreign = || ReadError::Foreign(set.name.clone());
        let name = SetName::parse(&set.name).ok_or_else(foreign)?;
        let flags = [json!("interval"), json!(["interval"])];
        let is_ours =
            set.kind == name.kind() && set.flags.as_ref().is_some_and(|it| flags.contains(it));
        let elements = set.elem.filter(|_| is_ours).ok_or_else(foreign)?;
        let elements: Value = serde_json::from_str(elements.get())?;
        let to = addresses(&elements, name.family).ok_or_else(foreign)?;
        if SetName::of(name.uid, name.family, &to) != name {
            return Err(foreign());
        }
        self.sets.insert(name, to);
        Ok(())
    }

    /// Whether all that is not a user's is as it was written.
    fn check_skeleton(&self, meant: &Skeleton) -> Result<(), ReadError> {
        let (found, meant) = (&self.skeleton, meant);
        let wrong = |what| {
            move |name: &String| ReadError::Skeleton {
                what,
                name: name.clone(),
            }
        };
        let missing = |name: &&String| found.base.get(*name) != meant.base.get(*name);
        let names = meant.base.keys().chain(found.base.keys());
        if let Some(error) = { names }.find(missing).map(wrong("chain")) {
            return Err(error);
        }
        let missing = |name: &&String| found.maps.get(*name) != meant.maps.get(*name);
        let names = meant.maps.keys().chain(found.maps.keys());
        { names }
            .find(missing)
            .map(wrong("map"))
            .map_or(Ok(()), Err)
    }

    fn program(&self, uid: u32) -> Result<Program, ReadError> {
        let chain = |role| self.user_chains.get(&ChainName { uid, role });
        let incomplete = || ReadError::Incomplete(uid);
        let (word, gone) = match (
            chain(Role::Gone(Word::Block)),
            chain(Role::Gone(Word::Release)),
        ) {
            (Some(rules), None) => (OnBrokerGone::Block, rules),
            (None, Some(rules)) => (OnBrokerGone::Release, rules),
            (Some(_), Some(_)) | (None, None) => return Err(incomplete()),
        };
        let target = |map: &str, key: u32| self.maps.get(map).and_then(|map| map.get(&key));
        let live = match target(JUDGED, uid) {
            Some(name)
                if *name
                    == (ChainName {
                        uid,
                        role: Role::Open,
                    }) =>
            {
                Live::Open
            }
            Some(name)
                if *name
                    == (ChainName {
                        uid,
                        role: Role::Gone(word.into()),
                    }) =>
            {
                Live::Gone
            }
            Some(_) | None => return Err(incomplete()),
        };
        if target(CAPTURED, uid)
            != Some(&ChainName {
                uid,
                role: Role::Nat,
            })
            || chain(Role::Guard).is_none_or(|rules| !is_guard(uid, rules))
        {
            return Err(incomplete());
        }
        let hold = self.hold(uid, live)?;
        Ok(Program {
            word,
            ports: Ports {
                v4: self.port(GUARDED_V4, uid),
                v6: self.port(GUARDED_V6, uid),
            },
            live,
            hold,
            nat: self.rules(uid, Role::Nat, chain(Role::Nat).ok_or_else(incomplete)?)?,
            open: self.rules(uid, Role::Open, chain(Role::Open).ok_or_else(incomplete)?)?,
            gone: self.rules(uid, Role::Gone(word.into()), gone)?,
        })
    }

    fn hold(&self, uid: u32, live: Live) -> Result<Option<Hold>, ReadError> {
        let incomplete = || ReadError::Incomplete(uid);
        let name = |role| ChainName { uid, role };
        let mut queues = self
            .user_chains
            .iter()
            .filter_map(|(name, rules)| match name.role {
                Role::Queue(number) if name.uid == uid => Some((number, rules)),
                Role::Queue(_)
                | Role::Nat
                | Role::Open
                | Role::Gone(_)
                | Role::Guard
                | Role::Hold => None,
            });
        let led = self.maps.get(HELD).and_then(|map| map.get(&uid));
        let (queue, rest) = (queues.next(), queues.next());
        let ((number, queue), expressions) =
            match (queue, rest, self.user_chains.get(&name(Role::Hold))) {
                (Some(queue), None, Some(expressions)) => (queue, expressions),
                (None, None, None) if led.is_none() => return Ok(None),
                (Some(_) | None, _, _) => return Err(incomplete()),
            };
        let hold = Hold {
            queue: queue_rule(number, queue).ok_or_else(incomplete)?,
            rules: self.rules(uid, Role::Hold, expressions)?,
        };
        let expected = (live == Live::Open).then(|| name(Role::Hold));
        (led == expected.as_ref())
            .then_some(Some(hold))
            .ok_or_else(incomplete)
    }

    fn rules(
        &self,
        uid: u32,
        role: Role,
        expressions: &[&RawValue],
    ) -> Result<Vec<Rule>, ReadError> {
        let read = |expression: &&RawValue| {
            let value = serde_json::from_str(expression.get())?;
            rule(uid, &value, &self.sets).ok_or_else(|| ReadError::Rule {
                chain: ChainName { uid, role }.to_string(),
                expression: beginning(expression.get()),
            })
        };
        expressions.iter().map(read).collect()
    }

    fn port(&self, map: &str, uid: u32) -> Option<u16> {
        let guard = ChainName {
            uid,
            role: Role::Guard,
        };
        let (port, _) = self
            .maps
            .get(map)?
            .iter()
            .find(|(_, chain)| **chain == guard)?;
        u16::try_from(*port).ok()
    }

    /// Whether every element leads to a user's chain and every user has as many as belong to it.
    fn elements_used(&self, programs: &BTreeMap<u32, Program>) -> bool {
        let meant: usize = programs
            .values()
            .map(|program| {
                2 + usize::from(program.ports.v4.is_some())
                    + usize::from(program.ports.v6.is_some())
                    + usize::from(program.hold.is_some() && program.live == Live::Open)
            })
            .sum();
        self.maps.values().map(BTreeMap::len).sum::<usize>() == meant
    }
}

fn text<'a>(
    object: &'a Value,
    what: &'static str,
    field: &'static str,
) -> Result<&'a str, ReadError> {
    object
        .get(field)
        .and_then(Value::as_str)
        .ok_or(ReadError::Missing(what, field))
}

/// A chain or map without what it holds, and without what is of this one alone.
fn definition(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|field, _| !["handle", "table", "elem"].contains(&field.as_str()));
    }
    object
}

fn map_elements(map: &Value) -> Result<BTreeMap<u32, ChainName>, ReadError> {
    let Some(elements) = map.get("elem").and_then(Value::as_array) else {
        return Ok(BTreeMap::new());
    };
    let element = |pair: &Value| {
        let key = u32::try_from(pair.get(0)?.as_u64()?).ok()?;
        let target = pair.get(1)?.get("goto")?.get("target")?.as_str()?;
        Some((key, ChainName::parse(target)?))
    };
    elements
        .iter()
        .map(|pair| element(pair).ok_or_else(|| ReadError::Foreign(pair.to_string())))
        .collect()
}

/// For people: a rule may have tens of thousands of networks.
fn beginning(text: &str) -> String {
    text.chars().take(200).collect()
}
