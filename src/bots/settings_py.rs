//! `settings.py` as bots-ctl makes it: the installed Bots's own template, then a managed block.
//!
//! The text above the block belongs to the user once it is changed: a line in the block keeps the template's hash,
//! and only an unchanged template is replaced when another version of Bots is installed. A file without the
//! block is the user's altogether and is never written to.

use sha2::{Digest, Sha256};

const BEGIN: &str = "# >>> bots-ctl: made anew at every start; changes below this line are lost >>>";
const END: &str = "# <<< bots-ctl <<<";
const TEMPLATE_HASH: &str = "# template ";
const BLOCK: &str = include_str!("python/settings_block.py");

/// What `settings.py` is to hold: `None` when the current file is the user's own.
pub fn merge(current: Option<&str>, template: &str) -> Option<String> {
    let fresh = || with_block(template, &hash(template));
    let Some(current) = current else { return Some(fresh()) };
    let (above, block) = current.split_once(BEGIN)?;
    let recorded = block.lines().find_map(|line| line.strip_prefix(TEMPLATE_HASH)).unwrap_or_default();
    let above = above.strip_suffix('\n').unwrap_or(above);
    let untouched = hash(above) == recorded.trim();
    Some(if untouched { fresh() } else { with_block(above, recorded) })
}

fn with_block(above: &str, recorded: &str) -> String {
    format!("{above}\n{BEGIN}\n{TEMPLATE_HASH}{}\n{BLOCK}{END}\n", recorded.trim())
}

fn hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "TIME_ZONE = 'Europe/Paris'\n";
    const NEW: &str = "TIME_ZONE = 'UTC'\n";

    #[test]
    fn a_first_run_takes_the_template_and_the_block() {
        let made = merge(None, OLD).expect("there was no file");
        assert!(made.starts_with(OLD) && made.contains("def _bots_ctl") && made.ends_with(&format!("{END}\n")));
        assert_eq!(merge(Some(&made), OLD).as_ref(), Some(&made));
    }

    #[test]
    fn an_untouched_template_follows_the_installed_bots() {
        let made = merge(None, OLD).expect("there was no file");
        let next = merge(Some(&made), NEW).expect("it is ours");
        assert_eq!(Some(next), merge(None, NEW));
    }

    #[test]
    fn what_the_user_changed_stays() {
        let mine = merge(None, OLD).expect("there was no file").replace("Paris", "Berlin");
        let damaged = mine.replace("def _bots_ctl", "def broken");
        let next = merge(Some(&damaged), NEW).expect("it is ours");
        assert_eq!(next, mine);
        assert_eq!(merge(Some(&next), OLD).as_ref(), Some(&mine));
    }

    #[test]
    fn a_file_without_the_block_is_not_ours() {
        assert_eq!(merge(Some("DATABASES = {}\n"), OLD), None);
    }
}
