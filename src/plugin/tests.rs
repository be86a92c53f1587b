//! For any configuration and any plugin: an apply has nothing to do after itself.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::diff::{Activation, DiffOptions, Plan, plan};
use super::normalize::{exported_rows, normalize, secret_place};
use super::{Plugin, Table, index};
use crate::bots::plugin_session::{FieldKind, FieldType, Fields, StoredConfiguration, StoredRow, StoredTable};

const BOTSSYS: &str = "/env/botssys";

fn field(kind: FieldKind, null: bool, default: Value) -> FieldType {
    FieldType { kind, null, strip: true, max: Some(12), default }
}

/// A part of each table that matters here, as Bots describes it.
fn fields_of(table: Table) -> BTreeMap<String, FieldType> {
    let text = || field(FieldKind::Text, false, json!(""));
    let flag = || field(FieldKind::Bool, false, json!(false));
    let key = || field(FieldKind::Key, true, Value::Null);
    let fields = match table {
        Table::Channel => vec![
            ("idchannel", text()),
            ("path", FieldType { max: None, ..text() }),
            ("secret", FieldType { max: None, ..text() }),
            ("port", field(FieldKind::Integer, true, json!(0))),
        ],
        Table::Partner => vec![
            ("idpartner", text()),
            ("active", flag()),
            ("startdate", field(FieldKind::Date, true, Value::Null)),
            ("group", field(FieldKind::List, false, json!([]))),
        ],
        Table::Translation => vec![
            ("fromeditype", text()),
            ("frommessagetype", text()),
            ("alt", text()),
            ("frompartner", key()),
            ("topartner", key()),
            ("tscript", text()),
            ("active", flag()),
        ],
        Table::Route => vec![
            ("idroute", text()),
            ("seq", field(FieldKind::Integer, false, json!(1))),
            ("fromchannel", key()),
            ("active", flag()),
        ],
        _ => Vec::new(),
    };
    fields.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
}

fn name() -> impl Strategy<Value = Value> {
    select(vec!["a", "b", "c"]).prop_map(Value::from)
}

fn name_or_none() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), Just(json!("")), name()]
}

fn row(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Fields> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    values.prop_map(move |values| names.iter().map(|name| (*name).to_owned()).zip(values).collect()).boxed()
}

fn any_row(table: Table) -> BoxedStrategy<Fields> {
    let flag = || any::<bool>().prop_map(Value::from).boxed();
    let texts = |texts: &[&'static str]| select(texts.to_vec()).prop_map(Value::from).boxed();
    match table {
        Table::Channel => row(vec![
            ("idchannel", name().boxed()),
            ("path", texts(&["", "botssys/in", "/env/botssys/in", "/env/botssysx", " /data "])),
            ("secret", texts(&["", "open", "sesame"])),
            ("port", prop_oneof![Just(Value::Null), Just(json!(21)), Just(json!("22"))].boxed()),
        ]),
        Table::Partner => row(vec![
            ("idpartner", name().boxed()),
            ("active", prop_oneof![any::<bool>().prop_map(Value::from), Just(json!(1))].boxed()),
            ("startdate", prop_oneof![Just(Value::Null), Just(json!("2026-01-31"))].boxed()),
            ("group", vec(name(), 0..3).prop_map(Value::from).boxed()),
        ]),
        Table::Translation => row(vec![
            ("fromeditype", texts(&["edifact", "x12"])),
            ("frommessagetype", texts(&["ORDERS"])),
            ("alt", texts(&["", "x"])),
            ("frompartner", name_or_none().boxed()),
            ("topartner", Just(Value::Null).boxed()),
            ("tscript", texts(&["one", "two"])),
            ("active", flag()),
        ]),
        _ => row(vec![
            ("idroute", name().boxed()),
            ("seq", prop_oneof![Just(json!(1)), Just(json!(2))].boxed()),
            ("fromchannel", name_or_none().boxed()),
            ("active", flag()),
        ]),
    }
}

/// Rows of all tables; channels and partners with every name, so that no reference leads nowhere.
fn any_rows() -> impl Strategy<Value = Vec<(Table, Fields)>> {
    let some =
        |table| vec(any_row(table), 0..5).prop_map(move |rows| rows.into_iter().map(|row| (table, row)).collect());
    let named = |table: Table| {
        let of = move |name: &'static str| {
            any_row(table).prop_map(move |mut row| {
                row.insert(table.key()[0].to_owned(), json!(name));
                (table, row)
            })
        };
        (of("a"), of("b"), of("c")).prop_map(|(a, b, c)| vec![a, b, c]).boxed()
    };
    let parts: Vec<BoxedStrategy<Vec<(Table, Fields)>>> = vec![
        named(Table::Channel),
        named(Table::Partner),
        some(Table::Translation).boxed(),
        some(Table::Route).boxed(),
    ];
    parts.prop_map(|parts| parts.into_iter().flatten().collect())
}

