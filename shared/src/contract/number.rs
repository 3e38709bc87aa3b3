//! Numbers as text: one form for the HTTP caller, whichever backend computed it.

/// A double as ECMAScript prints it: `15`, `-3`, `0.5714285714285714`, `50000000`, `1e+21`
/// (ECMA-262, Number::toString). `None` for what is not finite.
pub fn ecmascript(value: f64) -> Option<String> {
    value
        .is_finite()
        .then(|| ryu_js::Buffer::new().format_finite(value).to_owned())
}

/// A number in any of the forms that Go, NodeJS and Java print (`5e+07`, `15.0`, `5.0E7`) in the
/// form of [`ecmascript`]; `None` for what is no finite number.
pub fn normalize_number(text: &str) -> Option<String> {
    let text = text.trim();
    // `f64::from_str` also takes words such as `inf`; a result is digits, or it is no number.
    let is_numeric = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    if !is_numeric {
        return None;
    }
    ecmascript(text.parse().ok()?)
}
