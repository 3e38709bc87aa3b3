//! A message that Go sends twice encoded: a string literal whose text is the JSON object. Go quotes
//! with `strconv.Quote`, whose escapes are a superset of JSON's.

/// The bytes inside a quoted literal, with JSON's and Go's escapes resolved; `None` where it is no
/// well-formed literal. The bytes need not be UTF-8 (`\xff`): whoever parses them finds out.
pub(super) fn unquote(literal: &[u8]) -> Option<Vec<u8>> {
    let mut rest = literal.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut text = Vec::with_capacity(rest.len());
    while let Some(at) = memchr::memchr2(b'\\', b'"', rest) {
        text.extend_from_slice(&rest[..at]);
        rest = rest[at..].strip_prefix(b"\\")?;
        let (&escape, after) = rest.split_first()?;
        rest = after;
        match escape {
            b'"' | b'\\' | b'/' | b'\'' => text.push(escape),
            b'a' => text.push(0x07),
            b'b' => text.push(0x08),
            b'f' => text.push(0x0c),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'v' => text.push(0x0b),
            b'x' => text.push(u8::try_from(hex(&mut rest, 2)?).ok()?),
            b'u' => push_char(&mut text, unicode(&mut rest)?),
            b'U' => push_char(&mut text, char::from_u32(hex(&mut rest, 8)?)?),
            _ => return None,
        }
    }
    text.extend_from_slice(rest);
    Some(text)
}

/// Escapes the control characters inside the strings of a JSON text; those between them are white
/// space.
pub(super) fn escape_controls(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len() + 16);
    let (mut in_string, mut after_backslash) = (false, false);
    for &byte in text {
        if in_string && byte < 0x20 {
            escaped.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            escaped.push(byte);
        }
        if byte == b'"' && !after_backslash {
            in_string = !in_string;
        }
        after_backslash = in_string && byte == b'\\' && !after_backslash;
    }
    escaped
}

/// `\uXXXX`, or the pair of surrogates by which JSON writes what is beyond U+FFFF.
fn unicode(rest: &mut &[u8]) -> Option<char> {
    let unit = hex(rest, 4)?;
    if !(0xd800..0xdc00).contains(&unit) {
        return char::from_u32(unit);
    }
    *rest = rest.strip_prefix(b"\\u")?;
    let low = hex(rest, 4)?;
    if !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
}

fn hex(rest: &mut &[u8], digits: usize) -> Option<u32> {
    let (number, after) = rest.split_at_checked(digits)?;
    *rest = after;
    number.iter().try_fold(0, |sum: u32, &b| {
        Some(sum << 4 | char::from(b).to_digit(16)?)
    })
}

fn push_char(text: &mut Vec<u8>, c: char) {
    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
