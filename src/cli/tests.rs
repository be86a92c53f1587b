//! What a refused command line leads to.

use std::ffi::{OsStr, OsString};

use clap::{CommandFactory, Parser};

use super::Cli;
use super::hints::{OTHER_FLAGS, OTHER_WORDS, unknown_command, usage_message};

fn refused(line: &str) -> String {
    let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    usage_message(&Cli::try_parse_from(&args).expect_err("it is refused"), &args, &Cli::command())
}

#[test]
fn foreign_flag_error_suggests_flag_and_names_command() {
    let table = [
        ("bots-ctl status -w", "unexpected argument '-w' found; use --watch; see bots-ctl status --help"),
        ("bots-ctl webserver -p 80", "unexpected argument '-p' found; use --port; see bots-ctl webserver --help"),
        (
            "bots-ctl init-db --dry-run",
            "unexpected argument '--dry-run' found; use --check; see bots-ctl init-db --help",
        ),
        (
            "bots-ctl initdb --force=1",
            "unexpected argument '--force' found; leave it out: init-db asks no question; see bots-ctl init-db --help",
        ),
        ("bots-ctl job list -a", "unexpected argument '-a' found; use --all; see bots-ctl job list --help"),
        (
            "bots-ctl --log-level info files -v",
            "unexpected argument '-v' found; use --log-level debug; see bots-ctl files --help",
        ),
        ("bots-ctl --nonsense", "unexpected argument '--nonsense' found; see bots-ctl --help"),
        (
            "bots-ctl job show x",
            "invalid value 'x' for '<NUMBER>': expected the number of a job, or latest; see bots-ctl job show --help",
        ),
    ];
    for (line, words) in table {
        assert_eq!(refused(line), words);
    }
}

#[test]
fn a_command_that_is_built_by_itself_reads_its_line_as_among_all_commands() {
    for line in [
        "bots-ctl exec true",
        "bots-ctl exec -g -e 143 --rewrite 15:3 -vv -- sh -c exit",
        "bots-ctl exec --config-dir here true --config there",
        "bots-ctl exec --log-level debug sh --log-level trace",
        "bots-ctl healthcheck --check ready --quiet",
        "bots-ctl healthcheck --config=c.toml --json",
        "bots-ctl initdb --check --json",
    ] {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let all = Cli::try_parse_from(&args).expect(line);
        assert_eq!(format!("{:?}", Cli::read(&args).expect(line)), format!("{all:?}"), "{line}");
    }
    for line in ["bots-ctl exec", "bots-ctl exec --help", "bots-ctl exec -c -g true", "bots-ctl healthcheck --version"]
    {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let all = Cli::try_parse_from(&args).expect_err(line);
        assert_eq!(Cli::read(&args).expect_err(line).to_string(), all.to_string(), "{line}");
    }
}

#[test]
fn suggested_flags_exist_and_foreign_flags_do_not() {
    let mut root = Cli::command();
    root.build();
    for (commands, flags, advice) in OTHER_FLAGS {
        for path in commands {
            let command = path.split(' ').fold(&root, |command, name| command.find_subcommand(name).expect(path));
            let has = |flag: &str| {
                let long = flag.strip_prefix("--");
                command.get_arguments().any(|known| match long {
                    Some(long) => known.get_long() == Some(long),
                    None => known.get_short() == flag.chars().nth(1),
                })
            };
            assert!(flags.iter().all(|flag| !has(flag)), "{path} has one of {flags:?}");
            let named = advice.split([' ', ',', ';']).filter(|word| word.starts_with("--"));
            named.for_each(|flag| assert!(has(flag), "{path} {flag}"));
        }
    }
}

#[test]
fn unknown_command_error_suggests_command() {
    let root = Cli::command();
    let near = |word: &str, names: &[String]| {
        names.iter().find(|name| word.len() > 3 && name.starts_with(&word[..3])).cloned()
    };
    assert_eq!(unknown_command(OsStr::new("ps"), &root, near), "bots-ctl status shows the services");
    assert_eq!(unknown_command(OsStr::new("stats"), &root, near), "did you mean status?");
    assert_eq!(unknown_command(OsStr::new("nonsense"), &root, near), "bots-ctl --help lists the commands");
    for (words, _) in OTHER_WORDS {
        words.iter().for_each(|word| assert!(root.find_subcommand(word).is_none(), "{word} is a command"));
    }
}

#[test]
fn command_help_has_example_and_own_flags_first() {
    let mut root = Cli::command();
    root.build();
    let mut left: Vec<clap::Command> = root.get_subcommands().filter(|sub| sub.get_name() != "help").cloned().collect();
    while let Some(mut command) = left.pop() {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example"), "{help}");
        let common = help.find("Common options:").expect("there are some");
        assert!(help.find("\nOptions:").is_none_or(|own| own < common), "{help}");
        assert!(!help[..common].contains("--config-dir"), "{help}");
        left.extend(command.get_subcommands().cloned());
    }
}
