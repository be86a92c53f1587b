//! What bots-ctl makes of an empty or half-made HOME, a mounted `/config` and the variables of the environment.
//!
//! The helpers at the top are also those of the other modules about the command line from outside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bots_ctl::pycompat::configparser::set_value;
use nix::sys::signal::Signal;
use serde_json::Value;
use walkdir::WalkDir;

use crate::support::bots::{is_bots_3, own_settings, package};
use crate::support::process::finish;
use crate::support::sandbox::{Running, Sandbox, python, some_or_all, wait_until};
use crate::support::users::{USER, as_user, as_user_of_bots, give_to_user, in_mounts, open_to_all};

/// All files below a directory, except those compiled by Python.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = WalkDir::new(dir).into_iter().map(|entry| entry.expect("readable"));
    let plain =
        entries.filter(|entry| entry.file_type().is_file() && entry.path().extension().is_none_or(|e| e != "pyc"));
    let content = |path: &Path| fs::read(path).expect("readable");
    plain.map(|e| (e.path().strip_prefix(dir).expect("below").to_path_buf(), content(e.path()))).collect()
}

/// Django's settings, read through `bots-ctl exec`.
fn django(sandbox: &Sandbox) -> Value {
    let question = "import json; from django.conf import settings as s; print(json.dumps({'db': s.DATABASES['default'], \
        'hosts': s.ALLOWED_HOSTS, 'origins': getattr(s, 'CSRF_TRUSTED_ORIGINS', None), 'debug': s.DEBUG, \
        'zone': s.TIME_ZONE, 'use_tz': s.USE_TZ, 'key': s.SECRET_KEY, 'managers': s.MANAGERS, 'mail': [s.EMAIL_HOST, s.EMAIL_PORT, \
        s.EMAIL_USE_TLS, s.EMAIL_USE_SSL, s.EMAIL_HOST_USER, s.EMAIL_HOST_PASSWORD, s.SERVER_EMAIL]}, default=str))";
    let answer = sandbox.run(&["exec", "--", "python", "-c", question]);
    answer.expect_code(0);
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// One number from the database.
fn count(sandbox: &Sandbox, what: &str) -> i64 {
    let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from ' + sys.argv[2]).fetchone()[0])";
    let database = sandbox.root().join("botssys/sqlitedb/botsdb");
    let answer = Command::new(python()).args(["-c", script]).arg(database).arg(what).output().expect("Python starts");
    let number = String::from_utf8_lossy(&answer.stdout).trim().parse();
    number.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&answer.stderr)))
}

#[apply(test)]
fn init_db_copies_config_map_and_its_updates() {
    let mut sandbox = Sandbox::new();
    let mount = tempfile::tempdir().expect("a temporary directory");
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    let first = template.replace("maxdays = 30", "maxdays = 41");
    for (version, ini) in
        [("..2026_11_23", first.clone()), ("..2026_11_24", first.replace("maxdays = 41", "maxdays = 42"))]
    {
        fs::create_dir(mount.path().join(version)).expect("made");
        fs::write(mount.path().join(version).join("bots.ini"), ini).expect("written");
        fs::write(mount.path().join(version).join("settings.py"), own_settings()).expect("written");
        fs::write(mount.path().join(version).join("extra.txt"), version).expect("written");
        for name in ["bots.ini", "settings.py", "extra.txt"] {
            let mode = fs::Permissions::from_mode(0o444);
            fs::set_permissions(mount.path().join(version).join(name), mode).expect("ours");
        }
    }
    symlink("..2026_11_23", mount.path().join("..data")).expect("linked");
    for name in ["bots.ini", "settings.py", "extra.txt"] {
        symlink(Path::new("..data").join(name), mount.path().join(name)).expect("linked");
    }
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    sandbox.run(&["init-db"]).expect_code(0);
    let config = sandbox.root().join("config");
    let copied = |name: &str| fs::read_to_string(config.join(name)).expect("it was copied");
    assert!(copied("bots.ini").contains("maxdays = 41"));
    assert_eq!((copied("settings.py"), copied("extra.txt").as_str()), (own_settings(), "..2026_11_23"));
    let names = || fs::read_dir(&config).expect("readable").flatten().map(|entry| entry.file_name());
    assert!(!names().any(|name| name.as_encoded_bytes().starts_with(b".")), "{:?}", names().collect::<Vec<_>>());
    for name in ["bots.ini", "settings.py", "extra.txt"] {
        let meta = fs::symlink_metadata(config.join(name)).expect("there");
        assert!(!meta.is_symlink() && meta.mode() & 0o777 == 0o644, "{name} is writable: {meta:?}");
    }

    // A kubelet brings a change by renaming a new link over the old one.
    symlink("..2026_11_24", mount.path().join("..data_tmp")).expect("linked");
    fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data")).expect("renamed");
    sandbox.run(&["init-db"]).expect_code(0);
    assert!(copied("bots.ini").contains("maxdays = 42"));
    assert_eq!(copied("extra.txt"), "..2026_11_24");
    assert!(!names().any(|name| name.to_string_lossy().contains("replaced")), "mounted files are not the user's own");
}

