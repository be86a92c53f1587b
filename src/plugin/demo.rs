//! A small translation for a first look: an EDIFACT order to a readable file. It is a plugin, and is applied as one.

use super::diff::{Plan, RowChange};
use super::{Error, Plugin, index};
use crate::bots::plugin_session::StoredConfiguration;

/// The route.
pub const ROUTE: &str = "demo_orders";

/// The order, and the file that it becomes, below botssys.
pub const SAMPLE: (&str, &[u8]) = ("demo/in/order.edi", include_bytes!("demo/order.edi"));
pub const OUTPUT: &str = "demo/out/PO-1001.txt";

/// A mark in each row, to distinguish them from rows of the user with the same key.
const DESCRIPTION: &str = "EDI demo";

const FILES: [(&str, &str); 4] = [
    ("grammars/edifact/ORDERSD96AUN.py", include_str!("demo/usersys/grammars/edifact/ORDERSD96AUN.py")),
    ("grammars/edifact/edifact.py", include_str!("demo/usersys/grammars/edifact/edifact.py")),
    ("grammars/fixed/orders_flat.py", include_str!("demo/usersys/grammars/fixed/orders_flat.py")),
    ("mappings/edifact/orders_d96a_to_flat.py", include_str!("demo/usersys/mappings/edifact/orders_d96a_to_flat.py")),
];

/// The plugin.
///
/// # Errors
/// None, as a test has read it.
pub fn plugin() -> Result<Plugin, Error> {
    let files = FILES.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into();
    Ok(Plugin { files, ..index::read(include_str!("demo/botsindex.json"))? })
}

/// Refuses to replace anything that is not of the demo.
///
/// # Errors
/// Each row and file that would be replaced.
pub fn check_is_own(plan: &Plan) -> Result<(), Error> {
    let rows = plan.rows.iter().filter(|row| row.before.is_some() && !is_own(row)).map(RowChange::name);
    let files = plan.files.iter().filter(|file| file.before.is_some()).map(|file| format!("usersys/{}", file.path));
    let text = "it already exists, and the demo would replace it: use another environment (BOTSENV)";
    Error::fail_if_any(rows.chain(files).map(|name| format!("{name}: {text}")).collect())
}

fn is_own(row: &RowChange) -> bool {
    row.before.as_ref().and_then(|row| row.get("desc")).is_some_and(|desc| desc == DESCRIPTION)
}

/// Removes the rows of the demo, and its unchanged files; `plan` is the difference to it.
#[must_use]
pub fn removal(plugin: &Plugin, plan: &Plan, stored: &StoredConfiguration) -> Plan {
    let mut removal = Plan::default();
    for (table, row) in &plugin.rows {
        let rows = stored.tables.get(table.model()).map(|found| &found.rows);
        // An index leaves out the empty fields of a key, and so does the name.
        let same = |fields| table.name_of(fields) == table.name_of(row);
        let found = rows.into_iter().flatten().filter(|current| same(&current.fields)).map(|current| RowChange {
            table: *table,
            pk: current.pk.clone(),
            before: Some(current.fields.clone()),
            after: None,
        });
        removal.rows.extend(found.filter(is_own));
    }
    let differing = |path: &String| plan.files.iter().any(|file| file.path == *path);
    let files = plugin.files.iter().filter(|(path, _)| !differing(path));
    removal.files = files
        .map(|(path, content)| super::diff::FileChange {
            path: path.clone(),
            before: Some(content.clone()),
            after: None,
        })
        .collect();
    removal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Table;

    #[test]
    fn demo_parses_as_plugin() {
        let plugin = plugin().expect("it can be read");
        assert!(plugin.rows.iter().all(|(_, row)| row["desc"] == DESCRIPTION) && plugin.ignored.is_empty());
        assert!(plugin.rows.iter().any(|(table, row)| *table == Table::Route && row["idroute"] == ROUTE));
    }
}
