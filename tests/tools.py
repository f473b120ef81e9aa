"""The programs that tests talk to: a missing one fails the test, so that green means tried and not skipped.

Where such a program cannot be had, TESTS_WITHOUT_TOOLS=1 turns the failures into skips: `make test`
sets it, since it promises to work with Python and make alone; `.ci/run` does not.
"""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {  # program → Debian package, as .ci/run installs them
    "aria2c": "aria2",
    "curl": "curl",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "strace": "strace",
    "systemd-socket-activate": "systemd",
    "unshare": "util-linux",
    "wget": "wget",
}


def require_tool(name: str) -> str:
    """Find a program, /usr/sbin included, which a plain user's PATH may lack.

    Returns:
        its full path, to be given to `subprocess`.

    Raises:
        pytest.fail.Exception: it is not installed (or skip.Exception, as said above).
    """
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))
    if path is not None:
        return path
    if os.environ.get("TESTS_WITHOUT_TOOLS") == "1":
        pytest.skip(f"{name} is not installed")
    pytest.fail(f"{name} is not installed (Debian: apt-get install {PACKAGES.get(name, name)})", pytrace=False)
