//! File masks match the same names as a slow and simple implementation of the rules.
//!
//! The first byte is the length of the mask; the name follows it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bots_ctl::pycompat::fnmatch::{FnMatch, has_magic};

/// Matches.
pub fn check(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (mask, name) = rest.split_at(usize::from(*length).min(rest.len()));
    let (text, name) = (String::from_utf8_lossy(mask), OsStr::from_bytes(name));
    let mask = FnMatch::new(&text);
    assert_eq!(mask.as_str(), text);
    assert_eq!(mask.is_pattern(), has_magic(&text));
    let matches = mask.matches(name);
    if !mask.is_pattern() {
        assert_eq!(matches, name == OsStr::new(&*text));
    }
    if let (Some(tokens), Some(name)) = (tokens(&text), name.to_str()) {
        let name: Vec<char> = name.chars().collect();
        assert_eq!(matches, matches_slowly(&tokens, &name), "{text:?} {name:?}");
    }
}

enum Token {
    Any,
    One,
    Literal(char),
    Set(bool, Vec<(char, char)>),
}

/// `None` for a set with a reversed range: `tests/it/fnmatch.rs` compares those with Python.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut left: &[char] = &text.chars().collect::<Vec<_>>();
    let mut tokens = Vec::new();
    while let Some((first, rest)) = left.split_first() {
        left = rest;
        tokens.push(match first {
            '*' => Token::Any,
            '?' => Token::One,
            '[' => match set(rest) {
                Some((inside, behind)) => {
                    left = behind;
                    let is_negated = inside.first() == Some(&'!');
                    Token::Set(is_negated, ranges(&inside[usize::from(is_negated)..])?)
                }
                None => Token::Literal('['),
            },
            other => Token::Literal(*other),
        });
    }
    Some(tokens)
}

/// What stands between the brackets, and behind them. A bracket that comes first closes nothing.
fn set(rest: &[char]) -> Option<(&[char], &[char])> {
    let skipped = if rest.first() == Some(&'!') { 2 } else { 1 };
    let end = (skipped..rest.len()).find(|place| rest[*place] == ']')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn ranges(mut left: &[char]) -> Option<Vec<(char, char)>> {
    let mut ranges = Vec::new();
    loop {
        match left {
            [] => return Some(ranges),
            [low, '-', high, ..] if low > high => return None,
            [low, '-', high, rest @ ..] => {
                ranges.push((*low, *high));
                left = rest;
            }
            [one, rest @ ..] => {
                ranges.push((*one, *one));
                left = rest;
            }
        }
    }
}

/// Each token makes of the set of places where a match can be the next one.
fn matches_slowly(tokens: &[Token], name: &[char]) -> bool {
    let mut places = vec![false; name.len() + 1];
    places[0] = true;
    for token in tokens {
        let mut next = vec![false; name.len() + 1];
        for place in (0..=name.len()).filter(|place| places[*place]) {
            match (token, name.get(place)) {
                (Token::Any, _) => next[place..].fill(true),
                (Token::One, Some(_)) => next[place + 1] = true,
                (Token::Literal(literal), Some(c)) if c == literal => next[place + 1] = true,
                (Token::Set(is_negated, ranges), Some(c)) => {
                    let is_inside = ranges.iter().any(|(low, high)| (low..=high).contains(&c));
                    next[place + 1] |= is_inside != *is_negated;
                }
                _ => {}
            }
        }
        places = next;
    }
    places[name.len()]
}
