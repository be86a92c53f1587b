//! A real browser for the tests: Debian's headless Chromium, driven through its own chromedriver.
//!
//! It knows the pages of the Bots web UI that a test visits (login, routes) and nothing of how that UI was started.
//! Bots 3.3.1 and 4.0 use other addresses for the same pages, so a page is found by what both versions have: the
//! login form, the log-out control, and the menu's own link.
//!
//! Everything blocks: the WebDriver client runs on a small runtime in here, so a `Browser` must not be made, used
//! or dropped inside another runtime. A test that is killed from outside leaves its browser behind, because a
//! process group of its own does not get the terminal's signals.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fantoccini::error::CmdError;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
// A part of hyper-util that fantoccini switches on.
use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

use crate::support::needs::{Need, needs};

const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";

/// For one step of the conversation. A page takes well under a second; a stalled machine was seen to pause for 15.
const STEP_DEADLINE: Duration = Duration::from_secs(60);
/// For one look at chromedriver's status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last process of a killed browser to be gone and its profile to be removed.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at a condition that nobody announces.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Headless as root, on a network without a way out: no sandbox, nothing asked of the outside.
const CHROMIUM_FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
];

/// User name, password and button.
const LOGIN_FORM: [&str; 3] =
    ["#login-form [name=username]", "#login-form [name=password]", "#login-form [type=submit]"];
/// What only a logged-in page has: 3.3.1 logs out by a link to `/logout/`, 4.0 by a form for `/logout`.
const LOG_OUT: &str = "a[href^='/logout'], form[action^='/logout']";
/// Where Django's login form says why it refused.
const LOGIN_REFUSED: &str = ".errornote";
/// The menu's link to the list of routes. Its menu is folded, so it can be read but not clicked.
const ROUTES_LINK: &str = "a[href$='/admin/bots/routes/']";
/// The menu's link that runs the engine for new files.
const RUN_NEW_LINK: &str = "a[href*='clparameter=--new']";
/// The list on a page of Django's admin.
const ADMIN_LIST: &str = "#changelist";

/// A chromedriver of our own on a free loopback port with one headless Chromium session.
///
/// Dropping it ends all their processes and removes the temporary profile.
pub struct Browser {
    client: Client,
    runtime: Runtime,
    /// Ends the processes when dropped; the session above is useless without it.
    _driver: Driver,
}

impl Browser {
    /// Starts chromedriver and opens a session. Panics with the reason when that is impossible.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A browser for which this host name leads to this address.
    pub fn resolving(host: &str, address: &str) -> Self {
        Self::start_with(&[format!("--host-resolver-rules=MAP {host} {address}")])
    }

