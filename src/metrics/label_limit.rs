//! Limits label values, in number and length: the first ones are kept, all others share one value.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The label of all names above the limit.
const OTHER: &str = "other";

/// The longest value in characters: names of routes and paths have no limit.
const MAX_LABEL_VALUE: usize = 200;

/// The labels of a metric. A value that has its own label keeps it as long as the process lives, so that no total moves to
/// another label or goes down.
#[derive(Debug)]
pub(super) struct LabelLimit<const N: usize> {
    limit: usize,
    known: Mutex<HashSet<[String; N]>>,
}

impl<const N: usize> LabelLimit<N> {
    pub fn new(limit: usize) -> Self {
        Self { limit, known: Mutex::default() }
    }

    /// The values by labels, those with the same labels combined by `join`; `rest` has none. Long labels are truncated.
    pub fn group<V>(
        &self,
        values: impl IntoIterator<Item = ([String; N], V)>,
        rest: Option<V>,
        join: impl Fn(&mut V, V),
    ) -> BTreeMap<[String; N], V> {
        let other = || std::array::from_fn(|_| OTHER.to_owned());
        let mut sorted: BTreeMap<[String; N], V> = rest.map(|rest| (other(), rest)).into_iter().collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, value) in values {
            let labels = labels.map(truncate);
            if !known.contains(&labels) && known.len() < self.limit {
                known.insert(labels.clone());
            }
            let labels = if known.contains(&labels) { labels } else { other() };
            match sorted.get_mut(&labels) {
                Some(sum) => join(sum, value),
                None => drop(sorted.insert(labels, value)),
            }
        }
        sorted
    }
}

fn truncate(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(MAX_LABEL_VALUE) {
        value.truncate(end);
        value.push('…');
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_labels_keep_their_names() {
        let names = LabelLimit::new(2);
        let sort = |values: &[(&str, u32)]| -> Vec<(String, u32)> {
            let values = values.iter().map(|(name, value)| ([(*name).to_owned()], *value));
            let groups = names.group(values, None, |sum, more| *sum += more);
            groups.into_iter().map(|([name], sum)| (name, sum)).collect()
        };
        let expected = |values: &[(&str, u32)]| -> Vec<(String, u32)> {
            values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        assert_eq!(sort(&[("b", 1), ("c", 2)]), expected(&[("b", 1), ("c", 2)]));
        assert_eq!(sort(&[("a", 3), ("b", 1), ("c", 2), ("d", 4)]), expected(&[("b", 1), ("c", 2), ("other", 7)]));
        assert_eq!(sort(&[("a", 3), ("c", 2)]), expected(&[("c", 2), ("other", 3)]));
    }

    /// A scrape with the same labels twice is rejected as a whole.
    #[test]
    fn names_that_differ_only_after_the_longest_label_share_one() {
        let values = ["a", "b"].map(|end| ([format!("{}{end}", "ü".repeat(MAX_LABEL_VALUE))], 1));
        let groups = LabelLimit::new(10).group(values, None, |sum, more| *sum += more);
        assert_eq!(groups, BTreeMap::from([([format!("{}…", "ü".repeat(MAX_LABEL_VALUE))], 2)]));
    }
}
