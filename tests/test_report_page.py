"""The report in a browser: it opens without complaint, fetches nothing, and does what it says."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from netir.report import Measured, Stage, Story, compare, write_report
from tests.report_stories import HOSTILE, big_story, grown_story, hostile_story, real_story

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALLED = next((path for path in map(shutil.which, NAMES) if path), None)

pytestmark = [
    pytest.mark.skipif(INSTALLED is None, reason="no Chromium: `apt-get install chromium` as root"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium has no sandbox for root
    with sync_playwright() as player:
        running = player.chromium.launch(
            executable_path=INSTALLED, args=["--no-sandbox"] if root else []
        )
        yield running
        running.close()


class Opened:
    """A report in a tab, and all that it complained of or asked the network for."""

    def __init__(self, browser: Browser, file: Path, **settings: Any) -> None:
        settings.setdefault("viewport", {"width": 1280, "height": 900})
        self.context = browser.new_context(**settings)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = file.resolve().as_uri()
        self.page.goto(self.address)

    def sound(self) -> bool:
        return self.complaints == [] and self.requests == [self.address]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    every: list[Opened] = []

    def open_(story: Story, **settings: Any) -> Opened:
        file = write_report(story, tmp_path / f"{len(every)}.html")
        every.append(Opened(browser, file, **settings))
        return every[-1]

    yield open_
    for one in every:
        one.context.close()
        assert one.sound(), (one.complaints, one.requests)


def lit(page: Page) -> set[str]:
    """The boxes that are highlighted."""
    found: list[str] = page.eval_on_selector_all(".box.on", "all => all.map(b => b.dataset.name)")
    return set(found)


def scale(page: Page) -> float:
    found: float = page.eval_on_selector(
        ".canvas > svg > g", "g => g.transform.baseVal.consolidate().matrix.a"
    )
    return found


def until(page: Page, expression: str) -> None:
    """Wait until something is so; the page's policy forbids Playwright's own way to."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"it never happens: {expression}")


def shown(page: Page) -> int:
    found: int = page.eval_on_selector_all(
        ".canvas .box", "all => all.filter(b => b.style.display !== 'none').length"
    )
    return found


SECTIONS = {"summary", "targets", "steps", "widths", "graph", "curves", "pareto", "contracts",
            "exports", "origin"}  # fmt: skip
STORIES = {
    "everything": (real_story, SECTIONS),
    "nothing": (lambda: Story(""), {"summary"}),
    "one bare stage": (
        lambda: Story("t", stages=(Stage("pass", "p", contract="exact"),)),
        {"summary", "steps", "contracts"},
    ),
    "hostile": (hostile_story, SECTIONS | {"growth"}),
    "grown": (
        grown_story,
        {"summary", "steps", "widths", "curves", "growth", "pareto", "contracts"},
    ),
}


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_opens_and_shows_what_there_is(opened: Any, name: str, width: int, scheme: str) -> None:
    story, sections = STORIES[name]
    page = opened(story(), viewport={"width": width, "height": 900}, color_scheme=scheme).page
    visible = page.eval_on_selector_all("section[id]:not([hidden])", "all => all.map(s => s.id)")
    assert set(visible) == sections
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.locator("#contents a").count() == len(sections) - 1
    assert page.title() != "owned"


def test_hostile_names_are_shown_as_they_are(opened: Any) -> None:
    page = opened(hostile_story()).page
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.locator(".width-row .name").all_text_contents() == list(HOSTILE)
    assert page.locator(".timeline h3").first.text_content() == HOSTILE[0]
    page.locator(".width-row").nth(0).hover()
    assert HOSTILE[0] in page.locator("#tip").inner_text()


