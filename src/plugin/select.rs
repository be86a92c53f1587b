//! The part of a configuration that some routes need.
//!
//! Bots selects the translation of a message by the content of the file, so a route does not name its translations: all
//! those with the route's file type are included. Scripts refer to others by imports, which are followed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Error, Plugin, Table};
use crate::bots::plugin_session::Fields;

/// Types of messages that stand for a whole file, in which any message may be.
const ENVELOPES: [&str; 5] = ["edifact", "x12", "tradacoms", "mailbag", "idoc"];

/// Leaves of an export what these routes need.
///
/// # Errors
/// For routes that are not there.
pub fn select_routes(plugin: &mut Plugin, routes: &[String]) -> Result<(), Error> {
    let names: BTreeSet<&str> = of(plugin, Table::Route).filter_map(|row| field(row, "idroute")).collect();
    let missing: Vec<String> = routes
        .iter()
        .filter(|route| !names.contains(route.as_str()))
        .map(|route| format!("there is no route {route}"))
        .collect();
    Error::fail_if_any(missing)?;
    let is_chosen = |row: &Fields| routes.iter().any(|route| field(row, "idroute") == Some(route));
    let chosen: Vec<Fields> = of(plugin, Table::Route).filter(|row| is_chosen(row)).cloned().collect();
    let translations: Vec<Fields> =
        of(plugin, Table::Translation).filter(|row| chosen.iter().any(|route| may_use(route, row))).cloned().collect();
    let channels = named(&chosen, &["fromchannel", "tochannel"]);
    let fields = ["frompartner", "topartner", "frompartner_tochannel", "topartner_tochannel"];
    let mut partners = named(chosen.iter().chain(&translations), &fields);
    partners.extend(named(of(plugin, Table::Address).filter(|row| is_in(row, "idchannel", &channels)), &["idpartner"]));
    add_groups(plugin, &mut partners);
    let files = needed_files(plugin, &chosen, &translations, &channels, &partners);
    plugin.files.retain(|path, _| files.contains(path));
    let texts: Vec<String> = plugin.files.values().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    // Scripts name code lists in texts.
    let lists: BTreeSet<String> = of(plugin, Table::CodeList)
        .filter_map(|row| field(row, "ccodeid"))
        .filter(|list| {
            texts.iter().any(|text| [format!("'{list}'"), format!("\"{list}\"")].iter().any(|word| text.contains(word)))
        })
        .map(str::to_owned)
        .collect();
    plugin.rows.retain(|(table, row)| match table {
        Table::CodeList | Table::Code => is_in(row, "ccodeid", &lists),
        Table::Channel => is_in(row, "idchannel", &channels),
        Table::Partner => is_in(row, "idpartner", &partners),
        Table::Address => is_in(row, "idchannel", &channels) && is_in(row, "idpartner", &partners),
        Table::Translation => translations.contains(row),
        Table::Route => chosen.contains(row),
        Table::Confirmation => is_of(row, "idroute", routes) || is_in(row, "idchannel", &channels),
    });
    Ok(())
}

fn of(plugin: &Plugin, wanted: Table) -> impl Iterator<Item = &Fields> {
    plugin.rows.iter().filter(move |(table, _)| *table == wanted).map(|(_, row)| row)
}

fn field<'a>(row: &'a Fields, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn is_in(row: &Fields, name: &str, known: &BTreeSet<String>) -> bool {
    field(row, name).is_some_and(|value| known.contains(value))
}

fn is_of(row: &Fields, name: &str, known: &[String]) -> bool {
    field(row, name).is_some_and(|value| known.iter().any(|known| known == value))
}

fn named<'a>(rows: impl IntoIterator<Item = &'a Fields>, names: &[&str]) -> BTreeSet<String> {
    let values = rows.into_iter().flat_map(|row| names.iter().filter_map(|name| field(row, name)));
    values.map(str::to_owned).collect()
}

/// Whether a route may use a translation.
fn may_use(route: &Fields, translation: &Fields) -> bool {
    let message = field(route, "frommessagetype").unwrap_or_default();
    let is_message = ENVELOPES.contains(&message) || field(translation, "frommessagetype") == Some(message);
    let alt = field(translation, "alt");
    let is_pass_through = route.get("translateind").is_some_and(|translate| translate == 0 || translate == 2);
    !is_pass_through
        && field(route, "fromeditype") == field(translation, "fromeditype")
        && (is_message || message.is_empty())
        && (alt.is_none() || alt == field(route, "alt"))
}

