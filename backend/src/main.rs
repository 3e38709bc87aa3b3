//! The backend with the example tasks: arithmetic on two numbers, concatenation of two strings.

use std::process::ExitCode;

fn main() -> ExitCode {
    backend::tasks::examples().main()
}
