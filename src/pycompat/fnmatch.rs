//! File masks with the semantics of Python's `fnmatch`, including its pitfalls: Bots selects files by these rules, so a
//! difference would start runs without files, or no run for a file.
//!
//! Names are matched by characters, as in Python after decoding; a byte that is not UTF-8 is a separate kind of
//! character that no mask can contain. `tests/it/fnmatch.rs` compares this module with the real one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The range to which Python's `surrogateescape` maps bytes that are not UTF-8.
const ESCAPE_BIT: u32 = 0xdc00;

const HYPHEN: u32 = '-' as u32;

/// A mask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FnMatch {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Token {
    /// `*`
    Any,
    /// `?`
    One,
    Literal(u32),
    Set(Set),
}

/// `[…]`
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Set {
    is_negated: bool,
    ranges: Vec<(u32, u32)>,
}

impl FnMatch {
    /// Parses a mask. Every text is valid: text without a pattern matches itself.
    pub fn new(text: &str) -> Self {
        let characters: Vec<u32> = text.chars().map(u32::from).collect();
        let mut tokens = Vec::new();
        let mut position = 0;
        while let Some(&character) = characters.get(position) {
            position += 1;
            let token = match char::from_u32(character) {
                Some('*') if tokens.last() == Some(&Token::Any) => continue,
                Some('*') => Token::Any,
                Some('?') => Token::One,
                Some('[') => match end_of_set(&characters, position) {
                    Some(end) => {
                        let set = Set::new(&characters[position..end]);
                        position = end + 1;
                        Token::Set(set)
                    }
                    None => Token::Literal(character),
                },
                _ => Token::Literal(character),
            };
            tokens.push(token);
        }
        Self { text: text.to_owned(), tokens }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has wildcards.
    pub fn is_pattern(&self) -> bool {
        has_magic(&self.text)
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &OsStr) -> bool {
        let name = characters(name);
        let (mut token, mut position) = (0, 0);
        // The position to backtrack to if the text after the last `*` does not match.
        let mut retry = None;
        loop {
            match (self.tokens.get(token), name.get(position)) {
                (Some(Token::Any), _) => {
                    token += 1;
                    retry = Some((token, position));
                    continue;
                }
                (Some(wanted), Some(character)) if wanted.matches(*character) => {
                    (token, position) = (token + 1, position + 1);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match &mut retry {
                Some((after, from)) if *from < name.len() => {
                    *from += 1;
                    (token, position) = (*after, *from);
                }
                _ => return false,
            }
        }
    }
}

/// Whether a text holds what makes a pattern, as Python's `glob` sees it.
pub fn has_magic(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

impl Token {
    fn matches(&self, character: u32) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Literal(literal) => *literal == character,
            Self::Set(set) => set.matches(character),
        }
    }
}

impl Set {
    /// Parses the text between the brackets. Python converts it to a regular expression: hyphens split it into pieces,
    /// and a range connects the last character of each with the first of the next one. A reversed range is removed with
    /// both its ends, and only then a first `!` negates.
    fn new(inside: &[u32]) -> Self {
        let mut pieces = pieces(inside);
        for next in (1..pieces.len()).rev() {
            if pieces[next - 1].last() > pieces[next].first() {
                let rest = pieces.remove(next);
                pieces[next - 1].pop();
                pieces[next - 1].extend_from_slice(&rest[1..]);
            }
        }
        let is_negated = pieces[0].first() == Some(&u32::from('!'));
        let mut ranges = Vec::new();
        for (position, piece) in pieces.iter().enumerate() {
            let members = &piece[usize::from(position == 0 && is_negated)..];
            ranges.extend(members.iter().map(|character| (*character, *character)));
            if let Some(high) = pieces.get(position + 1).and_then(|next| next.first()) {
                // With nothing before it the hyphen is a member.
                ranges.push(members.last().map_or((HYPHEN, HYPHEN), |low| (*low, *high)));
            }
        }
        Self { is_negated, ranges }
    }

    fn matches(&self, character: u32) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != self.is_negated
    }
}

/// Splits at hyphens that make a range: not at the first place, not right after another range, not at the end.
fn pieces(inside: &[u32]) -> Vec<Vec<u32>> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    let mut from = if inside.first() == Some(&u32::from('!')) { 2 } else { 1 };
    while let Some(hyphen) = (from..inside.len()).find(|position| inside[*position] == HYPHEN) {
        pieces.push(inside[begin..hyphen].to_vec());
        begin = hyphen + 1;
        from = hyphen + 3;
    }
    match (inside.get(begin..).filter(|rest| !rest.is_empty()), pieces.last_mut()) {
        (Some(rest), _) => pieces.push(rest.to_vec()),
        (None, Some(last)) => last.push(HYPHEN),
        (None, None) => pieces.push(Vec::new()),
    }
    pieces
}

/// The place of the bracket that closes a set which begins at `begin`. One that comes first, or after `!`, is a member.
fn end_of_set(characters: &[u32], begin: usize) -> Option<usize> {
    let is = |position: usize, c: char| characters.get(position) == Some(&u32::from(c));
    let mut from = begin + usize::from(is(begin, '!'));
    from += usize::from(is(from, ']'));
    (from..characters.len()).find(|index| is(*index, ']'))
}

fn characters(name: &OsStr) -> Vec<u32> {
    let mut characters = Vec::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        characters.extend(chunk.valid().chars().map(u32::from));
        characters.extend(chunk.invalid().iter().map(|byte| ESCAPE_BIT + u32::from(*byte)));
    }
    characters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(mask: &str, name: &str) -> bool {
        FnMatch::new(mask).matches(OsStr::new(name))
    }

    #[test]
    fn masks_match_whole_names() {
        let fits = [("*", ""), ("*.xml", "a.xml"), ("a?c", "abc"), ("a?c", "aüc"), ("*a*b*", "xaxbx"), ("[[]", "[")];
        for (mask, name) in fits {
            assert!(matches(mask, name), "{mask} {name}");
        }
        for (mask, name) in [("*.xml", "a.xml2"), ("*.xml", "a.XML"), ("a?c", "ac"), ("", "a"), ("a", ""), ("*b", "a")]
        {
            assert!(!matches(mask, name), "{mask} {name}");
        }
    }

    #[test]
    fn character_sets_match_as_in_python() {
        let fits = [("[a-c]", "b"), ("[!a-c]", "d"), ("[]]", "]"), ("[!]]", "a"), ("[a-]", "-"), ("[-a]", "-")];
        for (mask, name) in fits {
            assert!(matches(mask, name), "{mask} {name}");
        }
        for (mask, name) in [("[c-a]", "b"), ("[!a]", ""), ("[a-c", "b"), ("[^a]", "b"), ("[a]b", "a")] {
            assert!(!matches(mask, name), "{mask} {name}");
        }
        assert!(matches("[a-c", "[a-c") && matches("[!c-a]", "b") && matches("[^a]", "^"));
    }

    #[test]
    fn non_utf8_byte_counts_as_one_character() {
        let name = OsStr::from_bytes(b"a\xffb");
        assert!(FnMatch::new("a?b").matches(name) && FnMatch::new("a*").matches(name));
        assert!(!FnMatch::new("a??b").matches(name) && !FnMatch::new("a\u{ff}b").matches(name));
    }

    #[test]
    fn many_wildcards_end_in_bounded_time() {
        let name = "a".repeat(255);
        assert!(!matches(&format!("{}b", "*a".repeat(40)), &name));
    }
}
