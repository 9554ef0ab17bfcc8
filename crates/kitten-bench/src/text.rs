//! Text that comes from files and names, made harmless for terminals and pages.

use std::borrow::Cow;
use std::path::Path;

/// Whether a character controls a terminal or changes how the text around it is shown: control
/// characters, all kinds of line breaks, and marks that change the direction of writing.
fn controls_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match is_escaped(character) {
            true => plain.extend(character.escape_default()),
            false => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

/// Text as one line without such characters. They are written as in Rust's sources, such as
/// `\u{1b}`.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, controls_terminal)
}

/// The same for text of several lines. Its line ends and tabs stay.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| controls_terminal(character) && !matches!(character, '\n' | '\t'))
}

/// A path to show to people.
pub fn shown(path: &Path) -> String {
    plain(&path.to_string_lossy()).into_owned()
}

/// Text as one line of Markdown without markup, which may stand in a table.
pub fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in plain(text).chars() {
        if matches!(character, '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|' | '&' | '~') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// A number of seconds with so many decimals. A short time has more of them, so that two digits of
/// it are left; below a nanosecond nothing is.
pub fn seconds(value: f64, decimals: usize) -> String {
    let first = if value >= 1e-9 { -value.log10().floor() } else { 0.0 };
    let decimals = if first >= decimals as f64 { (first as usize + 1).min(9) } else { decimals };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(plain("UNet of 2048, größer"), "UNet of 2048, größer");
        assert_eq!(plain("\u{1b}[2J\u{9b}1m\u{7f}\r\n\t"), "\\u{1b}[2J\\u{9b}1m\\u{7f}\\r\\n\\t");
        assert_eq!(plain("a\u{202e}b\u{2066}c\u{2028}d"), "a\\u{202e}b\\u{2066}c\\u{2028}d");
        assert_eq!(plain_lines("a\tb\n\u{1b}c\r\n"), "a\tb\n\\u{1b}c\\r\n");
    }

    #[test]
    fn short_times_have_digits_left() {
        assert_eq!(
            [12.346, 0.5, 0.046, 0.0046, 0.000_031, 1e-10, 0.0].map(|value| seconds(value, 2)),
            ["12.35", "0.50", "0.046", "0.0046", "0.000031", "0.00", "0.00"]
        );
        assert_eq!([0.046, 0.0046, 0.00046].map(|value| seconds(value, 3)), ["0.046", "0.0046", "0.00046"]);
    }

    #[test]
    fn markdown_has_no_markup_left() {
        assert_eq!(markdown("sd15_unet | <b>*x*</b>\n"), "sd15_unet \\| \\<b\\>\\*x\\*\\</b\\>\\\\n");
    }
}
