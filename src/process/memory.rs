//! The resident memory of this process: one heap for all threads, and no pages that only the start has used.

use std::fs;

use super::sys;

pub use sys::{return_free_memory, use_one_heap};

/// Returns what only the start has used: free memory to the kernel, and the pages of code and constants to the page cache, from
/// which the kernel maps those that are used again.
pub fn release_start() {
    return_free_memory();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(unwritten_file_range).for_each(|(start, length)| sys::unmap_pages(start, length));
}

/// Start and length of a mapping that has the content of its file: the code, and the constants at the beginning of the file, but not
/// those that the dynamic linker has written addresses to.
fn unwritten_file_range(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, access, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let is_file = fields.nth(2)?.starts_with('/');
    let is_unwritten = access == "r-xp" || access == "r--p" && offset.bytes().all(|digit| digit == b'0');
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16));
    let (start, end) = (start.ok()?, end.ok()?);
    (is_file && is_unwritten).then_some((start, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_that_equal_their_files_are_released() {
        for (line, range) in [
            ("5000-7000 r-xp 001e4000 fe:00 1047 /usr/bin/bots-ctl", Some((0x5000, 0x2000))),
            ("1000-2000 r--p 00000000 fe:00 1047 /usr/bin/bots-ctl", Some((0x1000, 0x1000))),
            ("7000-8000 r--p 007b1000 fe:00 1047 /usr/bin/bots-ctl", None),
            ("8000-9000 rw-p 00000000 fe:00 1047 /usr/bin/bots-ctl", None),
            ("8000-9000 r-xp 00000000 00:00 0 [vdso]", None),
            ("8000-9000 r--p 00000000 00:00 0", None),
            ("", None),
        ] {
            assert_eq!(unwritten_file_range(line), range, "{line}");
        }
    }

    #[test]
    fn the_program_runs_on_after_it_has_returned_its_pages() {
        release_start();
        assert_eq!(format!("{:?}", vec!["constant"; 2]), "[\"constant\", \"constant\"]");
    }
}
