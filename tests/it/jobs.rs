//! The job queue of bots-ctl: Bots's own API and clients, an order that holds, and no job that is lost.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::queue::{Queue, add, ask};
use crate::support::sandbox::wait_until;
use crate::support::servers::{Database, Engine, Server, SqliteLock, on_each_database, sqlite};
use crate::support::tcp_proxy::Link;

on_each_database! {
    jobs_run_in_the_documented_order,
    repeatedly_killed_queue_loses_no_job,
    jobs_written_together_with_one_that_the_database_rejects_are_not_added,
    job_of_killed_queue_is_rerun,
    standby_queue_takes_over_after_kill,
}

mod on_servers {
    use super::{
        database_outage_loses_no_job, standby_replaces_queue_without_heartbeat,
        standby_takes_over_after_silent_connection_loss,
    };

    crate::support::servers::on_each_server! {
        database_outage_loses_no_job,
        standby_replaces_queue_without_heartbeat,
        standby_takes_over_after_silent_connection_loss,
    }
}

fn jobs_run_in_the_documented_order(engine: Engine) {
    let queue = Queue::on(Database::fresh(engine));
    let running = queue.start();
    add(queue.port, &[&queue.task.display().to_string(), "wait"], 5);
    queue.wait_lines("started", 1, &running);
    for (argument, priority) in [("a", 9), ("b", 5), ("c", 1), ("d", 5), ("e", 9), ("f", 1)] {
        assert_eq!(queue.ask(&format!("q.addjob({}, {priority})", queue.task(argument))), "0");
    }
    let taken = queue.ask("q.getjob()");
    assert_eq!(taken, format!("[1, 4, {}]", queue.task("c")));
    assert_eq!(queue.ask(&format!("q.addjob({}, 2)", queue.task("e"))), "0");
    queue.go();
    assert_eq!(queue.wait_lines("ran", 6, &running), ["wait", "f", "e", "b", "d", "a"]);
    assert_eq!(queue.ask("q.getjob()"), "0");
}

/// With `BOTS_TEST_JOBS` and `BOTS_TEST_KILLS` as many as one likes.
fn repeatedly_killed_queue_loses_no_job(engine: Engine) {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (jobs, kills): (usize, usize) = (number("BOTS_TEST_JOBS", 160), number("BOTS_TEST_KILLS", 4));
    let queue = Queue::on(Database::fresh(engine));
    queue.sandbox.set_ini("jobqueue", "nr_threads", "4");
    let task = queue.task.display().to_string();
    let mut running = queue.start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (task, port) = (&task, queue.port);
                scope.spawn(move || {
                    for job in (client..jobs).step_by(8) {
                        let name = format!("job-{job}");
                        let kept = || add(port, &[task, &name], 5);
                        let code = wait_until(&format!("{name} is kept"), kept, String::new);
                        assert!(code == "0" || code == "4", "{name}: {code}");
                        std::thread::sleep(Duration::from_millis(20));
                    }
                })
            })
            .collect();
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(300));
            running.signal(Signal::SIGKILL);
            running.wait();
            running = queue.start();
        }
        clients.into_iter().for_each(|client| client.join().expect("the client is content"));
    });
    let wanted: BTreeSet<String> = (0..jobs).map(|job| format!("job-{job}")).collect();
    let ran = || {
        let ran: BTreeSet<String> = queue.lines("ran").into_iter().collect();
        (ran == wanted).then_some(())
    };
    wait_until("all jobs have run", ran, || format!("{} of {jobs}\n{}", queue.lines("ran").len(), running.report()));
    assert_eq!(queue.ask("q.listjobs()"), "0");
}