fn add_groups(plugin: &Plugin, partners: &mut BTreeSet<String>) {
    loop {
        let members = of(plugin, Table::Partner).filter(|row| is_in(row, "idpartner", partners));
        let lists = members.filter_map(|row| row.get("group")?.as_array());
        let groups: BTreeSet<String> = lists.flatten().filter_map(|group| Some(group.as_str()?.to_owned())).collect();
        if groups.is_subset(partners) {
            return;
        }
        partners.extend(groups);
    }
}

/// The files by which Bots serves these rows, and those that they import.
fn needed_files(
    plugin: &Plugin,
    routes: &[Fields],
    translations: &[Fields],
    channels: &BTreeSet<String>,
    partners: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut starts: Vec<String> = Vec::new();
    let mut grammars: BTreeSet<(String, String)> = BTreeSet::new();
    for row in translations {
        let part = |name: &str| field(row, name).unwrap_or_default().to_owned();
        starts.push(format!("mappings/{}/{}", part("fromeditype"), part("tscript")));
        grammars.insert((part("fromeditype"), part("frommessagetype")));
        grammars.insert((part("toeditype"), part("tomessagetype")));
    }
    for row in routes {
        let part = |name: &str| field(row, name).unwrap_or_default().to_owned();
        starts.push(format!("routescripts/{}", part("idroute")));
        grammars.insert((part("fromeditype"), part("frommessagetype")));
    }
    starts.extend(channels.iter().map(|channel| format!("communicationscripts/{channel}")));
    let types: BTreeSet<String> = grammars.iter().map(|(kind, _)| kind.clone()).collect();
    starts.extend(grammars.iter().map(|(kind, name)| format!("grammars/{kind}/{name}")));
    let of_types = |path: &String| {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            // Envelopes are named by grammars, and are few.
            ["envelopescripts", kind, ..] => types.contains(kind),
            ["grammars", kind, file] => types.contains(kind) && (file == format!("{kind}.py") || file == "envelope.py"),
            ["grammars", kind, _, ..] => kind == "templatehtml" && types.contains(kind),
            ["partners", kind, file] => types.contains(kind) && partners.contains(file.trim_end_matches(".py")),
            ["charsets", ..] | ["partnerscripts", ..] => true,
            _ => false,
        }
    };
    let mut needed: BTreeSet<String> = plugin.files.keys().filter(|path| of_types(path)).cloned().collect();
    needed.extend(starts.iter().map(|start| format!("{start}.py")).filter(|path| plugin.files.contains_key(path)));
    follow_imports(&plugin.files, needed)
}

fn follow_imports(files: &BTreeMap<String, Vec<u8>>, mut needed: BTreeSet<String>) -> BTreeSet<String> {
    let mut open: Vec<String> = needed.iter().cloned().collect();
    while let Some(path) = open.pop() {
        let text = files.get(&path).map(|text| String::from_utf8_lossy(text)).unwrap_or_default();
        for found in imports(&path, &text, files) {
            if needed.insert(found.clone()) {
                open.push(found);
            }
        }
    }
    needed
}

/// The files of usersys with a module that a script may import: of its own directory, and below usersys.
fn imports(path: &str, text: &str, files: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let parent = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
    let mut found = BTreeSet::new();
    for (module, members) in import_statements(text).iter().flat_map(|statement| imported_modules(statement)) {
        let module = module.strip_prefix("bots.").unwrap_or(module);
        let below = module.strip_prefix("usersys.").unwrap_or(module);
        let relative = below.trim_start_matches('.').replace('.', "/");
        let places = match below.len() - below.trim_start_matches('.').len() {
            0 => vec![relative.clone(), format!("{directory}/{relative}")],
            1 => vec![format!("{directory}/{relative}")],
            _ => vec![format!("{parent}/{relative}")],
        };
        for place in places {
            let place = place.trim_matches('/');
            let members = members.iter().map(|member| format!("{place}/{member}.py"));
            let candidates = [format!("{place}.py"), format!("{place}/__init__.py")].into_iter().chain(members);
            found.extend(candidates.filter(|candidate| files.contains_key(candidate)));
        }
    }
    found
}

/// The import statements of a script, without comments, each with its continuation lines.
fn import_statements(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    while let Some(line) = lines.next() {
        let mut statement = line.to_owned();
        if !(line.starts_with("from ") || line.starts_with("import ")) {
            continue;
        }
        while statement.ends_with('\\') || statement.contains('(') && !statement.contains(')') {
            let Some(next) = lines.next() else { break };
            statement = format!("{} {next}", statement.trim_end_matches('\\'));
        }
        statements.push(statement.replace(['(', ')'], " "));
    }
    statements
}