fn empty() -> StoredConfiguration {
    let tables =
        Table::ALL.map(|table| (table.model().to_owned(), StoredTable { fields: fields_of(table), rows: Vec::new() }));
    StoredConfiguration { botssys: BOTSSYS.to_owned(), tables: tables.into() }
}

/// The content of the database after a change.
fn written(mut stored: StoredConfiguration, plan: &Plan) -> StoredConfiguration {
    let mut next = 1_000_000;
    for change in &plan.rows {
        let rows = &mut stored.tables.get_mut(change.table.model()).expect("it is known").rows;
        match (&change.before, &change.after) {
            (Some(before), after) => {
                let place = rows.iter().position(|row| row.pk == change.pk).expect("it is there");
                assert_eq!(rows[place].fields, *before);
                match after {
                    Some(after) => rows[place].fields = after.clone(),
                    None => drop(rows.remove(place)),
                }
            }
            (None, after) => {
                next += 1;
                while rows.iter().any(|row| row.pk == next) {
                    next += 1;
                }
                rows.push(StoredRow { pk: json!(next), fields: after.clone().expect("it is made") });
            }
        }
    }
    stored
}

fn applied(stored: &StoredConfiguration, rows: &[(Table, Fields)], options: DiffOptions) -> Plan {
    let mut plugin = Plugin { rows: rows.to_vec(), ..Plugin::default() };
    normalize(&mut plugin, stored).expect("every value can be kept");
    plan(&plugin, stored, &BTreeMap::new(), options).expect("nothing is missing")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn second_apply_changes_nothing(
        first in any_rows(),
        second in any_rows(),
        activation in select(vec![Activation::AsInPlugin, Activation::Activate, Activation::Keep]),
        prune in any::<bool>(),
    ) {
        let stored = written(empty(), &applied(&empty(), &first, DiffOptions::default()));
        let options = DiffOptions { activation, prune };
        let change = applied(&stored, &second, options);
        let after = written(stored, &change);
        let again = applied(&after, &second, options);
        prop_assert!(again.is_empty(), "{again:#?}");
    }

    #[test]
    fn export_round_trips_without_changes_or_secrets(rows in any_rows()) {
        let stored = written(empty(), &applied(&empty(), &rows, DiffOptions::default()));
        let text = index::write(&exported_rows(&stored), "4.0");
        for secret in ["open", "sesame"] {
            let told = format!("\"secret\": \"{secret}\"");
            prop_assert!(!text.contains(&told));
        }
        let read = index::read(&text).expect("it is an index").rows;
        let same = applied(&stored, &read, DiffOptions { activation: Activation::AsInPlugin, prune: true });
        prop_assert!(same.is_empty(), "{same:#?}");
        // In another environment, a missing secret is reported.
        let needs_secret = text.contains(&secret_place("a"));
        let mut plugin = Plugin { rows: read, ..Plugin::default() };
        normalize(&mut plugin, &empty()).expect("every value can be kept");
        let elsewhere = plan(&plugin, &empty(), &BTreeMap::new(), DiffOptions::default());
        prop_assert!(!needs_secret || elsewhere.is_err());
    }
}