def test_pointing_at_a_box_shows_what_changes_together(opened: Any) -> None:
    page = opened(real_story()).page
    drawn = real_story().stages[0].drawing
    assert drawn
    assert lit(page) == set()
    conv = next(box for box in drawn.boxes if box.scope == "layer1.conv1" and box.op == "conv")
    page.locator(f'[data-name="{conv.name}"]').hover()
    together = {box.name for box in drawn.boxes if conv.spaces[0] in box.spaces}
    # Between the first and the last stage batch norms were folded away; they still are drawn.
    assert lit(page) == together
    panel = page.locator(".panel")
    assert "layer1.conv1.weight" in panel.inner_text()
    assert "→" in panel.inner_text()
    page.locator("h1").hover()
    assert lit(page) == set()


def test_search_finds_and_goes_there(opened: Any) -> None:
    page = opened(real_story()).page
    page.fill("#find", "layer2")
    found = page.locator("#found")
    assert found.inner_text().endswith("found")
    assert page.locator(".canvas .box.hit").count() == int(found.inner_text().split()[0])
    page.press("#find", "Enter")
    assert found.inner_text().startswith("1 of ")
    assert page.locator(".canvas .box.chosen").count() == 1
    assert "layer2" in page.locator(".panel").inner_text()
    assert scale(page) >= 0.9
    page.fill("#find", "no such thing")
    assert found.inner_text() == "0 found"
    assert page.locator(".canvas .box.hit").count() == 0


def test_zoom_by_buttons_keys_and_wheel(opened: Any) -> None:
    page = opened(real_story()).page
    fitted = scale(page)
    page.get_by_role("button", name="Zoom in").click()
    assert scale(page) == pytest.approx(1.4 * fitted)
    page.get_by_role("button", name="Fit all").click()
    assert scale(page) == pytest.approx(fitted)
    canvas = page.locator(".canvas > svg")
    canvas.focus()
    page.keyboard.press("-")
    assert scale(page) == pytest.approx(fitted / 1.4)
    page.keyboard.press("0")
    assert scale(page) == pytest.approx(fitted)
    canvas.hover(position={"x": 5, "y": 300})
    page.mouse.wheel(0, -200)
    until(page, f"document.querySelector('.canvas > svg > g').getCTM().a > {fitted}")
    moved = "g => g.transform.baseVal.consolidate().matrix.e"
    was = page.eval_on_selector(".canvas > svg > g", moved)
    page.mouse.down()
    page.mouse.move(400, 400, steps=3)
    page.mouse.up()
    assert page.eval_on_selector(".canvas > svg > g", moved) != was


def test_wheel_scrolls_the_page_until_the_graph_is_in_use(opened: Any) -> None:
    page = opened(real_story()).page
    page.locator(".canvas > svg").hover(position={"x": 5, "y": 300})
    before, at = scale(page), page.evaluate("scrollY")
    page.mouse.wheel(0, 300)
    until(page, f"scrollY > {at}")
    assert scale(page) == before


def test_before_after_and_single_steps(opened: Any) -> None:
    page = opened(real_story()).page
    stages = [stage.drawing for stage in real_story().stages if stage.drawing]
    sizes = [len(drawn.boxes) for drawn in stages]
    folded, gone = compare(stages[1], stages[2]), compare(stages[0], stages[-1]).removed
    for view, boxes in (("Before", sizes[0]), ("After", sizes[-1])):
        page.get_by_role("button", name=view, exact=True).click()
        assert shown(page) == boxes
    page.get_by_role("button", name="Changes", exact=True).click()
    assert page.locator(".canvas .box.removed").count() == len(gone) > 0
    page.get_by_label("Compare").select_option(label="3 prune")
    assert page.locator(".canvas .box.removed").count() == 0
    assert page.locator(".canvas .box.changed").count() > 0
    page.locator("#step-4").get_by_role("button", name="Show in the graph").click()
    assert page.locator(".canvas .box.removed").count() == len(folded.removed)
    assert page.locator(".canvas .box.added").count() == len(folded.added)


