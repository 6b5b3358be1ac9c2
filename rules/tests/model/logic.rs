//! Three-valued logic as the manual tells it: yes, no, or `None` for not known.

pub(crate) type Known = Option<bool>;

pub(crate) fn and(items: impl IntoIterator<Item = Known>) -> Known {
    let items: Vec<Known> = items.into_iter().collect();
    if items.contains(&Some(false)) {
        Some(false)
    } else if items.contains(&None) {
        None
    } else {
        Some(true)
    }
}

pub(crate) fn or(items: impl IntoIterator<Item = Known>) -> Known {
    not(and(items.into_iter().map(not)))
}

pub(crate) fn not(item: Known) -> Known {
    item.map(|item| !item)
}

/// Entries, and what is under the `not` beside them.
#[derive(Debug, Clone)]
pub(crate) struct List<T> {
    pub(crate) any: Vec<T>,
    pub(crate) none_of: Option<Vec<T>>,
}

impl<T> List<T> {
    /// An empty list is any. What is not known satisfies no entry outside the `not`.
    pub(crate) fn takes(&self, surely: impl Fn(&T) -> Known, known: impl Fn(&T) -> Known) -> Known {
        if self.is_any() {
            return Some(true);
        }
        let none_of = self
            .none_of
            .as_ref()
            .map(|it| not(or(it.iter().map(known))));
        or(self.any.iter().map(surely).chain(none_of))
    }

    pub(crate) fn is_any(&self) -> bool {
        self.any.is_empty() && self.none_of.is_none()
    }

    pub(crate) fn to_yaml(&self, show: impl Fn(&T) -> String) -> Option<String> {
        let mut entries: Vec<String> = self.any.iter().map(&show).collect();
        if let Some(none_of) = &self.none_of {
            let none_of: Vec<String> = none_of.iter().map(&show).collect();
            entries.push(format!("{{not: [{}]}}", none_of.join(", ")));
        }
        (!entries.is_empty()).then(|| format!("[{}]", entries.join(", ")))
    }
}