#[apply(test)]
fn init_db_fails_on_unreadable_mounted_file() {
    let mut sandbox = Sandbox::new();
    let mount = tempfile::tempdir().expect("a temporary directory");
    open_to_all(mount.path());
    give_to_user(sandbox.home.path());
    fs::write(mount.path().join("settings.py"), own_settings()).expect("written");
    fs::set_permissions(mount.path().join("settings.py"), fs::Permissions::from_mode(0o000)).expect("ours");
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    let refused = finish(as_user(&sandbox.command(&["init-db"])));
    refused.expect_code(78);
    let expected = format!("cannot read {}", mount.path().join("settings.py").display());
    assert!(refused.stderr.contains(&expected) && refused.stderr.contains("mode 0000"), "{}", refused.stderr);
}

#[apply(test)]
fn init_db_keeps_files_replaced_by_mounted_files() {
    let mut sandbox = Sandbox::prepared();
    let config = sandbox.root().join("config");
    let mount = tempfile::tempdir().expect("a temporary directory");
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    let write = |dir: &Path, name: &str, text: &str| fs::write(dir.join(name), text).expect("written");
    let kept = |name: &str| fs::read_to_string(config.join(name)).ok();
    let own = own_settings();
    for (round, name) in ["settings.py.replaced", "settings.py.replaced-2"].into_iter().enumerate() {
        write(&config, "settings.py", &format!("{own}MINE = {round}\n"));
        write(&config, "ca.pem", "mine");
        write(mount.path(), "settings.py", &format!("{own}MOUNTED = {round}\n"));
        write(mount.path(), "ca.pem", "mounted");
        let started = sandbox.run(&["init-db"]);
        started.expect_code(0);
        let line = format!("kept {} as {}", config.join("settings.py").display(), config.join(name).display());
        assert!(started.stderr.contains(&line), "{}", started.stderr);
        assert_eq!(
            (kept(name), kept("ca.pem.replaced")),
            (Some(format!("{own}MINE = {round}\n")), Some("mine".to_owned()))
        );
        assert_eq!(kept("settings.py"), Some(format!("{own}MOUNTED = {round}\n")));
        sandbox.run(&["init-db"]).expect_code(0);
    }
    assert_eq!(kept("settings.py.replaced"), Some(format!("{own}MINE = 0\n")));
    assert_eq!(
        (kept("settings.py.replaced-3"), kept("ca.pem.replaced-2"), kept("bots.ini.replaced")),
        (None, None, None)
    );
    // A line that bots-ctl changes leaves bots.ini the user's own, which the next mount does not lose.
    let ini = fs::read_to_string(config.join("bots.ini")).expect("it is there");
    let mine = set_value(&ini, "settings", "maxdays", "41").expect("it is plain");
    write(&config, "bots.ini", &set_value(&mine, "directories", "botssys", "botssys").expect("it is plain"));
    sandbox.run(&["init-db"]).expect_code(0);
    write(mount.path(), "bots.ini", &ini);
    sandbox.run(&["init-db"]).expect_code(0);
    assert!(kept("bots.ini.replaced").expect("it is kept").contains("maxdays = 41"));
}

#[apply(test)]
fn init_db_fails_on_unreadable_mounted_directory() {
    let mut sandbox = Sandbox::new();
    let mount = tempfile::tempdir().expect("a temporary directory");
    open_to_all(mount.path());
    give_to_user(sandbox.home.path());
    let data = mount.path().join("..data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("settings.py"), own_settings()).expect("written");
    symlink("..data/settings.py", mount.path().join("settings.py")).expect("linked");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).expect("ours");
    sandbox.set("BOTS_CTL_CONFIG_SOURCE", mount.path().display().to_string());
    let refused = finish(as_user(&sandbox.command(&["init-db"])));
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("ours");
    refused.expect_code(78);
    let expected = mount.path().join("settings.py").display().to_string();
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
}

#[apply(test)]
fn init_db_never_changes_user_written_settings_py() {
    let mut sandbox = Sandbox::new();
    let path = sandbox.root().join("config/settings.py");
    fs::create_dir_all(path.parent().expect("it has one")).expect("made");
    fs::write(&path, own_settings()).expect("written");
    let state =
        || fs::metadata(&path).map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.mode())).expect("there");
    let before = state();
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.set("ALLOWED_HOSTS", "from.the.environment");
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!((state(), fs::read_to_string(&path).expect("there")), (before, own_settings()));
    assert_eq!(django(&sandbox)["hosts"], serde_json::json!(["*"]));
    sandbox.engine(&[]).expect_code(0);
}

