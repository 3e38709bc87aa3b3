"""A stand-in for one of the older images: python3 service.py --dialect go --role backend

Written from the wire contract alone, with nothing but Python's standard library. What the old
images do that is not in the contract and would only make tests fail by chance (operands in
random order, replies lost when they come close together) is left out; what a newcomer must cope
with (no extensions, broadcast channels only, death on what they do not expect) is in.
"""

import argparse
import os
import signal
import sys
import threading
import traceback

import engine
from backend import Backend
from dialects import DIALECTS, FatalDereference, Unreadable
from events import EventsService
from frontend import Frontend
from redis_wire import Connection

ROLES = {role.name: role for role in (Frontend, EventsService, Backend)}


class Bus:
    """The two channels, in one dialect, for one container."""

    def __init__(self, dialect):
        host = os.environ.get("REDIS_HOST", "localhost")
        port = int(os.environ.get("REDIS_PORT", "6379"))
        self.event_channel = os.environ.get("EVENT_SERVICE_EVENT", "Event_Service")
        self.consuming_channel = os.environ.get("CONSUMING_SERVICE_EVENT", "Consuming_Service")
        self._dialect = dialect
        self._publisher = Connection(host, port)
        self._subscriber = Connection(host, port)

    def publish(self, channel, event):
        self._publisher.publish(channel, self._dialect.encode(event))

    def subscribe(self, channel):
        return self._subscriber.subscribe(channel)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def listen(messages, dialect, on_event):
    """Hears every message of the channel until the process ends."""
    for payload in messages:
        try:
            event = dialect.decode(payload)
        except Unreadable as reason:
            say("dropped:", reason, payload[:80])
            continue
        on_event(event)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dialect", choices=sorted(DIALECTS), required=True)
    arguments.add_argument("--role", choices=sorted(ROLES), required=True)
    chosen = arguments.parse_args()

    # Process 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    dialect = DIALECTS[chosen.dialect]
    bus = Bus(dialect)
    address = engine.own_address()
    service = ROLES[chosen.role](dialect, bus, address)
    messages = bus.subscribe(service.channel)
    service.start()
    say(f"ready: {chosen.dialect} {chosen.role} at {address[1]} {address[0][:12]}")
    try:
        listen(messages, dialect, service.on_event)
    except FatalDereference:
        say("fatal: a field was used that is not there")
        traceback.print_exc()
        os._exit(70)


def die_with_any_thread(arguments):
    """An uncaught error in a thread ends the process, as it does in the old images."""
    traceback.print_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    os._exit(71)


if __name__ == "__main__":
    threading.excepthook = die_with_any_thread
    main()
