//! The tables of Bots's configuration: what identifies a row, and how messages name it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bots::plugin_session::Fields;

/// A table of the configuration, in the order in which rows refer to each other. The journal has the name of Bots's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Table {
    CodeList,
    Code,
    Channel,
    Partner,
    Address,
    Translation,
    Route,
    Confirmation,
}

impl From<Table> for &'static str {
    fn from(table: Table) -> Self {
        table.model()
    }
}

impl TryFrom<String> for Table {
    type Error = String;

    fn try_from(model: String) -> Result<Self, String> {
        Self::of_model(&model).ok_or_else(|| format!("there is no table {model}"))
    }
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::CodeList,
        Self::Code,
        Self::Channel,
        Self::Partner,
        Self::Address,
        Self::Translation,
        Self::Route,
        Self::Confirmation,
    ];

    /// The name of Bots's model, and the word plugintype of an index.
    #[must_use]
    pub fn model(self) -> &'static str {
        match self {
            Self::CodeList => "ccodetrigger",
            Self::Code => "ccode",
            Self::Channel => "channel",
            Self::Partner => "partner",
            Self::Address => "chanpar",
            Self::Translation => "translate",
            Self::Route => "routes",
            Self::Confirmation => "confirmrule",
        }
    }

    /// The table of a plugintype.
    #[must_use]
    pub fn of_model(model: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.model() == model)
    }

    /// The word for a row in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::CodeList => "code list",
            Self::Code => "code",
            Self::Channel => "channel",
            Self::Partner => "partner",
            Self::Address => "address",
            Self::Translation => "translation",
            Self::Route => "route",
            Self::Confirmation => "confirmation",
        }
    }

    /// The fields by which Bots finds the row of a plugin in its database.
    #[must_use]
    pub fn key(self) -> &'static [&'static str] {
        match self {
            Self::CodeList => &["ccodeid"],
            Self::Code => &["ccodeid", "leftcode", "rightcode"],
            Self::Channel => &["idchannel"],
            Self::Partner => &["idpartner"],
            Self::Address => &["idpartner", "idchannel"],
            Self::Translation => &["fromeditype", "frommessagetype", "alt", "frompartner", "topartner"],
            Self::Route => &["idroute", "seq"],
            Self::Confirmation => &[
                "confirmtype",
                "ruletype",
                "negativerule",
                "idroute",
                "idchannel",
                "messagetype",
                "frompartner",
                "topartner",
            ],
        }
    }

    /// Whether no two rows have the same key.
    #[must_use]
    pub fn has_unique_key(self) -> bool {
        !matches!(self, Self::Translation | Self::Confirmation)
    }

    /// What identifies a row, as text.
    #[must_use]
    pub fn key_of(self, row: &Fields) -> Vec<String> {
        self.key().iter().map(|field| row.get(*field).map_or_else(String::new, Value::to_string)).collect()
    }

    /// The name of a row in messages: the filled fields of its key.
    #[must_use]
    pub fn name_of(self, row: &Fields) -> String {
        let filled = self.key().iter().filter_map(|field| row.get(*field)).filter_map(|value| match value {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        filled.collect::<Vec<_>>().join(" ")
    }
}

/// Fields that hold a secret.
#[must_use]
pub fn is_secret(table: Table, field: &str) -> bool {
    table == Table::Channel && field == "secret"
}

/// Fields of a channel with a path that may lead into botssys.
pub const PATHS: [&str; 3] = ["path", "testpath", "archivepath"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_names_tables_as_bots_does() {
        for table in Table::ALL {
            let text = serde_json::to_string(&table).expect("it has a name");
            assert_eq!(text, format!("\"{}\"", table.model()));
            assert_eq!(serde_json::from_str::<Table>(&text).expect("it is known"), table);
        }
        let fault = serde_json::from_str::<Table>("\"x\"").expect_err("it is unknown").to_string();
        assert!(fault.starts_with("there is no table x"), "{fault}");
    }
}
