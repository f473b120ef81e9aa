"""python -m bench run: measures, shows progress, keeps the results.

Laws:
- The results are written after each bout: an interrupted run is a shorter run.
- What the user got wrong is told in a line before anything is measured.
- No results of an earlier run are lost: they are added to, or kept as *.1, *.2 and so on.
- TERM and a closed terminal interrupt as Ctrl-C does: no server is left running.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from bench import contestants, driver, scenarios
from bench.asking import Asking
from bench.contestants import Contestant
from bench.driver import Ground, Plan
from bench.machine import describe_machine, raise_descriptor_limit
from bench.report import write_report
from bench.results import BRIEF, Key, Results, load_results
from bench.roster import Present, find_python, read_python_version, take_roll
from bench.samples import Samples, make_certificate
from bench.scenario import Scenario
from bench.scenarios.slow import tell_smaller_crowds
from bench.server import check_app, list_withheld

T = TypeVar("T")
SECONDS, ROUNDS = 5.0, 3
QUICK_SECONDS, QUICK_ROUNDS = 1.0, 1
TOKEN = r"[\w!#$%&'*+.^`|~-]+"  # of HTTP: names of headers, methods
SENT = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")  # of a target, as it is; what follows # is not sent
UNFIT = ("HEAD", "CONNECT")  # methods
INTERRUPTED = 130  # what shells say of Ctrl-C


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench run", description="Measure WSGI servers.")
    parser.add_argument(
        "--quick", action="store_true", help="a few scenarios and contestants, one round of 1 s: about two minutes"
    )
    parser.add_argument("--only", metavar="NAME,...", help="scenarios, or beginnings of their names")
    parser.add_argument("--contestants", metavar="NAME,...", help="contestants, or beginnings of their names")
    parser.add_argument(
        "--rounds",
        type=at_least_one,
        help="rounds, of which the median is shown (3); what a second shows has more, of a second, in the same time",
    )
    parser.add_argument("--seconds", type=more_than_nothing, help="seconds of each measurement (5)")
    parser.add_argument("--pin", action="store_true", help="measure everybody once more, pinned to one core")
    parser.add_argument("--strace", action="store_true", help="count system calls, too, each in a bout of its own")
    parser.add_argument("--threads", type=at_least_one, default=8, help="threads of each server (8)")
    parser.add_argument("--venv", type=Path, help="environment of the servers (default: this interpreter's)")
    parser.add_argument("--files", type=Path, help="folder for sample files, on a disk, 2.2 GB; they are kept")
    parser.add_argument("--app", metavar="MODULE:APP", help="an application of your own to measure")
    parser.add_argument("--target", metavar="/PATH", help="what to ask your app for (/)")
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        type=header,
        action="append",
        default=[],
        help="to ask your app with; again",
    )
    parser.add_argument("--method", type=method, help="to ask your app by (GET; POST with --body)")
    parser.add_argument("--body", metavar="FILE", type=Path, help="what to send to your app with each request")
    parser.add_argument("--status", type=final_status, help="what your app is to answer with (200)")
    parser.add_argument("--file", type=Path, help="a file of your own to download")
    parser.add_argument(
        "--add", action="store_true", help="keep what --output has of an earlier run and this one does not repeat"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results.json"), help="results (%(default)s)")
    return parser


def at_least_one(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def header(text: str) -> str:
    name, colon, value = text.partition(":")
    if not re.fullmatch(TOKEN, name, re.ASCII) or not colon or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no header; write 'Name: value'")
    if not value.isascii():  # clients differ in how they would write it
        raise argparse.ArgumentTypeError(f"{text!r}: headers are sent in ASCII; encode it as your app decodes it")
    if name.lower() in ("content-length", "transfer-encoding"):
        raise argparse.ArgumentTypeError(f"{text!r}: how long the body is, is told by the bench; name a file by --body")
    return f"{name.title()}: {value.strip()}"


def method(text: str) -> str:
    if not re.fullmatch(TOKEN, text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no method; write one such as PUT")
    if text.upper() in UNFIT:
        raise argparse.ArgumentTypeError(f"{text}: its answers have no body that could be counted; name another")
    return text


def final_status(text: str) -> int:
    if not re.fullmatch("[2-5][0-9][0-9]", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no status of an answer; write one such as 201")
    return int(text)


def more_than_nothing(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds, such as 5 or 0.5")
    return seconds


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    try:
        with heeding_ends():
            return check_and_measure(options)
    except KeyboardInterrupt:
        print("interrupted: nothing was measured", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # of our own files: what servers and clients meet with is a finding
        print(f"bench: cannot go on: {error}; samples are kept in --files, results in --output", file=sys.stderr)
        return 1


def check_and_measure(options: argparse.Namespace) -> int:
    """The code to exit with.

    Raises:
        KeyboardInterrupt: before anything was measured.
        OSError: files of ours cannot be read or written while we measure.
    """
    try:
        earlier = check_options(options)
        chosen = choose_scenarios(options)
        if options.strace and not any(map(driver.is_traced, chosen)):
            raise ValueError("--strace counts calls of requests, and none of these scenarios shows them; add small-8")
        asked = choose_contestants(options)
    except (LookupError, ValueError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return measure(options, chosen, asked, earlier)


@contextmanager
def heeding_ends() -> Iterator[None]:
    """TERM and a closed terminal are a KeyboardInterrupt while the block runs, unless they were to be ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def check_options(options: argparse.Namespace) -> Results | None:
    """Look whether what the user names is there.

    Returns:
        with `--add`, what an earlier run has found.

    Raises:
        ValueError, OSError: what is wrong.
    """
    if options.file and not options.file.is_file():
        raise ValueError(f"--file {options.file}: there is no such file")
    if not options.app:
        for name in ("target", "header", "method", "body", "status"):
            if value := getattr(options, name):
                words = f"--{name} {repr(value[0]) if name == 'header' else value}"
                raise ValueError(f"{words} is for your own app: name it by --app")
    if options.target is not None:
        check_target(options.target)
    if options.body and not options.body.is_file():
        raise ValueError(f"--body {options.body}: there is no such file")
    python = find_python(options.venv)
    if options.app:
        check_app(python, options.app)
    check_output(options.output)
    if options.pin and shutil.which("taskset") is None:
        raise ValueError("--pin needs taskset, which is not installed (util-linux)")
    return load_results(options.output) if options.add and options.output.exists() else None


