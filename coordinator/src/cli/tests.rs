//! What the command line takes, and what it makes of it.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Command, String> {
    let words = std::iter::once("drover").chain(line.split(' '));
    super::parse(words.map(Into::into)).map_err(|e| e.to_string())
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_operators_words_are_taken() {
    const BUILD: &str = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    for line in [
        "serve",
        "agent new sparky",
        "agent list --json",
        "agent 7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11 password new",
        "agent token new --note boards",
        "build a.drv b.drv --priority -3 --tag a=b --tag c=d=e --timeout 60h --max-silent-time 90 --wait",
        "build -",
        "builds --state timed-out --system riscv64-linux --tag set --agent sparky --name gcc --limit 5",
        "log 7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11 --follow --attempt 2 --offset 100",
        "fetch 00a3xasf5iyzfv23danwy7pilf2yyxjz-m4-1.4.19 --to out",
        "derivation check - --json",
        "set submit master --revision abc --from - --store a --store b --keep",
        "set list --json",
        "set show master@abc",
        "set diff master@abc patch-71234 --fail-if-broken",
        "set blockers master --limit 7",
        "set drop master",
        "builds --set master@abc --state failed",
        "key show --coordinator https://farm.example.org --token-file t",
        "key show --next",
        "key list --json",
        "key generate signing-key.sec",
        "key rotate --after 7d --from /etc/guix/signing-key.sec",
        "key retire 1 --now",
        "import https://farm.example.org 00a3xasf5iyzfv23danwy7pilf2yyxjz-m4-1.4.19 --key a --key b --detach",
        "import /srv/nars --in-place --unsigned --sign --paths-from - --json",
        "import list",
        "import show 3 --json",
        "import stop 3",
        "mirror https://farm.example.org --every 5 --key a",
        "mirror list --json",
        "mirror stop 3",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
    for line in [&format!("show {BUILD}"), &format!("cancel {BUILD} {BUILD}")] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn what_is_given_arrives() {
    let Ok(Command::Build(args)) =
        parse("build a.drv --priority -3 --tag a=b=c --timeout 1h30m --coordinator http://x --json")
    else {
        panic!("not a build");
    };
    assert_eq!((args.priority, args.timeout, args.max_silent_time, args.wait), (-3, Some(5400), None, false));
    assert_eq!(args.tags, [("a".to_owned(), "b=c".to_owned())]);
    assert!(args.format.json);
    assert_eq!(args.connection.coordinator, "http://x");
    assert_eq!(args.store.to_str(), Some("/gnu/store"));
}

#[test]
fn an_option_before_a_word_is_the_same_as_one_after_it() {
    for word in ["--json list", "list --json", "--token-file t --json list", "--json list --token-file t"] {
        let Ok(Command::Import(args)) = parse(&format!("import {word}")) else { panic!("import {word}") };
        assert!(matches!(args.command, Some(ImportCommand::List)) && args.format.json, "import {word}");
        let Ok(Command::Mirror(args)) = parse(&format!("mirror {word}")) else { panic!("mirror {word}") };
        assert!(matches!(args.command, Some(MirrorCommand::List)) && args.format.json, "mirror {word}");
    }
    let Ok(Command::Import(args)) = parse("import --coordinator http://x stop 3") else {
        panic!("not a stop")
    };
    assert!(matches!(args.command, Some(ImportCommand::Stop { import: 3 })));
    assert_eq!(args.connection.coordinator, "http://x");
    let Ok(Command::Retention(args)) = parse("retention --json run") else { panic!("not a run") };
    assert!(matches!(args.command, Some(RetentionCommand::Run)) && args.format.json);
    // What is no word of the command is where it begins.
    let Ok(Command::Import(args)) = parse("import --json ./list") else { panic!("not an import") };
    assert!(args.command.is_none() && args.source.as_deref() == Some("./list"));
}

#[test]
fn what_a_word_does_not_take_is_refused_wherever_it_stands() {
    for (line, options) in [
        ("retention --dry-run run", "--dry-run"),
        ("retention --estimate status", "--estimate"),
        ("import --key a list", "./list"),
        ("import --json --in-place list", "--in-place"),
        ("import /srv/nars list", "URL or FOLDER"),
        ("mirror --every 5 list", "--every"),
        ("mirror https://farm.example.org stop 3", "URL"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(options) && error.contains("leave out"), "{line}: {error}");
    }
    for line in ["retention run --dry-run", "import list --key a", "mirror list --every 5"] {
        assert!(parse(line).unwrap_err().contains("unexpected argument"), "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_an_example() {
    for (line, word) in [
        ("show hello", "7a3c0d9e"),
        ("builds --state done", "dependency-failed"),
        ("build a.drv --timeout soon", "1h30m"),
        ("build a.drv --tag x", "KEY=VALUE"),
        ("fetch hello", "hello"),
        ("key rotate --after soon", "1h30m"),
        ("key retire first", "first"),
        ("set show a/b", "slash"),
        ("set submit a --revision b@c --from x", "other characters"),
        ("set submit a --from x", "--revision"),
        ("set drop a@b", "other characters"),
        ("log 7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11 --json", "--json"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(word), "{line}: {error}");
    }
}

#[test]
fn the_last_word_about_keeping_counts() {
    for (words, keeps) in [
        ("", None),
        (" --keep", Some(true)),
        (" --no-keep", Some(false)),
        (" --keep --no-keep", Some(false)),
        (" --no-keep --keep", Some(true)),
    ] {
        let Ok(Command::Set(args)) = parse(&format!("set submit a --revision b --from c{words}")) else {
            panic!("{words} is refused");
        };
        let SetCommand::Submit(args) = args.command else { panic!("not submit") };
        assert_eq!(args.keeps(), keeps, "{words}");
    }
}

#[test]
fn the_help_fits_a_screen() {
    let help = Cli::command().render_help().to_string();
    assert!(help.lines().count() < 40, "{help}");
    assert!(help.contains(EXITS));
}
