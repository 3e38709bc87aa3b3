//! A backend of one's own, whole. Its line in `task-maps.json`: `"GREETING": "greeting"`.

use backend::{Failure, Job, Worker};

#[derive(serde::Deserialize)]
struct Greeting {
    name: String,
}

fn hello(job: &Job) -> Result<String, Failure> {
    let greeting: Greeting = job.body()?;
    Ok(format!("Hello, {}!", greeting.name))
}

fn main() -> std::process::ExitCode {
    Worker::new().on("GREETING", "HELLO", hello).main()
}
