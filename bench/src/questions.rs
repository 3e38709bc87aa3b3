//! What is asked, and what the answer must be to the byte.

use std::{cell::Cell, fmt, io::Write as _, net::SocketAddr};

use e2e::bodies;

/// A kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `GET /`: the HTTP edge alone.
    Root,
    /// One body again and again: after the first it is answered from the log.
    OneBody,
    /// A body that was never asked before: the full path every time.
    Distinct,
    /// The operations in turn, each body asked once.
    EveryOperation,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "GET /",
            Self::OneBody => "one body",
            Self::Distinct => "distinct bodies",
            Self::EveryOperation => "every kind of task",
        })
    }
}

/// One deployment is asked one list of questions, however many runs it takes: a body that was asked
/// in an earlier run would be answered from the log.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: Cell<u64>,
}

/// A request, and the body of its answer.
#[derive(Debug, Default)]
pub(crate) struct Question {
    /// As it is sent, head and body.
    pub(crate) request: Vec<u8>,
    /// The body that must come back.
    pub(crate) expected: Vec<u8>,
    body: Vec<u8>,
}

impl Questions {
    /// Puts the next question in the place of the last.
    pub(crate) fn next(&self, kind: Kind, host: SocketAddr, question: &mut Question) {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        let Question {
            request,
            expected,
            body,
        } = question;
        for part in [&mut *request, &mut *expected, &mut *body] {
            part.clear();
        }
        let written = match kind {
            Kind::Root => {
                expected.extend_from_slice(br#"{"message":"OK"}"#);
                write!(request, "GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")
            }
            Kind::OneBody => write!(body, r#"{{"a1": 5, "a2": 10}}"#)
                .and_then(|()| answer(expected, format_args!("15"))),
            Kind::Distinct => write!(body, r#"{{"a1": {number}, "a2": 10}}"#)
                .and_then(|()| answer(expected, format_args!("{}", number + 10))),
            Kind::EveryOperation => {
                let question = bodies::question(u32::try_from(number).unwrap_or(u32::MAX));
                body.extend_from_slice(question.body.as_bytes());
                answer(expected, format_args!("{}", question.result))
            }
        };
        let written = match kind {
            Kind::Root => written,
            _ => written.and_then(|()| post(request, host, body)),
        };
        written.expect("a vector takes what is written");
    }
}

fn answer(expected: &mut Vec<u8>, result: fmt::Arguments<'_>) -> std::io::Result<()> {
    write!(expected, r#"{{"message":"OK","result":"{result}"}}"#)
}

fn post(request: &mut Vec<u8>, host: SocketAddr, body: &[u8]) -> std::io::Result<()> {
    write!(
        request,
        "POST /task HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )?;
    request.extend_from_slice(body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(questions: &Questions, kind: Kind) -> (String, String) {
        let mut question = Question::default();
        questions.next(kind, ([127, 0, 0, 1], 4000).into(), &mut question);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&question.request), text(&question.expected))
    }

    #[test]
    fn distinct_bodies_never_repeat() {
        let questions = Questions::default();
        let (first, answer) = ask(&questions, Kind::Distinct);
        assert!(
            first.ends_with("\r\n\r\n{\"a1\": 1, \"a2\": 10}"),
            "{first}"
        );
        assert_eq!(answer, r#"{"message":"OK","result":"11"}"#);
        assert_ne!(first, ask(&questions, Kind::Distinct).0);
    }

    #[test]
    fn a_length_is_that_of_the_body() {
        let (request, answer) = ask(&Questions::default(), Kind::OneBody);
        assert!(request.contains("content-length: 19\r\n"), "{request}");
        assert_eq!(answer, r#"{"message":"OK","result":"15"}"#);
    }
}
