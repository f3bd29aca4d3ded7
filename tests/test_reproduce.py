"""What the experiments stand on: their charts, their data, and a trigger of their own."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

import netir
from bench.reproduce.drawing import Axis, Point, Series, chart
from bench.reproduce.features import INPUTS, before, generated
from bench.reproduce.growing import figure, mlp, point
from bench.reproduce.mnist import _leads
from netir.passes.methods import Grower


def test_a_chart_has_every_point_and_every_name() -> None:
    one = Series("a < b", [Point(1, 90, 0.1, 1), Point(10, 95)], "#123456", line=True)
    two = Series("c", [Point(100, 97, 20, 1)], "#654321", "square")
    svg = chart("title", "across", "up", [one, two], log_x=True)
    root = ElementTree.fromstring(svg)
    paths = [e.get("fill") for e in root.iter() if e.tag.endswith("path")]
    assert paths.count("#123456") == 3, "two points and one in the legend"
    assert paths.count("#654321") == 2
    assert {"a < b", "c", "title", "across", "up"} <= {e.text for e in root.iter()}


def test_error_bars_are_drawn_to_both_ends() -> None:
    svg = chart("", "", "", [Series("", [Point(1, 90, 0, 2), Point(2, 91)], "#123456")])
    bar = next(line for line in svg.splitlines() if "opacity" in line)
    low, high = map(float, re.findall(r"^<path d=\"M\S+ (\S+)V([\d.]+)", bar)[0])
    middle = float(re.findall(r"M\S+ (\S+)a4", svg)[0])
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert low > middle


def test_axes_have_round_ticks_between_their_ends() -> None:
    assert Axis(0.93, 4.1, 0, 100).ticks() == pytest.approx([1, 1.5, 2, 2.5, 3, 3.5, 4])
    log = Axis(3, 1500, 0, 100, log=True)
    assert log.ticks() == pytest.approx([5, 10, 20, 50, 100, 200, 500, 1000])
    assert log.at(3) == pytest.approx(0)
    assert log.at(1500) == pytest.approx(100)
    assert log.at(1) == pytest.approx(0), "what is off the axis is drawn at its edge"


def test_generated_inputs_have_as_many_dimensions_as_asked() -> None:
    for features in (2, 8, 64):
        x = generated(features, 1, 500).train[0]
        assert x.shape == (400, INPUTS)
        assert int(torch.linalg.matrix_rank(x)) == features


def test_widths_follow_the_features_when_read_before_the_activation() -> None:
    torch.manual_seed(0)
    model = mlp(INPUTS, (4, 4), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    live = netir.Live(model, optimizer)
    grower = Grower(before, "random", most=64)
    x, y = generated(8, 1, 500).train
    for _ in range(8):
        nn.functional.cross_entropy(model(x), y).backward()
        grower.step(live, x, y)
    assert model[0].out_features == 9, "8 independent features, and as many more as γ leaves room"


def test_the_front_is_what_nothing_smaller_beats() -> None:
    sizes = [(1.0, 0.9), (2.0, 0.8), (3.0, 0.95)]
    assert [_leads(one, sizes) for one in sizes] == [True, False, True]


def test_figures_are_means_and_deviations() -> None:
    assert figure([1.0, 3.0]) == "2.0 ± 1.4"
    assert figure([1.0]) == "1.0 ± 0.0"
    assert point([1, 3], [2, 2]) == Point(2, 2, pytest.approx(2**0.5), 0)
