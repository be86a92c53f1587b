//! The wire format of Bots's job queue: calls and answers in XML-RPC. Their cost is bounded: document types, whose entities
//! expand, and deeper nesting than a call needs are refused.

use dxr::{Fault, FaultResponse, MethodCall, MethodResponse};
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Value as Json, json};

pub use dxr::Value;

/// Bytes of a call. A job is a command line.
pub const MAX_CALL: usize = 64 * 1024;

/// Bytes of an answer: a list of very many jobs.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// Depth of elements. A string within an array needs eight, a value of a structure within an array eleven.
const MAX_DEPTH: usize = 16;

/// The fault code of Python's server, whatever the fault.
const FAULT: i32 = 1;

/// A method call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The method.
    pub method: String,
    /// Its arguments.
    pub arguments: Vec<Value>,
}

/// The response to a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Value(Value),
    /// Why the server does not perform the call.
    Fault(String),
}

/// Reads a call.
///
/// # Errors
/// Why it is not a call, for the client.
pub fn read_call(body: &[u8]) -> Result<Call, String> {
    let text = checked(body)?;
    let call = MethodCall::from_xml(text).map_err(|_| "the body is not an XML-RPC call".to_owned())?;
    Ok(Call { method: call.name.into_owned(), arguments: call.params })
}

/// Writes a call.
#[must_use]
pub fn write_call(method: &str, arguments: Vec<Value>) -> String {
    in_xml(MethodCall { name: method.into(), params: arguments }.to_xml())
}

/// Writes an answer.
#[must_use]
pub fn write_answer(value: Value) -> String {
    in_xml(MethodResponse { value }.to_xml())
}

/// Writes a fault.
#[must_use]
pub fn write_fault(text: impl Into<String>) -> String {
    in_xml(FaultResponse { fault: Fault::new(FAULT, text.into()) }.to_xml())
}

/// Reads an answer or a fault.
///
/// # Errors
/// When it is neither.
pub fn read_answer(body: &[u8]) -> Result<Response, String> {
    let text = checked(body)?;
    if let Ok(response) = MethodResponse::from_xml(text) {
        return Ok(Response::Value(response.value));
    }
    let fault = FaultResponse::from_xml(text).map_err(|_| "the body is not an XML-RPC response".to_owned())?;
    Ok(Response::Fault(fault.fault.string().to_owned()))
}

/// A value as JSON.
#[must_use]
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Integer(number) => json!(number),
        Value::Double(number) => json!(number),
        Value::String(text) => json!(text),
        Value::Array(values) => values.iter().map(to_json).collect(),
        Value::Struct(members) => members.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
        _ => Json::Null,
    }
}

/// The values of this module can always be written.
fn in_xml(written: Result<String, dxr::Error>) -> String {
    format!("<?xml version='1.0'?>\n{}", written.unwrap_or_default())
}

