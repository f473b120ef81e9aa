"""examples/deploy: nothing in it may be wrong (issue 5, "Many machines").

Every command line is read by the command's own parser; what has to fit together is compared; the HAProxy configuration
is run, as it stands but for its addresses, with three nodes of which two are drained one after the other under load.
"""

from __future__ import annotations

import configparser
import hashlib
import http.client
import json
import re
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from downloads import MIB, make_file
from realproxies import RealProxy, haproxy_checks, open_haproxy
from serving import Command, command
from tools import require_tool
from waiting import wait_until

from trio_wsgi.config import Config
from trio_wsgi.flags import build_parser, parse_arguments
from trio_wsgi.kind import parse_seconds
from trio_wsgi.sources import load_config

TESTS = Path(__file__).parent.parent
DEPLOY = TESTS.parent / "examples" / "deploy"


def read_config(words: Sequence[str]) -> Config:
    """The settings of a command line, whose first word is the program and whose second is the application."""
    assert Path(words[0]).name == "trio-wsgi"
    options, flags = parse_arguments(build_parser(), words[1:])
    assert options.app == "mysite.wsgi:application"
    return load_config(flags, {}, None).config


def read_unit(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / name)
    return unit


@pytest.fixture
def deployment() -> dict[str, Any]:
    found: dict[str, Any] = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    return found


