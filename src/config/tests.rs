//! The layers, their order, and every kind of fault.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use secrecy::ExposeSecret;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn load(pairs: &[(&str, &str)], toml: &str, overrides: &[FlagOverride]) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("bots-ctl.toml");
    std::fs::write(&file, toml).expect("the file is written");
    let (config, faults) = Config::read(&map(pairs), overrides, Some(&file), Path::new("/home/me"));
    if faults.is_empty() { Ok(config) } else { Err(faults.into_iter().map(|fault| fault.text).collect()) }
}

fn effective<'a>(config: &'a Config, path: &str) -> &'a EffectiveSetting {
    config.effective_settings.iter().find(|s| s.setting.path == path).expect("every key is shown")
}

#[test]
fn defaults_are_valid_without_input() {
    let config = load(&[], "", &[]).expect("defaults are valid");
    assert_eq!(config.environment.config_dir, Path::new("/home/me/.bots/env/default/config"));
    assert_eq!(config.environment_root(), Path::new("/home/me/.bots/env/default"));
    assert_eq!(config.stop.webserver_drain, Duration::ZERO);
    assert_eq!(effective(&config, "health.addr").origin, Origin::Default);
}

#[test]
fn later_layers_override_and_are_named_as_origin() {
    let toml = "[health]\naddr = \"127.0.0.1:1\"\n[webserver]\nport = 81\n[stop]\ntimeout = 7\n";
    let flag = FlagOverride { path: "webserver.port", flag: "--port", value: "83".into() };
    let config = load(&[("PORT", "82"), ("BOTS_CTL_HEALTH_ADDR", "127.0.0.1:2")], toml, &[flag]).expect("valid");
    assert_eq!(config.webserver.port, Some(83));
    assert_eq!(effective(&config, "webserver.port").origin, Origin::Flag("--port"));
    assert_eq!(config.health.addr.port(), 2);
    assert_eq!(effective(&config, "health.addr").origin, Origin::Environment("BOTS_CTL_HEALTH_ADDR".into()));
    assert_eq!(config.stop.timeout, Duration::from_secs(7));
    assert!(matches!(effective(&config, "stop.timeout").origin, Origin::File(_, 6)));
}

