import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from r1jax.report.panels import Panel
from r1jax.report.plot import Curve, draw, gaps_of


def curve(values, **kwargs):
    values = np.asarray(values, float)
    return Curve(np.arange(len(values), dtype=float), values, kwargs.pop("colour", 0), **kwargs)


def test_is_one_svg_element_without_links_and_with_theme_colours():
    svg = draw([curve([1, 2, 3]), curve([3, 2], colour=1)], Panel("Reward", "a & b"), title="Reward")
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg" and root.get("aria-label") == "Reward"
    assert "://" not in svg and "var(--c0)" in svg and "var(--c1)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000"}
    assert "update" in svg and "a &amp; b" in svg


def test_same_curve_same_bytes():
    assert draw([curve([1, 2])], Panel("a", "b"), title="a") == draw([curve([1, 2])], Panel("a", "b"), title="a")


def test_odd_curves_are_drawn():
    for values in ([5.0], [0.0, 0.0], [1e-30, 1e30], [-1e300, 1e300], [2.0] * 100):
        assert draw([curve(values)], Panel("odd", "value", low=0.0, high=1.0)).startswith("<svg")
    assert draw([curve([1, 2]), curve([3])], Panel("odd", "s", low=0.0, stacked=True)).startswith("<svg")


def ticks(values, **bounds):
    """The labels of the vertical axis: the texts after those of the horizontal one."""
    texts = re.findall(r">([^<>]+)</text>", draw([curve(values)], Panel("t", "unit", **bounds)))
    return texts[texts.index("update") + 1 : texts.index("unit")]


def test_vertical_axis_holds_the_given_ends_and_the_data():
    assert ticks([0.0, 0.0], low=0.0)[0] == "0.0"
    assert ticks([0.3, 0.4], low=0.0, high=1.0)[-1] == "1.00"
    assert float(ticks([0.3, 4.0], low=0.0, high=1.0)[-1]) >= 3.0
    assert ticks([-2.0, 4.0], low=0.0)[0] == "−1.5"


def test_axes_fit_the_data():
    assert float(ticks([0.997, 1.0], low=0.0, high=1.0)[0]) >= 0.996
    assert float(ticks([41.0, 42.0, 43.0], low=0.0)[0]) > 40
    assert ticks([20.0, 43.0], low=0.0)[0] == "0"


@pytest.mark.parametrize(
    ("steps", "gaps"),
    [
        ([10, 20, 30, 50, 60], [2]),
        ([10, 20, 30, 60], [2]),
        ([10, 30, 40, 50], [0]),
        ([0, 80], []),
        ([5], []),
        ([20, 40, 45], []),  # a shorter step at the end
        ([1, 15, 30, 45], []),
        ([10, 20, 30, 50, 70, 90], []),  # another cadence
    ],
)
def test_gaps_are_where_points_are_missing(steps, gaps):
    assert np.flatnonzero(gaps_of(np.array(steps, float))).tolist() == gaps


def lines(svg):
    """How many pieces each line of a plot has, by its colour's variable."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--c\d\)', svg)
    return [path.count("M") for path in paths]


def test_no_line_joins_points_across_a_gap_or_single_evaluations():
    steps = np.array([10.0, 20, 30, 50, 60])
    assert lines(draw([Curve(steps, steps, 0)], Panel("t", "u"))) == [2]
    assert lines(draw([Curve(steps[:3], steps[:3], 0)], Panel("t", "u"))) == [1]
    assert lines(draw([Curve(steps, steps, 0)], Panel("t", "u", across="samples"))) == [1]
    assert lines(draw([Curve(steps[:3], steps[:3], 0, is_points=True)], Panel("t", "u"))) == []


def test_running_mean_keeps_the_mean_level_and_short_curves():
    assert curve([1, 5, 1]).smoothed().tolist() == [1, 5, 1]
    smooth = curve(np.tile([0.0, 2.0], 50)).smoothed()
    assert len(smooth) == 100 and np.abs(smooth - 1).max() < 0.2
    ramp = curve(np.arange(100.0))
    np.testing.assert_allclose(ramp.smoothed()[10:90], np.arange(10, 90))
    np.testing.assert_array_equal(curve(np.arange(100.0), is_exact=True).smoothed(), np.arange(100))


def test_long_curves_are_thinned_to_means():
    thin = curve(np.arange(80_000.0), low=np.zeros(80_000), high=np.ones(80_000)).thinned()
    assert len(thin.values) == 800
    assert thin.values[0] == 49.5 and thin.high.tolist() == [1.0] * 800
