//! A setting: its names, its type, and its help text.

/// The variable that names `bots-ctl.toml`.
pub const CONFIG_FILE_ENV: &str = "BOTS_CTL_CONFIG";

/// The type of a setting's TOML value; environment variables and flags are always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A string.
    Text,
    /// An integer, or a string that holds one.
    Integer,
    /// A boolean, or a string with one.
    Boolean,
    /// A string such as `30s`, or a number of seconds.
    Duration,
    /// An array of strings or integers, or one string with commas.
    List,
    /// Not the type of any setting: a date, or an array of other items.
    Other,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Dotted path in the TOML file.
    pub path: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// The type of its TOML value.
    pub value_type: ValueType,
    /// The default as text: a value, or a rule that [`super::layers`] evaluates.
    pub default: &'static str,
    /// Never printed. May also be given as a file: variable `NAME_FILE`, or key `key_file`.
    pub secret: bool,
    /// One line for documentation and `config show`.
    pub help: &'static str,
}

impl ValueType {
    /// Whether a TOML value of type `found` is acceptable. A string always is: the parser checks it.
    pub fn accepts(self, found: Self) -> bool {
        match found {
            Self::Text => true,
            Self::Integer => matches!(self, Self::Integer | Self::Duration),
            found => found == self,
        }
    }

    /// For messages: "expected …".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "an integer",
            Self::Boolean => "true or false",
            Self::Duration => "a duration such as \"30s\"",
            Self::List | Self::Other => "an array of strings or integers",
        }
    }
}