    /// A telephone's browser, or a desktop's, whose user likes it dark or light.
    pub fn looking(telephone: bool, dark: bool) -> Self {
        let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!dark));
        Self::start_as(
            &[scheme],
            telephone.then(|| json!({ "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 2 } })),
        )
    }

    fn start_with(flags: &[String]) -> Self {
        Self::start_as(flags, None)
    }

    fn start_as(flags: &[String], device: Option<serde_json::Value>) -> Self {
        needs(Need::Chromium);
        let driver = Driver::start();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().expect("a current-thread runtime can be built");
        let session = async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(driver.capabilities(flags, device));
            within_deadline(builder.connect(&driver.url())).await
        };
        let client = runtime
            .block_on(session)
            .unwrap_or_else(|error| panic!("cannot start Chromium: {error}\n{}", driver.log()));
        Self { client, runtime, _driver: driver }
    }

    /// Fills in and submits the login form, and returns when the answer is a page for a logged-in user.
    pub fn log_in(&mut self, base_url: &str, user: &str, password: &str) -> Result<(), String> {
        self.step(async |client| {
            client.goto(&format!("{base_url}/login/")).await?;
            let [name, secret, submit] = LOGIN_FORM.map(Locator::Css);
            client.find(name).await?.send_keys(user).await?;
            client.find(secret).await?.send_keys(password).await?;
            client.find(submit).await?.click().await?;
            wait_for(client, &format!("{LOG_OUT}, {LOGIN_REFUSED}")).await?;
            refusal(client).await
        })
        .and_then(|reason| reason.map_or(Ok(()), Err))
        .map_err(|error| format!("cannot log in as {user:?}: {error}\n{}", self.describe()))
    }

    /// Opens the list of routes by the address that the UI's own menu has for it; returns its visible text.
    ///
    /// Needs a logged-in user who may change routes.
    pub fn open_routes(&mut self, base_url: &str) -> String {
        self.step(async |client| {
            client.goto(base_url).await?;
            let link = client.find(Locator::Css(ROUTES_LINK)).await?;
            let address = link.prop("href").await?.unwrap_or_default();
            client.goto(&address).await?;
            wait_for(client, ADMIN_LIST).await
        })
        .unwrap_or_else(|error| panic!("cannot open the routes: {error}\n{}", self.describe()));
        self.text()
    }

    /// Opens an address.
    pub fn visit(&self, address: &str) {
        self.ask("content", async |client| client.goto(address).await);
    }

    /// Follows the menu's link that runs the engine for new files; returns the text of the page it leads to.
    ///
    /// Needs a logged-in user who may run the engine.
    pub fn run_new(&mut self, base_url: &str) -> String {
        self.step(async |client| {
            client.goto(base_url).await?;
            let link = client.find(Locator::Css(RUN_NEW_LINK)).await?;
            let address = link.prop("href").await?.unwrap_or_default();
            client.goto(&address).await?;
            wait_for(client, LOG_OUT).await
        })
        .unwrap_or_else(|error| panic!("cannot run the engine: {error}\n{}", self.describe()));
        self.text()
    }

    /// The address of the page now shown.
    pub fn url(&self) -> String {
        self.ask("address", async |client| client.current_url().await.map(String::from))
    }

    /// The title of the page now shown.
    pub fn title(&self) -> String {
        self.ask("title", async |client| client.title().await)
    }

    /// The text that a user sees on the page; folded menus are not part of it.
    pub fn text(&self) -> String {
        self.ask("text", async |client| client.find(Locator::Css("body")).await?.text().await)
    }

    /// What a script says of the page.
    pub fn script(&self, script: &str) -> serde_json::Value {
        self.ask("answer of a script", async |client| client.execute(script, Vec::new()).await)
    }

    /// Sets the size of the window.
    pub fn resize(&self, width: u32, height: u32) {
        self.ask("size", async |client| client.set_window_size(width, height).await);
    }

    /// Writes what the window shows as a PNG file.
    pub fn screenshot(&self, path: &Path) {
        let image = self.ask("picture", async |client| client.screenshot().await);
        fs::write(path, image).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
    }

    /// One property of the page, which every page has.
    fn ask<T>(&self, what: &str, question: impl AsyncFnOnce(&Client) -> Result<T, CmdError>) -> T {
        self.step(question).unwrap_or_else(|error| panic!("cannot get the {what} of the page: {error}"))
    }

    /// Runs one step of the conversation under the deadline.
    fn step<T>(&self, step: impl AsyncFnOnce(&Client) -> Result<T, CmdError>) -> Result<T, String> {
        self.runtime.block_on(async { within_deadline(step(&self.client)).await })
    }

    /// The page as it is now, for a failure report.
    fn describe(&self) -> String {
        self.step(async |client| {
            let (url, title) = (client.current_url().await?, client.title().await?);
            let text = client.find(Locator::Css("body")).await?.text().await?;
            Ok(format!("The page is {url} {title:?}:\n{text}"))
        })
        .unwrap_or_else(|error| format!("The page cannot be read: {error}"))
    }
}

/// chromedriver and, in its process group, the Chromium that it starts.
struct Driver {
    child: Child,
    port: u16,
    /// Profile, temporary files and log of the two programs.
    directory: TempDir,
}

