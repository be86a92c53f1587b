//! Cuts a stream of bytes into lines. Pure: bytes in, lines out.

/// Longer lines are split, so that one without an end cannot take all memory.
const MAX_LINE: usize = 64 * 1024;

/// The size of one read: the default capacity of a pipe.
const CHUNK: usize = 64 * 1024;

/// A buffer, and the positions of its lines.
pub struct LineSplitter {
    max_line: usize,
    bytes: Vec<u8>,
    /// The beginning of the bytes that were not returned yet.
    start: usize,
    /// No line ends between `start` and here.
    searched: usize,
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::with_longest(MAX_LINE)
    }
}

/// A line without its end, or a part of a long one.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its content.
    pub bytes: &'a [u8],
    /// Whether the next one is a further part of the same line.
    pub continues: bool,
}

impl LineSplitter {
    /// A splitter for lines of at most this number of bytes, which must fit a UTF-8 character.
    #[must_use]
    pub fn with_longest(longest: usize) -> Self {
        Self { max_line: longest.max(4), bytes: Vec::new(), start: 0, searched: 0 }
    }

    /// Where the next chunk goes, with room for it.
    pub fn space(&mut self) -> &mut Vec<u8> {
        self.bytes.reserve(CHUNK);
        &mut self.bytes
    }

    /// The next line.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        let end = memchr::memchr(b'\n', &self.bytes[self.searched..]).map(|at| self.searched + at);
        self.searched = end.unwrap_or(self.bytes.len());
        let line = without_return(&self.bytes[self.start..self.searched]);
        let (first, length) = (self.start, line.len());
        if length > self.max_line {
            let part = part(line, self.max_line);
            self.start += part;
            return Some(Line { bytes: &self.bytes[first..first + part], continues: true });
        }
        self.start = end? + 1;
        self.searched = self.start;
        Some(Line { bytes: &self.bytes[first..first + length], continues: false })
    }

    /// All complete lines, unchanged; the whole buffer if the last line is too long.
    pub fn complete_lines(&mut self) -> &[u8] {
        let rest = &self.bytes[self.start..];
        let end = memchr::memrchr(b'\n', rest).map(|at| at + 1);
        let length = if rest.len() - end.unwrap_or(0) > self.max_line { rest.len() } else { end.unwrap_or(0) };
        let first = self.start;
        self.start += length;
        self.searched = self.start;
        &self.bytes[first..self.start]
    }

    /// All remaining bytes, unchanged.
    pub fn remainder(&mut self) -> &[u8] {
        let first = self.start;
        self.start = self.bytes.len();
        self.searched = self.start;
        &self.bytes[first..]
    }

    /// Marks the end of the stream: the last line ends here.
    pub fn finish(&mut self) {
        if !self.is_empty() {
            self.bytes.push(b'\n');
        }
    }

    /// Drops the bytes that were returned.
    pub fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
    }

    /// Whether everything was returned.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether the buffer is larger than its content.
    pub fn has_spare_capacity(&self) -> bool {
        self.bytes.capacity() > self.bytes.len()
    }

    /// Frees the spare capacity.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }
}

