//! `NUMBER`: arithmetic on two numbers, as doubles.

use shared::contract::{NUMBER, ecmascript};

use super::Operands;
use crate::{
    Failure, FailureCode,
    registry::{Job, Worker},
};

pub(super) fn register(worker: Worker) -> Worker {
    worker
        .on(NUMBER, "ADD", |job| compute(job, |a, b| a + b))
        .on(NUMBER, "SUBTRACT", |job| compute(job, |a, b| a - b))
        .on(NUMBER, "MULTIPLY", |job| compute(job, |a, b| a * b))
        .on(NUMBER, "DIVIDE", divide)
}

fn compute(job: &Job, operation: fn(f64, f64) -> f64) -> Result<String, Failure> {
    let Operands(a, b) = job.body()?;
    ecmascript(operation(a, b)).ok_or_else(|| {
        Failure::new(
            FailureCode::ResultNotFinite,
            format!(
                "the result of {} is beyond the range of a double",
                job.subtask
            ),
        )
    })
}

fn divide(job: &Job) -> Result<String, Failure> {
    let Operands(_, divisor) = job.body::<Operands<f64>>()?;
    if divisor == 0.0 {
        return Err(Failure::new(
            FailureCode::DivisionByZero,
            "the second number is zero",
        ));
    }
    compute(job, |a, b| a / b)
}
