//! Addresses that are too many to be written into each rule that is about them: once, as a set with a name, which is made of
//! what is in it. So a claim that changes little changes few sets.

use std::collections::BTreeMap;
use std::fmt;

use adit_capture::Family;

use super::program::{Program, Rule};
use super::ranges::Ranges;

/// So many ranges are written into the rule.
const FEW: usize = 64;

/// The name of a user's set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetName {
    pub(crate) uid: u32,
    pub(crate) family: Family,
    hash: u64,
}

impl SetName {
    /// The set that this rule of the user's needs, if it needs one.
    pub(crate) fn of_rule(uid: u32, rule: &Rule) -> Option<SetName> {
        let large = rule.to.count() > FEW;
        large.then(|| SetName::of(uid, rule.family, &rule.to))
    }

    /// What the set of these addresses is called.
    pub(crate) fn of(uid: u32, family: Family, to: &Ranges) -> SetName {
        SetName {
            uid,
            family,
            hash: hash(to),
        }
    }

    /// `None`: not a name of ours.
    pub(crate) fn parse(text: &str) -> Option<SetName> {
        let (uid, rest) = text.strip_prefix('u')?.split_once("_v")?;
        let (family, hash) = rest.split_once('_')?;
        let name = SetName {
            uid: uid.parse().ok()?,
            family: match family {
                "4" => Family::V4,
                "6" => Family::V6,
                _ => return None,
            },
            hash: u64::from_str_radix(hash, 16).ok()?,
        };
        // Numbers have more than one spelling.
        (name.to_string() == text).then_some(name)
    }

    /// What nft calls the type of its elements.
    pub(crate) fn kind(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        write!(f, "u{}_v{family}_{:016x}", self.uid, self.hash)
    }
}

/// The sets of a user's program.
pub(crate) fn sets(uid: u32, program: &Program) -> BTreeMap<SetName, &Ranges> {
    let hold = program.hold.iter().flat_map(|hold| &hold.rules);
    let others = [&program.nat, &program.open, &program.gone];
    hold.chain(others.into_iter().flatten())
        .filter_map(|rule| Some((SetName::of_rule(uid, rule)?, &rule.to)))
        .collect()
}

/// FNV-1a of 64 bits, by words instead of bytes. It never changes: the next helper has to find what this one wrote. Who makes
/// two sets with one hash has a claim that cannot be read back as it was meant, and so none.
fn hash(to: &Ranges) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for (low, high) in to.iter() {
        for end in [low, high] {
            for word in [(end >> 64) as u64, end as u64] {
                hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_again_and_no_others() {
        let set = SetName::of(1000, Family::V6, &Ranges::new([(1, 2)]));
        assert_eq!(SetName::parse(&set.to_string()), Some(set));
        for other in [
            "u1000_v6_1",
            "u1000_v5_0000000000000001",
            "u01000_v6_0000000000000001",
            "u1000_v6_000000000000000G",
            "u1000_nat",
            "held",
        ] {
            assert_eq!(SetName::parse(other), None, "{other}");
        }
    }

    /// Four words of zeros, by the definition of FNV-1a (draft-eastlake-fnv), computed elsewhere.
    #[test]
    fn the_hash_is_the_one_that_other_helpers_have() {
        assert_eq!(hash(&Ranges::default()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(&Ranges::new([(0, 0)])), 0x4d25_767f_9dce_13f5);
    }
}