@pytest.fixture
def image() -> Config:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")
    (words,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    return read_config(json.loads(words))


# -- files that are read -----------------------------------------------------------------------------------------


def test_the_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text()
    assert {path.name for path in DEPLOY.iterdir()} - {"README.md"} == set(re.findall(r"\]\(([a-zA-Z.\-]+)\)", text))
    flags = set(re.findall(r"`(--[a-z\-]+)`", text)) - {"--time"}
    assert flags <= set(build_parser()._option_string_actions)


def test_the_service() -> None:
    """TimeoutStopSec has to outlast the drain; the sockets come from the socket unit, so nothing is bound."""
    service = read_unit("trio-wsgi.service")["Service"]
    config = read_config(shlex.split(service["ExecStart"]))
    assert config.bind == Config().bind
    assert float(service["TimeoutStopSec"]) > config.graceful_timeout + config.drain_max
    assert service["Type"] == "notify-reload"
    assert config.pid is config.user is None  # systemd's business


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    program = require_tool("systemd-analyze")
    version = int(re.findall(r"\d+", subprocess.run([program, "--version"], capture_output=True, text=True).stdout)[0])
    service = (DEPLOY / "trio-wsgi.service").read_text().replace("/srv/mysite/venv/bin/trio-wsgi", "/bin/true")
    if version < 253:  # as the comment in the file says
        assert "Type=notify, and ExecReload=/bin/kill -s HUP $MAINPID" in service
        service = service.replace("Type=notify-reload", "Type=notify\nExecReload=/bin/kill -s HUP $MAINPID")
    (tmp_path / "trio-wsgi.service").write_text(service)
    (tmp_path / "trio-wsgi.socket").write_text((DEPLOY / "trio-wsgi.socket").read_text())
    units = [str(tmp_path / "trio-wsgi.service"), str(tmp_path / "trio-wsgi.socket")]
    verified = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    said = [line for line in verified.stderr.splitlines() if "trio-wsgi" in line]
    assert said == []


def test_the_image(image: Config) -> None:
    text = (DEPLOY / "Containerfile").read_text()
    version = tuple(map(int, re.findall(r"python:(\d+)\.(\d+)", text)[0]))
    assert version >= (3, 11)
    assert f"EXPOSE {image.addresses[0].port}" in text
    assert image.addresses[0].host == "0.0.0.0"


def test_the_deployment(deployment: dict[str, Any], image: Config) -> None:
    """Kubernetes' patience covers preStop and the drain; its probes ask where the server answers."""
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = read_config(container["args"])
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before + config.graceful_timeout + config.drain_max
    (port,) = container["ports"]
    assert port["containerPort"] == config.addresses[0].port
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": config.health_path, "port": port["name"]}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= config.boot_timeout
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert (config.bind, config.health_path) == (image.bind, image.health_path)
    assert container["securityContext"]["runAsUser"] == int(
        re.findall(r"^USER (\d+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)[0]
    )


def test_the_nodes_of_haproxy() -> None:
    text = (DEPLOY / "haproxy.cfg").read_text()
    (line,) = re.findall(r"^# +(trio-wsgi .*)$", text, re.MULTILINE)
    config = read_config(shlex.split(line))
    assert f"uri {config.health_path}\n" in text
    assert all(f":{config.addresses[0].port}" in server for server in re.findall(r"^ +server .*$", text, re.MULTILINE))
    # A connection that HAProxy keeps must not be closed by us first.
    assert parse_seconds(re.findall(r"timeout http-keep-alive (\S+)", text)[0]) < config.keep_alive


# -- HAProxy, run ------------------------------------------------------------------------------------------------

NODES = ("node1", "node2", "node3")


@dataclass
class Load:
    """Clients that ask, download and count, until they are told to stop."""

    port: int
    digest: str
    answers: Counter[str] = field(default_factory=Counter)  # by node
    begun: dict[str, float] = field(default_factory=dict)  # by node, when its newest download did
    downloads: list[tuple[str, float, float]] = field(default_factory=list)  # node, begin and end
    failures: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, askers: int, downloaders: int) -> Iterator[None]:
        tasks = [*[self.ask_on] * askers, *[self.ask_anew] * askers, *[self.download] * downloaders]
        threads = [threading.Thread(target=self._repeat, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(60)

    def _repeat(self, task: Callable[[], None]) -> None:
        while not self.stopping.is_set():
            try:
                task()
            except Exception as exc:
                self.failures.append(f"{task.__name__}: {exc!r}")

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, (response.status, body[:100])
        self.answers[json.loads(body)["node"]] += 1

    def ask_on(self) -> None:
        """Several requests on one connection."""
        connection = self._connect()
        try:
            for _ in range(20):
                self._ask(connection)
                time.sleep(0.01)
        finally:
            connection.close()

    def ask_anew(self) -> None:
        """One request on a connection of its own."""
        connection = self._connect()
        try:
            self._ask(connection)
        finally:
            connection.close()
        time.sleep(0.01)

    def download(self) -> None:
        connection = self._connect()
        try:
            connection.request("GET", "/file")
            response = connection.getresponse()
            assert response.status == 200
            node, begun = response.headers["X-Node"], time.monotonic()
            self.begun[node] = begun
            digest = hashlib.sha256()
            while piece := response.read(65536):
                digest.update(piece)
            assert digest.hexdigest() == self.digest, "a download is not what it should be"
            self.downloads.append((node, begun, time.monotonic()))
        finally:
            connection.close()


@dataclass
class Nodes:
    """Nodes that can be stopped and started again where they were."""

    stack: ExitStack
    folder: Path
    running: dict[str, Command] = field(default_factory=dict)

    def start(self, name: str, address: str = "127.0.0.1:0", workers: int = 0) -> None:
        node = command(
            *("proxiedapp:app", f"--pythonpath={TESTS}", f"--bind={address}", "--health-path=/healthz"),
            *(
                "--limit-rate=2m",
                "--access-logfile",
                str(self.access_log(name)),
                "--access-logformat=%(U)s %(outcome)s",
            ),
            workers=workers,
            NODE=name,
            PROXIED_FILE=str(self.folder / "file"),
        )
        self.running[name] = self.stack.enter_context(node)

    def address(self, name: str) -> str:
        return self.running[name].url.removeprefix("http://")

    def access_log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def logged(self, name: str) -> Counter[str]:
        return Counter(self.access_log(name).read_text().splitlines())


@contextmanager
def haproxy_before(nodes: Nodes, folder: Path) -> Iterator[tuple[RealProxy, Path]]:
    """The example's configuration; only addresses are changed, what root is needed for, and how patiently it looks."""
    text, stats = (DEPLOY / "haproxy.cfg").read_text(), folder / "stats"
    for number, name in enumerate(NODES, 1):
        assert f"server {name} 10.0.0.1{number}:8000\n" in text
        text = text.replace(f"10.0.0.1{number}:8000", nodes.address(name))

    def configure(ports: list[int]) -> str:
        socket_line = f"stats socket unix@{stats} mode 660 level admin"
        changed = re.sub(r"stats socket .*", socket_line, text).replace("bind :80\n", f"bind 127.0.0.1:{ports[0]}\n")
        changed = changed.replace("maxconn 20000", "maxconn 500")  # of which follows how many files it may open
        changed = (
            changed.replace("inter 1s", "inter 200ms")
            .replace("check 3s", "check 30s")
            .replace("connect 3s", "connect 30s")
        )
        assert changed.count(str(stats)) == changed.count(f"bind 127.0.0.1:{ports[0]}\n") == 1
        return changed

    with open_haproxy(folder, configure) as proxy:
        yield proxy, stats


@pytest.mark.slow
def test_a_drain_behind_haproxy_fails_no_request(tmp_path: Path) -> None:
    """Two of three nodes are drained and come back, one after the other: no request fails, and no download is cut."""
    digest = hashlib.sha256(make_file(tmp_path / "file", 4 * MIB)).hexdigest()
    with ExitStack() as stack:
        nodes = Nodes(stack, tmp_path)
        workers = {"node1": 0, "node2": 1, "node3": 0}  # in its process, or by a supervised worker
        for name in NODES:
            nodes.start(name, workers=workers[name])
        proxy, stats = stack.enter_context(haproxy_before(nodes, tmp_path))

        def is_up(name: str) -> bool:
            return haproxy_checks(stats).get(f"nodes/{name}") == "L7OK"

        wait_until(lambda: all(map(is_up, NODES)), "all nodes are up")
        load = Load(proxy.ports[0], digest)
        with load.running(askers=1, downloaders=5):
            wait_until(lambda: all(load.answers[name] > 20 for name in NODES), "every node has answered")
            for name in NODES[:2]:
                drain(nodes, name, load)
                nodes.start(name, nodes.address(name), workers[name])
                wait_until(lambda name=name: is_up(name), f"{name} is up again")  # type: ignore[misc]
                before = load.answers[name]
                wait_until(lambda: load.answers[name] > before + 20, f"{name} has answered again")  # noqa: B023
        assert load.failures == []
        assert len(load.downloads) >= 6
        for name in NODES:
            assert {line.split()[-1] for line in nodes.logged(name)} == {"finished"}


def drain(nodes: Nodes, name: str, load: Load) -> None:
    """TERM a node that has downloads under way, and see it finish them while the others go on."""
    node = nodes.running[name]
    wait_until(lambda: time.monotonic() - load.begun.get(name, 0.0) < 0.5, f"{name} has begun a download")
    node.send_signal(signal.SIGTERM)
    told, others = time.monotonic(), sum(load.answers.values()) - load.answers[name]
    assert node.wait(60) == 0, node.log
    wait_until(
        lambda: any(by == name and begun < told < end for by, begun, end in load.downloads),
        "a download has outlived the TERM",
    )
    wait_until(
        lambda: sum(load.answers.values()) - load.answers[name] > others + 50, "the other nodes have answered meanwhile"
    )
