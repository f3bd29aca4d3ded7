"""The report as data and as a file: nothing is lost, nothing is executed, nothing is fetched."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

import netir
from netir import passes
from netir.builtin import BUILTINS
from netir.errors import NetirError
from netir.report import (
    Drawing,
    Epoch,
    Measured,
    Stage,
    Story,
    compare,
    drawing,
    write_report,
)
from netir.report.drawing import Box
from netir.report.headline import headline
from netir.report.page import SCRIPTS, report_html
from tests.report_stories import HOSTILE, big_drawing, big_story, hostile_story, real_story

STORIES = {
    "real": real_story,
    "hostile": hostile_story,
    "empty": lambda: Story(""),
    "one bare stage": lambda: Story("bare", stages=(Stage("pass", "prune"),)),
    "no drawing": lambda: Story("x", stages=(Stage("pass", "p", widths_after={"a": 3}),)),
    "empty drawing": lambda: Story("x", stages=(Stage("trace", "t", drawing=Drawing()),)),
}


@pytest.mark.parametrize("name", STORIES)
def test_story_survives_json(name: str) -> None:
    story = STORIES[name]()
    assert Story.from_json(json.loads(json.dumps(story.to_json()))) == story


def test_story_of_another_version_is_read_as_far_as_it_is_known() -> None:
    data = {"netir_story": 1, "title": "t", "new": [1], "seed": None,
            "stages": [{"kind": "pass", "name": "p", "later": {}}]}  # fmt: skip
    assert Story.from_json(data) == Story("t", stages=(Stage("pass", "p"),))


def test_numbers_that_are_not_finite_become_missing() -> None:
    story = Story("t", stages=(Stage("pass", "p", error=0.0, allowed=math.inf,
                                     epochs=(Epoch(1, math.nan, 0.5),)),))  # fmt: skip
    (stage,) = Story.from_json(json.loads(json.dumps(story.to_json(), allow_nan=False))).stages
    assert (stage.error, stage.allowed, stage.epochs) == (0.0, None, (Epoch(1, None, 0.5),))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no story that netir knows"),
        ({"netir_story": 2}, "no story that netir knows"),
        ({"netir_story": True, "stages": 3}, "the story lacks 'title'"),
        ({"netir_story": 1}, "the story lacks 'title'"),
        ({"netir_story": 1, "title": 3}, "has 3 where a text must stand"),
        ({"netir_story": 1, "title": "t", "seed": "x"}, "has 'x' where a whole number"),
        ({"netir_story": 1, "title": "t", "seed": True}, "has True where a whole number"),
        ({"netir_story": 1, "title": "t", "stages": {}}, "has {} where a list must stand"),
        ({"netir_story": 1, "title": "t", "versions": []}, "where a mapping must stand"),
        ({"netir_story": 1, "title": "t", "seconds": "9" * 99}, "... where a number must"),
        ({"netir_story": 1, "title": "t", "share": 1}, "has 1 where true or false must stand"),
        ({"netir_story": 1, "title": "t", "stages": [{"kind": "pass", "name": "p",
                                                      "left": [["a"]]}]}, "a list of 2"),
    ],
)  # fmt: skip
def test_wrong_stories_are_refused(data: Any, message: str) -> None:
    with pytest.raises(NetirError, match=re.escape(message)):
        Story.from_json(data)


DRAWN: dict[str, Any] = {
    "texts": ["a", "relu", ""],
    "boxes": [[0, 1, 2, 2, [], None, 3, [0]], [1, 1, 2, 2, [0], 1, 1, []]],
    "lines": [0, 1],
    "spaces": [[0, 4, 2]],
}


def test_drawing_is_read() -> None:
    drawn = Drawing.from_json(DRAWN)
    assert drawn.boxes[0] == Box("a", "relu", macs=3, spaces=(0,))
    assert drawn.to_json() == DRAWN


@pytest.mark.parametrize(
    "wrong",
    [
        {"texts": [1]},
        {"texts": []},
        {"boxes": [[0]]},
        {"boxes": 3},
        {"boxes": [[0, 1, 2, 2, [9], None, 3, []]]},
        {"boxes": [[0, 1, 2, 2, [], "x", 3, []]]},
        {"boxes": [[0, 1, 2, 2, [], None, 3, [7]]]},
        {"lines": [0]},
        {"lines": [0, 2]},
        {"lines": [0, -1]},
        {"spaces": [[0, "4", 2]]},
        {"spaces": None},
    ],
)
def test_damaged_drawings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(NetirError, match="the drawing is damaged"):
        Drawing.from_json({**DRAWN, **wrong})


def test_stories_hold_plain_data_only() -> None:
    story = Story("t", stages=(Stage("pass", "p", error=torch.tensor(1.0)),))  # type: ignore[arg-type]
    with pytest.raises(NetirError, match="a story holds texts and numbers, not Tensor"):
        story.to_json()


def test_drawing_of_a_graph() -> None:
    model, args = BUILTINS["residual"]()
    graph = netir.trace(model, args)
    drawn = drawing(graph)
    boxes = {box.name: box for box in drawn.boxes}
    assert [b.op for b in drawn.boxes][:2] == ["input", graph.nodes[drawn.boxes[1].name].op.name]
    assert {b.name for b in drawn.boxes} == {*graph.inputs, *graph.nodes, "output"}
    conv = next(n for n in graph.nodes.values() if "layer2.conv1.weight" in n.params)
    box = boxes[conv.name]
    assert box.scope == "layer2.conv1"
    assert box.parameters == graph.params["layer2.conv1.weight"].data.numel()
    assert box.macs
    assert box.reads == (f"layer2.conv1.weight: {graph.params['layer2.conv1.weight'].type}",)
    # What it makes comes first, then what it reads.
    assert [drawn.spaces[i].name for i in box.spaces] == ["layer2.conv1", "stem"]
    names = [b.name for b in drawn.boxes]
    lines = {(names[a], names[b]) for a, b in drawn.lines}
    assert all((maker, conv.name) in lines for maker in conv.values)
    assert all(a < b for a, b in drawn.lines)


def test_marks_are_what_a_pass_did() -> None:
    model, args = BUILTINS["residual"]()
    graph = netir.trace(model, args)
    before = drawing(graph)
    assert compare(before, before) == ((), (), ())
    thin = compare(before, drawing(passes.Prune("layer2.conv1", amount=0.5)(graph)))
    assert (thin.added, thin.removed) == ((), ())
    touched = {n.name for n in graph.nodes.values() if "layer2.conv1.weight" in n.params}
    assert touched <= set(thin.changed)
    folded = compare(before, drawing(passes.Fold()(graph)))
    assert {graph.nodes[name].op.name for name in folded.removed} == {"batch_norm"}
    assert compare(drawing(passes.Fold()(graph)), before).added == folded.removed


def test_open_sizes_leave_macs_out() -> None:
    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.transpose(-1, -2)

    graph = netir.trace(
        Flat(), (torch.zeros(2, 5, 4),), dynamic={"x": {0: "batch", 1: "length"}}
    )
    assert {box.macs for box in drawing(graph).boxes} == {None}
    assert max(box.macs or 0 for box in drawing(graph, {"length": 5}).boxes) == 100
    with pytest.raises(NetirError, match="has no size 'nothing'"):
        drawing(graph, {"nothing": 1})


class Page(HTMLParser):
    """What a page would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", STORIES)