def test_modules_fold_up_and_open(opened: Any) -> None:
    page = opened(real_story()).page
    every = shown(page)
    page.get_by_label("Detail").select_option(label="outer modules")
    outer = shown(page)
    assert outer < every
    page.locator('.box.folded[data-name="layer1"]').dblclick()
    assert outer < shown(page) < every
    page.locator(".box", has_text="layer1.conv1").click()
    page.get_by_role("button", name="Fold up layer1").click()
    assert shown(page) == outer


def test_keyboard_walks_through_the_graph(opened: Any) -> None:
    page = opened(real_story()).page
    page.locator(".canvas > svg").focus()
    names = []
    for _ in range(3):
        page.keyboard.press("ArrowDown")
        names.append(page.locator(".canvas .box.chosen").get_attribute("data-name"))
    drawn = real_story().stages[0].drawing
    assert drawn
    assert names == [box.name for box in drawn.boxes[:3]]
    page.keyboard.press("ArrowUp")
    assert page.locator(".canvas .box.chosen").get_attribute("data-name") == names[1]
    page.keyboard.press("Escape")
    assert page.locator(".canvas .box.chosen").count() == 0


def test_a_width_leads_to_its_space_in_the_graph(opened: Any) -> None:
    page = opened(real_story()).page
    row = page.locator(".width-row", has_text="layer1.conv1").first
    row.hover()
    assert "changes together" in page.locator("#tip").inner_text()
    row.click()
    assert lit(page)
    assert page.locator(".panel h3").inner_text() == "layer1.conv1"
    page.get_by_role("button", name="Let go").click()
    assert lit(page) == set()


def test_theme_is_chosen_and_kept(opened: Any) -> None:
    page = opened(real_story()).page
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.emulate_media(color_scheme="light")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_tiles_compare_with_the_network_before_the_first_pass(opened: Any) -> None:
    page = opened(real_story()).page
    tiles = page.locator("#tiles > div").all_inner_texts()
    assert [t.split("\n")[0] for t in tiles] == [
        "Accuracy", "Parameters", "MACs", "Weights", "PyTorch latency", "ONNX Runtime latency",
    ]  # fmt: skip
    assert "from 94.5" in tiles[0]
    assert "−1.5 points" in tiles[0]
    only = Story("t", stages=(Stage("trace", "t", measured=Measured(parameters=1200)),))
    alone = opened(only).page.locator("#tiles > div").all_inner_texts()
    assert len(alone) == 1
    assert "1,200" in alone[0]
    assert "from" not in alone[0]


def test_charts_tell_their_numbers(opened: Any) -> None:
    page = opened(real_story()).page
    page.locator("#curves .badge circle").first.hover()
    assert page.locator("#tip b").inner_text() == "3 prune"
    page.locator("#curves .chart").hover(position={"x": 300, "y": 150})
    assert "accuracy" in page.locator("#tip").inner_text()
    dots = page.locator("#pareto .point")
    measured = [stage for stage in real_story().stages if stage.measured]
    assert dots.count() == len(measured)
    assert 0 < page.locator("#pareto .point.best").count() < len(measured)
    page.locator("#pareto").get_by_role("button", name="MACs").click()
    page.locator("#pareto .point").last.focus()
    assert page.locator("#pareto .point").count() == len(measured)
    page.locator("#curves summary").click()
    points = sum(len(stage.epochs) for stage in real_story().stages)
    assert page.locator("#curves tbody tr").count() >= points


