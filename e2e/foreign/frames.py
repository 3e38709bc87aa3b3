"""Writes sample frames of the three dialects: python3 frames.py ../../shared/tests/wire

`<dialect>/<message>[-<what>].frame` are the bytes as they stand on the channel. Beside each lies
either `.json`, the fields that are set in the event it must decode to (all others are not set),
or `.dropped`, a sentence on why a receiver drops it. The message (task, dispatch, result, reply)
is the first word of the name.
"""

import json
import pathlib
import sys

from dialects import DIALECTS, FIELDS, Unreadable, go_quote, go_string

FRONTEND = ("f" * 3 + "0123456789" * 6 + "a", "roundtrip_frontend")
EVENTS = ("e" * 4 + "0123456789" * 6, "roundtrip_events")
BACKEND = ("b" * 5 + "0123456789" * 5 + "abcdef012", "roundtrip_backend")
RECORD = "5f1e0c9ab3d4e5f60718293a"
REQUEST = {
    "go": "9d1c0b6de3f24a0f8a35c37f0e5c1b42",
    "node": "1594824704123-402938475",
    "java": "0f0e9d9c-5f3c-4a34-8f8b-3d7e3d3c9f11",
}
FOLDERS = {"go": "go", "node": "nodejs", "java": "java"}

# Every C0 control, DEL, the C1 control NEL, quotes, backslashes, what HTML and JavaScript make a
# fuss about, an emoji, a letter with a combining accent, a no-break and a zero-width space, a
# byte order mark, a private-use character, the last character there is.
NASTY = (
    "".join(map(chr, range(0x20)))
    + "\x7f\x85\"'\\/<>&\u2028\u2029😀e\u0301\u00a0\u200b\ufeff\ue000\ufffd\U0010ffff"
)
STRINGS = {
    "nasty": NASTY,
    "empty": "",
    "quote": '"',
    "quoted": '"ab"',
    "escapes-as-text": '\\x7f \\a \\U0001f600 \\u0000 "\\"',
    "emoji": "👩\u200d👩\u200d👧🏽",
    "del-and-c1": "\x7f\x80\x9f",
    "non-character": "\uffff\ufffe\U0001ffff",
}
# Looks like something else: of interest only where the text is a result.
RESULTS = {
    "number-as-text": "1e6",
    "null-as-text": "null",
    "object-as-text": '{"requestId":"x","recordId":"y"}',
    "long": "äß€😀" * 1000,
}
NUMBERS = {"big": 5e7, "fraction": 4 / 7, "small": 5e-5, "huge": 1.7976931348623157e308,
           "e21": 1e21, "minus-zero": -0.0}


def operands(kind, value):
    return [("a2", value), ("a1", "b")] if kind == "STRING" else [("m2", value), ("m1", 2)]


def task(dialect, kind, value):
    return {
        "requestId": REQUEST[dialect.name],
        "containerId": FRONTEND[0],
        "service": FRONTEND[1],
        "task": kind,
        "subtask": "ADD" if kind == "STRING" else "MULTIPLY",
        "requestBody": dialect.request_body(operands(kind, value)),
        "serviceContainerId": EVENTS[0],
        "serviceContainerService": EVENTS[1],
    }


def dispatch(dialect, kind, value):
    event = {"recordId": RECORD} | task(dialect, kind, value)
    del event["requestId"]
    event["containerId"], event["service"] = BACKEND
    return event


def result(dialect, kind, value):
    event = dispatch(dialect, kind, value)
    event["responseBody"] = dialect.result(kind, value)
    return {field: event[field] for field in dialect.result_fields}


def reply(dialect, kind, value):
    return {
        "requestId": REQUEST[dialect.name],
        "containerId": FRONTEND[0],
        "service": FRONTEND[1],
        "responseBody": dialect.result(kind, value),
    }


class Folder:
    """Writes the frames of one dialect and checks each against the dialect's own decoder."""

    def __init__(self, root, dialect):
        self._path = pathlib.Path(root) / FOLDERS[dialect.name]
        self._path.mkdir(parents=True, exist_ok=True)
        self._dialect = dialect

    def clear(self):
        for file in self._path.iterdir():
            file.unlink()

    def readable(self, name, frame, event):
        fields = {field: event[field] for field in FIELDS if event.get(field)}
        decoded = self._dialect.decode(frame)
        assert {f: v for f, v in decoded.items() if v} == fields, name
        self._write(name, "frame", frame)
        self._write(name, "json", json.dumps(fields, indent=1).encode() + b"\n")

    def dropped(self, name, frame, reason):
        try:
            self._dialect.decode(frame)
        except Unreadable:
            pass
        self._write(name, "frame", frame)
        self._write(name, "dropped", reason.encode() + b"\n")

    def _write(self, name, kind, data):
        with open(self._path / f"{name}.{kind}", "xb") as file:
            file.write(data)


