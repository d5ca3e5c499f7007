"""The front of a quantization search: which trials lie on it, and what stands for accuracy."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecv.pages import svg
from edgecv.report import plots
from edgecv.run.folder import Candidate, Quantization

SPOTS = st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(-3, 9).map(float)), min_size=1, max_size=12)


@given(SPOTS)
def test_the_front_is_what_nothing_beats(spots: list[tuple[float, float]]) -> None:
    front = plots._unbeaten(spots)
    for time, lost in spots:
        beaten = any(t <= time and v <= lost and (t, v) != (time, lost) for t, v in spots)
        assert ((time, lost) in front) == (not beaten)
    assert all(first[0] < second[0] and first[1] > second[1] for first, second in itertools.pairwise(front))


@pytest.mark.parametrize(("drop", "label", "legend"), [(0.2, "points lost", True), (None, "divergence, nats", False)])
def test_accuracy_is_drawn_where_there_are_labels(drop: float | None, label: str, legend: bool) -> None:
    trial = Candidate("all", "mse", 0.9, 0.01, {"openvino": 2.0}, True, drop_points=drop)
    with svg.style():
        figure = plots.front(Quantization({"openvino": 3.0}, (trial,), max_drop_points=0.5))
    assert figure is not None
    assert [axis.get_ylabel() for axis in figure.axes] == [label]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("may lose" in names) == legend
    assert "front" in names
