"""A producer that never waits for a slow reader: `write()` under the policy `raise`.

A (simulated) vibration sensor delivers FRAMES_PER_SECOND frames, and each of them has to be looked at for
alarms whether or not the client keeps up. So the application must not be held up in `write()`:

* `environ['trio_wsgi.write_policy'] = 'raise'`, set before `start_response` is called, makes `write(line)`
  raise BlockingIOError when the kernel's buffer for this client is full. The line is then refused whole,
  not one byte of it is sent: trying again, with the same line or a fresher one, loses nothing and repeats
  nothing.
* `environ['trio_wsgi.wait_writable'](timeout)` waits up to that many seconds and tells whether a write will
  now be accepted. Here it takes the place of the sleep until the next frame.
* A frame that could not leave is merged with the next ones: the client gets fewer lines, each of which says
  how many frames it stands for. Counted are `lines`, `refused` writes and `merged` frames.

A client that goes away ends the application with another OSError out of `write()`: nothing to handle here.

Run it, from the top of the repository:

    trio-wsgi examples.raise_producer:app

    curl -N http://127.0.0.1:8000/ | cut -c -60                     # keeps up: "frames":1 on each line
    curl -N --limit-rate 10k -o /dev/null http://127.0.0.1:8000/    # does not

Once a second the producer reports to `wsgi.errors`, the server's error log, which marks all that comes there as
ERROR. With the slow client the kernel first takes some megabytes, its own buffers; then `refused` and `merged`
rise while `looked_at` goes on at the sensor's pace. `?seconds=5` changes how long it runs. Under a server
without these two keys `write` waits, as PEP 3333 has it.
"""

from __future__ import annotations

import json
import random
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TextIO
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

FRAMES_PER_SECOND = 50
SAMPLES = 10_000  # in a frame; a line is some 37 KB
SECONDS = 30.0  # that one request runs, unless it says otherwise
LAST_WAIT = 10.0  # seconds that the last line may wait for room
ALARM = 500  # peak above which a frame is an alarm

Write = Callable[[bytes], object]
WaitWritable = Callable[[float], bool]


@dataclass
class Frame:
    """What the sensor measured since the last line: one frame, or several merged into one."""

    number: int
    samples: list[int]
    frames: int = 1

    def merge(self, earlier: Frame) -> None:
        """Take in a frame that could not leave: sample by sample, the stronger one stays."""
        self.samples = [max(pair, key=abs) for pair in zip(self.samples, earlier.samples, strict=True)]
        self.frames += earlier.frames

    def line(self) -> bytes:
        facts = {"number": self.number, "frames": self.frames, "samples": self.samples}
        return json.dumps(facts, separators=(",", ":")).encode() + b"\n"


@dataclass
class Producer:
    """Measures, looks for alarms, and hands on what the client can take."""

    write: Write = field(repr=False)
    looked_at: int = 0
    alarms: int = 0
    lines: int = 0
    refused: int = 0
    merged: int = 0
    waiting: Frame | None = field(default=None, repr=False)  # refused, and not yet sent

    def measure(self) -> None:
        """The work that must not wait for anybody."""
        self.looked_at += 1
        frame = read_sensor(self.looked_at)
        self.alarms += max(map(abs, frame.samples)) > ALARM
        if self.waiting is not None:
            frame.merge(self.waiting)
            self.merged += 1
        self.waiting = frame

    def try_to_send(self) -> bool:
        """Offer the waiting frame; False if it was refused, in which case it goes on waiting."""
        if self.waiting is None:
            return True
        try:
            self.write(self.waiting.line())
        except BlockingIOError:
            self.refused += 1
            return False
        self.lines += 1
        self.waiting = None
        return True


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["trio_wsgi.write_policy"] = "raise"
    write = start_response("200 OK", [("Content-Type", "application/x-ndjson")])
    wait_writable: WaitWritable = environ.get("trio_wsgi.wait_writable", never_full)
    query = parse_qs(environ.get("QUERY_STRING", ""))
    producer = Producer(write)
    run(producer, wait_writable, float(query.get("seconds", [SECONDS])[0]), environ["wsgi.errors"])
    return []


def run(producer: Producer, wait_writable: WaitWritable, seconds: float, log: TextIO) -> None:
    """Measure at the sensor's pace; between two frames, see whether the refused one can leave after all."""
    began = time.monotonic()
    for number in range(round(seconds * FRAMES_PER_SECOND)):
        producer.measure()
        sent = producer.try_to_send()
        next_frame = began + (number + 1) / FRAMES_PER_SECOND
        if not sent and wait_writable(max(0.0, next_frame - time.monotonic())):
            producer.try_to_send()
        time.sleep(max(0.0, next_frame - time.monotonic()))
        if (number + 1) % FRAMES_PER_SECOND == 0:
            log.write(f"{producer}\n")
            log.flush()
    if not producer.try_to_send() and wait_writable(LAST_WAIT):
        producer.try_to_send()
    lost = producer.waiting.frames if producer.waiting else 0
    log.write(f"{producer}, {lost} frames had no room at the end\n")


def read_sensor(number: int) -> Frame:
    """Noise, and now and then a knock."""
    samples = list(array("b", random.randbytes(SAMPLES)))
    if random.random() < 0.02:
        samples[random.randrange(SAMPLES)] = 2 * ALARM
    return Frame(number, samples)


def never_full(timeout: float) -> bool:
    """Stands in where the server has no `wait_writable`: there, `write` itself waits."""
    return True