/// 3.3.1 would create them inside its package.
#[apply(test)]
fn empty_botssys_in_bots_ini_counts_as_none() {
    let sandbox = Sandbox::new();
    let ini = sandbox.root().join("config/bots.ini");
    let template = fs::read_to_string(package().join("install/bots.ini")).expect("Bots ships a template");
    fs::create_dir_all(sandbox.root().join("config")).expect("made");
    fs::write(&ini, set_value(&template, "directories", "botssys", "").expect("editable")).expect("written");
    sandbox.run(&["init-db"]).expect_code(0);
    assert!(sandbox.root().join("botssys/sqlitedb/botsdb").is_file());
    assert!(!sandbox.root().join("sqlitedb").exists());
    if is_bots_3() {
        let expected = format!("botssys = {}\n", sandbox.root().join("botssys").display());
        let text = fs::read_to_string(&ini).expect("there");
        assert!(text.contains(&expected), "{text}");
    }
}

#[apply(test)]
fn sqlite_file_is_moved_only_out_of_the_installed_bots() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let root = home.path().display();
    for path in ["bots/__init__.py", "bots/install/settings.py", "config/bots.ini", "secret-key"] {
        fs::create_dir_all(home.path().join(path).parent().expect("below")).expect("made");
        fs::write(home.path().join(path), "").expect("written");
    }
    let block = include_str!("../../src/bots/python/settings_block.py");
    let own = format!("{root}/botssys/sqlitedb/botsdb");
    for (name, expected) in [
        (format!("{root}/botsdb"), format!("{root}/botsdb")),
        (format!("{root}/bots/botsdb"), own.clone()),
        (format!("{root}/bots"), own.clone()),
        (String::new(), own),
    ] {
        let settings = home.path().join("config/settings.py");
        let databases = format!("{{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': {name:?}}}}}");
        fs::write(&settings, format!("SECRET_KEY = 'mine'\nDATABASES = {databases}\n{block}")).expect("written");
        let script = "import runpy, sys; print(runpy.run_path(sys.argv[1])['DATABASES']['default']['NAME'])";
        let mut python = Command::new(python());
        let run = python.args(["-c", script]).arg(&settings).env("PYTHONPATH", home.path()).output().expect("run");
        assert_eq!(String::from_utf8_lossy(&run.stdout).trim(), expected, "{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[apply(test)]
fn init_db_keeps_user_lines_around_managed_block() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    let path = sandbox.root().join("config/settings.py");
    let made = fs::read_to_string(&path).expect("it was made");
    let (above, block) = made.split_once("# >>> bots-ctl").expect("it has a managed block");
    let mine =
        format!("{above}TIME_ZONE = 'Asia/Tokyo'\n# >>> bots-ctl{block}MANAGERS = (('me', 'me@example.com'),)\n");
    fs::write(&path, &mine).expect("written");
    sandbox.run(&["init-db"]).expect_code(0);
    assert_eq!(fs::read_to_string(&path).expect("there"), mine);
    let django = django(&sandbox);
    assert_eq!((&django["zone"], &django["managers"][0][0]), (&Value::from("Asia/Tokyo"), &Value::from("me")));
}

#[apply(test)]
fn edited_managed_block_causes_warning_and_stays() {
    let sandbox = Sandbox::prepared();
    let path = sandbox.root().join("config/settings.py");
    let made = fs::read_to_string(&path).expect("it was made");
    let edited = made.replace("    root = os.path", "    settings['EDITED'] = True\n    root = os.path");
    let line = 1 + made.lines().position(|line| line.starts_with("# >>> bots-ctl")).expect("it has a managed block");
    fs::write(&path, &edited).expect("written");
    let warning = format!("{}:{line}: the block of bots-ctl", path.display());
    let started = sandbox.engine(&[]);
    started.expect_code(0);
    assert!(started.stderr.contains(&warning), "{}", started.stderr);
    let checked = sandbox.run(&["config", "check"]);
    checked.expect_code(0);
    assert!(checked.stdout.contains(&warning), "{}", checked.stdout);
    assert_eq!(fs::read_to_string(&path).expect("there"), edited);
}

/// Those of documentation, of Bots's template, and of Django's startproject.
#[apply(test)]
fn start_and_config_check_warn_of_public_secret_key() {
    let mut sandbox = Sandbox::prepared();
    let path = sandbox.root().join("config/settings.py");
    let warned = |sandbox: &Sandbox, place: &str, key: &str| {
        let warning = format!("{place}: this SECRET_KEY is public or an example");
        let (checked, started) = (sandbox.run(&["config", "check"]), sandbox.engine(&[]));
        checked.expect_code(0);
        for output in [&checked.stdout, &started.stderr] {
            assert!(output.contains(&warning), "{output}");
            assert!(!output.contains(key), "{output}");
        }
    };
    let own = own_settings();
    let (before, _) = own.rsplit_once("SECRET_KEY = ").expect("it has one");
    for (last, key) in [("", "m@-u37"), ("SECRET_KEY = 'django-insecure-3kd0'\n", "3kd0")] {
        let own = format!("{before}{last}");
        fs::write(&path, &own).expect("written");
        let line = own.lines().collect::<Vec<_>>().iter().rposition(|line| line.starts_with("SECRET_KEY"));
        warned(&sandbox, &format!("{}:{}", path.display(), line.expect("it has a key") + 1), key);
    }
    fs::remove_file(&path).expect("it is there");
    assert!(!sandbox.engine(&[]).stderr.contains("SECRET_KEY"), "a random key is made");
    sandbox.set("DJANGO_SECRET_KEY", "your-dev-secret-key");
    warned(&sandbox, "DJANGO_SECRET_KEY", "your-dev");
}

#[apply(test)]
fn invalid_django_setting_error_names_line_and_cause() {
    let sandbox = Sandbox::new();
    let path = sandbox.root().join("config/settings.py");
    fs::create_dir_all(path.parent().expect("it has one")).expect("made");
    let own = own_settings();
    let line = own.lines().count() + 1;
    let logging = "LOGGING = {'version': 1, 'root': {'level': 'loud'}}\n";
    let wrong = [
        (logging, "Unable to configure root logger: Unknown level: 'loud'"),
        ("INSTALLED_APPS = ['nothing.of.that.name']\n", "ModuleNotFoundError"),
    ];
    for (setting, cause) in wrong {
        fs::write(&path, format!("{own}{setting}")).expect("written");
        let refused = sandbox.run(&["init-db"]);
        refused.expect_code(78);
        let last = refused.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("{}:{line}: ", path.display())) && last.contains(cause), "{}", refused.stderr);
    }
}

