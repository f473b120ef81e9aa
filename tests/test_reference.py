"""Rules of the settings for readers: the page is current, and what is printed is a file that reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsgi import reference
from trio_wsgi.config import SETTINGS, make_config
from trio_wsgi.errors import ConfigError
from trio_wsgi.sources import Loaded, load_config

pytestmark = pytest.mark.usefixtures("empty_directory")


TOLD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))  # what the system can be told


@given(st.dictionaries(st.text(min_size=1), TOLD), st.lists(st.text()), TOLD)
def test_printed_toml_reads_back(env: dict[str, str], middleware: list[str], prefix: str) -> None:
    """What --print-config prints is a file -c reads as the same settings."""
    try:
        config = make_config({"env": env, "middleware": middleware, "pythonpath": prefix, "error_logfile": prefix})
    except ConfigError:
        config = make_config({"pythonpath": prefix})
    origins = dict.fromkeys(SETTINGS, "flag")
    Path("printed.toml").write_text(reference.format_toml(Loaded(config, origins)), "utf-8")
    assert load_config({}, {}, "printed.toml").config == config


def test_configuration_page_names_the_variables_of_others() -> None:
    page = reference.format_markdown()
    for setting in (each for each in SETTINGS.values() if each.familiar):
        assert f"`{setting.familiar}` (`{setting.flag}`)" in page


def test_configuration_page_is_current() -> None:
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text("utf-8") == reference.format_markdown(), (
        "write it again: python -m trio_wsgi.reference > docs/configuration.md"
    )
