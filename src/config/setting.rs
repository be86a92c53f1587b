//! A setting: where it is written, what its value must be, and the text that documentation shows.

/// The variable that names `bots-ctl.toml`.
pub const CONFIG_FILE_ENV: &str = "BOTS_CTL_CONFIG";

/// What a TOML value of a setting must be; environment variables and flags are always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A string.
    Text,
    /// An integer, or a string that holds one.
    Integer,
    /// A boolean, or a string that says one.
    Boolean,
    /// A string such as `30s`, or a number of seconds.
    Duration,
    /// An array of strings, or one string with commas.
    List,
    /// No setting has it: a date, an array of anything but strings.
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
    pub shape: ValueType,
    /// The default as text: a value, or the rule by which [`super::layers`] finds one.
    pub default: &'static str,
    /// Never shown; may also be given as `NAME_FILE` / `key_file`.
    pub secret: bool,
    /// One line for documentation and `config show`.
    pub help: &'static str,
}

impl ValueType {
    /// Whether a value of TOML can be one of this type. A string can always be: the parser judges it.
    pub fn accepts(self, found: Self) -> bool {
        match found {
            Self::Text => true,
            Self::Integer => matches!(self, Self::Integer | Self::Duration),
            found => found == self,
        }
    }

    /// For "expected …".
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Integer => "an integer",
            Self::Boolean => "true or false",
            Self::Duration => "a duration such as \"30s\"",
            Self::List | Self::Other => "an array of strings",
        }
    }
}