#[apply(test)]
fn children_receive_log_level_as_python_name() {
    let mut sandbox = Sandbox::prepared();
    let mut own = own_settings();
    own += "LEVEL = __import__('os').environ.get('LOG_LEVEL')\nLOGGING = {'version': 1, 'root': {'level': LEVEL or 'INFO'}}\n";
    fs::write(sandbox.root().join("config/settings.py"), own).expect("written");
    let question = "from config import settings; print(settings.LEVEL)";
    let level = |sandbox: &Sandbox, flags: &[&str]| {
        let asked = sandbox.run(&[&["exec"], flags, &["--", "python", "-c", question]].concat());
        asked.expect_code(0).stdout.trim().to_owned()
    };
    assert_eq!(level(&sandbox, &[]), "None");
    assert_eq!(level(&sandbox, &["--log-level", "debug"]), "DEBUG");
    for (given, expected) in [("info", "INFO"), ("warn", "WARNING"), ("Critical", "ERROR"), ("trace", "DEBUG")] {
        sandbox.set("LOG_LEVEL", given);
        assert_eq!(level(&sandbox, &[]), expected);
        sandbox.run(&["config", "check"]).expect_code(0);
    }
}

#[apply(test)]
fn start_rejects_new_environment_beside_mounted_one() {
    let mut sandbox = Sandbox::new();
    let volume = sandbox.root().join("botssys");
    fs::create_dir_all(&volume).expect("made");
    let run = |sandbox: &Sandbox, args: &[&str]| {
        let script = format!("mount -t tmpfs tmpfs '{}' && exec \"$0\" \"$@\"", volume.display());
        finish(in_mounts(&script, &sandbox.command(args)))
    };
    run(&sandbox, &["config", "check"]).expect_code(0);
    sandbox.set("BOTSENV", "dev");
    for command in [&["config", "check"][..], &["init-db"], &["webserver"], &["engine"]] {
        let refused = run(&sandbox, command);
        refused.expect_code(78);
        let expected = format!("a volume is mounted at {}: set BOTSENV=default", volume.display());
        assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    }
    let config = sandbox.home.path().join(".bots/env/dev/config");
    assert!(!config.parent().expect("it has one").exists());
    // A second environment on a host, on purpose.
    fs::create_dir_all(config).expect("made");
    run(&sandbox, &["init-db"]).expect_code(0);
}

/// settings.py of 3.3.1 names its directories after it.
#[apply(test)]
fn children_receive_botsenv_only_if_configured() {
    let mut sandbox = Sandbox::new();
    let name = |sandbox: &Sandbox| {
        let asked = sandbox.run(&["exec", "--", "sh", "-c", "echo ${BOTSENV-none}"]);
        asked.expect_code(0).stdout.trim().to_owned()
    };
    assert_eq!(name(&sandbox), "none");
    let config = sandbox.root().join("config").display().to_string();
    sandbox.set("BOTS_CONFIG_DIR", config);
    assert_eq!(name(&sandbox), "none");
    sandbox.set("BOTSENV", "dev");
    assert_eq!(name(&sandbox), "dev");
    sandbox.unset("BOTSENV");
    fs::create_dir(sandbox.home.path().join(".bots")).expect("made");
    fs::write(sandbox.home.path().join(".bots/bots-ctl.toml"), "[environment]\nname = \"test\"\n").expect("written");
    assert_eq!(name(&sandbox), "test");
}