#[test]
fn misspelled_variable_error_suggests_known_one() {
    let of_a_service = [
        ("BOTS_CTL_SERVICE_HOST", "10.0.0.1"),
        ("BOTS_CTL_SERVICE_PORT_HTTP", "80"),
        ("BOTS_CTL_PORT", "tcp://10.0.0.1:80"),
        ("BOTS_CTL_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    let faults = load(
        &[
            &of_a_service[..],
            &[
                ("BOTS_CTL_STOPTIMEOUT", "5s"),
                ("BOTS_CTL_EMPTY", ""),
                ("BOTS_CTL_JOBQUEUE_TOKEN_FIL", "/x"),
                ("BOTS_CTL_CONFIG", "/x"),
            ],
        ]
        .concat(),
        "",
        &[],
    );
    let expected = [
        "environment variable BOTS_CTL_JOBQUEUE_TOKEN_FIL is unknown; did you mean BOTS_CTL_JOBQUEUE_TOKEN_FILE?",
        "environment variable BOTS_CTL_STOPTIMEOUT is unknown; did you mean BOTS_CTL_STOP_TIMEOUT?",
    ];
    assert_eq!(faults.expect_err("two are unknown"), expected);
    assert_eq!(load(&of_a_service[1..3], "", &[]).expect_err("there is no such Service").len(), 2);
}

#[test]
fn trusted_origin_requires_scheme() {
    let load = |origins| load(&[("CSRF_TRUSTED_ORIGINS", origins)], "", &[]);
    assert!(load("https://a.example.com, http://b:8080,").is_ok());
    let faults = load("https://a.example.com,b.example.com").expect_err("the second has none");
    assert!(faults[0].contains("use https://b.example.com"), "{faults:?}");
}

#[test]
fn all_errors_are_reported_with_their_location() {
    let toml = "[health]\nadr = \"x\"\n[webserver]\nport = true\n[environment]\nname = 5\n[log]\nlevel = \"loud\"\n";
    let faults =
        load(&[("BOTS_CTL_DRAIN", "soon"), ("DB_PORT", "tcp://10.0.0.1:3306")], toml, &[]).expect_err("six faults");
    let text = faults.join("\n");
    assert_eq!(faults.len(), 6, "{text}");
    for part in [
        "bots-ctl.toml:2: unknown key health.adr; did you mean health.addr?",
        "bots-ctl.toml:4: webserver.port: \"true\" is invalid: expected an integer",
        "bots-ctl.toml:6: environment.name: \"5\" is invalid: expected a string",
        "bots-ctl.toml:8: log.level: \"loud\" is invalid",
        "environment variable BOTS_CTL_DRAIN: \"soon\" is invalid",
        "enableServiceLinks",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn toml_syntax_error_names_its_line() {
    let faults = load(&[], "[health]\naddr = \n", &[]).expect_err("not TOML");
    assert!(faults[0].contains("bots-ctl.toml:2: "), "{faults:?}");
}

/// Keys of TOML may hold anything, and so may names of files.
#[test]
fn errors_escape_control_characters() {
    let toml = "\"a\\nforged\\u001b[2J\" = 1\n[database]\npassword_file = \"/a\\nb\"\n";
    let faults = load(&[("DJANGO_SECRET_KEY_FILE", "/c\nd")], toml, &[]).expect_err("three faults");
    assert!(faults.iter().all(|fault| !fault.contains(char::is_control)), "{faults:?}");
    let text = faults.join("\n");
    for part in ["bots-ctl.toml:1: unknown key a\\nforged\\u{1b}[2J", "cannot read /a\\nb", "cannot read /c\\nd"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn secret_from_device_file_is_rejected() {
    let faults = load(&[("DB_PASSWORD_FILE", "/dev/zero")], "", &[]).expect_err("it never ends");
    assert!(
        faults[0].contains("DB_PASSWORD_FILE: cannot read /dev/zero: it is a device, not a regular file"),
        "{faults:?}"
    );
}

#[test]
fn secrets_are_read_from_files_and_never_shown() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("password");
    std::fs::write(&file, "p:w=\"'\u{e4} \n").expect("the file is written");
    let path = file.display().to_string();
    let config = load(&[("DB_PASSWORD_FILE", &path), ("DJANGO_SECRET_KEY", "hush")], "", &[]).expect("valid");
    assert_eq!(config.database.password.as_ref().map(ExposeSecret::expose_secret), Some("p:w=\"'\u{e4} "));
    let everything = format!("{config:?}");
    assert!(!everything.contains("hush") && !everything.contains("p:w"), "{everything}");
    let faults = load(&[("DB_PASSWORD_FILE", &path), ("DB_PASSWORD", "x")], "", &[]).expect_err("both are set");
    assert!(faults[0].contains("both set"), "{faults:?}");
    std::fs::write(&file, "\n").expect("the file is written");
    let faults = load(&[("SUPERUSER_PASSWORD_FILE", &path)], "", &[]).expect_err("there is nothing in it");
    assert!(faults[0].ends_with("password is empty"), "{faults:?}");
    let faults = load(&[("DB_PASSWORD_FILE", "/nowhere/at/all")], "", &[]).expect_err("there is no such file");
    assert!(faults[0].contains("DB_PASSWORD_FILE: cannot read /nowhere/at/all"), "{faults:?}");
}

/// Neither the database options nor the address of a queue is a secret, but parts of them may be.
#[test]
fn secrets_inside_of_values_are_never_shown() {
    let config = load(&[("DB_OPTIONS", r#"{"sslpassword": "hush", "sslmode": "require"}"#)], "", &[]).expect("valid");
    assert_eq!(effective(&config, "database.options").value, r#"{"sslpassword":"(hidden)","sslmode":"require"}"#);
    assert_eq!(config.database.options.expect("given")["sslpassword"], "hush");
    let given = [("DB_OPTIONS", "{'sslpassword': 'hush'}"), ("BOTS_CTL_JOBQUEUE_URL", "http://user:hush@queue:28083")];
    let faults = load(&given, "", &[]).expect_err("both are invalid").join("\n");
    assert!(!faults.contains("hush"), "{faults}");
    assert!(faults.contains("\"(hidden)\"") && faults.contains("http://(hidden)@queue:28083"), "{faults}");
}

#[test]
fn toml_secret_is_inline_or_in_named_file() {
    let config = load(&[], "[django]\nsecret_key = \"hush\"\n", &[]).expect("valid");
    assert_eq!(effective(&config, "django.secret_key").value, "(hidden)");
    let faults =
        load(&[], "[django]\nsecret_key_file = \"/nowhere/at/all\"\n", &[]).expect_err("there is no such file");
    assert!(faults[0].contains("cannot read /nowhere/at/all"), "{faults:?}");
    let both = "[django]\nsecret_key_file = \"/nowhere\"\nsecret_key = \"hush\"\n";
    let faults = load(&[], both, &[]).expect_err("it is unclear which one is right");
    assert!(
        faults[0].ends_with(
            "bots-ctl.toml:3: django.secret_key and django.secret_key_file are both set: remove one of them"
        )
    );
    let faults = load(&[], "[django]\nsecret_key = \"\"\n", &[]).expect_err("anybody knows it");
    assert!(faults[0].contains(":2: django.secret_key is empty"), "{faults:?}");
}

/// A dangling link, or one to itself as on a volume that does not answer: the defaults would be other values.
#[test]
fn file_that_exists_but_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().display().to_string();
    let read = || Config::read(&map(&[("BOTS_CTL_CONFIG_SOURCE", &source)]), &[], None, Path::new("/nowhere")).1;
    assert_eq!(read(), []);
    for target in ["missing", "bots-ctl.toml"] {
        let file = dir.path().join("bots-ctl.toml");
        std::os::unix::fs::symlink(target, &file).expect("linked");
        let faults = read();
        assert!(faults[0].text.starts_with(&format!("cannot read the configuration file {source}")), "{faults:?}");
        std::fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn token_that_no_header_can_contain_is_rejected_with_reason() {
    let load = |token| load(&[("BOTS_CTL_JOBQUEUE_TOKEN", token)], "", &[]);
    assert!(load("a-token_of/visible+characters==").is_ok());
    for wrong in ["hush\n", "hush hush", "h\u{fc}sh"] {
        let faults = load(wrong).expect_err("it is no token");
        let text = "environment variable BOTS_CTL_JOBQUEUE_TOKEN: (hidden) is invalid: expected ASCII characters";
        assert!(faults[0].starts_with(text) && faults[0].contains("echo -n"), "{faults:?}");
    }
}

#[test]
fn list_of_numbers_may_be_written_as_numbers() {
    let config = load(&[], "[engine]\nsuccess_exit_codes = [2, \"3\"]\n", &[]).expect("valid");
    assert_eq!(config.engine.success_exit_codes, [2, 3]);
    let faults = load(&[], "[engine]\nsuccess_exit_codes = [true]\n", &[]).expect_err("no number");
    assert!(faults[0].ends_with("expected an array of strings or integers"), "{faults:?}");
}

#[test]
fn empty_variable_counts_as_unset() {
    let config = load(&[("PORT", ""), ("LOG_LEVEL", "")], "", &[]).expect("valid");
    assert_eq!(config.webserver.port, None);
}

#[test]
fn config_directories_python_cannot_import_are_rejected() {
    for wrong in ["relative/config", "/srv/my.config", "/"] {
        assert!(load(&[("BOTS_CONFIG_DIR", wrong)], "", &[]).is_err(), "{wrong}");
    }
    let config = load(&[("BOTS_CONFIG_DIR", "/srv/bots/config/")], "", &[]).expect("valid");
    assert_eq!(config.environment.config_dir, Path::new("/srv/bots/config"));
}

#[test]
fn webserver_in_pod_drains_by_default() {
    let config = load(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")], "", &[]).expect("valid");
    assert_eq!(config.stop.webserver_drain, Duration::from_secs(5));
}

#[test]
fn default_follows_setting_it_refers_to() {
    let given = [("BOTS_CTL_STOP_TIMEOUT", "7"), ("BOTS_CTL_DRAIN", "3s"), ("BOTSENV", "second")];
    let config = load(&given, "", &[]).expect("valid");
    assert_eq!(config.stop.engine_timeout, Duration::from_secs(7));
    assert_eq!((config.stop.webserver_drain, config.reload.drain), (Duration::from_secs(3), Duration::from_secs(3)));
    assert_eq!(config.environment.config_dir, Path::new("/home/me/.bots/env/second/config"));
    assert_eq!(effective(&config, "reload.drain").origin, Origin::Default);
    let config = load(&[&given[..], &[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]].concat(), "", &[]).expect("valid");
    assert_eq!((config.stop.webserver_drain, config.reload.drain), (Duration::from_secs(3), Duration::from_secs(15)));
}

#[test]
fn database_url_sets_variables_and_must_match_them() {
    let url = "mysql://me:hush@db:3307/bots?ssl_mode=REQUIRED";
    let config = load(&[("BOTS_CTL_DATABASE_URL", url), ("DB_HOST", "db"), ("DB_ENGINE", "mariadb")], "", &[]);
    let config = config.expect("they agree");
    let database = &config.database;
    assert_eq!((database.engine.as_deref(), database.port), (Some("mysql"), Some(3307)));
    assert_eq!(database.options.as_ref().expect("there is one")["ssl_mode"], "REQUIRED");
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    let faults = load(&[("BOTS_CTL_DATABASE_URL", url), ("DB_HOST", "other"), ("DB_PASSWORD", "x")], "", &[]);
    let faults = faults.expect_err("they disagree");
    assert!(faults[0].contains("\"other\"") && faults[0].contains("\"db\"") && faults[1].contains("DB_PASSWORD"));
    let faults = load(&[("BOTS_CTL_DATABASE_URL", "oracle://me:hush@db/x")], "", &[]).expect_err("not supported");
    assert!(faults[0].contains("BOTS_CTL_DATABASE_URL: (hidden) is invalid"), "{faults:?}");
}

/// Settings of each kind, whose values are numbers.
const NUMBERS: [(&str, &str); 4] = [
    ("webserver.port", "PORT"),
    ("restart.limit", "BOTS_CTL_RESTART_LIMIT"),
    ("stop.timeout", "BOTS_CTL_STOP_TIMEOUT"),
    ("health.interval", "BOTS_CTL_HEALTH_INTERVAL"),
];

proptest! {
    /// The last layer that has a value decides, setting by setting, and is named.
    #[test]
    fn each_setting_comes_from_its_last_layer(layers in vec(prop::array::uniform3(prop::option::of(1..60_000_u16)), 4)) {
        let (mut toml, mut environment, mut flags) = (String::new(), BTreeMap::new(), Vec::new());
        for ((path, variable), [file, own, flag]) in NUMBERS.iter().zip(&layers) {
            if let Some(value) = file {
                toml.push_str(&format!("{path} = {value}\n"));
            }
            own.map(|value| environment.insert((*variable).to_owned(), value.to_string()));
            flags.extend(flag.map(|value| FlagOverride { path, flag: "--flag", value: value.to_string() }));
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("bots-ctl.toml");
        std::fs::write(&file, &toml).expect("the file is written");
        let (config, faults) = Config::read(&environment, &flags, Some(&file), Path::new("/home/me"));
        assert!(faults.is_empty(), "{faults:?}");
        let (default, _) = Config::read(&BTreeMap::new(), &[], Some(Path::new("/dev/null")), Path::new("/home/me"));
        for ((path, variable), [in_file, own, flag]) in NUMBERS.iter().zip(&layers) {
            let line = toml.lines().position(|line| line.starts_with(path)).map_or(0, |at| at + 1);
            let (value, origin) = match (flag, own, in_file) {
                (Some(value), _, _) => (value.to_string(), Origin::Flag("--flag")),
                (None, Some(value), _) => (value.to_string(), Origin::Environment((*variable).to_owned())),
                (None, None, Some(value)) => (value.to_string(), Origin::File(file.clone(), line)),
                (None, None, None) => (effective(&default, path).value.clone(), Origin::Default),
            };
            prop_assert_eq!(&effective(&config, path).value, &value);
            prop_assert_eq!(&effective(&config, path).origin, &origin);
        }
        let given = |layers: &[Option<u16>; 3]| layers.iter().rev().flatten().next().copied();
        prop_assert_eq!(config.webserver.port, given(&layers[0]));
        prop_assert_eq!(config.restart.limit, given(&layers[1]).map_or(default.restart.limit, u32::from));
        let seconds = |layers, default| given(layers).map_or(default, |value| Duration::from_secs(value.into()));
        prop_assert_eq!(config.stop.timeout, seconds(&layers[2], default.stop.timeout));
        prop_assert_eq!(config.health.interval, seconds(&layers[3], default.health.interval));
    }
}

#[test]
fn configuration_directory_is_canonicalized() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().canonicalize().expect("there");
    std::fs::create_dir_all(root.join("real/config")).expect("made");
    std::os::unix::fs::symlink("real", root.join("link")).expect("linked");
    let real = root.join("real/config");
    for name in ["link/config", "real/../link//config/", "./real/./config", "new/../real/config"] {
        let given = format!("{}/{name}", root.display());
        let config = load(&[("BOTS_CONFIG_DIR", &given), ("BOTS_CTL_CONFIG_SOURCE", &given)], "", &[]).expect("valid");
        assert_eq!((&config.environment.config_dir, &config.environment.config_source), (&real, &real), "{name}");
    }
    let given = format!("{}/link/new/../other", root.display());
    let config = load(&[("BOTS_CONFIG_DIR", &given)], "", &[]).expect("valid");
    assert_eq!(config.environment.config_dir, root.join("real/other"));
}

#[test]
fn time_zone_accepts_names_and_posix_rules() {
    for zone in ["UTC", "Europe/Berlin", ":Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3", "<+03>-3", "EST5EDT"] {
        assert_eq!(load(&[("TZ", zone)], "", &[]).expect("valid").django.time_zone.as_deref(), Some(zone));
    }
    for wrong in ["Europe/Berlin ", "UTC\n", " "] {
        let faults = load(&[("TZ", wrong)], "", &[]).expect_err("no zone");
        assert!(faults[0].contains("expected a time zone such as Europe/Berlin or UTC"), "{faults:?}");
    }
}
