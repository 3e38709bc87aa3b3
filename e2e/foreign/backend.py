"""The backend's position: dispatch in, result out."""

import json
import math


def subtract(a, b):
    return a - b


def divide(a, b):
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


NUMBER = {
    "ADD": lambda a, b: a + b,
    "SUBTRACT": subtract,
    "MULTIPLY": lambda a, b: a * b,
    "DIVIDE": divide,
}


def compute(task, subtask, request_body):
    """The operands are taken in the order of their names."""
    operands = json.loads(request_body)
    first, second = (operands[name] for name in sorted(operands))
    if task == "STRING":
        return first + second
    return NUMBER[subtask](float(first), float(second))


class Backend:
    """Runs a dispatch and publishes its result; knows no repetition and no deadline."""

    name = "backend"

    def __init__(self, dialect, bus, address):
        self._dialect = dialect
        self._bus = bus
        self._address = address
        self.channel = bus.consuming_channel

    def start(self):
        pass

    def on_event(self, event):
        if (event["containerId"], event["service"]) != self._address or not event["recordId"]:
            return
        value = compute(event["task"], event["subtask"], event["requestBody"])
        event["responseBody"] = self._dialect.result(event["task"], value)
        result = {field: event[field] for field in self._dialect.result_fields}
        self._bus.publish(self._bus.event_channel, result)