#[apply(test)]
fn environment_variables_reach_django_settings() {
    let mut sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    let untouched = django(&sandbox);
    let botsdb = sandbox.root().join("botssys/sqlitedb/botsdb").display().to_string();
    assert_eq!(untouched["db"]["NAME"], Value::from(botsdb));
    assert_eq!(untouched["key"], Value::from(fs::read_to_string(sandbox.root().join("secret-key")).expect("there")));

    let secrets = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        fs::write(secrets.path().join(name), text).expect("written");
        secrets.path().join(name).display().to_string()
    };
    sandbox.set("DB_ENGINE", "mysql").set("DB_NAME", "edi").set("DB_USER", "bots").set("DB_HOST", "db.example.com");
    sandbox.set("DB_PASSWORD_FILE", file("password", "pass word\n")).set("DJANGO_SECRET_KEY", "key-of-the-environment");
    sandbox.set("ALLOWED_HOSTS", "edi.example.com, other.example.com").set("DEBUG", "true");
    sandbox.set("CSRF_TRUSTED_ORIGINS", "https://edi.example.com").set("TZ", "Europe/Berlin").set("USE_TZ", "true");
    sandbox.set("EMAIL_HOST_USER", "edi").set("EMAIL_HOST_PASSWORD_FILE", file("mail-password", "pass word\n"));
    sandbox.set("EMAIL_HOST", "mail.example.com").set("EMAIL_PORT", "587").set("EMAIL_USE_TLS", "on");
    sandbox.set("ADMIN_EMAIL", "one@example.com, two@example.com");
    let given = django(&sandbox);
    let server = |d: &Value| {
        ["ENGINE", "NAME", "USER", "PASSWORD", "HOST"].map(|key| d["db"][key].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(server(&given), ["django.db.backends.mysql", "edi", "bots", "pass word", "db.example.com"]);
    assert_eq!(given["db"]["PORT"], 3306);
    assert_eq!(given["key"], "key-of-the-environment");
    assert_eq!(given["hosts"], serde_json::json!(["edi.example.com", "other.example.com"]));
    let origin = if is_bots_3() { "edi.example.com" } else { "https://edi.example.com" };
    assert_eq!(given["origins"], serde_json::json!([origin]));
    assert_eq!((&given["debug"], &given["zone"]), (&Value::from(true), &Value::from("Europe/Berlin")));
    assert_eq!((&untouched["use_tz"], &given["use_tz"]), (&Value::from(false), &Value::from(true)));
    assert_eq!(
        given["mail"],
        serde_json::json!(["mail.example.com", 587, true, false, "edi", "pass word", "one@example.com"])
    );
    assert_eq!(given["managers"], serde_json::json!([["admin", "one@example.com"], ["admin", "two@example.com"]]));

    sandbox.set("DB_ENGINE", "django.db.backends.postgresql").set("DB_PORT", "6432").set("DEBUG", "0");
    sandbox.unset("DJANGO_SECRET_KEY").set("DJANGO_SECRET_KEY_FILE", file("key", "key-of-a-file\r\n"));
    let given = django(&sandbox);
    let engine = if is_bots_3() { "django.db.backends.postgresql_psycopg2" } else { "django.db.backends.postgresql" };
    assert_eq!((&given["db"]["ENGINE"], &given["db"]["PORT"]), (&Value::from(engine), &Value::from(6432)));
    assert_eq!((&given["key"], &given["debug"]), (&Value::from("key-of-a-file"), &Value::from(false)));
}

#[apply(test)]
fn configuration_file_reaches_django_settings() {
    let sandbox = Sandbox::new();
    sandbox.run(&["init-db"]).expect_code(0);
    let text = "[database]\nengine = \"mariadb\"\nname = \"edi\"\nhost = \"db\"\nport = 3307\npassword = \"from-toml\"\n\
                [django]\nallowed_hosts = [\"a.example.com\", \"b.example.com\"]\ndebug = true\ntime_zone = \"Asia/Tokyo\"\n";
    fs::write(sandbox.home.path().join(".bots/bots-ctl.toml"), text).expect("written");
    let given = django(&sandbox);
    assert_eq!(given["db"]["ENGINE"], "django.db.backends.mysql");
    assert_eq!((&given["db"]["PORT"], &given["db"]["PASSWORD"]), (&Value::from(3307), &Value::from("from-toml")));
    assert_eq!(given["hosts"], serde_json::json!(["a.example.com", "b.example.com"]));
    assert_eq!((&given["debug"], &given["zone"]), (&Value::from(true), &Value::from("Asia/Tokyo")));
}

#[apply(test)]
fn init_db_rejects_database_host_without_engine() {
    let mut sandbox = Sandbox::new();
    sandbox.set("DB_HOST", "db.example.com");
    let refused = sandbox.run(&["init-db"]);
    refused.expect_code(78);
    let settings = sandbox.root().join("config/settings.py").display().to_string();
    for words in [settings.as_str(), "DB_ENGINE", "set it to mysql or postgresql"] {
        assert!(refused.stderr.contains(words), "no {words:?} in\n{}", refused.stderr);
    }
    assert!(!refused.stderr.contains("Traceback"), "{}", refused.stderr);
    assert!(!sandbox.root().join("botssys/sqlitedb/botsdb").exists(), "no SQLite database in place of the one meant");
}

#[apply(test)]
fn port_override_does_not_persist_in_bots_ini() {
    let mut sandbox = Sandbox::new();
    sandbox.set("PORT", "");
    sandbox.run(&["init-db"]).expect_code(0);
    let path = sandbox.root().join("config/bots.ini");
    let own = fs::read_to_string(&path).expect("it was made").replace("port = 8080\n", "port = 8123\n");
    fs::write(&path, &own).expect("written");
    let effective = |sandbox: &Sandbox| {
        let script = "from bots import botsglobal, botsinit; import os; botsinit.generalinit(os.environ['BOTS_CONFIG_DIR']); \
                      ini = botsglobal.ini; print(ini.get('webserver', 'port'), ini.getboolean('jobqueue', 'enabled', False))";
        let answer = sandbox.run(&["exec", "--", "python", "-c", script]);
        answer.expect_code(0);
        answer.stdout.trim().to_owned()
    };
    for (variables, expected) in [
        (&[][..], "8123 False"),
        (&[("PORT", "8124"), ("BOTS_CTL_JOBQUEUE_URL", "http://127.0.0.1:9")], "8124 True"),
        (&[], "8123 False"),
    ] {
        sandbox.set("PORT", "").unset("BOTS_CTL_JOBQUEUE_URL");
        for (name, value) in variables {
            sandbox.set(name, *value);
        }
        sandbox.run(&["init-db"]).expect_code(0);
        assert_eq!(fs::read_to_string(&path).expect("there"), own);
        assert_eq!(effective(&sandbox), expected);
    }
}

#[apply(test)]
fn settings_of_a_file_that_changes_while_they_load_are_not_cached() {
    let sandbox = Sandbox::prepared();
    let root = sandbox.root();
    let [zone, reached, go] = ["zone", "reached", "go"].map(|name| root.join(name));
    fs::write(&zone, "UTC").expect("written");
    let wait = format!(
        "\nimport time\nTIME_ZONE = open({zone:?}).read()\nos.makedirs({reached:?}, exist_ok=True)\n\
         while not os.path.exists({go:?}):\n    time.sleep(0.01)\n"
    );
    let settings = root.join("config/settings.py");
    let text = fs::read_to_string(&settings).expect("there is one");
    fs::write(&settings, format!("{text}{wait}")).expect("written");
    let mut started = sandbox.start(&["init-db"]);
    wait_until("settings.py has read it", || reached.exists().then_some(()), || started.report());
    fs::write(&zone, "Asia/Tokyo").expect("written");
    fs::write(&go, "").expect("written");
    assert_eq!(started.wait_code(), 0, "{}", started.report());
    assert!(!root.join(".bots-ctl-settings-cache.json").exists(), "of a zone that is no more");
    sandbox.run(&["init-db"]).expect_code(0);
    let cache = fs::read_to_string(root.join(".bots-ctl-settings-cache.json")).expect("it is there");
    assert!(cache.contains("Asia/Tokyo"), "{cache}");
}

#[apply(test)]
fn init_db_keeps_concurrent_configuration_edits() {
    let sandbox = Sandbox::prepared();
    let config = sandbox.root().join("config");
    let files = ["bots.ini", "settings.py"].map(|name| config.join(name));
    let starts = std::thread::scope(|scope| {
        let starts = scope.spawn(|| (0..some_or_all(8, 40)).map(|_| sandbox.run(&["init-db"])).collect::<Vec<_>>());
        let texts = files.each_ref().map(|path| fs::read_to_string(path).expect("there"));
        for number in 0.. {
            for (path, text) in files.iter().zip(&texts) {
                // As an editor does it, so that no reader sees half of it.
                let changed = format!("# change {number}\n{text}");
                let new = path.with_extension("new");
                fs::write(&new, &changed).expect("written");
                fs::rename(&new, path).expect("renamed");
                std::thread::yield_now();
                assert_eq!(fs::read_to_string(path).expect("there").lines().next(), changed.lines().next());
            }
            if starts.is_finished() {
                break;
            }
        }
        starts.join().expect("no panic")
    });
    assert!(starts.iter().all(|start| start.code() == 0), "{starts:?}");
}

/// Directories with 20,000 files: 20 of usersys with 500 each, 20 of grammars with 500 each.
struct Seeds {
    dir: tempfile::TempDir,
}

impl Seeds {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (kind, extension) in [("usersys", "txt"), ("grammars", "py")] {
            for folder in 0..20 {
                let folder = dir.path().join(kind).join(format!("folder{folder:02}"));
                fs::create_dir_all(&folder).expect("made");
                for file in 0..500 {
                    let name = folder.join(format!("file{file:03}.{extension}"));
                    fs::write(&name, format!("# {}\n", name.display())).expect("written");
                }
            }
        }
        Self { dir }
    }

    fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::new();
        sandbox.set("BOTS_CTL_SEED_USERSYS", self.dir.path().join("usersys").display().to_string());
        sandbox.set("BOTS_CTL_SEED_GRAMMARS", self.dir.path().join("grammars").display().to_string());
        sandbox
    }

    /// The expected content of usersys: that of Bots, overridden by that of the image.
    fn expected(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = files(&package().join("usersys"));
        all.entry("__init__.py".into()).or_default();
        all.extend(files(&self.dir.path().join("usersys")));
        let grammars = files(&self.dir.path().join("grammars"));
        all.extend(grammars.into_iter().map(|(path, content)| (Path::new("grammars").join(path), content)));
        all
    }
}

