"""Several certificates for one server: which is shown to whom, and that those which were replaced are freed."""

from __future__ import annotations

import gc
import ssl
import weakref

import pytest
import trio
import trustme
from asking import hello
from authority import Authority, connect_tls
from serving import Served, serving

from trio_wsgi import Config
from trio_wsgi.errors import ConfigError
from trio_wsgi.net.certificates import load_certificates


def issue(authority: Authority, kind: trustme.KeyType, *names: str) -> str:
    path = authority.file(f"{len(list(authority.folder.iterdir()))}.pem")
    issued = authority.ca.issue_cert(*names, key_type=kind)
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


async def shown_to(served: Served, authority: Authority, name: str | None, kind: str) -> set[str]:
    """The names in the certificate that a client gets who can verify only those of this kind."""
    context = authority.client_context()
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
    stream = await connect_tls(served.port, context, name)  # type: ignore[arg-type]
    certificate = stream.getpeercert()
    await trio.aclose_forcefully(stream)
    return {value for _, value in certificate["subjectAltName"]}


async def test_of_two_for_the_same_names_each_client_gets_the_one_that_it_can_verify(authority: Authority) -> None:
    """As other servers do it for clients without ECDSA; whichever comes first, and for those who name nobody, too."""
    first = issue(authority, trustme.KeyType.ECDSA, "a.test", "b.test")
    second = issue(authority, trustme.KeyType.RSA, "b.test", "a.test")
    third = issue(authority, trustme.KeyType.RSA, "c.test")
    for certfile in ((first, second, third), (second, third, first)):
        async with serving(hello, certfile=certfile) as served:
            for kind in ("ECDSA", "RSA"):
                for name in ("a.test", "b.test", "unknown.test", None):
                    assert await shown_to(served, authority, name, kind) == {"a.test", "b.test"}
            assert await shown_to(served, authority, "c.test", "RSA") == {"c.test"}
            with pytest.raises(trio.BrokenResourceError):
                await shown_to(served, authority, "c.test", "ECDSA")


async def test_of_two_that_share_a_name_the_first_is_shown_for_it(authority: Authority) -> None:
    certfile = (authority.issue("a.test", "b.test"), authority.issue("b.test", "c.test"))
    async with serving(hello, certfile=certfile) as served:
        assert await shown_to(served, authority, "b.test", "ECDSA") == {"a.test", "b.test"}
        assert await shown_to(served, authority, "c.test", "ECDSA") == {"b.test", "c.test"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (trustme.KeyType.ECDSA, ("a.test", "b.test")),
        (trustme.KeyType.ECDSA, ("b.test",)),
        (trustme.KeyType.RSA, ("b.test",)),
    ],
)
def test_a_certificate_that_nobody_would_ever_get_is_refused(
    kind: trustme.KeyType, names: tuple[str, ...], authority: Authority
) -> None:
    """Else who names a second one, to replace the first, would go on with the first and not hear of it."""
    never = issue(authority, kind, *names)
    with pytest.raises(ConfigError, match=f"certfile: '{never}' would never be shown: there are others before it for "):
        load_certificates(Config(certfile=(issue(authority, trustme.KeyType.ECDSA, "a.test", "b.test"), never)))


@pytest.mark.parametrize("names", [["a.test"], ["a.test", "b.test"]], ids=["one", "two"])
def test_contexts_that_nobody_keeps_are_freed_at_once(names: list[str], authority: Authority) -> None:
    """Each holds the authorities of clients, some hundred KB, and HUP makes new ones; the collector comes rarely."""
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is ssl.SSLContext for each in gc.get_objects())
        context = load_certificates(Config(certfile=tuple(authority.issue(name) for name in names)))
        gone = weakref.ref(context)
        del context
        assert gone() is None
        assert sum(type(each) is ssl.SSLContext for each in gc.get_objects()) == before
    finally:
        gc.enable()
