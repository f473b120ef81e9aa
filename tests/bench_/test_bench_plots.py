"""Pictures of results: who failed is shown as legibly as who did not, and colours are explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.results import Finding, Results
from bench.scenarios import BY_NAME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

plots = pytest.importorskip("bench.plots", exc_type=ImportError)


def draw(*findings: Finding) -> Figure:
    results = Results({}, {}, dict.fromkeys((each.contestant for each in findings), "1.0"), {}, list(findings))
    figure: Figure = plots.draw_bars(results, BY_NAME["small-8"], False)
    return figure


def measured(contestant: str) -> Finding:
    return Finding("small-8", contestant, False, 1, {"cpu_per_request": 1e-4, "requests_per_second": 1e4})


def failed(contestant: str) -> Finding:
    return Finding("small-8", contestant, False, 1, failure="status 500")


def test_the_reason_of_the_last_stands_above_the_axis() -> None:
    """Who has no bar has a row as high as the others; the axis does not strike it through."""
    for axis in draw(measured("trio-wsgi"), measured("waitress"), failed("nginx")).axes:
        assert [text.get_position()[1] for text in axis.texts] == [0, 1, 2]
        assert axis.get_ylim() == (2.5, -0.5)
        assert axis.get_xticks().size


def test_where_all_have_failed_there_is_no_scale() -> None:
    for axis in draw(failed("trio-wsgi"), failed("waitress")).axes:
        assert axis.get_ylim() == (1.5, -0.5)
        assert not axis.get_xticks().size


def test_each_colour_is_explained_once() -> None:
    (legend,) = draw(measured("trio-wsgi"), measured("waitress"), measured("cheroot"), measured("nginx")).legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "python", "file server"]
    colours = [patch.get_facecolor() for patch in legend.get_patches()]
    assert len(set(colours)) == 3


def test_where_no_pictures_can_be_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    Results({}, {}, {"apache": "1.0"}, {}, [measured("apache")]).save(path)
    assert plots.main([str(path), str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots" / "small-8.svg").exists()
    assert plots.main([str(path), str(path)]) == 1
    assert capsys.readouterr().err == f"bench: {path} is no folder; name one for the pictures\n"
