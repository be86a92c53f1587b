//! A web server that takes the place of Bots's: a Python script that answers every request.

const SCRIPT: &str = r#"#!/usr/bin/env python3
import http.server, os, signal, subprocess, sys, time
here = os.path.dirname(os.path.abspath(__file__))
SETUP
class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()
    do_GET = do_HEAD
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
LISTENING
try:
    server.serve_forever()
except KeyboardInterrupt:
    pass
"#;

/// The script. It runs the lines of `setup` first and those of `listening` once it has its port; in both `here` is its directory.
pub fn web_server(setup: &str, listening: &str) -> String {
    SCRIPT.replacen("SETUP", setup, 1).replacen("LISTENING", listening, 1)
}

/// A line of `setup` that starts a command of a shell.
pub fn start(command: &str) -> String {
    format!("subprocess.Popen(['sh', '-c', {command:?}])\n")
}