fn jobs_written_together_with_one_that_the_database_rejects_are_not_added(engine: Engine) {
    let queue = Queue::on(Database::fresh(engine));
    // The database rejects a second job of a priority.
    let database = queue.database.as_ref().expect("it is on this database");
    database.sql("CREATE UNIQUE INDEX one_job_each ON botsctl_job (priority)");
    let running = queue.start();
    let task = queue.task.display().to_string();
    assert_eq!(add(queue.port, &[&task, "wait"], 1).as_deref(), Some("0"));
    queue.wait_lines("started", 1, &running);
    let (mut next, mut accepted) = (2, Vec::new());
    let round = || {
        running.wait_ready();
        let jobs: Vec<i32> = std::iter::once(1).chain(next..next + 7).collect();
        next += 7;
        let add_job = |priority: i32| add(queue.port, &[&task, &format!("job-{priority}")], priority);
        let codes: Vec<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = jobs.iter().map(|job| scope.spawn(|| add_job(*job))).collect();
            clients.into_iter().map(|client| client.join().expect("the client has ended")).collect()
        });
        assert_eq!(codes[0], None, "{}", running.report());
        let added = jobs.iter().zip(&codes).filter(|(_, code)| code.as_deref() == Some("0")).map(|(job, _)| *job);
        accepted.extend(added);
        (codes.iter().filter(|code| code.is_none()).count() > 1).then_some(())
    };
    wait_until("jobs are written together with the rejected one", round, || running.report());
    running.wait_ready();
    assert_eq!(queue.ask("[job[0] for job in q.listjobs() or []]"), format!("{accepted:?}"));
    queue.go();
    let expected: Vec<String> =
        std::iter::once("wait".to_owned()).chain(accepted.iter().map(|job| format!("job-{job}"))).collect();
    assert_eq!(queue.wait_lines("ran", expected.len(), &running), expected);
}

fn job_of_killed_queue_is_rerun(engine: Engine) {
    let queue = Queue::on(Database::fresh(engine));
    let mut running = queue.start();
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &running);
    running.signal(Signal::SIGKILL);
    running.wait();
    let running = queue.start();
    queue.wait_lines("started", 2, &running);
    queue.go();
    queue.wait_lines("ran", 1, &running);
    running.wait_stderr("job 1 was interrupted with its job queue; rerunning it");
    let shown = queue.job(&["show", "1", "--json"]);
    assert!(shown.expect_code(0).stdout.contains("\"attempts\":2"), "{}", shown.stdout);
}

#[apply(test)]
fn a_stop_waits_for_the_running_job_and_keeps_the_others() {
    let queue = Queue::new();
    let mut running = queue.start();
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &running);
    queue.ask(&format!("q.addjob({}, 5)", queue.task("later")));
    running.signal(Signal::SIGTERM);
    running.wait_stderr(" s for job 1 to finish");
    running.wait_health("/health/ready", 503);
    queue.go();
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    assert_eq!(queue.lines("ran"), ["wait"]);
    let running = queue.start();
    assert_eq!(queue.wait_lines("ran", 2, &running), ["wait", "later"]);
}

#[apply(test)]
fn job_killed_at_stop_timeout_is_rerun() {
    let mut queue = Queue::new();
    queue.sandbox.set("BOTS_CTL_JOBQUEUE_STOP_TIMEOUT", "200ms");
    let mut running = queue.start();
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &running);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait_code(), 137, "{}", running.report());
    queue.go();
    let running = queue.start();
    assert_eq!(queue.wait_lines("ran", 1, &running), ["wait"]);
}

#[apply(test)]
fn job_is_retried_while_another_engine_runs() {
    let mut queue = Queue::new();
    let engine =
        "#!/bin/sh\nhere=$(dirname \"$0\")\necho run >> $here/runs\n[ $(wc -l < $here/runs) -gt 1 ] || exit 3\n";
    queue.sandbox.stand_in("bots-engine", engine);
    let running = queue.start();
    let added = queue.job(&["add", "--wait", "--", "bots-engine", "--new"]);
    added.expect_code(0);
    assert!(running.stderr().contains("another engine is running: retrying job 1 in 1 s"), "{}", running.stderr());
}

