"""As much of the Redis protocol (RESP2) as a service needs: PUBLISH and SUBSCRIBE."""

import socket
import threading


class Connection:
    """One connection; commands from several threads take turns."""

    def __init__(self, host, port):
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")
        self._turn = threading.Lock()

    def command(self, *words):
        with self._turn:
            self._send(words)
            return self._read()

    def publish(self, channel, payload):
        """Answers with the number of receivers; the older images do not look at it."""
        return self.command("PUBLISH", channel, payload)

    def subscribe(self, channel):
        """Subscribes at once; the iterator returned yields payloads for ever."""
        self._send(("SUBSCRIBE", channel))
        self._read()
        return self._messages()

    def _messages(self):
        while True:
            push = self._read()
            if push[0] == b"message":
                yield push[2]

    def _send(self, words):
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self._socket.sendall(b"".join(parts))

    def _read(self):
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self._replies.read(length + 2)[:-2]
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        raise ConnectionError(f"not RESP: {line!r}")
