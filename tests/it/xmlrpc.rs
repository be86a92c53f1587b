//! bots-ctl's XML-RPC compared with Python's, in both directions.
//!
//! `BOTS_CTL_TEST_ROUNDS=20 tests/run.sh xmlrpc::` compares twenty times as many calls.

use std::io::Write;
use std::process::{Command, Stdio};

use bots_ctl::jobs::command_line::JobCommand;
use bots_ctl::jobs::xmlrpc::{Response, Value, read_answer, read_call, write_answer, write_call, write_fault};
use serde_json::json;

use crate::support::random::Random;
use crate::support::sandbox::{python, rounds};

/// Reads lines of JSON: hex of bots-ctl's output, for which it prints the parsed value; or a call, which it prints in
/// hex.
const PYTHON: &str = r#"
import json, sys, xmlrpc.client as x
for line in sys.stdin:
    question = json.loads(line)
    if "ours" in question:
        try:
            arguments, method = x.loads(bytes.fromhex(question["ours"]))
            answer = [method, list(arguments)]
        except x.Fault as fault:
            answer = [fault.faultCode, fault.faultString]
    else:
        answer = x.dumps(tuple(question["call"][1]), question["call"][0]).encode().hex()
    print(json.dumps(answer))
"#;

const PIECES: [&str; 16] = [
    "bots-engine",
    "-c/path",
    " ",
    "",
    "a",
    "\u{fc}",
    "\u{1f600}",
    "<b>",
    "&amp;",
    "]]>",
    "\"'",
    "\n",
    "\t",
    "\r",
    "\r\n",
    "\u{85}",
];

fn ask(questions: &[serde_json::Value]) -> Vec<serde_json::Value> {
    let mut python = Command::new(python());
    python.args(["-X", "utf8", "-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().expect("Python runs");
    let lines: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let mut input = python.stdin.take().expect("it is piped");
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads all");
    let text = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let hex = hex.as_str().expect("hex").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    hex.chunks(2).map(byte).collect()
}

fn text(random: &mut Random) -> String {
    (0..random.below(5)).map(|_| PIECES[random.below(PIECES.len())]).collect()
}

fn words(random: &mut Random) -> Vec<String> {
    (0..random.below(4)).map(|_| text(random)).collect()
}

#[apply(test)]
fn bots_ctl_reads_calls_written_by_python() {
    let mut random = Random(11);
    for _ in 0..rounds(1) {
        let calls: Vec<_> = (0..3000).map(|_| (words(&mut random), random.below(100))).collect();
        let questions = calls.iter().map(|(words, priority)| json!({"call": ["addjob", [words, priority]]}));
        for ((words, priority), sent) in calls.iter().zip(ask(&questions.collect::<Vec<_>>())) {
            let call = read_call(&bytes(&sent)).unwrap_or_else(|fault| panic!("{words:?}: {fault}"));
            // In Python's output, line endings are unescaped: XML parsers read each as \n.
            let read: Vec<String> = words.iter().map(|word| word.replace("\r\n", "\n").replace('\r', "\n")).collect();
            let priority = Value::Integer(i32::try_from(*priority).expect("small"));
            let task = JobCommand::new(read).expect("a task");
            assert_eq!((call.method.as_str(), call.arguments), ("addjob", vec![task.to_value(), priority]));
        }
    }
}

#[apply(test)]
fn python_reads_messages_written_by_bots_ctl() {
    let mut random = Random(12);
    for _ in 0..rounds(1) {
        let (mut questions, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..1000 {
            let (words, text) = (words(&mut random), text(&mut random));
            let task = JobCommand::new(words.clone()).expect("a task").to_value();
            let number = i32::try_from(random.below(1000)).expect("small") - 500;
            let job = Value::Array(vec![Value::Integer(number), Value::Double(1.5), task.clone()]);
            questions.push(json!({"ours": hex(&write_call("m", vec![task, Value::Integer(number)]))}));
            expected.push(json!(["m", [words, number]]));
            questions.push(json!({"ours": hex(&write_answer(job))}));
            expected.push(json!([null, [[number, 1.5, words]]]));
            questions.push(json!({"ours": hex(&write_fault(text.as_str()))}));
            expected.push(json!([1, text]));
        }
        assert_eq!(ask(&questions), expected);
    }
}

#[apply(test)]
fn written_messages_read_back_unchanged() {
    let mut random = Random(13);
    for _ in 0..1000 {
        let task = JobCommand::new(words(&mut random)).expect("a task").to_value();
        let read = read_call(write_call("m", vec![task.clone()]).as_bytes()).expect("a call");
        assert_eq!(read.arguments, std::slice::from_ref(&task));
        assert_eq!(read_answer(write_answer(task.clone()).as_bytes()), Ok(Response::Value(task)));
    }
}
