"""The events service's position: task in, dispatch out; result in, reply out.

The records are kept in memory: these stand-ins write no database (the shape of the old records
is tested where the audit log is). Go and NodeJS answer a task they have a finished record for
without asking a backend, Java keeps only what is open.
"""

import json
import os
import secrets

import engine

ANSWERS_FROM_RECORDS = {"go", "node"}
DIES_ON_UNKNOWN_RECORD = {"node"}


class EventsService:
    """Knows its records by recordId; a result is told from a task by recordId being set."""

    name = "events"

    def __init__(self, dialect, bus, address):
        self._dialect = dialect
        self._bus = bus
        self._address = address
        self._directory = engine.Directory()
        self._open = {}
        self._answers = {}
        self.channel = bus.event_channel
        with open(os.environ.get("TASK_MAPS", "task-maps.json"), encoding="utf-8") as file:
            self._keywords = json.load(file)

    def start(self):
        pass

    def on_event(self, event):
        if (event["serviceContainerId"], event["serviceContainerService"]) != self._address:
            return
        if event["recordId"]:
            self._on_result(event)
        else:
            self._on_task(event)

    def _on_task(self, task):
        answer = self._answers.get(self._same(task))
        if answer is not None:
            self._reply(task, answer)
            return
        keyword = self._keywords.get(task["task"])
        backend = keyword and self._directory.choose(keyword)
        if not backend:
            # Nobody to ask: the old images say nothing, and the frontend waits.
            print("nobody for", task["task"], flush=True)
            return
        record_id = secrets.token_hex(12)
        self._open[record_id] = task
        dispatch = {
            "recordId": record_id,
            "containerId": backend[0],
            "service": backend[1],
            "task": task["task"],
            "subtask": task["subtask"],
            "requestBody": task["requestBody"],
            "serviceContainerId": self._address[0],
            "serviceContainerService": self._address[1],
        }
        self._bus.publish(self._bus.consuming_channel, dispatch)

    def _on_result(self, result):
        task = self._open.pop(result["recordId"], None)
        if task is None:
            if self._dialect.name in DIES_ON_UNKNOWN_RECORD:
                raise SystemExit(f"no record {result['recordId']}")
            return
        if self._dialect.name in ANSWERS_FROM_RECORDS:
            self._answers[self._same(task)] = result["responseBody"]
        self._reply(task, result["responseBody"])

    def _reply(self, task, response_body):
        reply = {
            "requestId": task["requestId"],
            "containerId": task["containerId"],
            "service": task["service"],
            "responseBody": response_body,
        }
        self._bus.publish(self._bus.consuming_channel, reply)

    @staticmethod
    def _same(task):
        return task["service"], task["task"], task["subtask"], task["requestBody"]