def check_target(target: str) -> None:
    """Raises ValueError where it cannot stand in a request as it is, and says how to write it."""
    if not target.startswith("/"):
        raise ValueError(f"--target {target}: write it from its first slash on, such as /{target}")
    sent = quote(target, safe=SENT)
    if sent != target:
        raise ValueError(f"--target {target!r}: that cannot be sent as it is; write {sent}")


def check_output(output: Path) -> None:
    """Raises ValueError where results cannot be written."""
    if not output.absolute().parent.is_dir():
        raise ValueError(f"--output {output}: there is no such folder; make it first")
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file in it")
    try:
        with tempfile.TemporaryFile(dir=output.absolute().parent):
            pass
    except OSError as error:
        raise ValueError(f"--output {output}: {error.strerror}") from None


def measure(
    options: argparse.Namespace, chosen: list[Scenario], asked: list[Contestant], earlier: Results | None
) -> int:
    """Run them, and report; the code to exit with."""
    descriptors = raise_descriptor_limit()
    python = find_python(options.venv)
    samples = Samples((options.files or Path(tempfile.gettempdir()) / "bench-samples").absolute())
    with tempfile.TemporaryDirectory(prefix="bench-") as name, samples.adopt(options.file) as file:
        folder = Path(name)
        folder.chmod(0o755)
        present, absent = take_roll(asked, python, folder)
        plan, ground = prepare(options, chosen, present, python, folder, samples, file)
        results = Results(
            describe_machine() | {"Python": read_python_version(python), "descriptors": str(descriptors)},
            describe_settings(plan, ground),
            {each.contestant.name: each.version for each in present},
            absent,
        )
        if other := results.tell_difference(earlier):
            driver.tell_on_stderr(f"bench: --add: {options.output} has {other}; write to another --output")
            return 2
        replaceable = results.keep(earlier) if earlier is not None else set()
        order = [*contestants.BY_NAME, *results.versions]  # the table's, then those of an earlier run that have left it
        results.versions = {name: results.versions[name] for name in order if name in results.versions}
        for who, why in absent.items():
            driver.tell_on_stderr(f"absent: {who}: {why}")
        if options.app and (withheld := list_withheld()):
            driver.tell_on_stderr(f"kept from servers, and so from your application: {', '.join(withheld)}")
        if smaller := tell_smaller_crowds(chosen):
            driver.tell_on_stderr(smaller)
        found, interrupted = run_and_keep(plan, ground, results, replaceable, options.output, earlier is None)
    return tell_outcome(results, options.output, found, interrupted)


def tell_outcome(results: Results, output: Path, found: int, interrupted: bool) -> int:
    """Print the page of `found` bouts; the code to exit with."""
    if not found:
        who = ", ".join(results.versions)
        driver.tell_on_stderr(f"nothing was measured: {f'none of it is for {who}' if who else 'nobody is here'}")
        return 1
    print(write_report(results))
    driver.tell_on_stderr(f"results: {output}; plots: python -m bench plots {output} FOLDER")
    if interrupted:
        return INTERRUPTED
    return 1 if all(each.failure for each in results.findings) else 0  # all have failed: the reasons stand above


