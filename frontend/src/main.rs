//! The frontend as a process.

fn main() -> std::process::ExitCode {
    frontend::main()
}