/// Compared by name first: a difference in 20,000 files is not to be printed with their contents.
fn assert_same(found: &BTreeMap<PathBuf, Vec<u8>>, expected: &BTreeMap<PathBuf, Vec<u8>>) {
    assert_eq!(found.len(), expected.len());
    let differing: Vec<_> = expected.iter().filter(|(path, content)| found.get(*path) != Some(content)).collect();
    assert!(differing.is_empty(), "{} files differ, first {:?}", differing.len(), differing.first());
}

#[apply(test)]
fn init_db_completes_interrupted_usersys_seeding() {
    let seeds = Seeds::new();
    let expected = seeds.expected();
    assert!(expected.len() > 20_000);
    let mut interrupted = 0;
    for moment in [4, 12, 1, 20].into_iter().take(some_or_all(2, 4)) {
        let sandbox = seeds.sandbox();
        let usersys = sandbox.root().join("usersys");
        let folders = || {
            fs::read_dir(&usersys)
                .map_or(0, |entries| entries.flatten().filter(|e| e.path().join("file000.txt").exists()).count())
        };
        let mut first = sandbox.start(&["init-db"]);
        wait_until(&format!("{moment} folders are there"), || (folders() >= moment).then_some(()), || first.report());
        first.signal(Signal::SIGKILL);
        first.wait();
        interrupted += usize::from(files(&usersys).len() < expected.len());
        sandbox.run(&["init-db"]).expect_code(0);
        assert_same(&files(&usersys), &expected);
    }
    assert!(interrupted > 0, "all were killed too late to interrupt anything");
}

