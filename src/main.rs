use std::process::ExitCode;

fn main() -> ExitCode {
    cosfs_ha::cli::main(std::env::args_os())
}
