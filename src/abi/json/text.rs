//! The pieces that JSON is put together from.

use std::fmt::Write;

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => drop(write!(quoted, "\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A JSON list of what is JSON already.
pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    let mut text = String::from("[");
    for (number, item) in items.enumerate() {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&item);
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_json_forbids_is_escaped() {
        assert_eq!(quoted("a \"b\" \\ c\n\u{1}é"), "\"a \\\"b\\\" \\\\ c\\u000a\\u0001é\"");
    }
}
