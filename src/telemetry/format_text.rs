//! Our own lines as text: what is told in them may come from others, and one line stays one line.

use std::fmt::Debug;

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use super::escape::escape_control;

/// Writes message and values with escapes for whatever a terminal would obey: here, since no caller can forget it here.
pub(super) fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", escape_control(&text)),
            name => write!(writer, "{name}={}", escape_control(&text)),
        }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{info, subscriber::with_default};

    use super::*;
    use crate::telemetry::format_json::JsonFormat;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_message_of_ours_has_a_raw_control_character_in_any_shape() {
        let (text, json) = (Written::default(), Written::default());
        let (to_text, to_json) = (text.clone(), json.clone());
        let builder = tracing_subscriber::fmt().with_ansi(false);
        let as_text = builder.compact().with_target(false).fmt_fields(fields()).with_writer(move || to_text.clone());
        let as_json = tracing_subscriber::fmt().event_format(JsonFormat).with_writer(move || to_json.clone());
        let tell = || info!(files = 2, "in \u{9b}2J\u{202e}\nforged \u{7f}\u{2066}");
        with_default(as_text.finish(), tell);
        with_default(as_json.finish(), tell);
        let [text, json] =
            [text, json].map(|all| String::from_utf8(all.0.lock().expect("no panic").clone()).expect("text"));
        assert!(text.ends_with("INFO in \\u{9b}2J\\u{202e}\\nforged \\u{7f}\\u{2066} files=2\n"), "{text:?}");
        assert!(json.contains(r#""message":"in \u009b2J\u202e\nforged \u007f\u2066""#), "{json:?}");
        assert_eq!((text.lines().count(), json.lines().count()), (1, 1));
    }
}