def test_page_has_its_own_tags_only(name: str) -> None:
    tags = Page(report_html(STORIES[name]())).tags
    assert [t for t, _ in tags] == [t for t, _ in Page(report_html(Story("plain"))).tags]
    assert {t for t, _ in tags}.isdisjoint({"img", "iframe", "link", "object", "embed", "base"})
    fetching = ("src", "href", "action", "srcset", "data")
    found = [(n, v) for _, own in tags for n, v in own.items()]
    assert [(n, v) for n, v in found if n in fetching or n.startswith("on")] == [("href", "#main")]


def test_page_reaches_nothing_outside() -> None:
    page = report_html(real_story())
    addresses = set(re.findall(r"\w+://[^\s\"'<>]*", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language, not a place
    assert "url(" not in page.replace("url(#", "")
    assert "@import" not in page
    policy = page.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_never_parse_html(script: str) -> None:
    text = (files("netir.report") / script).read_text(encoding="utf-8")
    forbidden = r"(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch\("
    assert not re.search(forbidden, text)
    assert max(map(len, text.splitlines())) <= 100


def test_every_script_is_in_the_page() -> None:
    found = {f.name for f in files("netir.report").iterdir() if f.name.endswith(".js")}
    assert found == set(SCRIPTS)


def test_hostile_names_stay_data(tmp_path: Path) -> None:
    page = write_report(hostile_story(), tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    data = page.partition('id="story">')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    assert data.isascii()
    assert Story.from_json(json.loads(data)["story"]) == hostile_story()
    assert HOSTILE[0] not in page


def test_comparisons_point_at_what_changed() -> None:
    page = report_html(real_story())
    data = json.loads(page.partition('id="story">')[2].partition("</script>")[0])
    whole, *steps = data["comparisons"]
    assert (whole["from"], whole["to"]) == (0, 4)
    assert [(s["from"], s["to"], s["step"]) for s in steps] == [(0, 2, 2), (2, 3, 3), (3, 4, 4)]
    stages = real_story().stages
    assert stages[2].drawing
    gone = {stages[2].drawing.boxes[i].op for i in steps[1]["removed"]}
    assert gone == {"batch_norm"}


def test_big_networks_fit_on_a_page() -> None:
    assert len(json.dumps(big_drawing(5000, 64).to_json())) < 1_000_000
    assert len(report_html(big_story(5000))) < 3_000_000


def test_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = write_report(real_story(), tmp_path / "report.html")
    before = target.read_text(encoding="utf-8")
    broken = replace(real_story(), machine=object())  # type: ignore[arg-type]
    with pytest.raises(NetirError, match="a story holds texts and numbers"):
        write_report(broken, target)
    assert target.read_text(encoding="utf-8") == before
    with pytest.raises(NetirError, match="needs the name of a file, not of a folder"):
        write_report(real_story(), tmp_path)
    with pytest.raises(NetirError, match="cannot write the file"):
        write_report(real_story(), tmp_path / "missing" / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def measured_story(*taken: Measured | None, **rest: Any) -> Story:
    return Story("t", stages=tuple(Stage("pass", "p", measured=m) for m in taken), **rest)


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (Story("t", summary="Said."), "Said."),
        (Story("t"), "No rewrite done; nothing was measured before and after."),
        (measured_story(None, Measured(8)), "2 rewrites done; nothing was measured"),
        (measured_story(Measured(200, 10), Measured(100, 9)),
         "2 rewrites left the network with 50 % of its parameters and 90 % of its MACs."),
        (measured_story(Measured(200, metric=0.9, latency_torch=4.0),
                        Measured(50, metric=0.8, latency_torch=3.0)),
         "with 25 % of its parameters and 75 % of the latency in PyTorch; accuracy went from "
         "90.0 % to 80.0 %."),
        (measured_story(Measured(metric=3.25), Measured(metric=3.25), share=False,
                        metric="loss", higher_is_better=False),
         "2 rewrites done; loss stayed at 3.25."),
        (Story("t", stages=(Stage("trace", "t", measured=Measured(9, metric=0.1)),
                            Stage("train", "t", measured=Measured(9, metric=0.9)),
                            Stage("pass", "p", measured=Measured(3, metric=0.2)),
                            Stage("train", "t", measured=Measured(3, metric=0.8)))),
         "33 % of its parameters; accuracy went from 90.0 % to 80.0 %."),
        (measured_story(Measured(4, latency_onnx=2.0), Measured(4, latency_onnx=1.0)),
         "100 % of its parameters and 50 % of the latency in ONNX Runtime"),
    ],
)  # fmt: skip
def test_headline(story: Story, words: str) -> None:
    assert words in headline(story).replace("\u00a0", " ")
