"""The command `trio-wsgi` in this process: for what it says before it serves."""

from __future__ import annotations

import pytest

from trio_wsgi.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `trio-wsgi WORDS`."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err
