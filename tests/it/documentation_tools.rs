//! The documentation as other programs see it: spelling, Markdown, and the diagrams.

use std::fs;

use crate::support::kustomize::{text, tool};
use crate::support::markdown::pages;

#[apply(test)]
fn pages_and_sources_pass_codespell() {
    let mut codespell = tool("documentation/bin/codespell");
    codespell.current_dir(env!("CARGO_MANIFEST_DIR")).args(pages().into_iter().map(|page| page.path));
    // Help, messages and comments are documentation as well; Bots has a column `statuse`, and serde_json a module `ser`.
    let checked =
        codespell.args(["src", "k3s", "sql", "--ignore-words-list", "statuse,ser"]).output().expect("it can be run");
    assert!(checked.status.success(), "{}", text(&checked.stdout));
}

#[apply(test)]
fn pages_pass_markdown_linter() {
    let mut pymarkdown = tool("documentation/bin/pymarkdown");
    pymarkdown.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "--strict-config",
        "--config",
        "docs/.pymarkdown.json",
        "scan",
    ]);
    let checked = pymarkdown.args(pages().into_iter().map(|page| page.path)).output().expect("it can be run");
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

/// Draws each file that is named, by Mermaid itself; one that cannot be parsed ends it with the place.
const DRAW: &str = "import mermaidx, sys
for name in sys.argv[1:]:
    print(name, file=sys.stderr)
    with open(name, encoding='utf-8') as source:
        assert '<svg' in mermaidx.render(source.read()).svg()
";

#[apply(test)]
fn diagrams_can_be_drawn() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut files = Vec::new();
    for page in pages() {
        for block in page.blocks().into_iter().filter(|block| block.info == ["mermaid"]) {
            let file = dir.path().join(format!("{}:{}", page.path.replace('/', "-"), block.line));
            fs::write(&file, &block.text).expect("written");
            files.push(file);
        }
    }
    assert!(files.len() >= 4, "{files:?}");
    let mut python = tool("documentation/bin/python");
    let drawn = python.args(["-c", DRAW]).args(files).output().expect("it can be run");
    assert!(drawn.status.success(), "{}", text(&drawn.stderr));
}
