//! The Bots under test: its package, its version, and whether it works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::process::finish;
use crate::support::sandbox::{Sandbox, free_port, python};

/// A sandbox from which no Bots can be found.
pub fn without_bots() -> Sandbox {
    let mut sandbox = Sandbox::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).filter(|dir| !dir.join("bots-webserver").exists());
    let path = std::env::join_paths(dirs).expect("parts of a path make a path");
    sandbox.unset("BOTS_BIN_DIR").set("PATH", path.to_str().expect("PATH is text"));
    sandbox
}

/// The installed package of Bots.
pub fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| package_of(&python()))
}

/// The package of the Bots that this Python has.
pub fn package_of(python: &Path) -> PathBuf {
    let question = "import bots, os; print(os.path.dirname(os.path.abspath(bots.__file__)))";
    let answer = Command::new(python).args(["-c", question]).current_dir("/").output().expect("Python starts");
    PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim())
}

/// Whether the Bots under test is 3.3.1 or older.
pub fn is_bots_3() -> bool {
    !package().join("migrations").is_dir()
}

/// A user's own settings.py.
pub fn own_settings() -> String {
    let template = fs::read_to_string(package().join("install/settings.py")).expect("Bots ships a template");
    let added = "
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATABASES['default']['NAME'] = os.path.join(_ROOT, 'botssys', 'sqlitedb', 'botsdb')
STATIC_ROOT = os.path.join(_ROOT, 'botssys', 'static')
SECRET_KEY = 'written-by-hand-and-long-enough-for-everything-here'
";
    template + added
}

/// Whether this user can log in to the web UI that runs for this sandbox.
pub fn can_log_in(sandbox: &Sandbox, user: &str, password: &str) -> bool {
    let mut client = Command::new(python());
    client.args(["-c", LOG_IN, &format!("http://127.0.0.1:{}", sandbox.web_port), user, password]);
    finish(client).expect_code(0).stdout.trim().trim_end_matches('/').ends_with("home")
}

/// Bots itself proves that a database is good: the engine runs, and the web UI lets its admin in.
pub fn expect_bots_works(sandbox: &Sandbox, password: &str) {
    // The engine's lock is a port of this machine, and other tests may run on it.
    sandbox.set_ini("settings", "port", &free_port().to_string());
    sandbox.engine(&["--new"]).expect_code(0);
    let web = sandbox.webserver();
    assert!(can_log_in(sandbox, "admin", password), "the admin cannot log in: {}", web.report());
}

/// Logs in like a browser; prints the resulting address.
pub const LOG_IN: &str = r#"
import re, sys, urllib.parse, urllib.request
from http.cookiejar import CookieJar
base, user, password = sys.argv[1:]
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
page = browser.open(base + "/login/").read().decode()
token = re.search(r'csrfmiddlewaretoken[^>]*value=["\']([^"\']+)', page).group(1)
form = {"csrfmiddlewaretoken": token, "username": user, "password": password}
print(browser.open(base + "/login/", urllib.parse.urlencode(form).encode()).geturl())
"#;
