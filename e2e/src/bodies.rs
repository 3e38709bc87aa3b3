//! Bodies and their answers.

/// The five bodies of the README and their answers, to the byte.
pub const FIVE: [(&str, &str); 5] = [
    (
        r#"{"a1": 5, "a2": 10}"#,
        r#"{"message":"OK","result":"15"}"#,
    ),
    (r#"{"s1": 4, "s2": 7}"#, r#"{"message":"OK","result":"-3"}"#),
    (r#"{"m1": 4, "m2": 7}"#, r#"{"message":"OK","result":"28"}"#),
    (
        r#"{"d1": 4, "d2": 7}"#,
        r#"{"message":"OK","result":"0.5714285714285714"}"#,
    ),
    (
        r#"{"a1": "a", "a2": "b"}"#,
        r#"{"message":"OK","result":"ab"}"#,
    ),
];

/// A body to send and the `result` it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The request body.
    pub body: String,
    /// The `result` of its answer.
    pub result: String,
}

impl Question {
    fn new(body: &str, result: impl Into<String>) -> Self {
        Self {
            body: body.to_owned(),
            result: result.into(),
        }
    }
}

/// The question number `number` of a test: each number has a body of its own, the operations take
/// turns, and the answers are short enough that every language prints them the same.
#[must_use]
pub fn question(number: u32) -> Question {
    let n = i64::from(number);
    let (body, result) = match number % 6 {
        0 => (format!(r#"{{"a1": {n}, "a2": 1}}"#), (n + 1).to_string()),
        1 => (
            format!(r#"{{"s1": {n}, "s2": 100000}}"#),
            (n - 100_000).to_string(),
        ),
        2 => (format!(r#"{{"m1": {n}, "m2": -3}}"#), (n * -3).to_string()),
        3 => (format!(r#"{{"d2": 4, "d1": {n}}}"#), quarters(n)),
        4 => (
            format!(r#"{{"a2": "-😀", "a1": "text {n}"}}"#),
            format!("text {n}-😀"),
        ),
        _ => (format!(r#"{{"a": "{n}e", "b": "6"}}"#), format!("{n}e6")),
    };
    Question { body, result }
}

/// A question with a body of its own for each number, and as many bytes as told in the question
/// and in its answer.
#[must_use]
pub fn large_question(number: u32, bytes: usize) -> Question {
    let text = "x".repeat(bytes);
    Question {
        body: format!(r#"{{"a1": "{number} {text}", "a2": "."}}"#),
        result: format!("{number} {text}."),
    }
}

/// `n / 4` as a decimal number.
fn quarters(n: i64) -> String {
    let fraction = ["", ".25", ".5", ".75"][usize::try_from(n % 4).unwrap_or(0)];
    format!("{}{fraction}", n / 4)
}

/// Questions on which dialects differ: exponents, quotes, controls, what looks like a number.
#[must_use]
pub fn awkward() -> Vec<Question> {
    vec![
        Question::new(r#"{"m1": 50000, "m2": 1000}"#, "50000000"),
        Question::new(r#"{"a1": 999999, "a2": 1}"#, "1000000"),
        Question::new(r#"{"m1": 1e10, "m2": 1e11}"#, "1e+21"),
        Question::new(r#"{"d1": 1, "d2": 20000}"#, "0.00005"),
        Question::new(r#"{"d1": 1, "d2": 1e7}"#, "1e-7"),
        Question::new(r#"{"a1": 0.1, "a2": 0.2}"#, "0.30000000000000004"),
        Question::new(r#"{"s2": 4, "s1": 7}"#, "3"),
        Question::new(r#"{"a1": "1e", "a2": "6"}"#, "1e6"),
        Question::new(r#"{"a1": "15", "a2": ".0"}"#, "15.0"),
        Question::new(r#"{"a1": "5.0E", "a2": "7"}"#, "5.0E7"),
        Question::new(r#"{"a1": "nul", "a2": "l"}"#, "null"),
        Question::new(r#"{"a1": "😀", "a2": "👩‍👩‍👧"}"#, "😀👩‍👩‍👧"),
        Question::new(
            r#"{"a1": "\u0000\u0001\u0007\b\t\n\u000b\f\r\u001f", "a2": "\u007f\u0085\u2028\u2029\ufeff\\"}"#,
            "\0\u{1}\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}\u{85}\u{2028}\u{2029}\u{feff}\\",
        ),
        Question::new(
            r#"{"a1": "<&>'/", "a2": "\\x7f \\a \\u0000"}"#,
            "<&>'/\\x7f \\a \\u0000",
        ),
        Question::new(
            r#"{"a1": "say \"hi\"", "a2": " twice"}"#,
            "say \"hi\" twice",
        ),
    ]
}

/// Questions whose answer begins and ends with a quote: exactly right only when whoever reads the
/// result knows that it is final, or always quoted.
#[must_use]
pub fn quoted() -> Vec<Question> {
    vec![
        Question::new(r#"{"a1": "\"a", "a2": "b\""}"#, "\"ab\""),
        Question::new(r#"{"a1": "\"", "a2": "\""}"#, "\"\""),
        Question::new(r#"{"a1": "\"\\u0041", "a2": "\""}"#, "\"\\u0041\""),
    ]
}

/// A string of a few characters that is the answer to an empty question.
#[must_use]
pub fn empty() -> Question {
    Question::new(r#"{"a1": "", "a2": ""}"#, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_written_as_decimals() {
        assert_eq!(quarters(8), "2");
        assert_eq!(quarters(9), "2.25");
        assert_eq!(quarters(3), "0.75");
    }
}
