"""A caller inside the deployment's network: asks until its standard input ends, then prints what
became of the requests, as JSON.

    python3 client.py --host tasks.roundtrip_frontend --callers 8 --first 1000

Every request has a connection of its own, to an address that the name has at that moment. An
address that refuses the connection is a name not yet forgotten, as any client knows it: the next
one is tried. Once a connection stands, every failure counts.
"""

import argparse
import http.client
import itertools
import json
import random
import socket
import sys
import threading
import time

HANG_SECONDS = 30
ADDRESS_ATTEMPTS = 40
ADDRESS_PAUSE_SECONDS = 0.05


def question(n):
    """The same questions as in e2e/src/bodies.rs."""
    if n % 6 == 0:
        return f'{{"a1": {n}, "a2": 1}}', str(n + 1)
    if n % 6 == 1:
        return f'{{"s1": {n}, "s2": 100000}}', str(n - 100000)
    if n % 6 == 2:
        return f'{{"m1": {n}, "m2": -3}}', str(n * -3)
    if n % 6 == 3:
        return f'{{"d2": 4, "d1": {n}}}', str(n // 4) + ("", ".25", ".5", ".75")[n % 4]
    if n % 6 == 4:
        return f'{{"a2": "-😀", "a1": "text {n}"}}', f"text {n}-😀"
    return f'{{"a": "{n}e", "b": "6"}}', f"{n}e6"


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.right = 0
        self.wrong = []
        self.problems = {}
        self.broken = []
        self.hung = 0
        self.stale_addresses = 0
        self.longest_ms = 0

    def add(self, asked, expected, status, body, took):
        with self.lock:
            self.longest_ms = max(self.longest_ms, int(took * 1000))
            try:
                answer = json.loads(body)
            except ValueError:
                answer = None
            if status == 200 and answer == {"message": "OK", "result": expected}:
                self.right += 1
            elif status == 200:
                self.wrong.append(f"{asked} was answered {body!r}")
            elif isinstance(answer, dict) and "code" in answer:
                key = f"{status} {answer['code']}"
                self.problems[key] = self.problems.get(key, 0) + 1
            else:
                self.broken.append(f"{status} {body!r}")

    def as_json(self):
        return json.dumps(
            {
                "right": self.right,
                "wrong": self.wrong[:20],
                "wrongCount": len(self.wrong),
                "problems": self.problems,
                "broken": self.broken[:20],
                "brokenCount": len(self.broken),
                "hung": self.hung,
                "staleAddresses": self.stale_addresses,
                "longestMs": self.longest_ms,
            }
        )


def connect(host, port, tally):
    """A connection to any of the addresses the name has now."""
    error = None
    for _ in range(ADDRESS_ATTEMPTS):
        try:
            found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
            address = random.choice(found)[4]
            # A packet to an address that is gone is lost, not refused.
            connection = socket.create_connection(address, timeout=1)
            connection.settimeout(HANG_SECONDS)
            return connection
        except OSError as refused:
            error = refused
            with tally.lock:
                tally.stale_addresses += 1
            time.sleep(ADDRESS_PAUSE_SECONDS)
    raise error


def ask(host, port, tally, number):
    body, expected = question(number)
    try:
        stream = connect(host, port, tally)
    except OSError as error:
        with tally.lock:
            tally.broken.append(f"connect: {error}")
        return
    started = time.monotonic()
    try:
        connection = http.client.HTTPConnection(host, port)
        connection.sock = stream
        connection.request("POST", "/task", body.encode(), {"Connection": "close"})
        response = connection.getresponse()
        answer = response.read()
        tally.add(body, expected, response.status, answer, time.monotonic() - started)
    except TimeoutError:
        with tally.lock:
            tally.hung += 1
    except (OSError, http.client.HTTPException) as error:
        with tally.lock:
            tally.broken.append(f"{type(error).__name__}: {error}")
    finally:
        stream.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--host", required=True)
    arguments.add_argument("--port", type=int, default=4000)
    arguments.add_argument("--callers", type=int, default=8)
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--count", type=int, help="so many, in place of until the input ends")
    chosen = arguments.parse_args()

    tally = Tally()
    numbers = itertools.count(chosen.first)
    last = None if chosen.count is None else chosen.first + chosen.count
    stop = threading.Event()

    def caller():
        while not stop.is_set():
            number = next(numbers)
            if last is not None and number >= last:
                return
            ask(chosen.host, chosen.port, tally, number)

    threads = [threading.Thread(target=caller) for _ in range(chosen.callers)]
    for thread in threads:
        thread.start()
    if last is None:
        sys.stdin.read()
        stop.set()
    for thread in threads:
        thread.join()
    print(tally.as_json(), flush=True)


if __name__ == "__main__":
    main()
