//! Snapshots of every `--help`, which people and scripts rely on. After a change that is meant:
//! `INSTA_UPDATE=always cargo test -p onnxd-loadtest --test snapshots`, and read the difference before it is committed.

use clap::CommandFactory;
use onnxd_loadtest::cli::Cli;

#[test]
fn help() {
    // A fixed width: the help must not depend on the terminal of whoever runs the test.
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut all = command.render_long_help().to_string();
    let listed: Vec<_> = command.get_subcommands().cloned().collect();
    for sub in listed.iter().filter(|sub| sub.get_name() != "help") {
        let name = sub.get_name();
        let help = sub.clone().term_width(100).render_long_help().to_string();
        assert!(help.contains("Examples:"), "{name} --help has no example");
        all += &format!("\n---- onnxd loadtest {name} --help\n\n{help}");
    }
    let trimmed: Vec<&str> = all.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}
