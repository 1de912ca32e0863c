//! The operator's command: asks an aggregator and prints what it says. It computes nothing itself.

mod args;
mod ask;
mod json;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;
use crate::ask::Failure;

/// The server cannot be reached (sysexits.h, EX_UNAVAILABLE).
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let args = Args::parse();
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
