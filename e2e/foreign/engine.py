"""Who is there: the containers of the Docker engine, read from its socket."""

import http.client
import json
import random
import socket
import threading
import time

SOCKET = "/var/run/docker.sock"
SERVICE = "com.docker.swarm.service.name"
STACK = "com.docker.stack.namespace"
# The list is asked for again when it is older than this: a request every time would be half of
# the work of a stand-in, and a container that went is still noticed within a second.
LIST_AGE_MAX_SECONDS = 0.5


class _UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def list_containers():
    connection = _UnixConnection("localhost", timeout=10)
    try:
        connection.request("GET", "/containers/json")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"docker answered {response.status}: {body!r}")
        return json.loads(body)
    finally:
        connection.close()


def own_address():
    """The container whose id contains our host name."""
    host_name = socket.gethostname()
    for container in list_containers():
        if host_name in container["Id"]:
            return container["Id"], container["Labels"][SERVICE]
    raise RuntimeError(f"no container of this engine has {host_name} in its id")


def matches(container, keyword):
    """The stack's own name takes no part in the match."""
    labels = container.get("Labels") or {}
    name = labels.get(SERVICE, "")
    stack = labels.get(STACK, "")
    if stack and name.startswith(stack + "_"):
        name = name[len(stack) + 1 :]
    return keyword.lower() in name.lower()


class Directory:
    """Chooses a container for a keyword, at random among those that match."""

    def __init__(self):
        self._lock = threading.Lock()
        self._listed = []
        self._listed_at = None

    def choose(self, keyword):
        candidates = [c for c in self._containers() if matches(c, keyword)]
        if not candidates:
            return None
        container = random.choice(candidates)
        return container["Id"], container["Labels"][SERVICE]

    def _containers(self):
        with self._lock:
            now = time.monotonic()
            if self._listed_at is None or now - self._listed_at > LIST_AGE_MAX_SECONDS:
                self._listed = list_containers()
                self._listed_at = now
            return self._listed
