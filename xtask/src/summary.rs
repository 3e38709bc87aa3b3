//! Adds up what the test programs of a run report.

use std::fmt;

/// How many tests passed and failed. Displays as the closing line of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Summary {
    /// Takes notice of a line: `test result: ok. 3 passed; 0 failed; 0 ignored; …` is one program's
    /// sum, anything else says nothing.
    pub(crate) fn see(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        let counted = |what: &str| {
            let (before, _) = counts.split_once(what)?;
            before
                .trim_end()
                .rsplit([' ', ';'])
                .next()?
                .parse::<u64>()
                .ok()
        };
        if let (Some(passed), Some(failed)) = (counted("passed;"), counted("failed;")) {
            self.passed += passed;
            self.failed += failed;
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], passed: u64, failed: u64) {
        let mut summary = Summary::default();
        for line in lines {
            summary.see(line);
        }
        assert_eq!(summary, Summary { passed, failed });
    }

    #[test]
    fn programs_are_added_up() {
        check(
            &[
                "running 3 tests",
                "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s",
            ],
            15,
            2,
        );
    }

    #[test]
    fn other_lines_say_nothing() {
        check(
            &[
                "test result: who knows",
                "test passed; failed; ... ok",
                "",
                "7 passed; 1 failed;",
            ],
            0,
            0,
        );
        check(&["test result: ok. x passed; 0 failed;"], 0, 0);
        check(
            &["test result: ok. 99999999999999999999999 passed; 0 failed;"],
            0,
            0,
        );
    }

    #[test]
    fn the_closing_line_is_plain() {
        assert_eq!(
            Summary {
                passed: 5,
                failed: 1
            }
            .to_string(),
            "5 passed, 1 failed"
        );
    }
}
