//! Signals that are forwarded under another number, or dropped.

use std::collections::HashMap;

use super::signals::{is_forwarded, name, parse};

/// The number under which each signal is forwarded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SignalMap(HashMap<i32, Option<i32>>);

impl SignalMap {
    /// Reads `FROM:TO` pairs, as in `TERM:QUIT`; 0 instead of a signal drops it.
    pub fn read(pairs: &[String]) -> Result<Self, String> {
        pairs.iter().map(|pair| read(pair)).collect::<Result<_, _>>().map(Self)
    }

    /// The number under which a signal is forwarded: `usual`, unless it is rewritten; `None` if it is dropped.
    #[must_use]
    pub fn apply(&self, number: i32, usual: i32) -> Option<i32> {
        self.0.get(&number).copied().unwrap_or(Some(usual))
    }
}

fn read(pair: &str) -> Result<(i32, Option<i32>), String> {
    let Some((from, to)) = pair.split_once(':') else {
        return Err(format!("{pair:?} is not a FROM:TO pair of signals, such as TERM:QUIT"));
    };
    let from = parse_signal(from).map_err(|text| format!("{pair:?}: {text}"))?;
    if !is_forwarded(from) {
        return Err(format!("{pair:?}: {} is never forwarded, so it cannot be rewritten", name(from)));
    }
    let to = if to == "0" {
        None
    } else {
        Some(parse_signal(to).map_err(|text| format!("{pair:?}: {text}, or 0 to drop"))?)
    };
    Ok((from, to))
}

/// The signal's number, or an error that names the text.
pub fn parse_signal(text: &str) -> Result<i32, String> {
    parse(text).ok_or_else(|| {
        format!("{text:?} is not a signal; use a name such as TERM, or a number from 1 to 64, without 32 and 33")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrites(pairs: &[&str]) -> Result<SignalMap, String> {
        SignalMap::read(&pairs.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn rewrites_accept_names_and_numbers() {
        let rewrites = rewrites(&["TERM:SIGQUIT", "1:0", "int:9", "RTMIN+1:USR1"]).expect("all are right");
        let told: Vec<Option<i32>> = [15, 1, 2, 35, 12].map(|number| rewrites.apply(number, number)).into();
        assert_eq!(told, [Some(3), None, Some(9), Some(10), Some(12)]);
    }

    #[test]
    fn invalid_rewrite_error_names_it() {
        for wrong in ["TERM", "TERM:", ":TERM", "TERM:FOO", "FOO:TERM", "0:15", "15:99", "KILL:TERM", "CHLD:0"] {
            let text = rewrites(&["1:2", wrong]).expect_err(wrong);
            assert!(text.starts_with(&format!("{wrong:?}")), "{text}");
        }
    }
}