#[apply(test)]
fn init_db_does_not_seed_nonempty_usersys() {
    let seeds = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(seeds.path().join("usersys/mappings")).expect("made");
    fs::write(seeds.path().join("usersys/mappings/theirs.py"), "THEIRS = 1\n").expect("written");
    fs::create_dir_all(seeds.path().join("grammars/edifact")).expect("made");
    fs::write(seeds.path().join("grammars/edifact/theirs.py"), "THEIRS = 1\n").expect("written");
    let mut sandbox = Sandbox::new();
    sandbox.set("BOTS_CTL_SEED_USERSYS", seeds.path().join("usersys").display().to_string());
    sandbox.set("BOTS_CTL_SEED_GRAMMARS", seeds.path().join("grammars").display().to_string());
    let usersys = sandbox.root().join("usersys");
    fs::create_dir_all(usersys.join("grammars/edifact")).expect("made");
    fs::write(usersys.join("mine.py"), "MINE = 1\n").expect("written");
    fs::write(usersys.join("grammars/edifact/mine.py"), "MINE = 1\n").expect("written");
    sandbox.run(&["init-db"]).expect_code(0);
    let names: Vec<PathBuf> = files(&usersys).into_keys().collect();
    assert_eq!(names, ["__init__.py", "grammars/edifact/mine.py", "mine.py"].map(PathBuf::from));
}

#[apply(test)]
fn concurrent_init_db_runs_create_one_superuser() {
    let sandbox = Sandbox::new();
    let mut all: Vec<Running> = (0..8).map(|_| sandbox.start(&["init-db"])).collect();
    for one in &mut all {
        assert_eq!(one.wait_code(), 0, "{}", one.report());
    }
    assert_eq!(count(&sandbox, "auth_user"), 1);
    let password = sandbox.admin_password();
    let told: usize = all.iter().map(|one| one.stderr().matches(&password).count()).sum();
    assert_eq!(told, 1, "the password is shown once");
    let question = "import django, sys; from bots import botsinit; botsinit.generalinit(sys.argv[1]); \
        from django.contrib.auth import authenticate; print(bool(authenticate(username='admin', password=sys.argv[2])))";
    let config_dir = sandbox.root().join("config").display().to_string();
    let answer = sandbox.run(&["exec", "--", "python", "-c", question, &config_dir, &password]);
    assert!(answer.stdout.ends_with("True\n"), "the password in the file is the user's: {answer:?}");
    assert_eq!(
        django(&sandbox)["key"],
        Value::from(fs::read_to_string(sandbox.root().join("secret-key")).expect("there"))
    );
}

/// The moments are spread over the whole of a first run, as long as an uninterrupted one takes here and now.
#[apply(test)]
fn init_db_completes_killed_first_run() {
    let moments = u32::try_from(some_or_all(4, 20)).expect("small");
    let started = Instant::now();
    Sandbox::new().run(&["init-db"]).expect_code(0);
    let whole = started.elapsed();
    for moment in 1..=moments {
        let sandbox = Sandbox::new();
        let mut first = sandbox.start(&["init-db"]);
        std::thread::sleep(whole * moment / (moments + 1));
        first.signal(Signal::SIGKILL);
        first.wait();
        let second = sandbox.run(&["init-db"]);
        assert_eq!(second.code(), 0, "killed at {moment}/{moments}\nfirst {}\nsecond {second:?}", first.report());
        assert_eq!(count(&sandbox, "auth_user where is_superuser"), 1, "killed at {moment}/{moments}");
        assert_eq!(sandbox.admin_password().len(), 20, "killed at {moment}/{moments}");
        let engine = sandbox.engine(&[]);
        assert_eq!(engine.code(), 0, "killed at {moment}/{moments}\n{engine:?}");
    }
}

