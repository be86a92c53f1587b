//! Limits label values: the first ones are kept, all others share one value.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The label of all names above the limit.
pub(super) const OTHER: &str = "other";

/// A name that has its own label keeps it as long as the process lives, so that no total moves to another label or goes down.
#[derive(Debug)]
pub(super) struct LabelLimit {
    limit: usize,
    known: Mutex<HashSet<String>>,
}

impl LabelLimit {
    pub fn new(limit: usize) -> Self {
        Self { limit, known: Mutex::default() }
    }

    /// The values by label, those with the same label combined by `join`; `rest` has no label.
    pub fn group<V>(
        &self,
        values: impl IntoIterator<Item = (String, V)>,
        rest: Option<V>,
        join: impl Fn(&mut V, V),
    ) -> BTreeMap<String, V> {
        let mut sorted: BTreeMap<String, V> = rest.map(|rest| (OTHER.to_owned(), rest)).into_iter().collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in values {
            if !known.contains(&name) && known.len() < self.limit {
                known.insert(name.clone());
            }
            let name = if known.contains(&name) { name } else { OTHER.to_owned() };
            match sorted.get_mut(&name) {
                Some(sum) => join(sum, value),
                None => drop(sorted.insert(name, value)),
            }
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_labels_keep_their_names() {
        let names = LabelLimit::new(2);
        let sort = |values: &[(&str, u32)]| -> Vec<(String, u32)> {
            let values = values.iter().map(|(name, value)| ((*name).to_owned(), *value));
            names.group(values, None, |sum, more| *sum += more).into_iter().collect()
        };
        let expected = |values: &[(&str, u32)]| -> Vec<(String, u32)> {
            values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        assert_eq!(sort(&[("b", 1), ("c", 2)]), expected(&[("b", 1), ("c", 2)]));
        assert_eq!(sort(&[("a", 3), ("b", 1), ("c", 2), ("d", 4)]), expected(&[("b", 1), ("c", 2), ("other", 7)]));
        assert_eq!(sort(&[("a", 3), ("c", 2)]), expected(&[("c", 2), ("other", 3)]));
    }
}
