//! `bots-ctl.toml` as a flat list of values with their lines.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::setting::ValueType;

/// One value of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TomlValue {
    /// The value as text; array items are joined with commas.
    pub text: String,
    /// Its TOML type.
    pub value_type: ValueType,
    /// Line of its key, from 1.
    pub line: usize,
}

/// A syntax error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// The error.
    pub message: String,
}

/// All values by dotted path.
///
/// # Errors
/// All syntax errors.
pub fn parse(text: &str) -> Result<BTreeMap<String, TomlValue>, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let mut values = BTreeMap::new();
        flatten(text, "", table.get_ref(), &mut values);
        return Ok(values);
    }
    let explain = |error: &toml::de::Error| SyntaxError {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().lines().next().unwrap_or("not TOML").to_owned(),
    };
    let mut errors: Vec<SyntaxError> = errors.iter().map(explain).collect();
    errors.sort_by_key(|error| error.line);
    Err(errors)
}

fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, values: &mut BTreeMap<String, TomlValue>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(text, &path, inner, values),
            other => {
                let (scalar, value_type) = scalar(other);
                let line = line_of(text, key.span().start);
                values.insert(path, TomlValue { text: scalar, value_type, line });
            }
        }
    }
}

fn scalar(value: &DeValue<'_>) -> (String, ValueType) {
    match value {
        DeValue::String(text) => (text.to_string(), ValueType::Text),
        DeValue::Integer(number) => (decimal(number), ValueType::Integer),
        DeValue::Float(number) => (number.as_str().to_owned(), ValueType::Duration),
        DeValue::Boolean(flag) => (flag.to_string(), ValueType::Boolean),
        DeValue::Array(items) => list(items),
        DeValue::Datetime(date) => (date.to_string(), ValueType::Other),
        DeValue::Table(_) => (String::new(), ValueType::Other),
    }
}

/// An integer with a prefix, such as `0x50`, in decimal. One that is too large for any setting keeps its prefix.
fn decimal(number: &DeInteger<'_>) -> String {
    let digits = number.as_str().replace('_', "");
    match number.radix() {
        10 => digits,
        radix => i64::from_str_radix(&digits, radix).map_or_else(|_| number.to_string(), |number| number.to_string()),
    }
}

fn list(items: &[Spanned<DeValue<'_>>]) -> (String, ValueType) {
    let text_of = |item: &Spanned<DeValue<'_>>| match scalar(item.get_ref()) {
        (text, ValueType::Text | ValueType::Integer) => Some(text),
        _ => None,
    };
    let texts: Option<Vec<String>> = items.iter().map(text_of).collect();
    texts.map_or((String::from("[…]"), ValueType::Other), |texts| (texts.join(","), ValueType::List))
}

/// The line of a position in a text.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_carry_their_lines() {
        let values = parse("[health]\naddr = \"x\"\n\n[webserver]\nport = 1_0\n").expect("this is TOML");
        assert_eq!(values["health.addr"], TomlValue { text: "x".into(), value_type: ValueType::Text, line: 2 });
        assert_eq!(values["webserver.port"], TomlValue { text: "10".into(), value_type: ValueType::Integer, line: 5 });
    }

    #[test]
    fn integers_with_a_prefix_become_decimal() {
        let values =
            parse("a = 0x50\nb = 0o7_55\nc = 0b101\nd = -5\ne = 0xffffffffffffffffffff\n").expect("this is TOML");
        let text = |key: &str| values[key].text.as_str();
        assert_eq!([text("a"), text("b"), text("c"), text("d")], ["80", "493", "5", "-5"]);
        assert_eq!(text("e"), "0xffffffffffffffffffff");
    }

    #[test]
    fn every_syntax_error_is_reported() {
        let errors = parse("a = \nb = 1\nc = [\n").expect_err("this is not TOML");
        assert!(errors.len() > 1, "{errors:?}");
        assert!(errors.is_sorted_by_key(|error| error.line) && errors[0].line < 3, "{errors:?}");
    }
}
