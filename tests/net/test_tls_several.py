"""Several certificates for one server: which is shown to whom, and that those which were replaced are freed."""

from __future__ import annotations

import gc
import ssl
import weakref
from collections.abc import Iterator

import pytest
from authority import Authority, open_authority

from trio_wsgi import Config
from trio_wsgi.net.certificates import load_certificates


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with open_authority() as opened:
        yield opened


@pytest.mark.parametrize("names", [["a.test"], ["a.test", "b.test"]], ids=["one", "two"])
def test_contexts_that_nobody_keeps_are_freed_at_once(names: list[str], authority: Authority) -> None:
    """Each holds the authorities of clients, some hundred KB, and HUP makes new ones; the collector comes rarely."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, ssl.SSLContext) for each in gc.get_objects())
        context = load_certificates(Config(certfile=tuple(authority.issue(name) for name in names)))
        gone = weakref.ref(context)
        del context
        assert gone() is None
        assert sum(isinstance(each, ssl.SSLContext) for each in gc.get_objects()) == before
    finally:
        gc.enable()