/// Returns the text if parsing it is safe: the parser recurses as deep as the elements do.
fn checked(body: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8 text".to_owned())?;
    let mut reader = Reader::from_str(text);
    let mut depth = 0_usize;
    loop {
        match reader.read_event() {
            Ok(Event::Start(_)) if depth >= MAX_DEPTH => return Err(format!("more than {MAX_DEPTH} elements deep")),
            Ok(Event::Start(_)) => depth += 1,
            Ok(Event::End(_)) => depth = depth.saturating_sub(1),
            Ok(Event::DocType(_)) => return Err("document types and entities are not accepted".to_owned()),
            Ok(Event::Eof) => return Ok(text),
            Ok(_) => {}
            // The text itself may hold characters that an answer cannot.
            Err(_) => return Err(format!("invalid XML at byte {}", reader.error_position())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = "<?xml version=\"1.0\"?><methodCall><methodName>addjob</methodName><params>
<param><value><array><data><value><string>bots-engine</string></value>
<value>-c/path/config</value></data></array></value></param>
<param><value><i4>5</i4></value></param></params></methodCall>";

    #[test]
    fn calls_of_all_clients_are_parsed() {
        let argv = ["bots-engine", "-c/path/config"].map(|word| Value::String(word.to_owned()));
        let expected =
            Call { method: "addjob".to_owned(), arguments: vec![Value::Array(argv.to_vec()), Value::Integer(5)] };
        assert_eq!(read_call(CALL.as_bytes()).as_ref(), Ok(&expected));
        let with_int = CALL.replace("i4>", "int>");
        assert_eq!(read_call(with_int.as_bytes()).as_ref(), Ok(&expected));
        let again = write_call(&expected.method, expected.arguments.clone());
        assert_eq!(read_call(again.as_bytes()), Ok(expected));
        for none in ["<params></params>", "<params/>", ""] {
            let call = format!("<methodCall><methodName>listjobs</methodName>{none}</methodCall>");
            let expected = Call { method: "listjobs".to_owned(), arguments: Vec::new() };
            assert_eq!(read_call(call.as_bytes()), Ok(expected));
        }
        let empty = CALL.replace("-c/path/config", "").replace("<string>bots-engine</string>", "<string></string>");
        let Value::Array(words) = &read_call(empty.as_bytes()).expect("a call").arguments[0] else {
            panic!("an array")
        };
        assert_eq!(words, &[Value::String(String::new()), Value::String(String::new())]);
    }

    #[test]
    fn special_characters_survive_round_trip() {
        let text = "a<b>&\"c' ü 日本 ]]> \t end";
        let written = write_call("m", vec![Value::String(text.to_owned())]);
        assert_eq!(read_call(written.as_bytes()).expect("a call").arguments, [Value::String(text.to_owned())]);
    }

    #[test]
    fn answers_and_faults_are_distinguished() {
        let value = Value::Array(vec![Value::Integer(0)]);
        assert_eq!(read_answer(write_answer(value.clone()).as_bytes()), Ok(Response::Value(value)));
        assert_eq!(read_answer(write_fault("no <b>").as_bytes()), Ok(Response::Fault("no <b>".to_owned())));
        assert!(read_answer(b"<html/>").is_err());
    }

    #[test]
    fn document_types_and_deep_nesting_are_rejected() {
        let bomb = format!("<!DOCTYPE x [<!ENTITY a \"aaaa\">]>{}", CALL.replace("bots-engine", "&a;"));
        assert!(read_call(bomb.as_bytes()).is_err_and(|text| text.contains("entities")));
        assert!(read_call(CALL.replace("bots-engine", "&a;").as_bytes()).is_err());
        let levels = MAX_CALL / "<value><array><data>".len();
        let deep =
            format!("<methodCall><methodName>m</methodName><params><param>{}", "<value><array><data>".repeat(levels));
        assert!(read_call(deep.as_bytes()).is_err_and(|text| text.contains("deep")));
    }

    /// A fault is an answer: what XML cannot hold must not come back in it.
    #[test]
    fn parse_error_does_not_quote_input() {
        let fault = read_call(b"<methodCall><a\x01\xef\xbf\xbe></b></methodCall>").expect_err("it is not XML");
        assert_eq!(fault, "invalid XML at byte 19");
    }

    /// Every prefix, every byte changed, bytes doubled and dropped: an answer or an error, never a panic or a hang.
    #[test]
    fn malformed_calls_never_panic() {
        let original = CALL.as_bytes();
        for end in 0..original.len() - 1 {
            assert!(read_call(&original[..end]).is_err());
        }
        let mut seed = 1_u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(seed >> 8).expect("24 bits fit") % below
        };
        for _ in 0..20_000 {
            let mut body = original.to_vec();
            for _ in 0..=random(4) {
                let position = random(body.len());
                match random(4) {
                    0 => body[position] = u8::try_from(random(256)).expect("a byte"),
                    1 => drop(body.remove(position)),
                    2 => body.insert(position, b"<>&;/!?\"="[random(9)]),
                    _ => body.extend_from_within(position..),
                }
            }
            let _ = read_call(&body);
            let _ = read_answer(&body);
        }
    }
}