/// Each module of an import statement, with the names that are imported from it.
fn imported_modules(statement: &str) -> Vec<(&str, Vec<&str>)> {
    if let Some(modules) = statement.strip_prefix("import ") {
        return names_in(modules).into_iter().map(|module| (module, Vec::new())).collect();
    }
    let from = statement.strip_prefix("from ").and_then(|rest| rest.split_once(" import "));
    from.map(|(module, members)| (module.trim(), names_in(members))).into_iter().collect()
}

/// The names in a list, without those after `as`.
fn names_in(list: &str) -> Vec<&str> {
    list.split([',', ';']).filter_map(|item| item.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(fields: Value) -> Fields {
        serde_json::from_value(fields).expect("an object")
    }

    #[test]
    fn all_forms_of_import_are_followed() {
        let script = "import helper, bots.usersys.mappings.shared as alias  # and unused\n\
             from . import (\n    one,  # the first\n    two as second,\n)\n\
             from .records import \\\n    recorddefs\n\
             \tfrom ..common import tools; text = 'import unused'\n";
        let expected = [
            "mappings/common/tools.py",
            "mappings/edifact/helper.py",
            "mappings/edifact/one.py",
            "mappings/edifact/records.py",
            "mappings/edifact/two.py",
            "mappings/shared.py",
        ];
        let names = expected.into_iter().chain(["mappings/edifact/unused.py", "mappings/edifact/second.py"]);
        let files = names.map(|name| (name.to_owned(), Vec::new())).collect();
        let found = imports("mappings/edifact/map.py", script, &files);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn selected_route_includes_its_dependencies() {
        let route = |name: &str, channel: &str| {
            let row = json!({ "idroute": name, "seq": 1, "fromchannel": channel, "fromeditype": "edifact",
                "frommessagetype": "edifact", "translateind": 1 });
            (Table::Route, self::row(row))
        };
        let file = |text: &str| text.as_bytes().to_vec();
        let mut plugin = Plugin {
            rows: vec![
                route("a", "in"),
                route("b", "other"),
                (Table::Channel, row(json!({ "idchannel": "in" }))),
                (Table::Channel, row(json!({ "idchannel": "other" }))),
                (
                    Table::Translation,
                    row(json!({ "fromeditype": "edifact", "frommessagetype": "ORDERS", "tscript": "map",
                    "toeditype": "fixed", "tomessagetype": "flat", "frompartner": "p" })),
                ),
                (Table::Translation, row(json!({ "fromeditype": "csv", "frommessagetype": "x", "tscript": "other" }))),
                (Table::Partner, row(json!({ "idpartner": "p", "group": ["g"] }))),
                (Table::Partner, row(json!({ "idpartner": "g" }))),
                (Table::Partner, row(json!({ "idpartner": "q" }))),
                (Table::CodeList, row(json!({ "ccodeid": "units" }))),
                (Table::CodeList, row(json!({ "ccodeid": "others" }))),
            ],
            files: [
                ("mappings/edifact/map.py", file("from . import helper\nccode('units')")),
                ("mappings/edifact/helper.py", file("")),
                ("mappings/csv/other.py", file("")),
                ("grammars/edifact/ORDERS.py", file("from .records import recorddefs")),
                ("grammars/edifact/records.py", file("")),
                ("grammars/edifact/edifact.py", file("")),
                ("grammars/edifact/INVOIC.py", file("")),
                ("communicationscripts/other.py", file("")),
            ]
            .map(|(path, text)| (path.to_owned(), text))
            .into(),
            ignored: Vec::new(),
        };
        select_routes(&mut plugin, &["a".to_owned()]).expect("it is there");
        let names: Vec<String> = plugin.rows.iter().map(|(table, row)| table.name_of(row)).collect();
        assert_eq!(names, ["a 1", "in", "edifact ORDERS p", "p", "g", "units"]);
        let files: Vec<&String> = plugin.files.keys().collect();
        let expected = [
            "grammars/edifact/ORDERS.py",
            "grammars/edifact/edifact.py",
            "grammars/edifact/records.py",
            "mappings/edifact/helper.py",
            "mappings/edifact/map.py",
        ];
        assert_eq!(files, expected);
        let missing = select_routes(&mut plugin, &["z".to_owned()]).expect_err("it is not there");
        assert_eq!(missing.to_string(), "there is no route z");
    }
}
