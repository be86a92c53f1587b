//! Pages of the documentation as data.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// A page of the documentation.
pub struct Page {
    /// Its place in the project.
    pub path: String,
    pub text: String,
}

/// A fenced block.
pub struct Block {
    /// The words after the fence: the language first.
    pub info: Vec<String>,
    pub text: String,
    pub line: usize,
    /// The heading above it.
    pub heading: String,
}

/// Every page.
pub fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    for place in ["README.md", "docs", ".github", "sql/README.md", "tests/fixtures/demo/README.md"] {
        for entry in walkdir::WalkDir::new(Path::new(PROJECT).join(place)).sort_by_file_name() {
            let path = entry.expect("readable").into_path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(page(&path.strip_prefix(PROJECT).expect("below it").to_string_lossy()));
            }
        }
    }
    assert!(found.len() > 20, "the pages are not found");
    found
}

/// One page, by its place in the project.
pub fn page(path: &str) -> Page {
    let text = fs::read_to_string(Path::new(PROJECT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Page { path: path.to_owned(), text }
}

impl Page {
    /// Its fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut heading, mut is_inside) = (Vec::<Block>::new(), String::new(), false);
        for (number, line) in self.text.lines().enumerate() {
            if let Some(info) = line.strip_prefix("```") {
                if !is_inside {
                    let info = info.split_whitespace().map(str::to_owned).collect();
                    blocks.push(Block { info, text: String::new(), line: number + 1, heading: heading.clone() });
                }
                is_inside = !is_inside;
            } else if is_inside {
                let block = blocks.last_mut().expect("it has begun");
                block.text.push_str(line);
                block.text.push('\n');
            } else if let Some(title) = line.strip_prefix('#') {
                heading = title.trim_start_matches('#').trim().to_owned();
            }
        }
        assert!(!is_inside, "{}: a block does not end", self.path);
        blocks
    }

    /// Its lines outside of blocks.
    pub fn prose(&self) -> Vec<&str> {
        let mut is_inside = false;
        let mut prose = Vec::new();
        for line in self.text.lines() {
            if line.starts_with("```") {
                is_inside = !is_inside;
            } else if !is_inside {
                prose.push(line);
            }
        }
        prose
    }

    /// What stands between backticks, line ends as blanks.
    pub fn spans(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ").replace("\\|", "|")).collect()
    }

    /// Where its links lead.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose().join("\n");
        let ends = prose.match_indices("](").map(|(at, _)| &prose[at + 2..]);
        ends.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned())).collect()
    }

    /// Names of its headings, as links have them.
    pub fn anchors(&self) -> BTreeSet<String> {
        let titles = self.prose().into_iter().filter(|line| line.starts_with('#'));
        titles.map(|line| slug(line.trim_start_matches('#').trim())).collect()
    }

    /// The rows of its tables, as cells, with the heading above them; without the lines of dashes.
    pub fn rows(&self) -> Vec<(String, Vec<String>)> {
        let (mut rows, mut heading) = (Vec::new(), String::new());
        for line in self.prose() {
            if line.starts_with('#') {
                heading = line.trim_start_matches('#').trim().to_owned();
            } else if line.starts_with('|') && !line.starts_with("|---") {
                let escaped = line.trim().trim_matches('|').replace("\\|", "\u{0}");
                rows.push((heading.clone(), escaped.split('|').map(|c| c.trim().replace('\u{0}', "|")).collect()));
            }
        }
        rows
    }
}

pub fn slug(title: &str) -> String {
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
