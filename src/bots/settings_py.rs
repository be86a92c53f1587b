//! `settings.py` as created by bots-ctl: the template of the installed Bots, then a managed block.
//!
//! The text above and below the block belongs to the user. A line in the block has the hash of the template: only an
//! unchanged template is replaced when another version of Bots is installed. Another line has the hash of the block: an
//! edited block is never changed, and neither is a file without the block, which belongs to the user.

use std::path::Path;

use sha2::{Digest, Sha256};

const BEGIN: &str = "# >>> bots-ctl writes the lines from here to the end mark; yours stay above and below them >>>";
/// The beginning of a block's first line; the rest differs in files of older versions.
const BEGIN_MARK: &str = "# >>> bots-ctl";
const END: &str = "# <<< bots-ctl <<<";
const BLOCK_HASH: &str = "# block ";
const TEMPLATE_HASH: &str = "# template ";
const BLOCK: &str = include_str!("python/settings_block.py");

/// A file with a managed block.
struct ManagedFile<'a> {
    above: &'a str,
    /// The lines between the marks.
    block: &'a str,
    has_end: bool,
    below: &'a str,
}

impl<'a> ManagedFile<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (above, _, rest) = split_at_line(text, BEGIN_MARK)?;
        let whole = Self { above, block: rest, has_end: false, below: "" };
        Some(split_at_line(rest, END).map_or(whole, |(block, _, below)| Self { above, block, has_end: true, below }))
    }

    /// Whether the block differs from what bots-ctl wrote. Marks without lines in between are the user's request for a
    /// block.
    fn is_edited(&self) -> bool {
        let own = self.block.lines().filter(|line| !line.starts_with(BLOCK_HASH));
        let own: String = own.flat_map(|line| [line, "\n"]).collect();
        let is_as_written = self.has_end && self.value_of(BLOCK_HASH) == Some(&*hash(&own));
        !(is_as_written || self.block.trim().is_empty()) || split_at_line(self.below, BEGIN_MARK).is_some()
    }

    fn value_of(&self, key: &str) -> Option<&'a str> {
        self.block.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
    }
}

/// The new content of `settings.py`: `None` if it stays unchanged, since it is the user's or its block was edited.
pub fn merge(current: Option<&str>, template: &str) -> Option<String> {
    let Some(current) = current else { return Some(with_block(template, &hash(template), "")) };
    let file = ManagedFile::parse(current).filter(|file| !file.is_edited())?;
    let recorded = file.value_of(TEMPLATE_HASH).unwrap_or_default();
    let above = file.above.strip_suffix('\n').unwrap_or(file.above);
    let is_template = hash(above) == recorded;
    Some(match is_template {
        true => with_block(template, &hash(template), file.below),
        false => with_block(above, recorded, file.below),
    })
}

/// The warning about an edited block.
pub fn edited_block_warning(path: &Path, text: &str) -> Option<String> {
    let file = ManagedFile::parse(text).filter(ManagedFile::is_edited)?;
    let first = file.above.lines().count() + 1;
    Some(format!(
        "{}:{first}: the block of bots-ctl that begins here was edited, so bots-ctl leaves it \
         unchanged: move your lines above or below the block and delete all lines between its \
         marks; the next start writes them again",
        path.display()
    ))
}

/// The text before the first line that begins with `mark`, that line, and the text after it.
fn split_at_line<'a>(text: &'a str, mark: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let is_first = text.starts_with(mark).then_some(0);
    let begin = is_first.or_else(|| text.find(&format!("\n{mark}")).map(|end| end + 1))?;
    let (before, rest) = text.split_at(begin);
    let (line, after) = rest.split_at(rest.find('\n').map_or(rest.len(), |end| end + 1));
    Some((before, line, after))
}

fn with_block(above: &str, recorded: &str, below: &str) -> String {
    let block = format!("{TEMPLATE_HASH}{recorded}\n{BLOCK}");
    format!("{above}\n{BEGIN}\n{BLOCK_HASH}{}\n{block}{END}\n{below}", hash(&block))
}

fn hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "TIME_ZONE = 'Europe/Paris'\n";
    const NEW: &str = "TIME_ZONE = 'UTC'\n";

    fn made() -> String {
        merge(None, OLD).expect("there was no file")
    }

    fn warning(text: &str) -> Option<String> {
        edited_block_warning(Path::new("settings.py"), text)
    }

    #[test]
    fn first_merge_writes_template_and_block() {
        let made = made();
        assert!(made.starts_with(OLD) && made.contains("def _bots_ctl") && made.ends_with(&format!("{END}\n")));
        assert_eq!(merge(Some(&made), OLD).as_ref(), Some(&made));
    }

    #[test]
    fn unchanged_template_is_updated_with_bots() {
        let below = "ALLOWED_HOSTS = ['edi']\n";
        let next = merge(Some(&format!("{}{below}", made())), NEW).expect("it is ours");
        assert_eq!(next, merge(None, NEW).expect("there was no file") + below);
    }

    #[test]
    fn merge_keeps_user_text_around_block() {
        for line_end in ["\n", "\r\n"] {
            let mine = made().replace("Paris", "Berlin") + "MANAGERS = ()\n\n# the end";
            let edited = mine.replace('\n', line_end);
            assert_eq!(warning(&edited), None);
            let next = merge(Some(&edited), NEW).expect("the block is ours");
            assert_eq!(next.replace("\r\n", "\n"), mine);
            assert_eq!(merge(Some(&next), OLD).as_ref(), Some(&next));
        }
    }

    #[test]
    fn merge_replaces_older_block_but_not_edited_one() {
        let older = made()
            .replace(BEGIN, "# >>> bots-ctl: as it was >>>")
            .replace(&hash_of_block(), &hash("# template x\nold\n"));
        let start = older.find(TEMPLATE_HASH).expect("it has one");
        let older = format!("{}# template x\nold\n{END}\n", &older[..start]);
        assert_eq!(merge(Some(&older), OLD), Some(with_block(OLD, "x", "")));
        let edits = [
            made().replace("def _bots_ctl", "def mine"),
            made().replace(END, ""),
            made().replace(BLOCK_HASH, "# "),
            made().replace(END, &format!("MINE = 1\n{END}")),
            made() + &made(),
        ];
        for edited in edits {
            assert_eq!(merge(Some(&edited), NEW), None, "{edited}");
            let text = warning(&edited).expect("it was edited");
            assert!(text.starts_with("settings.py:3: the block of bots-ctl"), "{text}");
        }
    }

    fn hash_of_block() -> String {
        let made = made();
        ManagedFile::parse(&made).and_then(|file| file.value_of(BLOCK_HASH)).expect("it has one").to_owned()
    }

    #[test]
    fn merge_fills_empty_block_markers() {
        for marks in [BEGIN.to_owned(), format!("{BEGIN}\n"), format!("{BEGIN}\n\n{END}\nX = 2\n")] {
            let made = merge(Some(&format!("X = 1\n{marks}")), OLD).expect("it asks for the block");
            assert!(made.starts_with("X = 1\n# >>> ") && made.contains("def _bots_ctl"), "{made}");
            assert_eq!(made.ends_with("X = 2\n"), marks.contains("X = 2"), "{made}");
        }
    }

    #[test]
    fn merge_ignores_file_without_block() {
        assert_eq!(merge(Some("DATABASES = {}\n"), OLD), None);
        assert_eq!(warning("DATABASES = {}\n"), None);
    }
}
