//! Snapshots of what people and tools rely on: the error table and every `--help`. After a change that is meant:
//! `INSTA_UPDATE=always cargo test --test snapshots`, and read the difference before it is committed.

use clap::CommandFactory;
use onnxd::{cli::Cli, types::error::Code};

/// The table of ARCHITECTURE.md, as the code has it.
#[test]
fn error_table() {
    let mut table = format!("{:18} {:>4} {:>4}  {:18} blame\n", "code", "http", "grpc", "label");
    for code in Code::ALL {
        let name = format!("{code:?}");
        let blame = format!("{:?}", code.blame());
        table += &format!(
            "{name:18} {:>4} {:>4}  {:18} {blame}\n",
            code.http(),
            code.grpc(),
            code.label()
        );
    }
    insta::assert_snapshot!(table);
}

/// Clients' libraries try UNAVAILABLE again at once: shed work must never be that.
#[test]
fn shed_work_is_never_unavailable() {
    for code in Code::ALL {
        let (shed, unavailable) =
            (code.blame() == onnxd::types::error::Blame::Load, code.grpc() == 14);
        assert!(!(shed && unavailable), "{code:?}");
    }
}

#[test]
fn help() {
    // A fixed width: the help must not depend on the terminal of whoever runs the test.
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut all = command.render_long_help().to_string();
    let listed: Vec<_> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned().collect();
    for sub in listed.iter().filter(|sub| sub.get_name() != "help") {
        let name = sub.get_name();
        let help = sub.clone().term_width(100).render_long_help().to_string();
        assert!(help.contains("Example"), "{name} --help has no example");
        all += &format!("\n---- onnxd {name} --help\n\n{help}");
    }
    let trimmed: Vec<&str> = all.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(trimmed.join("\n"));
}