def prepare(
    options: argparse.Namespace,
    chosen: list[Scenario],
    present: list[Present],
    python: str,
    folder: Path,
    samples: Samples,
    file: str,
) -> tuple[Plan, Ground]:
    """What to run, and on what; a certificate is made in `folder` where there is need of one.

    Args:
        file: the name of the user's file among the samples, or "".
    """
    plan = Plan(
        chosen,
        present,
        options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
        options.pin,
        options.strace,
    )
    own = (options.target or "/", file)
    method = options.method or ("POST" if options.body else "")
    asking = Asking(method, tuple(options.header), options.body and options.body.absolute(), options.status or 200)
    certificate = make_certificate(folder) if any(scenario.tls for scenario in chosen) else None
    return plan, Ground(python, options.app or "", options.threads, samples, certificate, own, asking)


def run_and_keep(
    plan: Plan, ground: Ground, results: Results, replaceable: set[Key], output: Path, anew: bool
) -> tuple[int, bool]:
    """Run the plan, and write the results after each bout.

    Args:
        anew: what `output` is before the first of them is kept beside it, as *.1, *.2 and so on.

    Returns:
        how many bouts there were, and whether an interrupt ended them.

    Raises:
        KeyboardInterrupt: before the first of them was over.
    """
    found = 0
    try:
        for finding in driver.run(plan, ground, driver.tell_on_stderr):
            results.add(finding, replaceable)
            if anew and not found and output.exists():
                set_aside(output)
            results.save(output)
            found += 1
    except KeyboardInterrupt:
        if not found:
            raise
        driver.tell_on_stderr("interrupted; what was found is kept; to go on: --add, and --only for what is missing")
        return found, True
    return found, False


def set_aside(output: Path) -> None:
    """Rename it to *.1, or to the first number that is free."""
    names = (output.with_name(f"{output.name}.{number}") for number in itertools.count(1))
    output.rename(next(name for name in names if not name.exists()))


def choose_scenarios(options: argparse.Namespace) -> list[Scenario]:
    """Those that were asked for; the user's own where there is an app or a file of theirs.

    Raises:
        LookupError, ValueError: a name that means nobody; a scenario of a user's own, who has brought nothing.
    """
    known = scenarios.BY_NAME
    brought = {"": True, "app": bool(options.app), "file": bool(options.file)}
    if options.only is not None:
        wanted = choose(options.only, known)
        chosen = [each for each in wanted if brought[each.own]]
        missing = [each for each in wanted if not brought[each.own]]
        if missing and not (chosen and (options.app or options.file)):
            raise ValueError(f"--only {options.only}: {missing[0].name} needs --{missing[0].own}")
        return chosen
    if options.app or options.file:
        return [each for each in known.values() if each.own and brought[each.own]]
    return [each for each in known.values() if not each.own and (each.quick or not options.quick)]


def choose_contestants(options: argparse.Namespace) -> list[Contestant]:
    """Those that were asked for; with `--quick` and no wish a few.

    Raises:
        LookupError: a name that means nobody.
    """
    known = contestants.BY_NAME
    if options.quick and options.contestants is None:
        known = {name: each for name, each in known.items() if name in contestants.QUICK}
    return choose(options.contestants, known)


def describe_settings(plan: Plan, ground: Ground) -> dict[str, str]:
    """How it was run, by title."""
    target, file = ground.own
    own = {"your application": f"{ground.app}, asked for {target}{ground.asking.describe()}"} if ground.app else {}
    if file:
        own["your file"] = f"{ground.samples.path(file).resolve()}, {ground.samples.length(file):,} bytes"
    asked = plan.rounds, plan.seconds
    brief = next((driver.choose_pace(plan, each) for each in plan.scenarios if each.brief), None)
    return {
        "rounds": str(plan.rounds),
        "seconds of each measurement": f"{plan.seconds:g}",
        **({BRIEF: f"{brief.rounds} rounds of {brief.seconds:g} s"} if brief not in (None, asked) else {}),
        "threads of each server": str(ground.threads),
        **({"application": driver.APP} if any(each.own != "app" for each in plan.scenarios) else {}),
    } | own


def choose(wanted: str | None, known: dict[str, T]) -> list[T]:
    """Those that are named, exactly or by the beginning of their name, in the table's order; all, without a wish.

    Raises:
        LookupError: a name that means nobody.
    """
    if wanted is None:
        return list(known.values())
    chosen: set[str] = set()
    for word in map(str.strip, wanted.split(",")):
        matches = {word} if word in known else {name for name in known if word and name.startswith(word)}
        if not matches:
            raise LookupError(f"nothing is called {word!r}; there are {', '.join(known)}")
        chosen |= matches
    return [each for name, each in known.items() if name in chosen]