def test_widths_over_time_are_lines_that_tell(opened: Any) -> None:
    page = opened(grown_story()).page
    lines = page.locator("#growth .grown path")
    assert lines.count() == 2
    paths = lines.evaluate_all("all => all.map(p => p.getAttribute('d'))")
    assert all(d.count("V") == 7 for d in paths), "six growths, and the pass before them"
    page.locator("#growth .badge circle").hover()
    assert page.locator("#tip b").inner_text() == "3 widen"
    chart = page.locator("#growth .chart")
    size = chart.bounding_box()
    chart.hover(position={"x": 0.6 * size["width"], "y": 0.5 * size["height"]})
    said = page.locator("#tip").inner_text()
    assert "layers.0.units" in said
    assert "16 → 18, select" in said
    assert "the trigger saw 0.9" in said
    assert page.locator("#growth .grown.on").count() >= 1
    chart.hover(position={"x": 0.2 * size["width"], "y": 0.9 * size["height"]})
    said = page.locator("#tip").inner_text()
    assert "width 4 from step 0 on" in said
    assert "of the same width: layers.1.units" in said
    page.mouse.move(1, 1)
    assert page.locator("#growth .grown.on").count() == 0
    page.locator("#growth summary").click()
    assert page.locator("#growth tbody tr").count() == 12
    assert page.locator("#growth tbody").get_by_text("drawn").count() == 2


def test_widths_over_time_by_keyboard(opened: Any) -> None:
    page = opened(grown_story()).page
    page.locator("#growth .grown").first.focus()
    page.keyboard.press("Tab")
    assert "layers.1.units" in page.locator("#tip").inner_text()
    assert page.locator("#growth .grown.on").count() == 1
    assert page.locator("#growth .grown.off").count() == 1


def test_many_widths_over_time(opened: Any) -> None:
    page = opened(grown_story(60, 40)).page
    assert page.locator("#growth .grown").count() == 60
    heights = page.locator("#growth .leader + text").evaluate_all(
        "all => all.map(t => Number(t.getAttribute('y')))"
    )
    assert len(heights) == 16
    assert min(b - a for a, b in pairwise(sorted(heights))) >= 14, "no name hides another"
    assert "The 16 widest of 60 are named" in page.locator("#growth").inner_text()
    page.locator("#growth summary").click()
    assert page.locator("#growth tbody tr").count() == 1000
    assert "and 1,400 more, in the journal" in page.locator("#growth").inner_text()


def test_growth_shows_in_the_summary_and_the_steps(opened: Any) -> None:
    page = opened(grown_story()).page
    assert "One rewrite and growth in training left the network with 400" in page.locator(
        ".lead"
    ).inner_text()
    assert "from 70" in page.locator("#tiles > div").first.inner_text()
    step = page.locator("#step-4")
    assert "growth 12 changes" in step.inner_text()
    assert "2 widths changed" in step.inner_text()
    alone = Story("t", stages=grown_story().stages[3:])
    assert opened(alone).page.locator("#growth .grown").count() == 2


def test_tables_say_what_was_kept_and_met(opened: Any) -> None:
    page = opened(real_story()).page
    assert page.locator("#contracts").get_by_text("✓ kept").count() >= 2
    assert "✓ met" in page.locator("#targets").inner_text()
    assert "✗ missed" in page.locator("#targets").inner_text()
    assert "CPUExecutionProvider" in page.locator("#exports").inner_text()
    assert "netir_spec: 1" in page.locator("#origin pre").inner_text()


def test_paper_shows_what_is_folded_away(opened: Any) -> None:
    page = opened(real_story()).page
    closed = page.locator("details:not([open])").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed > 0
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert not page.locator(".bar").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == closed


def test_five_thousand_nodes_can_be_used(opened: Any) -> None:
    page = opened(big_story(5000)).page
    assert shown(page) < 300
    assert page.locator(".width-row").count() <= 60
    page.fill("#find", "stages.7.blocks.370.conv2")
    page.press("#find", "Enter")
    assert page.locator(".canvas .box.chosen").get_attribute("data-name")
    page.get_by_label("Detail").select_option(label="every node")
    assert shown(page) >= 5000
    took = page.evaluate(
        """async () => {
          const svg = document.querySelector(".canvas > svg"), start = performance.now();
          for (let i = 0; i < 5; i++) {
            svg.dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "+" : "-" }));
            await new Promise(requestAnimationFrame);
          }
          return (performance.now() - start) / 5;
        }"""
    )
    assert took < 1500  # milliseconds for a frame, on a slow and busy machine
