//! The index of a plugin: `botsindex.json`, in the format of Bots 4.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Error, Plugin, Table};
use crate::bots::plugin_session::Fields;
use crate::model::counted;

/// The name of the index in a plugin, and that of Bots 3.
pub const JSON_INDEX: &str = "botsindex.json";
pub const PYTHON_INDEX: &str = "botsindex.py";

/// The key with the table of a row.
const PLUGIN_TYPE: &str = "plugintype";

/// Tables of Bots that are not configuration: runs and counters.
const NO_CONFIGURATION: [&str; 6] = ["uniek", "persist", "mutex", "ta", "filereport", "report"];

/// The group of a partner, in plugins of Bots 1.
const PARTNER_GROUP: &str = "partnergroup";

/// The rows of an index.
///
/// # Errors
/// If it does not have the form that Bots writes.
pub fn read(text: &str) -> Result<Plugin, Error> {
    let index: Value = serde_json::from_str(text).map_err(|error| Error::fault(format!("{JSON_INDEX}: {error}")))?;
    let wrong = || Error::fault(format!("{JSON_INDEX}: it has no object \"plugins\" with a list for each type"));
    let mut rows = Vec::new();
    for list in index["plugins"].as_object().ok_or_else(wrong)?.values() {
        for row in list.as_array().ok_or_else(wrong)? {
            let row: Fields = serde_json::from_value(row.clone()).map_err(|_| wrong())?;
            rows.push(row);
        }
    }
    plugin_from_rows(rows, JSON_INDEX)
}

/// Builds the rows of a plugin: completes old formats, sorts, and counts the rows of ignored tables.
///
/// # Errors
/// Rows without a type or without a field of their key.
pub fn plugin_from_rows(rows: Vec<Fields>, file: &str) -> Result<Plugin, Error> {
    let (mut sorted, mut ignored, mut faults): (Vec<(Table, Fields)>, BTreeMap<String, usize>, _) =
        (Vec::new(), BTreeMap::new(), Vec::new());
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (number, mut row) in rows.into_iter().enumerate() {
        let kind = row.remove(PLUGIN_TYPE).and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        match Table::of_model(&kind) {
            Some(table) => {
                if let Some(field) = missing_key(table, &row) {
                    faults.push(format!("{file}: row {}: the {} has no {field}", number + 1, table.word()));
                }
                sorted.push((table, row));
            }
            None if kind == PARTNER_GROUP => {
                let (member, group) = (row.remove("idpartner"), row.remove("idpartnergroup"));
                if let Some((member, group)) = member.as_ref().and_then(Value::as_str).zip(group) {
                    groups.entry(member.to_owned()).or_default().push(group);
                }
            }
            None if NO_CONFIGURATION.contains(&kind.as_str()) => *ignored.entry(kind).or_default() += 1,
            None => faults.push(format!("{file}: row {}: there is no plugintype \"{kind}\"", number + 1)),
        }
    }
    Error::fail_if_any(faults)?;
    for (_, row) in sorted.iter_mut().filter(|(table, _)| *table == Table::Partner) {
        let found = row.get("idpartner").and_then(Value::as_str).and_then(|partner| groups.remove(partner));
        if let Some(found) = found {
            let list = row.entry("group".to_owned()).or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.extend(found.iter().cloned()));
        }
    }
    add_code_lists(&mut sorted);
    sorted.sort_by_cached_key(|(table, row)| (*table, table.key_of(row)));
    let ignored = ignored
        .into_iter()
        .map(|(kind, count)| format!("{} of {kind}, which is not configuration", counted(count, "row")));
    Ok(Plugin { rows: sorted, ignored: ignored.collect(), ..Plugin::default() })
}

/// A field of the key that must be filled. Bots leaves out empty fields of translations and confirmations.
fn missing_key(table: Table, row: &Fields) -> Option<&'static str> {
    let needed = match table {
        Table::Translation => &table.key()[..2],
        Table::Confirmation => &table.key()[..1],
        _ => table.key(),
    };
    needed.iter().find(|field| row.get(**field).is_none_or(|value| value.is_null() || value == "")).copied()
}