def common(folder, dialect):
    for message in (task, dispatch, result, reply):
        name = message.__name__
        plain = message(dialect, "NUMBER", 15.0)
        folder.readable(name, dialect.encode(plain), plain)
        texts = STRINGS | RESULTS if message is result else STRINGS
        for what, text in texts.items():
            event = message(dialect, "STRING", text)
            folder.readable(f"{name}-{what}", dialect.encode(event), event)
        for what, number in NUMBERS.items() if message is result else ():
            event = message(dialect, "NUMBER", number)
            folder.readable(f"{name}-number-{what}", dialect.encode(event), event)
        nowhere = plain | {"containerId": ""}
        folder.dropped(f"{name}-no-address", dialect.encode(nowhere), "nobody is addressed")


def plain_object_oddities(folder, dialect):
    event = task(dialect, "NUMBER", 5)
    extra = dict.fromkeys(FIELDS) | event | {"version": 7, "nested": {"a": [None, {}]}}
    folder.readable("task-null-and-unknown-fields", json.dumps(extra).encode(), event)
    spaced = json.dumps(dict(reversed(event.items())), indent="\t").encode()
    folder.readable("task-reversed-and-spaced", b" \r\n" + spaced + b"\n", event)
    ascii_only = dispatch(dialect, "STRING", NASTY)
    folder.readable("dispatch-all-escaped", json.dumps(ascii_only).encode(), ascii_only)
    whole = dialect.encode(reply(dialect, "STRING", "ab"))
    folder.dropped("reply-cut", whole[:-9], "ends in the middle of a string")
    folder.dropped("reply-invalid-utf8", whole.replace(b"ab", b"a\xffb"), "is not UTF-8")
    folder.dropped("task-array", b"[" + dialect.encode(event) + b"]", "is an array")
    folder.dropped("task-number-as-field", json.dumps(event | {"requestId": 7}).encode(),
                   "requestId is a number")
    folder.dropped("task-object-as-field", json.dumps(event | {"requestBody": {"a1": 1}}).encode(),
                   "requestBody is an object, not its text")


def node_oddities(folder, dialect):
    event = reply(dialect, "STRING", "x")
    event["responseBody"] = "\ud83d"
    folder.dropped("reply-lone-surrogate", dialect.encode(event),
                   "a lone surrogate stands for no character")


def go_oddities(folder, dialect):
    event = reply(dialect, "STRING", NASTY)
    inner = "{" + ",".join(f'"{f}":{go_string(event.get(f, ""))}' for f in FIELDS) + "}"
    folder.readable("reply-quoted-to-ascii", go_quote(inner, ascii_only=True).encode(), event)
    # An encoder that leaves control characters as they are: then Go's own escapes stand for them.
    event = reply(dialect, "STRING", "bell \a tab \t vertical \v null \0 end")
    raw = json.dumps({f: event.get(f, "") for f in FIELDS}, ensure_ascii=False)
    raw = raw.replace("\\u0007", "\a").replace("\\u000b", "\v").replace("\\u0000", "\0")
    frame = go_quote(raw.replace("\\t", "\t")).encode()
    assert b"\\a" in frame and b"\\v" in frame and b"\\x00" in frame
    folder.readable("reply-raw-controls", frame, event)
    event = reply(dialect, "STRING", "café 😀")
    in_bytes = dialect.encode(event).replace("é".encode(), rb"\xc3\xa9")
    folder.readable("reply-hex-bytes", in_bytes, event)
    whole = dialect.encode(event)
    folder.dropped("reply-cut", whole[:-9], "ends in the middle of a string")
    folder.dropped("reply-half-character", whole.replace("é".encode(), rb"\xc3"), "is not UTF-8")
    folder.dropped("reply-unknown-escape", whole.replace("é".encode(), rb"\q"),
                   "neither JSON nor Go has this escape")
    folder.dropped("reply-surrogate", whole.replace("é".encode(), rb"\ud83d"),
                   "a lone surrogate stands for no character")
    folder.dropped("reply-above-unicode", whole.replace("é".encode(), rb"\U00110000"),
                   "a character above the last one")
    folder.dropped("task-text", b'"hello"', "the text is no object")
    folder.dropped("task-empty-literal", b'""', "the text is empty")
    folder.dropped("task-lone-quote", b'"', "a quote alone")


def main(root):
    for dialect in DIALECTS.values():
        folder = Folder(root, dialect)
        folder.clear()
        common(folder, dialect)
        if dialect.name == "go":
            go_oddities(folder, dialect)
        else:
            # Java's own receiver dies without responseBody; what it must decode to is the same.
            reader = DIALECTS["node"]
            folder._dialect = reader
            plain_object_oddities(folder, dialect)
        if dialect.name == "node":
            node_oddities(folder, dialect)


if __name__ == "__main__":
    main(*sys.argv[1:])