/// Its files may already be received, and no other caller would start the run that recovers them.
#[apply(test)]
fn interrupted_engine_job_is_retried_up_to_limit() {
    let mut queue = Queue::new();
    let engine = "#!/bin/sh\necho run >> \"$0.runs\"\ncase $(wc -l < \"$0.runs\") in 1) exit 69;; 3) exit 0;; *) kill -9 $$;; esac\n";
    queue.sandbox.stand_in("bots-engine", engine);
    let running = queue.start();
    queue.job(&["add", "--wait", "--", "bots-engine", "--new"]).expect_code(0);
    assert_eq!(running.stderr().matches("the next run recovers the unfinished files: retrying job 1").count(), 2);
    // One that is killed over and over must not keep all others waiting.
    queue.job(&["add", "--wait", "--", "bots-engine", "--new"]).expect_code(137);
    let shown = queue.job(&["show", "2", "--json"]).stdout;
    assert!(shown.contains("\"state\":\"failed\"") && shown.contains("\"attempts\":4"), "{shown}");
}

/// With cgroup v2 the kubelet kills the whole container when one process exceeds the memory limit.
#[apply(test)]
fn engine_job_that_kills_its_queue_fails_after_four_attempts_and_the_next_one_runs() {
    let mut queue = Queue::new();
    // Its parent is `bots-ctl engine`, whose parent is the queue.
    let engine = "#!/bin/sh\nread -r _ _ _ queue _ < /proc/$PPID/stat\nkill -9 $queue\nsleep 1000\n";
    queue.sandbox.stand_in("bots-engine", engine);
    let mut running = queue.start();
    let (wait, later) = (queue.task("wait"), queue.task("later"));
    queue.ask(&format!("q.addjob({wait}, 5)"));
    queue.wait_lines("started", 1, &running);
    assert_eq!(queue.ask(&format!("q.addjob(['bots-engine', '--new'], 5), q.addjob({later}, 5)")), "(0, 0)");
    queue.go();
    for _ in 2..=4 {
        running.wait();
        running = queue.sandbox.start(&["jobqueue"]);
    }
    running.wait();
    let running = queue.start();
    running.wait_stderr("job 2 failed: interrupted 4 times");
    let shown = queue.job(&["show", "2", "--json"]).stdout;
    assert!(shown.contains("\"state\":\"failed\"") && shown.contains("interrupted 4 times"), "{shown}");
    assert_eq!(queue.wait_lines("ran", 2, &running), ["wait", "later"]);
}

#[apply(test)]
fn job_beyond_maxruntime_is_logged_and_terminated() {
    let queue = Queue::new();
    queue.sandbox.set_ini("settings", "maxruntime", "0");
    queue.sandbox.set_ini("jobqueue", "killjobsintimeout", "True");
    let running = queue.start();
    let task = queue.task.display().to_string();
    queue.job(&["add", "--wait", "--", &task, "wait"]).expect_code(143);
    assert_eq!(running.stderr().matches("job 1 exceeded maxruntime").count(), 1, "{}", running.stderr());
}

/// Otherwise no program would run that job.
#[apply(test)]
fn job_stays_in_the_queue_if_the_client_of_getjob_is_gone() {
    let queue = Queue::new();
    let running = queue.start();
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &running);
    assert_eq!(queue.ask(&format!("q.addjob({}, 5)", queue.task("later"))), "0");
    let lock = SqliteLock::hold(&queue.sandbox.root().join("botssys/sqlitedb/botsdb"));
    let call = "<methodCall><methodName>getjob</methodName><params/></methodCall>";
    let length = call.len();
    let request = format!("POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{call}");
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, queue.port)).expect("it listens");
    client.write_all(request.as_bytes()).expect("sent");
    client.shutdown(Shutdown::Write).expect("closed");
    assert_eq!(client.read_to_end(&mut Vec::new()).expect("its end"), 0, "the queue waits for the database");
    drop(lock);
    assert_eq!(queue.ask("q.listjobs()"), format!("[[5, 2, {}]]", queue.task("later")));
    let shown = queue.job(&["show", "2", "--json"]).stdout;
    assert!(shown.contains("\"state\":\"waiting\"") && shown.contains("\"attempts\":0"), "{shown}");
    queue.go();
    assert_eq!(queue.wait_lines("ran", 2, &running), ["wait", "later"]);
}

