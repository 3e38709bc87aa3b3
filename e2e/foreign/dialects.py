"""How each of the three older families writes events, numbers and results.

A dialect is a class with

    encode(event) -> bytes      event: the fields that are set, as text
    decode(payload) -> dict     all ten fields, "" where not set; raises Unreadable
    request_body(operands)      the requestBody text; operands: list of (name, value)
    result(task, value)         the responseBody text
    request_id()                as its frontend makes them
    result_fields               the fields of a result, in its order
"""

import json
import random
import re
import secrets
import time
import uuid

FIELDS = (
    "requestId",
    "containerId",
    "service",
    "recordId",
    "task",
    "subtask",
    "requestBody",
    "responseBody",
    "serviceContainerId",
    "serviceContainerService",
)


class Unreadable(Exception):
    """A payload that is no event; it is dropped."""


class FatalDereference(Exception):
    """The Java family's NullPointerException, which ends the process."""


# ---- numbers ----------------------------------------------------------------------------------


def _digits(number):
    """(sign, shortest digits, position of the point): 150.0 is ("", "15", 3)."""
    sign = "-" if number < 0 or (number == 0 and str(number)[0] == "-") else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    return sign, stripped.rstrip("0") or "0", point if stripped.rstrip("0") else 1


def _plain(sign, digits, point):
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    return f"{sign}{digits[:point]}.{digits[point:]}"


def _mantissa(digits, always_point=False):
    rest = digits[1:] or ("0" if always_point else "")
    return digits[0] + ("." + rest if rest else "")


def ecmascript_number(number):
    """Number::toString of ECMAScript."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    sign, digits, point = _digits(number)
    if -6 < point <= 21:
        return _plain(sign, digits, point)
    return f"{sign}{_mantissa(digits)}e{point - 1:+d}"


def go_number(number):
    """fmt.Sprint of a float64."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "+Inf" if number > 0 else "-Inf"
    sign, digits, point = _digits(number)
    exponent = point - 1
    if number != 0 and (exponent < -4 or exponent >= 6):
        return f"{sign}{_mantissa(digits)}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return _plain(sign, digits, point)


def go_json_number(number):
    """encoding/json of a float64."""
    sign, digits, point = _digits(number)
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return _plain(sign, digits, point)
    return f"{sign}{_mantissa(digits)}e{point - 1:+d}"


def java_number(number):
    """Double.toString."""
    if number != number:
        return "NaN"
    if number in (float("inf"), float("-inf")):
        return "Infinity" if number > 0 else "-Infinity"
    sign, digits, point = _digits(number)
    if number == 0 or 1e-3 <= abs(number) < 1e7:
        text = _plain(sign, digits, point)
        return text if "." in text else text + ".0"
    return f"{sign}{_mantissa(digits, always_point=True)}E{point - 1}"


# ---- strings ----------------------------------------------------------------------------------

_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _json_string(text, escape):
    return '"' + "".join(escape(c) for c in text) + '"'


def _node_char(c):
    if c in _SHORT:
        return _SHORT[c]
    if c < " " or 0xD800 <= ord(c) <= 0xDFFF:
        return f"\\u{ord(c):04x}"
    return c


def _java_char(c):
    if c in _SHORT:
        return _SHORT[c]
    if 0xD800 <= ord(c) <= 0xDFFF:
        return "?"
    return f"\\u{ord(c):04X}" if c < " " else c


def _go_char(c):
    if c in '"\\\n\r\t':
        return _SHORT[c]
    if 0xD800 <= ord(c) <= 0xDFFF:
        return "\\ufffd"
    return f"\\u{ord(c):04x}" if c < " " or c in "<>&\u2028\u2029" else c


def node_string(text):
    """JSON.stringify of a string."""
    return _json_string(text, _node_char)


def java_string(text):
    """A string as Jackson writes it."""
    return _json_string(text, _java_char)


def go_string(text):
    """A string as encoding/json writes it."""
    return _json_string(text, _go_char)


_GO_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_GO_UNESCAPES = {e[1]: c for c, e in _GO_ESCAPES.items()} | {'"': '"', "\\": "\\", "'": "'"}


def go_quote(text, ascii_only=False):
    """strconv.Quote, or strconv.QuoteToASCII."""
    quoted = ['"']
    for c in text:
        code = ord(c)
        if c in '"\\':
            quoted.append("\\" + c)
        elif c in _GO_ESCAPES:
            quoted.append(_GO_ESCAPES[c])
        elif c == " " or (c.isprintable() and not (ascii_only and code > 0x7E)):
            quoted.append(c)
        elif code < 0x80:
            quoted.append(f"\\x{code:02x}")
        elif code < 0x10000:
            quoted.append(f"\\u{code:04x}")
        else:
            quoted.append(f"\\U{code:08x}")
    return "".join(quoted) + '"'


