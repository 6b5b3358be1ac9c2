//! Sets of numbers kept as sorted, disjoint, inclusive ranges: ports and addresses alike.

/// A number that a [`RangeSet`] can hold.
pub(crate) trait Number: Copy + Ord {
    /// The lowest number.
    const LOWEST: Self;
    /// The highest number.
    const HIGHEST: Self;

    /// The next higher number, or `None` at the top.
    fn successor(self) -> Option<Self>;

    /// The next lower number, or `None` at the bottom.
    fn predecessor(self) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            const LOWEST: Self = Self::MIN;
            const HIGHEST: Self = Self::MAX;

            fn successor(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn predecessor(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}
numbers!(u16, u32, u128);

/// Sorted, disjoint, non-adjacent inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RangeSet<T> {
    ranges: Vec<(T, T)>,
}

impl<T: Number> RangeSet<T> {
    /// The union of `ranges`; each is inclusive and `low <= high`.
    pub(crate) fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if last.1.successor().is_none_or(|next| low <= next) => {
                    last.1 = last.1.max(high);
                }
                Some(_) | None => merged.push((low, high)),
            }
        }
        Self { ranges: merged }
    }

    /// All numbers that are no members.
    pub(crate) fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = Some(T::LOWEST);
        for &(low, high) in &self.ranges {
            if let (Some(first), Some(last)) = (next, low.predecessor())
                && first <= last
            {
                ranges.push((first, last));
            }
            next = high.successor();
        }
        ranges.extend(next.map(|first| (first, T::HIGHEST)));
        Self { ranges }
    }

    /// The ranges, ascending.
    pub(crate) fn ranges(&self) -> &[(T, T)] {
        &self.ranges
    }

    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The smallest member.
    pub(crate) fn first(&self) -> Option<T> {
        self.ranges.first().map(|range| range.0)
    }

    /// Whether `number` is a member.
    pub(crate) fn contains(&self, number: T) -> bool {
        self.range_from(number)
            .is_some_and(|(low, _)| low <= number)
    }

    /// Whether every member of `other` is a member.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.ranges.iter().all(|&(low, high)| {
            self.range_from(low)
                .is_some_and(|(own_low, own_high)| own_low <= low && high <= own_high)
        })
    }

    /// The first range that ends at or after `number`.
    fn range_from(&self, number: T) -> Option<(T, T)> {
        let index = self.ranges.partition_point(|range| range.1 < number);
        self.ranges.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(ranges: &[(u16, u16)]) -> Vec<bool> {
        let mut set = vec![false; 65536];
        for &(low, high) in ranges {
            for number in low..=high {
                set[usize::from(number)] = true;
            }
        }
        set
    }

    fn range() -> impl Strategy<Value = (u16, u16)> {
        prop_oneof![
            (0u16..40, 0u16..9).prop_map(|(low, more)| (low, low + more)),
            (65500u16..=65535, 0u16..99).prop_map(|(low, more)| (low, low.saturating_add(more))),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_flags(
            left in prop::collection::vec(range(), 0..6),
            right in prop::collection::vec(range(), 0..3),
        ) {
            let (set, other) = (RangeSet::new(left.clone()), RangeSet::new(right.clone()));
            let (flags, other_flags) = (members(&left), members(&right));
            for number in (0..=60u16).chain(65490..=65535) {
                prop_assert_eq!(set.contains(number), flags[usize::from(number)]);
            }
            let covers = (0..65536).all(|number| flags[number] || !other_flags[number]);
            prop_assert_eq!(set.covers(&other), covers);
            let complement = set.complement();
            for number in (0..=60u16).chain(65490..=65535) {
                prop_assert_eq!(complement.contains(number), !flags[usize::from(number)]);
            }
            prop_assert_eq!(&complement.complement(), &set);
            for pair in set.ranges().windows(2) {
                prop_assert!(u32::from(pair[0].1) + 1 < u32::from(pair[1].0));
            }
        }
    }
}
