//! The events service as a process.

fn main() -> std::process::ExitCode {
    events_service::main()
}