#[apply(test)]
fn web_ui_runs_as_ordinary_user_with_only_a_home() {
    let sandbox = Sandbox::new();
    give_to_user(sandbox.home.path());
    let logs = tempfile::tempdir().expect("a temporary directory");
    let mut web = Running::start(as_user_of_bots(&sandbox.command(&["webserver"])), logs.path(), sandbox.health_port);
    web.wait_ready();
    let owner = |name: &str| fs::metadata(sandbox.root().join(name)).expect("it was made").uid();
    let home = fs::metadata(sandbox.home.path()).expect("there").uid();
    for name in ["config/settings.py", "botssys/sqlitedb/botsdb", "usersys/__init__.py", "secret-key"] {
        assert_eq!(owner(name), home, "{name}");
    }
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
}

/// HOME is the one place that can be written to: `/tmp` is read-only as well.
const READ_ONLY: &str = "
    mount --make-rprivate / || exit 90
    cut -d' ' -f2 /proc/mounts | while read -r at; do mount -o remount,bind,ro \"$at\" 2>/dev/null; done
    mount -t tmpfs -o mode=0755,size=200m,uid=$OWNER,gid=$OWNER tmpfs \"$HOME\" || exit 91
    ! touch /tmp/.bots-ctl-test 2>/dev/null || exit 92
    exec \"$0\" \"$@\"";

/// The command line as [`as_user_of_bots`] on a read-only root file system.
fn on_read_only_root(inner: &Command) -> Command {
    let mut command = in_mounts(READ_ONLY, &as_user_of_bots(inner));
    // In the user namespace of an ordinary user there is one user, root.
    command.env("OWNER", if nix::unistd::geteuid().is_root() { USER.to_string() } else { "0".to_owned() });
    command
}

#[apply(test)]
fn web_ui_runs_on_read_only_root_with_writable_home() {
    let sandbox = Sandbox::new();
    let logs = tempfile::tempdir().expect("a temporary directory");
    let command = on_read_only_root(&sandbox.command(&["webserver"]));
    let mut web = Running::start(command, logs.path(), sandbox.health_port);
    web.wait_ready();
    web.signal(Signal::SIGTERM);
    assert_eq!(web.wait_code(), 0, "{}", web.report());
    assert!(!sandbox.home.path().join(".bots").exists(), "the test's own mount was used");
}

#[apply(test)]
fn config_check_runs_on_read_only_root() {
    let sandbox = Sandbox::new();
    let checked = finish(on_read_only_root(&sandbox.command(&["config", "check"])));
    checked.expect_code(0);
}

/// Bots 4 compares the path of its configuration with the one that Python has found.
#[apply(test)]
fn home_path_with_symlinks_and_dots_is_canonicalized() {
    let sandbox = Sandbox::new();
    let home = sandbox.home.path();
    for directory in ["real", "other", "volume"] {
        fs::create_dir(home.join(directory)).expect("made");
    }
    symlink(home.join("real"), home.join("link")).expect("linked");
    symlink("../volume", home.join("other/.bots")).expect("linked");
    let (real, volume) = (home.join("real/.bots"), home.join("volume"));
    for (given, expected) in [("link", &real), ("other", &volume), ("real/../real", &real), ("//real/.", &real)] {
        let run = |arguments: &[&str]| {
            let mut command = sandbox.command(arguments);
            command.env("HOME", format!("{}/{given}", home.display()));
            finish(command)
        };
        run(&["init-db"]).expect_code(0);
        run(&["init-db", "--check"]).expect_code(0);
        run(&["config", "check"]).expect_code(0);
        let found = run(&["exec", "--", "printenv", "BOTS_CONFIG_DIR"]);
        assert_eq!(
            found.expect_code(0).stdout.trim(),
            expected.join("env/default/config").display().to_string(),
            "{given}"
        );
    }
}

#[apply(test)]
fn start_rejects_invalid_time_zone() {
    let mut sandbox = Sandbox::new();
    for wrong in [" Europe/Berlin", "Europe/Berlin\n", "Europe", "nonsense", "../../../etc"] {
        for command in [&["config", "check"][..], &["init-db"]] {
            let refused = sandbox.set("TZ", wrong).run(command);
            let words = "expected a time zone such as Europe/Berlin or UTC";
            assert!(refused.expect_code(78).stderr.contains(words), "{refused:?}");
        }
    }
    for right in ["Europe/Berlin", ":Europe/Berlin", "Etc/GMT+5"] {
        sandbox.set("TZ", right).run(&["init-db"]).expect_code(0);
    }
}