/// A line that ends in CR LF ends before both; without a LF yet, a last CR may still turn out to belong to the end.
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The length of the first part of a line that is too long: not within a character, if it is UTF-8.
fn part(line: &[u8], max_line: usize) -> usize {
    let is_inner = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    let starts = (max_line - 3..=max_line).rev();
    starts.into_iter().find(|at| !is_inner(line[*at])).unwrap_or(max_line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// All lines of these chunks, and whether each continues.
    fn lines<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Vec<u8>, bool)> {
        lines_of(MAX_LINE, chunks)
    }

    fn lines_of<'a>(max_line: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = LineSplitter::with_longest(max_line);
        let mut found = Vec::new();
        let mut collect = |splitter: &mut LineSplitter| {
            while let Some(line) = splitter.next_line() {
                found.push((line.bytes.to_vec(), line.continues));
            }
            splitter.compact();
        };
        for chunk in chunks {
            splitter.space().extend_from_slice(chunk);
            collect(&mut splitter);
        }
        splitter.finish();
        collect(&mut splitter);
        assert!(splitter.is_empty());
        found
    }

    /// However it arrives, the same bytes make the same lines.
    fn check(input: &[u8], expected: &[(&[u8], bool)]) {
        let expected: Vec<(Vec<u8>, bool)> = expected.iter().map(|(line, goes_on)| (line.to_vec(), *goes_on)).collect();
        for size in [1, 7, 4096, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, usize::MAX] {
            assert!(lines(input.chunks(size.min(input.len().max(1)))) == expected, "in chunks of {size}");
        }
    }

    #[test]
    fn lines_end_with_lf_or_crlf_or_end_of_input() {
        check(b"", &[]);
        check(b"a\n\nb\r\nc", &[(b"a", false), (b"", false), (b"b", false), (b"c", false)]);
        check(b"a\rb\r\r\n\n", &[(b"a\rb\r", false), (b"", false)]);
    }

    #[test]
    fn lines_over_64_kib_are_split() {
        let line = vec![b'x'; MAX_LINE];
        for end in ["", "\n", "\r\n"] {
            check(&[&line, end.as_bytes()].concat(), &[(&line, false)]);
            check(&[&line, b"y".as_slice(), end.as_bytes()].concat(), &[(&line, true), (b"y", false)]);
        }
        check(&line.repeat(3), &[(&line, true), (&line, true), (&line, false)]);
    }

    #[test]
    fn a_line_is_not_split_within_a_character() {
        for character in ["\u{e4}", "\u{20ac}", "\u{1f600}"] {
            for before in 0..4 {
                let text = format!("{}{}", "x".repeat(before), character.repeat(MAX_LINE / character.len() + 1));
                let parts = lines([text.as_bytes()]);
                assert_eq!(parts.len(), 2);
                let parts = parts.into_iter().map(|(part, _)| String::from_utf8(part).expect("whole characters"));
                assert_eq!(parts.collect::<String>(), text);
            }
        }
        let wild = vec![0x80; MAX_LINE + 1];
        check(&wild, &[(&wild[..MAX_LINE], true), (&[0x80], false)]);
    }

    #[test]
    fn raw_output_has_whole_lines_up_to_limit() {
        let mut splitter = LineSplitter::default();
        let mut whole = |bytes: &[u8]| {
            splitter.space().extend_from_slice(bytes);
            let whole = splitter.complete_lines().to_vec();
            splitter.compact();
            whole
        };
        assert_eq!(whole(b"a\r\nb"), b"a\r\n");
        assert_eq!(whole(b"c"), b"");
        assert_eq!(whole(b"\n\nd"), b"bc\n\n");
        assert_eq!(whole(&[b'x'; MAX_LINE - 1]), b"");
        assert_eq!(whole(b"xy").len(), MAX_LINE + 2);
        assert_eq!(splitter.remainder(), b"");
    }

    /// Line endings, characters of every length, and invalid bytes.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => vec(any::<u8>(), 0..20),
            2 => prop::sample::select(vec!["\n", "\r\n", "\r", "\u{e4}", "\u{20ac}", "\u{1f600}"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ];
        vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_chunk_sizes(
            bytes in bytes(), sizes in vec(1..40_usize, 1..6), max_line in 4..30_usize,
        ) {
            let mut arrived = Vec::new();
            let mut left = bytes.as_slice();
            for size in sizes.iter().cycle().take_while(|_| !bytes.is_empty()) {
                let (chunk, rest) = left.split_at((*size).min(left.len()));
                arrived.push(chunk);
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            let found = lines_of(max_line, arrived);
            prop_assert_eq!(&found, &lines_of(max_line, [bytes.as_slice()]));
            // Nothing is lost but line ends.
            let joined = found.iter().flat_map(|(line, goes_on)| [line.as_slice(), if *goes_on { b"" } else { b"\n" }]);
            let text = joined.collect::<Vec<_>>().concat();
            let mut ended = bytes.clone();
            if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                ended.push(b'\n');
            }
            let expected = ended.split_inclusive(|byte| *byte == b'\n').flat_map(|line| {
                let content = &line[..line.len() - 1];
                [content.strip_suffix(b"\r").unwrap_or(content), b"\n"]
            });
            prop_assert_eq!(text, expected.collect::<Vec<_>>().concat());
            prop_assert!(found.iter().all(|(line, _)| line.len() <= max_line));
        }

        #[test]
        fn raw_bytes_are_unchanged_for_any_chunk_size(bytes in bytes(), size in 1..40_usize, longest in 4..30_usize) {
            let mut splitter = LineSplitter::with_longest(longest);
            let mut arrived = Vec::new();
            for chunk in bytes.chunks(size) {
                splitter.space().extend_from_slice(chunk);
                arrived.extend_from_slice(splitter.complete_lines());
                splitter.compact();
                prop_assert!(splitter.bytes.len() <= longest);
            }
            arrived.extend_from_slice(splitter.remainder());
            prop_assert_eq!(arrived, bytes);
        }
    }
}