#[apply(test)]
fn job_runs_with_a_maxruntime_beyond_all_clocks() {
    let queue = Queue::new();
    queue.sandbox.set_ini("settings", "maxruntime", &i64::MAX.to_string());
    let running = queue.start();
    queue.job(&["add", "--wait", "--", &queue.task.display().to_string(), "one"]).expect_code(0);
    assert!(!running.stderr().contains("exceeded maxruntime"), "{}", running.stderr());
}

/// SQLite completes a statement that the queue has given up.
#[apply(test)]
fn job_that_is_marked_as_running_without_a_run_is_run() {
    let queue = Queue::new();
    let running = queue.start();
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &running);
    assert_eq!(queue.ask(&format!("q.addjob({}, 5)", queue.task("later"))), "0");
    let database = queue.sandbox.root().join("botssys/sqlitedb/botsdb").display().to_string();
    sqlite(&database, "UPDATE botsctl_job SET state = 'running', attempts = 1 WHERE number = 2");
    running.wait_stderr("job 2 was interrupted with its job queue; rerunning it");
    queue.go();
    assert_eq!(queue.wait_lines("ran", 2, &running), ["wait", "later"]);
}

fn standby_queue_takes_over_after_kill(engine: Engine) {
    let queue = Queue::on(Database::fresh(engine));
    let mut first = queue.start();
    let (second, port) = queue.start_second();
    second.wait_stderr("standby: another bots-ctl runs the job queue of the ");
    let body =
        || second.health("/health/ready").filter(|ready| ready.body.contains("jobqueue is on standby")).map(|_| ());
    wait_until("it stands by", body, || second.report());
    second.wait_health("/health/live", 200);
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &first);
    let begin = Instant::now();
    first.signal(Signal::SIGKILL);
    first.wait();
    second.wait_ready();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    queue.wait_lines("started", 2, &second);
    assert_eq!(ask(port, &format!("q.addjob({}, 5)", queue.task("later"))), "0");
    queue.go();
    assert_eq!(queue.wait_lines("ran", 2, &second), ["wait", "later"]);
}

/// A node that vanishes leaves a session behind that keeps the lock; a process that is stopped is as silent.
fn standby_replaces_queue_without_heartbeat(engine: Engine) {
    let queue = Queue::on(Database::fresh(engine));
    let first = queue.start();
    let (second, port) = queue.start_second();
    second.wait_stderr("standby: another bots-ctl runs the job queue of the ");
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &first);
    first.signal(Signal::SIGSTOP);
    second.wait_ready();
    assert!(second.stderr().contains("terminated the session of a job queue without a heartbeat"));
    queue.wait_lines("started", 2, &second);
    first.signal(Signal::SIGCONT);
    first.wait_stderr("standby: another bots-ctl runs the job queue of the ");
    first.wait_health("/health/ready", 503);
    queue.go();
    queue.wait_lines("ran", 2, &second);
    assert_eq!(ask(port, "q.listjobs()"), "0");
}

/// The network has dropped its connection silently.
fn standby_takes_over_after_silent_connection_loss(engine: Engine) {
    let database = Database::fresh(engine);
    let to = (Ipv4Addr::LOCALHOST, database.server().port).into();
    let link = Link::listen(0, move || Some(to));
    let queue = Queue::on(database);
    let mut first = queue.start();
    let (second, port) = queue.start_second_with(&[("DB_PORT", link.port.to_string())]);
    second.wait_stderr("standby: another bots-ctl runs the job queue of the ");
    link.forget();
    first.signal(Signal::SIGTERM);
    first.wait();
    second.wait_stderr("the job queue is active");
    assert_eq!(ask(port, "q.listjobs()"), "0");
}

