//! Snapshots of every `--help`. After a change that is meant: `INSTA_UPDATE=always cargo test -p onnxd-offline --test help`.

use clap::CommandFactory;
use onnxd_offline::cli::Cli;

#[test]
fn help() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut all = command.render_long_help().to_string();
    let mut add = |name: &str, sub: &clap::Command| {
        let help = sub.clone().term_width(100).render_long_help().to_string();
        all += &format!("\n---- onnxd {name} --help\n\n{help}");
    };
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        add(sub.get_name(), sub);
        for inner in sub.get_subcommands().filter(|inner| inner.get_name() != "help") {
            add(&format!("{} {}", sub.get_name(), inner.get_name()), inner);
        }
    }
    let trimmed: Vec<&str> = all.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}