_GO_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)


def go_unquote(quoted):
    """strconv.Unquote of a double-quoted string, bytes in, text out."""
    if len(quoted) < 2 or quoted[:1] != b'"' or quoted[-1:] != b'"':
        raise Unreadable("not quoted")

    def one(match):
        word = match.group(1).decode("latin-1")
        if word[0] == "x":
            return bytes([int(word[1:], 16)])
        if word[0] in "uU":
            return chr(int(word[1:], 16)).encode()
        if len(word) == 3:
            return bytes([int(word, 8)])
        if word not in _GO_UNESCAPES:
            raise Unreadable(f"escape \\{word}")
        return _GO_UNESCAPES[word].encode()

    try:
        return _GO_ESCAPE.sub(one, quoted[1:-1]).decode()
    except (UnicodeError, ValueError) as error:
        raise Unreadable(str(error)) from error


# ---- the dialects -----------------------------------------------------------------------------


def _read_object(text):
    """The object, also when it is wrapped once more as a string."""
    try:
        read = json.loads(text, strict=False)
        if isinstance(read, str):
            read = json.loads(read, strict=False)
    except (UnicodeError, ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if not isinstance(read, dict):
        raise Unreadable("not an object")
    return read


def _ten_fields(read):
    """Exactly the fields of the contract: what else is there is dropped here."""
    event = {}
    for field in FIELDS:
        value = read.get(field)
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise Unreadable(f"{field} is no text")
        event[field] = value
    return event


class Go:
    """Double-encoded; all ten fields; numbers with an exponent from 1e6 on."""

    name = "go"
    result_fields = (
        "recordId",
        "containerId",
        "service",
        "responseBody",
        "serviceContainerId",
        "serviceContainerService",
    )

    def encode(self, event):
        inner = ",".join(f'"{f}":{go_string(event.get(f, ""))}' for f in FIELDS)
        return go_quote("{" + inner + "}").encode()

    def decode(self, payload):
        if payload[:1] == b'"':
            return _ten_fields(_read_object(go_unquote(payload)))
        return _ten_fields(_read_object(payload))

    def request_body(self, operands):
        # A map is marshalled in the order of its keys.
        parts = (
            go_string(n) + ":" + (go_string(v) if isinstance(v, str) else go_json_number(float(v)))
            for n, v in sorted(operands)
        )
        return "{" + ",".join(parts) + "}"

    def result(self, task, value):
        return value if task == "STRING" else go_number(value)

    def request_id(self):
        return secrets.token_hex(16)


class Node:
    """Plain objects without the fields that are not set; results are JSON text."""

    name = "node"
    result_fields = (
        "recordId",
        "containerId",
        "service",
        "task",
        "subtask",
        "responseBody",
        "serviceContainerId",
        "serviceContainerService",
    )

    def encode(self, event):
        parts = (f"{node_string(f)}:{node_string(v)}" for f, v in event.items())
        return ("{" + ",".join(parts) + "}").encode()

    def decode(self, payload):
        return _ten_fields(_read_object(payload))

    def request_body(self, operands):
        parts = (
            node_string(n) + ":" + (node_string(v) if isinstance(v, str) else ecmascript_number(float(v)))
            for n, v in operands
        )
        return "{" + ",".join(parts) + "}"

    def result(self, task, value):
        if task == "STRING":
            return node_string(value)
        # JSON.stringify knows no infinity.
        return "null" if value - value != 0 else ecmascript_number(value)

    def request_id(self):
        return f"{int(time.time() * 1000)}-{random.randrange(10**9)}"


class Java:
    """Plain objects with every field; `responseBody` is used without a look whether it is there."""

    name = "java"
    result_fields = Go.result_fields

    def encode(self, event):
        parts = (f'"{f}":{java_string(event.get(f, ""))}' for f in FIELDS)
        return ("{" + ",".join(parts) + "}").encode()

    def decode(self, payload):
        read = _read_object(payload)
        if not isinstance(read.get("responseBody"), str):
            raise FatalDereference("event.getResponseBody() is null")
        return _ten_fields(read)

    def request_body(self, operands):
        def value(v):
            if isinstance(v, str):
                return java_string(v)
            return str(v) if isinstance(v, int) else java_number(v)

        return "{" + ",".join(f"{java_string(n)}:{value(v)}" for n, v in sorted(operands)) + "}"

    def result(self, task, value):
        return value if task == "STRING" else java_number(value)

    def request_id(self):
        return str(uuid.uuid4())


DIALECTS = {dialect.name: dialect for dialect in (Go(), Node(), Java())}
