//! Where things stand in a text, and long complaints as one line: for the doors of the programs, which say
//! of a mistake in one line where it is and what would be right.
//!
//! Not here: reading files, or knowing what a key means.

/// Returns the line in which a byte of a text lies; the first is 1.
pub fn line_at(text: &str, byte: usize) -> usize {
    let before = text.bytes().take(byte);
    before.filter(|byte| *byte == b'\n').count() + 1
}

/// Finds the line of a TOML text that sets a key such as `dirty.windows`; absent if none does.
pub fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut here = "";
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            here = header.split(']').next().unwrap_or(header).trim();
        } else if let Some((found, _)) = line.split_once('=') {
            let found = found.trim();
            let is_dotted = here.is_empty() && found == key;
            if is_dotted || (here == table && found == name) {
                return Some(number);
            }
        }
    }
    None
}

/// Makes one line of what a parser of flags complains of in several: the complaint with what it lists, and
/// the tip if there is one, without the usage that follows.
pub fn one_line(complaint: &str) -> String {
    let complaint = complaint.strip_prefix("error: ").unwrap_or(complaint);
    let mut line = String::new();
    for part in complaint.lines().map(str::trim) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        if part.is_empty() {
            continue;
        }
        if line.ends_with(':') {
            line.push(' ');
        } else if !line.is_empty() {
            line.push_str("; ");
        }
        line.push_str(part);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_lies_in_the_line_that_holds_it() {
        let text = "one\ntwo\n";
        let at = |byte| line_at(text, byte);
        assert_eq!([at(0), at(3), at(4), at(8), at(99)], [1, 1, 2, 3, 3]);
    }

    #[test]
    fn a_key_is_found_in_its_own_table_only() {
        let text = "a = 1\nb.c = 2\n# a = 3\n[t] # why\na = 4\n [ u ]\na=5\n";
        let of = |key| line_of_key(text, key);
        assert_eq!([of("a"), of("b.c"), of("t.a")], [Some(1), Some(2), Some(5)]);
        assert_eq!([of("u.a"), of("t.b"), of("c")], [Some(7), None, None]);
    }

    #[test]
    fn a_complaint_of_several_lines_becomes_one_without_the_usage() {
        let long = "error: the following required arguments were not provided:\n  --to <NODE>\n  <DOMAIN>\n\n\
                    Usage: x --to <NODE>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(long),
            "the following required arguments were not provided: --to <NODE>; <DOMAIN>"
        );
        let tip = "error: unrecognized subcommand 'estimates'\n\n  tip: a similar subcommand exists: 'estimate'\n\n\
                   Usage: plimsoll [OPTIONS] <COMMAND>\n";
        assert_eq!(
            one_line(tip),
            "unrecognized subcommand 'estimates'; tip: a similar subcommand exists: 'estimate'"
        );
    }
}
