//! XML-RPC: a parsed message can be written and parsed again, its memory is bounded by the input, and an error has a
//! text that can be sent.
//!
//! The input is used as a message, and as the recipe of a value.

use bots_ctl::jobs::command_line::JobCommand;
use bots_ctl::jobs::xmlrpc::{Response, Value, read_answer, read_call, write_answer, write_call, write_fault};

/// Arrays and structures within each other that are read, three elements each; and written, where all values name their type.
const DEEPEST: usize = 4;
const DEEPEST_WRITTEN: usize = 3;

/// Reads, writes and reads.
pub fn check(data: &[u8]) {
    check_call(data);
    check_answer(data);
    let value = Recipe(data).value(DEEPEST_WRITTEN);
    let written = write_call("m", vec![value.clone()]);
    let read = read_call(written.as_bytes()).unwrap_or_else(|fault| panic!("{fault}: {written}"));
    assert!(same(&read.arguments, std::slice::from_ref(&value)), "{read:?} {value:?}");
    check_value(value);
}

/// It is the same after writing and reading.
fn check_value(value: Value) {
    match read_answer(write_answer(value.clone()).as_bytes()) {
        Ok(Response::Value(read)) => assert!(same(&[read], &[value])),
        other => panic!("{value:?} became {other:?}"),
    }
}

fn check_call(data: &[u8]) {
    match read_call(data) {
        Ok(call) => {
            assert!(cost(&call.arguments) <= data.len());
            assert!(depth(&call.arguments) <= DEEPEST);
            call.arguments.iter().for_each(check_task);
            if depth(&call.arguments) > DEEPEST_WRITTEN {
                return;
            }
            let written = write_call(&call.method, call.arguments.clone());
            let again = read_call(written.as_bytes()).unwrap_or_else(|fault| panic!("{fault}: {written}"));
            assert_eq!(again.method, call.method);
            assert!(same(&again.arguments, &call.arguments), "{call:?} became {again:?}");
        }
        Err(fault) => check_fault(&fault),
    }
}

fn check_answer(data: &[u8]) {
    match read_answer(data) {
        Ok(Response::Value(value)) if depth(std::slice::from_ref(&value)) > DEEPEST_WRITTEN => {}
        Ok(Response::Value(value)) => check_value(value),
        Ok(Response::Fault(fault)) => {
            assert_eq!(read_answer(write_fault(fault.clone()).as_bytes()), Ok(Response::Fault(fault)));
        }
        Err(fault) => check_fault(&fault),
    }
}

/// A fault is for any client: only characters that XML has, and no more than a line of them.
fn check_fault(fault: &str) {
    assert!(!super::has_control(fault) && fault.len() < 500, "{fault:?}");
    assert!(JobCommand::new(vec![fault.to_owned()]).is_ok(), "{fault:?}");
    assert_eq!(read_answer(write_fault(fault).as_bytes()), Ok(Response::Fault(fault.to_owned())));
}

fn check_task(value: &Value) {
    let Ok(task) = JobCommand::from_value(value) else { return };
    assert_eq!(JobCommand::from_json(&task.to_json()), task);
    assert!(same(&[task.to_value()], std::slice::from_ref(value)));
    assert!(!super::has_control(&task.to_string().replace('\t', "")));
}

/// Values and bytes of text: each takes at least as many bytes on the wire.
fn cost(values: &[Value]) -> usize {
    let one = |value: &Value| match value {
        Value::Array(values) => cost(values),
        Value::Struct(members) => {
            members.iter().map(|(name, value)| name.len() + cost(std::slice::from_ref(value))).sum()
        }
        Value::String(text) => text.len(),
        _ => 0,
    };
    values.iter().map(|value| 1 + one(value)).sum()
}

fn depth(values: &[Value]) -> usize {
    let one = |value: &Value| match value {
        Value::Array(values) => 1 + depth(values),
        Value::Struct(members) => 1 + depth(&members.values().cloned().collect::<Vec<_>>()),
        _ => 0,
    };
    values.iter().map(one).max().unwrap_or_default()
}

/// Equality, except that NaN equals itself.
fn same(one: &[Value], other: &[Value]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|pair| match pair {
            (Value::Double(one), Value::Double(other)) => one == other || (one.is_nan() && other.is_nan()),
            (Value::Array(one), Value::Array(other)) => same(one, other),
            (Value::Struct(one), Value::Struct(other)) => {
                let values = |members: &std::collections::BTreeMap<String, Value>| -> Vec<Value> {
                    members.values().cloned().collect()
                };
                one.keys().eq(other.keys()) && same(&values(one), &values(other))
            }
            (one, other) => one == other,
        })
}

/// Makes a value of bytes.
struct Recipe<'a>(&'a [u8]);

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.byte() % 16).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        // The characters permitted in a task or a fault.
        String::from_utf8_lossy(text).chars().filter(|c| JobCommand::new(vec![c.to_string()]).is_ok()).collect()
    }

    /// As ours are; one without any is not read again.
    fn name(&mut self) -> String {
        self.text().chars().filter(char::is_ascii_alphanumeric).chain(['n']).collect()
    }

    /// The kinds that we send.
    fn value(&mut self, depth: usize) -> Value {
        match self.byte() % 5 {
            0 if depth > 0 => Value::Array((0..self.byte() % 4).map(|_| self.value(depth - 1)).collect()),
            1 if depth > 0 => {
                Value::Struct((0..self.byte() % 4).map(|_| (self.name(), self.value(depth - 1))).collect())
            }
            2 => Value::Integer(i32::from_le_bytes(std::array::from_fn(|_| self.byte()))),
            3 => Value::Double(f64::from(u32::from_le_bytes(std::array::from_fn(|_| self.byte()))) / 1000.0),
            _ => Value::String(self.text()),
        }
    }
}