fn database_outage_loses_no_job(engine: Engine) {
    let server = Arc::new(Server::start(engine));
    if engine == Engine::Mariadb {
        // The servers of these tests are configured to be fast rather than durable.
        server.sql(None, "SET GLOBAL innodb_flush_log_at_trx_commit = 1");
    }
    let queue = Queue::on(Database::on(&server));
    let running = queue.start();
    assert_eq!(queue.ask(&format!("q.addjob({}, 5)", queue.task("wait"))), "0");
    queue.wait_lines("started", 1, &running);
    assert_eq!(queue.ask(&format!("q.addjob({}, 5)", queue.task("later"))), "0");
    server.stop();
    let begin = Instant::now();
    let answer = queue.ask(&format!("q.addjob({}, 5)", queue.task("lost")));
    assert!(answer.contains("RemoteDisconnected"), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    queue.go();
    queue.wait_lines("ran", 1, &running);
    running.wait_health("/health/ready", 503);
    running.wait_health("/health/live", 200);
    server.resume();
    running.wait_ready();
    assert_eq!(queue.wait_lines("ran", 2, &running), ["wait", "later"]);
    let shown = queue.job(&["show", "1", "--json"]).stdout;
    assert!(shown.contains("\"state\":\"done\"") && shown.contains("\"attempts\":1"), "{shown}");
}

#[apply(test)]
fn job_commands_show_state_output_and_errors() {
    let queue = Queue::new();
    let away = queue.job(&["list"]);
    away.expect_code(69);
    assert!(away.stderr.starts_with("bots-ctl: cannot reach the job queue on 127.0.0.1:"), "{}", away.stderr);
    let running = queue.start();
    let task = queue.task.display().to_string();
    assert_eq!(queue.job(&["list"]).expect_code(0).stdout, "no job waits\n");
    assert_eq!(queue.job(&["list", "--json"]).expect_code(0).stdout, "[]\n");
    assert_eq!(queue.job(&["add", "-p", "1", "--", &task, "wait"]).expect_code(0).stdout, "job 1\n");
    queue.wait_lines("started", 1, &running);
    let added = queue.job(&["add", "--json", "--", &task, "two", "7"]);
    assert_eq!(added.expect_code(0).stdout, "{\"code\":0,\"number\":2}\n");
    let again = queue.job(&["add", "--", &task, "two", "7"]);
    assert!(again.expect_code(1).stderr.contains("already waiting, as job 2"), "{}", again.stderr);
    let refused = queue.job(&["add", "--", "/bin/touch", "x"]);
    assert!(refused.expect_code(1).stderr.contains("does not run /bin/touch"), "{}", refused.stderr);
    queue.job(&["add", "-p", "0", "--", &task]).expect_code(64);
    let list = queue.job(&["list"]).stdout;
    assert_eq!(list, format!("NUMBER  PRIORITY  TASK\n2       5         {task} two 7\n"));
    let status = queue.sandbox.run(&["status"]);
    assert!(status.stdout.contains("jobqueue: 1 waiting, 1 running"), "{}", status.stdout);
    queue.go();
    let waited = queue.job(&["add", "--wait", "--", &task, "three", "9"]);
    assert_eq!(waited.expect_code(9).stdout, "this is three\n");
    let shown = queue.job(&["show", "2"]).expect_code(0).stdout.clone();
    assert!(shown.contains("state      failed\n") && shown.contains("exit code  7\n"), "{shown}");
    assert!(shown.ends_with("this is two\n"), "{shown}");
    for time in ["submitted  20", "started    20", "ended      20"] {
        assert!(shown.contains(time), "{shown}");
    }
    let latest = queue.job(&["show", "latest"]).expect_code(0).stdout.clone();
    assert!(latest.contains("number     3\n") && latest.contains("exit code  9\n"), "{latest}");
    queue.job(&["show", "last"]).expect_code(64);
    let all = queue.job(&["list", "--all"]).expect_code(0).stdout.clone();
    let lines: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NUMBER", "STATE", "SUBMITTED", "TOOK", "TASK", "RESULT"], "{all}");
    assert_eq!([1, 2, 3].map(|line| lines[line][..2].join(" ")), ["3 failed", "2 failed", "1 done"], "{all}");
    let failed = queue.job(&["list", "--failed", "--json"]).expect_code(0).stdout.clone();
    assert!(failed.contains("\"exit_code\":7") && !failed.contains("\"state\":\"done\""), "{failed}");
    let shown = queue.job(&["show", "99"]);
    assert!(shown.expect_code(1).stderr.contains("there is no job 99"), "{}", shown.stderr);
    assert_eq!(queue.job(&["clear"]).expect_code(0).stdout, "no job is waiting\n");
}
