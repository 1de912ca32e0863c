//! The operator's command: asks an aggregator and prints what it says. It computes nothing itself.

mod args;
mod ask;
mod json;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use plimsoll_model::text::one_line;

use crate::args::Args;
use crate::ask::Failure;

/// The command line cannot be understood.
const EXIT_USAGE: u8 = 2;
/// The server cannot be reached (sysexits.h, EX_UNAVAILABLE).
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            let text = one_line(&error.to_string());
            return fail(EXIT_USAGE, &format!("{text}; see --help"));
        }
        Err(help) => {
            return help
                .print()
                .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start: {error}")),
    };
    match runtime.block_on(ask::run(&args)) {
        Ok(text) => match writeln!(std::io::stdout().lock(), "{}", text.trim_end()) {
            // A reader that left, such as `head`, is no failure.
            Ok(()) | Err(_) => ExitCode::SUCCESS,
        },
        Err(Failure::Unreachable(text)) => fail(EXIT_UNAVAILABLE, &text),
        Err(Failure::Refused(text)) => fail(1, &text),
    }
}

fn fail(code: u8, text: &str) -> ExitCode {
    drop(writeln!(std::io::stderr().lock(), "plimsoll: {text}"));
    ExitCode::from(code)
}
