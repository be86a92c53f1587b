//! Defaults in a SQLite table that is there: SQLite has no statement for it, but a documented procedure, which changes
//! the text of the table's definition and leaves every row where it is.

use crate::database::query::Connection;

/// Gives a column a default, and lets it be NULL, in one transaction that is taken back unless the result is sound.
///
/// # Errors
/// What SQLite says, or that the definition is not one that can be changed safely.
pub async fn edit_schema(
    connection: &mut Connection,
    table: &str,
    column: &str,
    default: Option<&str>,
    nullable: bool,
) -> Result<(), sqlx::Error> {
    let name = connection.quote_literal(table);
    let text =
        connection.fetch_value(format!("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = {name}")).await?;
    let refused = || sqlx::Error::InvalidArgument(format!("the definition of {table} cannot be changed safely"));
    let text = text.and_then(|text| rewritten(&text, column, default, nullable)).ok_or_else(refused)?;
    let text = connection.quote_literal(&text);
    let version =
        connection.fetch_value("PRAGMA schema_version").await?.and_then(|version| version.parse::<i64>().ok());
    let next = version.unwrap_or_default() + 1;
    let changed = async {
        connection
            .execute_batch(format!(
                "BEGIN IMMEDIATE; PRAGMA writable_schema = ON; \
                 UPDATE sqlite_master SET sql = {text} WHERE type = 'table' AND name = {name}; \
                 PRAGMA schema_version = {next}; PRAGMA writable_schema = RESET"
            ))
            .await?;
        match connection.fetch_value("PRAGMA integrity_check(1)").await?.as_deref() {
            Some("ok") => connection.execute_batch("COMMIT").await,
            _ => Err(refused()),
        }
    }
    .await;
    if changed.is_err() {
        // It may have failed before it began.
        let _ = connection.execute_batch("ROLLBACK").await;
        let _ = connection.execute_batch("PRAGMA writable_schema = RESET").await;
    }
    changed
}

/// The definition with one column changed; `None` when it is not understood for certain.
fn rewritten(text: &str, column: &str, default: Option<&str>, nullable: bool) -> Option<String> {
    if text.contains("--") || text.contains("/*") {
        return None;
    }
    let open = text.find('(')?;
    let parts = top_level_parts(&text[open + 1..])?;
    let (start, end) = parts.into_iter().find(|(start, end)| {
        let part = text[open + 1..][*start..*end].trim_start();
        name_of(part).is_some_and(|name| name.eq_ignore_ascii_case(column))
    })?;
    let (start, end) = (open + 1 + start, open + 1 + end);
    let mut definition = text[start..end].trim_end().to_owned();
    if nullable && let Some(position) = definition.to_ascii_uppercase().find(" NOT NULL") {
        definition.replace_range(position..position + " NOT NULL".len(), "");
    }
    if let Some(default) = default {
        if definition.to_ascii_uppercase().contains(" DEFAULT ") {
            return None;
        }
        definition = format!("{definition} DEFAULT {default}");
    }
    Some(format!("{}{definition}{}", &text[..start], &text[end..]))
}

/// Where the parts between commas begin and end, up to the bracket that closes them.
fn top_level_parts(text: &str) -> Option<Vec<(usize, usize)>> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    for (position, c) in text.char_indices() {
        match (quote, c) {
            (Some(closing), c) if c == closing => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '[') => quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => {
                parts.push((start, position));
                return Some(parts);
            }
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push((start, position));
                start = position + 1;
            }
            (None, _) => {}
        }
    }
    None
}

/// The first word of a column's definition, without its quotes.
fn name_of(part: &str) -> Option<&str> {
    let first = part.chars().next()?;
    let closing = match first {
        '"' | '`' => first,
        '[' => ']',
        _ => return part.split(|c: char| c.is_whitespace()).next(),
    };
    part[1..].split(closing).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DJANGO: &str = r#"CREATE TABLE "routes" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "note" varchar(5) NOT NULL DEFAULT 'a,(b', "dirmonitor" bool NOT NULL, "to" varchar(35) NOT NULL REFERENCES "channel" ("id"))"#;

    #[test]
    fn one_column_changes_and_nothing_else() {
        let expected = DJANGO.replace("\"dirmonitor\" bool NOT NULL", "\"dirmonitor\" bool NOT NULL DEFAULT 0");
        assert_eq!(rewritten(DJANGO, "dirmonitor", Some("0"), false), Some(expected));
        let expected = DJANGO.replace("\"dirmonitor\" bool NOT NULL", "\"dirmonitor\" bool");
        assert_eq!(rewritten(DJANGO, "dirmonitor", None, true), Some(expected));
        let plain = "CREATE TABLE ta (\n  idta integer,\n  [errortext] text\n)";
        assert_eq!(
            rewritten(plain, "ERRORTEXT", Some("''"), false).as_deref(),
            Some("CREATE TABLE ta (\n  idta integer,\n  [errortext] text DEFAULT '')")
        );
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        assert_eq!(rewritten(DJANGO, "missing", Some("0"), false), None);
        assert_eq!(rewritten(DJANGO, "note", Some("''"), false), None);
        assert_eq!(rewritten("CREATE TABLE t (a int -- b)\n)", "a", Some("0"), false), None);
        assert_eq!(rewritten("CREATE TABLE t (a int", "a", Some("0"), false), None);
    }
}