/// Old plugins have codes without the list that these belong to.
fn add_code_lists(rows: &mut Vec<(Table, Fields)>) {
    let of = |rows: &[(Table, Fields)], wanted| {
        let of_table = rows.iter().filter(move |(table, _)| *table == wanted);
        of_table.filter_map(|(_, row)| Some((row.get("ccodeid")?.to_string(), row.get("ccodeid")?.clone()))).collect()
    };
    let lists: BTreeMap<String, Value> = of(rows, Table::CodeList);
    let used: BTreeMap<String, Value> = of(rows, Table::Code);
    let missing = used.into_iter().filter(|(name, _)| !lists.contains_key(name));
    rows.extend(missing.map(|(_, list)| (Table::CodeList, Fields::from([("ccodeid".to_owned(), list)]))));
}

/// Writes an index: sorted, one field a line, the same for the same content.
#[must_use]
pub fn write(rows: &[(Table, Fields)], bots_version: &str) -> String {
    let mut objects: Vec<(&str, Vec<String>, Value)> = rows
        .iter()
        .map(|(table, row)| {
            let mut object = Map::new();
            object.insert(PLUGIN_TYPE.to_owned(), json!(table.model()));
            object.extend(row.iter().map(|(field, value)| (field.clone(), value.clone())));
            (table.model(), table.key_of(row), Value::Object(object))
        })
        .collect();
    objects.sort_by_cached_key(|(model, key, object)| (*model, key.clone(), object.to_string()));
    let mut plugins: Map<String, Value> = Map::new();
    for (model, _, object) in objects {
        let list = plugins.entry(model).or_insert_with(|| json!([]));
        list.as_array_mut().into_iter().for_each(|list| list.push(object.clone()));
    }
    let index = json!({ "bots_version": bots_version, "plugins": plugins });
    // A map of JSON values has no other keys than texts, so this cannot fail.
    format!("{}\n", serde_json::to_string_pretty(&index).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: Value) -> Fields {
        serde_json::from_value(fields).expect("an object")
    }

    #[test]
    fn index_round_trips_in_any_row_order() {
        let rows = vec![
            (Table::Route, row(json!({ "idroute": "b", "seq": 1, "desc": null }))),
            (Table::Route, row(json!({ "idroute": "a", "seq": 1, "active": true }))),
            (Table::Channel, row(json!({ "idchannel": "c", "path": "é" }))),
        ];
        let text = write(&rows, "4.0");
        let turned: Vec<_> = rows.iter().rev().cloned().collect();
        assert_eq!(write(&turned, "4.0"), text);
        let Plugin { rows: read, ignored, .. } = read(&text).expect("it is an index");
        assert_eq!(write(&read, "4.0"), text);
        assert!(ignored.is_empty());
        assert!(text.contains("\n        \"idchannel\": \"c\",\n"), "{text}");
    }

    #[test]
    fn groups_and_code_lists_of_old_plugins_are_completed() {
        let rows = vec![
            row(json!({ "plugintype": "ccode", "ccodeid": "list", "leftcode": "1", "rightcode": "2" })),
            row(json!({ "plugintype": "partner", "idpartner": "p" })),
            row(json!({ "plugintype": "partnergroup", "idpartner": "p", "idpartnergroup": "g" })),
            row(json!({ "plugintype": "ta", "idta": 1 })),
        ];
        let Plugin { rows, ignored, .. } = plugin_from_rows(rows, PYTHON_INDEX).expect("they are rows");
        let tables: Vec<Table> = rows.iter().map(|(table, _)| *table).collect();
        assert_eq!(tables, [Table::CodeList, Table::Code, Table::Partner]);
        assert_eq!(rows[2].1["group"], json!(["g"]));
        assert_eq!(ignored, ["1 row of ta, which is not configuration"]);
    }

    #[test]
    fn invalid_rows_are_rejected_with_their_numbers() {
        let rows = vec![row(json!({ "plugintype": "channel" })), row(json!({ "plugintype": "x" }))];
        let faults = plugin_from_rows(rows, PYTHON_INDEX).expect_err("they are wrong").to_string();
        assert_eq!(
            faults,
            "botsindex.py: row 1: the channel has no idchannel\nbotsindex.py: row 2: there is no plugintype \"x\""
        );
    }
}
