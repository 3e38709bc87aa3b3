"""The frontend's position: HTTP in, task out; reply in, HTTP out."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import engine

# Letter in both property names → subtask, in this order of precedence.
SUBTASKS = (("a", "ADD"), ("s", "SUBTRACT"), ("m", "MULTIPLY"), ("d", "DIVIDE"))
# NodeJS waits for ever, Java gives up after 5 s and answers as if all were well.
WAIT_SECONDS = {"go": 30, "node": None, "java": 5}


class Refused(Exception):
    """A body that is no task."""


def classify(operands):
    """(task, subtask) of two operands, a list of (name, value)."""
    if len(operands) != 2:
        raise Refused("not two properties")
    values = [value for _, value in operands]
    if all(isinstance(v, str) for v in values):
        return "STRING", "ADD"
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise Refused("neither two numbers nor two strings")

    def subtask(name):
        for letter, subtask in SUBTASKS:
            if letter in name:
                return subtask
        raise Refused(f"no operation in {name}")

    first, second = (subtask(name) for name, _ in operands)
    if first != second:
        raise Refused("the names disagree")
    return "NUMBER", first


class Frontend:
    """Waits for one reply per request; answers what the reply's responseBody says, as it is."""

    name = "frontend"

    def __init__(self, dialect, bus, address):
        self._dialect = dialect
        self._bus = bus
        self._address = address
        self._directory = engine.Directory()
        self._pending = {}
        self.channel = bus.consuming_channel

    def start(self):
        handler = type("Handler", (_Handler,), {"ask": self.ask})
        server = _Server(("0.0.0.0", int(os.environ.get("PORT", "4000"))), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def on_event(self, event):
        if (event["containerId"], event["service"]) != self._address or event["recordId"]:
            return
        waiting = self._pending.pop(event["requestId"], None)
        if waiting:
            waiting.response_body = event["responseBody"]
            waiting.answered.set()

    def ask(self, body):
        """The answer to one body as an object."""
        try:
            operands = json.loads(body, object_pairs_hook=list)
        except ValueError as error:
            raise Refused(str(error)) from error
        if not isinstance(operands, list) or not all(isinstance(o, tuple) for o in operands):
            raise Refused("no object")
        task, subtask = classify(operands)
        events_service = self._directory.choose("event")
        if not events_service:
            raise Refused("no events service")
        request_id = self._dialect.request_id()
        waiting = self._pending[request_id] = _Waiting()
        event = {
            "requestId": request_id,
            "containerId": self._address[0],
            "service": self._address[1],
            "task": task,
            "subtask": subtask,
            "requestBody": self._dialect.request_body(operands),
            "serviceContainerId": events_service[0],
            "serviceContainerService": events_service[1],
        }
        self._bus.publish(self._bus.event_channel, event)
        if waiting.answered.wait(WAIT_SECONDS[self._dialect.name]):
            return {"message": "OK", "result": waiting.response_body}
        self._pending.pop(request_id, None)
        if self._dialect.name == "java":
            return {"message": "OK"}
        raise Refused("no reply")


class _Waiting:
    def __init__(self):
        self.answered = threading.Event()
        self.response_body = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer leave in one packet.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/":
            self._answer(200, {"message": "OK"})
        else:
            self._answer(404, {"message": "FAIL"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path != "/task":
            self._answer(404, {"message": "FAIL"})
            return
        try:
            self._answer(200, self.ask(body))
        except Refused:
            self._answer(500, {"message": "FAIL"})

    def _answer(self, status, answer):
        body = json.dumps(answer, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
