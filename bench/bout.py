"""One bout: one contestant, started afresh, in one scenario; the verbs that scenarios are written in.

Laws:
- CPU and memory are the server's whole tree over the very window in which the load runs.
- A server that died, or lost a process, during a bout has failed it, whatever its clients saw.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import resource
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.app import generate
from bench.asking import BY_DEFAULT, Asking, choose_method
from bench.client import ROOT, Client, Facts, Failed, open_client
from bench.contestants import Contestant
from bench.proc import LOOK, Watch, find_tree, open_watch, read_usage
from bench.samples import MIB, Samples
from bench.server import Server
from bench.trace import Trace, open_trace

PATIENCE = 30.0  # seconds without a byte of an answer that is checked
FAILURES = 400  # statuses from here on, which wrk counts as errors
GOOD_PATIENCE = 5.0  # seconds for an answer to the good client
_SERVED = 0.25  # of the connections: as many at least must have been answered
_BROKEN = 0.01  # of the requests: more connections than that, ended without an answer, are no end of keep-alive
Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Bout:
    """A running server and what to do it to with."""

    contestant: Contestant
    server: Server
    samples: Samples
    seconds: float  # of each window
    verify: bool  # whether to look at every byte once, before
    tls: bool = False
    client_prefix: tuple[str, ...] = ()  # a command to run clients under (taskset)
    own: tuple[str, str] = ("", "")  # the user's target, and the name of the user's file among the samples
    asking: Asking = BY_DEFAULT  # how the user's target is asked for
    trace: Trace | None = None  # count system calls into it

    @contextmanager
    def client(self, name: str, **settings: object) -> Iterator[Client]:
        """A client that knows where the server is."""
        facts = {
            "port": self.server.port,
            "tls": self.tls,
            "seconds": self.seconds,
            **self.asking.settings(),
            **settings,
        }
        with open_client(name, list(self.client_prefix), facts) as client:
            yield client

    @contextmanager
    def watch(self, interval: float = LOOK) -> Iterator[Watch]:
        """The server's tree over the block, with a look each `interval` seconds; Failed where the server dies in it."""
        before = set(find_tree(self.server.pid))
        tracing = open_trace(self.server.pid, self.trace) if self.trace else contextlib.nullcontext()
        try:
            with tracing, open_watch(self.server.pid, interval) as watch:
                yield watch
        finally:
            self.server.check_alive()  # says more than whoever could not connect any more
        lost = before - set(find_tree(self.server.pid))
        if lost:
            raise Failed(f"a process of it died; {self.server.last_words()}")

    def check_file(self, target: str, sample: str) -> None:
        """`check` for a target that is a sample file."""
        self.check(target, self.samples.length(sample), self.samples.digest(sample) if self.verify else "")

    def check(
        self,
        target: str,
        length: int | None = None,
        digest: str = "",
        status: int = 0,
        field: str = "",
        body: int = 0,
    ) -> int:
        """Fetch `target` once and look at status, byte count and SHA-256 (if given); it warms the server, too.

        Args:
            status: 0: the one that is asked for (`asking`).
            field: a header to send, "Name: value".
            body: bytes to upload, instead of what is asked with.

        Returns:
            bytes of the body.

        Raises:
            Failed: it is not what was asked for.
        """
        try:
            return self._check(target, length, digest, status or self.asking.status, field, body)
        except TimeoutError:
            raise Failed(f"{target}: the answer did not come to its end within {PATIENCE:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            self.server.check_alive()
            raise Failed(f"{target}: {type(error).__name__}: {error}") from error

    def _check(self, target: str, length: int | None, digest: str, status: int, field: str, body: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        if self.tls:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=PATIENCE, context=context)
        size = body or self.asking.length
        content = generate(body, MIB) if body else self.asking.body.read_bytes() if self.asking.body else None
        lines = [*self.asking.headers, field, f"Content-Length: {size}" if size else ""]
        headers = dict(line.split(": ", 1) for line in lines if line)
        with contextlib.closing(connection):
            connection.request(choose_method(self.asking.method, bool(size)), target, content, headers)
            response = connection.getresponse()
            if response.status != status:
                raise Failed(f"{target}: status {response.status} instead of {status}")
            total, seen = 0, hashlib.sha256()
            while data := response.read(1 << 20):
                total += len(data)
                if digest:
                    seen.update(data)
        if length not in (None, total):
            raise Failed(f"{target}: {total} bytes instead of {length}")
        if digest and seen.hexdigest() != digest:
            raise Failed(f"{target}: the bytes are not those that were asked for")
        return total

    @contextmanager
    def good_client(self, target: str, interval: float, seconds: float) -> Iterator[Client]:
        """The client that asks each `interval` seconds, once it has had its first answer.

        Raises:
            Failed: it had none.
        """
        settings = {"target": target, "interval": interval, "seconds": seconds, "patience": GOOD_PATIENCE}
        with self.client("probe", **settings) as client:
            if failure := client.wait_ready()["failure"]:
                raise Failed(failure)
            yield client

    def load(self, target: str, connections: int, **settings: object) -> Figures:
        """A closed loop of `connections` on one target, and what it cost."""
        settings.setdefault("targets", [target])
        with self.client("load", connections=connections, **settings) as client:
            client.wait_ready()
            with self.watch() as watch:
                client.go()
                facts = client.wait_result(self.seconds + 60)
        return summarize(facts, watch)

    def load_beside_good_client(self, interval: float, connections: int, **settings: object) -> Figures:
        """The same with a client beside it that asks for little each `interval` seconds."""
        with (
            self.client("load", connections=connections, **settings) as client,
            self.good_client("/hello", interval, self.seconds) as good_client,
        ):
            client.wait_ready()
            with self.watch() as watch:
                client.go()
                good_client.go()
                facts = client.wait_result(self.seconds + 60)
                good = good_client.wait_result(self.seconds + 60)
        return summarize(facts, watch) | summarize_good_client(good)

    def wrk(self, target: str, connections: int) -> Figures:
        """The same by wrk for what is too quick for our own client, where it is installed."""
        program = shutil.which("wrk")
        if program is None or self.asking.status >= FAILURES:
            return self.load(target, connections)
        script = str(ROOT / "bench/clients/wrk.lua")
        url = f"http://127.0.0.1:{self.server.port}{target}"
        seconds = max(1, round(self.seconds))  # wrk knows no parts of a second
        words = [word for line in self.asking.headers for word in ("-H", line)]
        words += f"-t1 -c{connections} -d{seconds}s --timeout 10s --latency -s".split()
        request = ["--", self.asking.method, str(self.asking.body or "")] if self.asking.method else []
        cpu = read_children_cpu()
        with self.watch() as watch:
            done = subprocess.run(
                [*self.client_prefix, program, *words, script, url, *request],
                capture_output=True,
                text=True,
                timeout=seconds + 60,
                check=False,
            )
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"result"')]
        if not lines:
            raise Failed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
        facts: Facts = json.loads(lines[0])["result"]
        facts["cpu"] = read_children_cpu() - cpu
        check_errors(facts)
        length = self.check(target)  # wrk does not tell who stopped answering within its window
        check_everybody_was_answered(facts, connections)
        facts["received"] = facts["requests"] * length  # not the heads, of which some write more than others
        facts["sent"] = facts["requests"] * self.asking.length
        return summarize(facts, watch)


def check_errors(facts: Facts) -> None:
    """Raises Failed where wrk saw errors that are the server's."""
    wrong = [f"{facts[kind]} {kind}" for kind in ("connect", "status", "timeout", "write") if facts[kind]]
    if facts["read"] > _BROKEN * facts["requests"]:
        wrong.append(f"{facts['read']} read")
    if not facts["requests"]:
        wrong = wrong or ["no request was answered"]
    if wrong:
        raise Failed("wrk saw errors: " + ", ".join(wrong))


def check_everybody_was_answered(facts: Facts, connections: int) -> None:
    """Raises Failed where most of wrk's connections had no answer in all its window, of which it says nothing.

    The times of all answers together are the window of each connection that had any; a quarter of
    the window is far from what wrk itself takes between two requests. To those times wrk adds for each
    that was long, as if requests had come due meanwhile: where the machine stood still for 0.2 s, that
    makes of four connections sixty. Nineteen in twenty of them are free of that.
    """
    served = facts["requests"] * min(facts["mean"], facts["p95"]) / facts["seconds"]
    if served < _SERVED * connections:
        raise Failed(
            f"about {connections - served:.0f} of {connections} connections had no answer in {facts['seconds']:.0f} s"
        )


def summarize(facts: Facts, watch: Watch) -> dict[str, float | None]:
    """What a client counted and what the server used, as metrics."""
    seconds, requests = facts["seconds"], facts.get("exchanges", facts["requests"])
    moved = facts["received"] + facts.get("sent", 0)
    return {
        "requests": requests,
        "requests_per_second": requests / seconds,
        "throughput": moved / seconds,
        "cpu_per_request": watch.cpu / requests if requests else None,
        "cpu_per_gb": watch.cpu / moved if moved else None,
        "cpu_share": watch.cpu / watch.seconds,
        "client_share": facts["cpu"] / seconds,
        "p50": facts["p50"],
        "p99": facts["p99"],
        "longest": facts["longest"],
        "memory": watch.peak_memory,
        "threads": watch.peak_threads,
    }


def summarize_good_client(facts: Facts) -> dict[str, float | None]:
    """What the good client has measured, as metrics."""
    return {"good_p50": facts["p50"], "good_p99": facts["p99"], "good_longest": facts["longest"]}


def read_children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_until_quiet(pid: int, patience: float = 3.0) -> int:
    """Wait until the memory of a server's tree stands still.

    Returns:
        it, in bytes.
    """
    deadline = time.monotonic() + patience
    memory, last = read_usage(pid).memory, -1
    while time.monotonic() < deadline and abs(memory - last) > last // 200:
        time.sleep(0.3)
        memory, last = read_usage(pid).memory, memory
    return memory
