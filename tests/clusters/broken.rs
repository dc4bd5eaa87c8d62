//! The program, breaking promises: for the tests in `long_run.rs` that must catch it, and never to be run for anybody.

fn main() -> std::process::ExitCode {
    trunkline::broken::begin();
    trunkline::cli::main()
}