impl Driver {
    /// Starts chromedriver and waits until it takes sessions.
    fn start() -> Self {
        for program in [CHROMIUM, CHROMEDRIVER] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing: install the Debian packages chromium and chromium-driver"
            );
        }
        let directory = TempDir::with_prefix("browser-").expect("a directory for the browser");
        let port = free_port();
        let child =
            spawn(port, directory.path()).unwrap_or_else(|error| panic!("cannot start {CHROMEDRIVER}: {error}"));
        let mut driver = Self { child, port, directory };
        driver.wait_until_ready();
        driver
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + STEP_DEADLINE;
        while !is_ready(self.port) {
            let ended = self.child.try_wait().expect("chromedriver is our child");
            if ended.is_some() || Instant::now() > deadline {
                let port = self.port;
                panic!("chromedriver does not answer on port {port} (ended: {ended:?})\n{}", self.log());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn url(&self) -> String {
        format!("http://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// What this session asks of chromedriver: our Chromium, our flags, an empty profile.
    fn capabilities(&self, flags: &[String], device: Option<serde_json::Value>) -> Capabilities {
        let profile = self.directory.path().join("profile");
        let mut arguments = CHROMIUM_FLAGS.map(String::from).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        arguments.extend_from_slice(flags);
        let mut options = json!({ "binary": CHROMIUM, "args": arguments });
        if let Some(device) = device {
            options["mobileEmulation"] = device;
        }
        Capabilities::from_iter([("goog:chromeOptions".to_owned(), options)])
    }

    /// What the two programs printed, for a failure report.
    fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn process_group(&self) -> Pid {
        let pid = i32::try_from(self.child.id()).expect("a process id fits into a pid_t");
        Pid::from_raw(pid)
    }
}

impl Drop for Driver {
    /// Kills the group, then waits for what is not in it: Chromium's crash handlers have sessions of their own and
    /// end when their browser is gone. (Chromium's switch against them also keeps its pages from loading.)
    fn drop(&mut self) {
        // Neither can fail for a child that nobody else waits for, and a panic here could hide the test's own.
        let _ = killpg(self.process_group(), Signal::SIGKILL);
        let _ = self.child.wait();
        let directory = self.directory.path();
        let deadline = Instant::now() + REMOVAL_DEADLINE;
        while (is_in_use(directory) || fs::remove_dir_all(directory).is_err()) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Whether a process has the directory in its command line. A zombie has none.
fn is_in_use(directory: &Path) -> bool {
    let name = directory.as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.windows(name.len()).any(|part| part == name))
}

/// Starts chromedriver at the head of its own process group; all it leaves behind goes to `directory`.
fn spawn(port: u16, directory: &Path) -> io::Result<Child> {
    let log = File::create(directory.join("log"))?;
    Command::new(CHROMEDRIVER)
        .arg(format!("--port={port}"))
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

/// A loopback port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free loopback port")
        .port()
}

/// Whether chromedriver's `/status` says that it takes sessions.
fn is_ready(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    status(address).is_ok_and(|answer| answer.contains(r#""ready":true"#))
}

/// The beginning of the answer to `GET /status`.
///
/// One read, because chromedriver keeps the connection open whatever the request says. Should the answer come in
/// two pieces, the first one counts as not ready and the caller asks again.
fn status(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, STATUS_TIMEOUT)?;
    stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Returns when the page has an element that `selector` finds; only the step's deadline ends the wait.
async fn wait_for(client: &Client, selector: &str) -> Result<(), CmdError> {
    let wait = client.wait().forever().every(POLL_INTERVAL);
    wait.for_element(Locator::Css(selector)).await.map(drop)
}

/// The reason that the login form gives, when it was refused.
async fn refusal(client: &Client) -> Result<Option<String>, CmdError> {
    let notes = client.find_all(Locator::Css(LOGIN_REFUSED)).await?;
    match notes.first() {
        Some(note) => note.text().await.map(Some),
        None => Ok(None),
    }
}

/// A step that never ends is an error as well; errors become text, as nobody branches on them.
async fn within_deadline<T, E: std::fmt::Display>(step: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(STEP_DEADLINE, step).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("not done within {STEP_DEADLINE:?}")),
    }
}
