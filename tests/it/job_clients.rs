//! Clients of the job queue: Bots's command line, its web UI in a browser, its directory monitor, and `bots-ctl job`.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::browser::Browser;
use crate::support::demo_translation::Demo;
use crate::support::queue::{Queue, ask, with_queue};
use crate::support::queue::{pods, start_beside};
use crate::support::sandbox::{Running, Sandbox, bots_bin_dir, free_port, python, wait_until};
use crate::support::tcp_proxy::Link;

#[apply(test)]
fn queue_accepts_jobs_of_bots_job2queue() {
    let queue = Queue::new();
    let config = format!("-c{}", queue.sandbox.root().join("config").display());
    let program = bots_bin_dir().join("bots-job2queue").display().to_string();
    let task = queue.task.display().to_string();
    let client = |argument: &str| queue.sandbox.run(&["exec", "--", &program, &config, "-p2", &task, argument]);
    client("x").expect_code(1);
    let running = queue.start();
    client("wait").expect_code(0);
    queue.wait_lines("started", 1, &running);
    client("x").expect_code(0);
    client("x").expect_code(4);
    // Bots 3 has no words for it, and Bots 4 does not ask.
    let python = python().display().to_string();
    for words in [&[&*program] as &[&str], &[&*python, "-m", "bots.job2queue"]] {
        let refused = queue.sandbox.run(&[&["exec", "--"], words, &[&*config, "/bin/touch", "x"]].concat());
        assert!(refused.expect_code(3).stdout.starts_with("Error, "), "{refused:?}");
        assert!(!refused.stderr.contains("Traceback"), "{refused:?}");
    }
    assert_eq!(queue.ask("q.listjobs()"), format!("[[2, 2, {}]]", queue.task("x")));
    queue.go();
    queue.wait_lines("ran", 2, &running);
}

/// A client that gave up would be started again by its CronJob, and add the job a second time.
#[apply(test)]
fn waiting_client_outlives_absence_of_queue() {
    let queue = Queue::new();
    let running = queue.start();
    let (port, is_away) = (queue.port, Arc::<AtomicBool>::default());
    let away = Arc::clone(&is_away);
    let link = Link::listen(0, move || {
        (!away.load(Ordering::Relaxed)).then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    });
    let task = queue.task.display().to_string();
    let mut command = queue.sandbox.command(&["job", "add", "--wait", "--", &task, "wait", "3"]);
    command.env("BOTS_CTL_JOBQUEUE_URL", format!("http://127.0.0.1:{}", link.port));
    let mut client = Running::start(command, queue.sandbox.home.path(), queue.sandbox.health_port);
    client.wait_stderr("job 1 is in the queue");
    is_away.store(true, Ordering::Relaxed);
    link.cut();
    client.wait_stderr("retrying for 120 s");
    is_away.store(false, Ordering::Relaxed);
    queue.go();
    assert_eq!(client.wait_code(), 3, "{}\n{}", client.report(), running.report());
    assert_eq!(client.stdout(), "this is wait\n");
}

/// After a lost response the job may be stored, so another attempt could run it twice.
#[apply(test)]
fn lost_response_to_new_job_is_reported_as_possibly_added() {
    let (mut sandbox, _) = with_queue();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    sandbox.set("BOTS_CTL_JOBQUEUE_URL", format!("http://127.0.0.1:{port}"));
    let closed = std::thread::spawn(move || {
        let (mut client, _) = silent.accept().expect("a client connects");
        client.read(&mut [0; 4096]).expect("it sends a request")
    });
    let add = || sandbox.run(&["job", "add", "bots-engine"]).expect_code(69).stderr.clone();
    let lost = add();
    assert!(closed.join().expect("it has ended") > 0);
    assert!(lost.ends_with("the job may have been added: bots-ctl job list --all shows it\n"), "{lost}");
    let refused = add();
    assert!(refused.contains("cannot reach the job queue") && !refused.contains("may have been"), "{refused}");
}

/// In another container, through the relay.
#[apply(test)]
fn run_in_the_web_ui_reaches_the_queue() {
    let (queue, other, _, _) = pods();
    let running = start_beside(&queue, &other);
    let web = other.webserver();
    let base_url = format!("http://127.0.0.1:{}", other.web_port);
    let mut browser = Browser::start();
    browser.log_in(&base_url, "admin", &other.admin_password()).unwrap_or_else(|e| panic!("{e}\n{}", web.report()));
    let said = browser.run_new(&base_url);
    assert!(said.contains("added to queue") || said.contains("added to jobqueue"), "{said}\n{}", web.report());
    let config = other.root().join("config").display().to_string();
    running.wait_stderr(&format!("job 1 with priority 5: bots-engine -c{config} --new"));
    let shown = || Some(queue.job(&["show", "1"]).stdout).filter(|shown| shown.contains("exit code  0"));
    wait_until("it has run", shown, || format!("{}\n{}", running.report(), web.report()));
}

/// If the queue is disabled, Bots's web UI starts the engine by its name. Only bots-ctl logs the result of the run.
#[apply(test)]
fn web_ui_run_without_queue_goes_through_bots_ctl() {
    let demo = Demo::new();
    demo.drop_in("input");
    let web = demo.sandbox.webserver();
    let base_url = format!("http://127.0.0.1:{}", demo.sandbox.web_port);
    let mut browser = Browser::start();
    let password = demo.sandbox.admin_password();
    browser.log_in(&base_url, "admin", &password).unwrap_or_else(|e| panic!("{e}\n{}", web.report()));
    browser.run_new(&base_url);
    let is_told = || web.report().contains("the run received 3 files, finished 3").then_some(());
    wait_until("bots-ctl has run it", is_told, || web.report());
}

/// It submits a run of its route for each new file, and the queue's engine sends the content.
#[apply(test)]
fn bots_dirmonitor_submits_run_for_new_file() {
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "100ms");
    let demo = Demo::install(sandbox);
    let port = free_port();
    demo.sandbox.set_ini("jobqueue", "enabled", "True");
    demo.sandbox.set_ini("jobqueue", "port", &port.to_string());
    demo.sandbox.set_ini("dirmonitor1", "path", &demo.input().display().to_string());
    demo.sandbox.set_ini("dirmonitor1", "route", "demo_orders");
    let queue = demo.sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    let config = format!("-c{}", demo.config_dir());
    let program = bots_bin_dir().join("bots-dirmonitor").display().to_string();
    let monitor = demo.sandbox.start(&["exec", "--", &program, &config]);
    let holds = |pid| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let watches = || {
        let (pid, _) = monitor.descendants().into_iter().next()?;
        holds(pid).find(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("inotify")))
    };
    wait_until("it watches", watches, || monitor.report());
    // The descriptor exists shortly before the watch: files that arrive in between are missed.
    let sent = || {
        demo.drop_in("input");
        let sent = || demo.output().join("PO-1001.txt").exists().then_some(());
        (0..250).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            sent()
        })
    };
    wait_until("the order has gone out", sent, || format!("{}\n{}", queue.report(), monitor.report()));
    assert!(queue.stderr().contains(&format!("{config} demo_orders")), "{}", queue.report());
    assert_eq!(ask(port, "q.listjobs()"), "0");
}
