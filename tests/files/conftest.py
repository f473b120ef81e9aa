"""What the tests of files are multiplied by; directories to mount, and ways to open what is in them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from escapes import SECRET
from mounted import SIBLINGS, STYLE, SUFFIX, have_nothing_at_hand
from threeways import WAYS

from trio_wsgi.disk import root as root_module


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How a file leaves."""
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["sendfile", "copied"])
def sendfile(request: pytest.FixtureRequest) -> bool:
    """The setting of that name."""
    return bool(request.param)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "bare").mkdir()
    (root / "index.html").write_bytes(b"<p>index")
    (root / "deep" / "index.html").write_bytes(b"<p>deep")
    (root / "style.css").write_bytes(STYLE)
    (root / ".hidden").write_bytes(b"not to be seen")
    return root


@pytest.fixture
def packed(site: Path) -> Path:
    for coding, data in SIBLINGS.items():
        (site / f"style.css{SUFFIX[coding]}").write_bytes(data)
    return site


@pytest.fixture
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    have_nothing_at_hand(monkeypatch)


@pytest.fixture
def guarded(tmp_path: Path) -> Path:
    """A directory with secrets beside it."""
    root = tmp_path / "site"
    (root / "sub").mkdir(parents=True)
    (root / "f.txt").write_bytes(b"public")
    (root / "sub" / "g.txt").write_bytes(b"public, below")
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s.txt").write_bytes(SECRET)
    return root


@pytest.fixture(params=["openat2", "no openat2", "openat2 forbidden", "openat2 never sure"])
def resolved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How names are resolved: by this kernel; as on an old one; in a sandbox; while somebody renames without end."""
    number = {"no openat2": errno.ENOSYS, "openat2 forbidden": errno.EPERM, "openat2 never sure": errno.EAGAIN}
    if request.param in number:
        monkeypatch.setattr(root_module, "openat2", lambda *_: -number[request.param])
    return str(request.param)
