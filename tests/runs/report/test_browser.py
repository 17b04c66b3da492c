"""The report in a browser: it renders without a network, its charts respond, and it fits on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.runs.report.page import write_report
from evomerge.search.examples import EXAMPLES
from tests.runs.report.conftest import NARROW, Open
from tests.runs.report.made import Made

SCRIPT = "<script>window.taken = true</script>"
IMAGE = "</script><img src=http://192.0.2.1/x onerror='window.taken = true'>"
LINK = "<a href='javascript:window.taken = true'>here</a>"


def kept_example(text: str) -> dict[str, Any]:
    example = {
        **{"title": text, "outcome": "won", "document": "ab" * 16, "prompt": f"{text}\nQ: 2 + 2?", "cut": 12},
        **{"expected": text, "winner": 1.0, "rival": 0.0},
    }
    return {EXAMPLES: {"rival": text, "documents": [example]}}


def conflict(text: str) -> dict[str, Any]:
    pair = {"a": text, "b": "code", "cosine": [0.5, -0.1], "signs": [0.6, 0.4]}
    return {"evomerge:conflict": {"experts": [text, "code"], "layers": ["0", text], "pairs": [pair], "advice": [text]}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that has every kind of chart but those of several objectives."""
    folder = tmp_path_factory.mktemp("whole")
    kept = {**kept_example("one"), **conflict("math")}
    return write_report(Made(folder, stack=True, failed=2, kept=kept).run())


def test_it_renders_without_a_network_and_without_complaints(whole: Path, opened: Open) -> None:
    seen = opened(whole)
    seen.draw_all()
    names = [chart.get_attribute("id") for chart in seen.page.query_selector_all(".chart")]
    assert {
        "gains",
        "over-trials",
        "over-documents",
        "coefficients-0",
        "stack",
        "importance",
        "documents",
        "seconds",
        "conflict-cosine",
        "conflict-signs",
    } <= set(names)
    assert seen.said == []
    assert seen.asked == []
    assert not seen.is_overflowing()


def test_it_fits_on_a_phone(whole: Path, opened: Open) -> None:
    seen = opened(whole, NARROW, has_touch=True, is_mobile=True)
    seen.draw_all()
    for folded in seen.page.query_selector_all("summary"):
        folded.click()
    assert not seen.is_overflowing()
    width = seen.page.evaluate("Math.max(...[...document.querySelectorAll('.main-svg')].map(s => s.clientWidth))")
    assert width <= NARROW[0]
    assert seen.said == []


def test_charts_respond(whole: Path, opened: Open) -> None:
    seen = opened(whole)
    page = seen.page
    seen.draw_all()
    chart = page.query_selector("#over-trials")
    chart.scroll_into_view_if_needed()

    page.locator("#over-trials .legendtoggle").first.click()
    page.wait_for_function("() => document.getElementById('over-trials').data[0].visible === 'legendonly'")
    page.locator("#over-trials .legendtoggle").first.click()
    page.wait_for_function("() => document.getElementById('over-trials').data[0].visible === true")

    page.evaluate("Plotly.Fx.hover('over-trials', [{curveNumber: 0, pointNumber: 3}])")
    assert "trial" in page.locator("#over-trials .hoverlayer").text_content()

    before = page.evaluate("document.getElementById('over-trials').layout.xaxis.range")
    box = page.locator("#over-trials .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 150, steps=4)
    page.mouse.up()
    page.wait_for_function(
        "before => document.getElementById('over-trials').layout.xaxis.range[0] > before[0]", arg=before
    )

    page.set_viewport_size({"width": 700, "height": 900})
    page.wait_for_function("() => document.querySelector('#over-trials .main-svg').clientWidth < 700")
    assert seen.said == []


def test_a_dark_screen_and_paper_have_colours_of_their_own(whole: Path, opened: Open) -> None:
    seen = opened(whole, color_scheme="dark")
    page = seen.page
    ink = "Plotly.d3 ? '' : document.getElementById('gains').layout.font.color"
    page.wait_for_function("() => document.querySelector('#gains .main-svg')")
    dark = page.evaluate(ink)
    page.emulate_media(color_scheme="light")
    page.wait_for_function("dark => document.getElementById('gains').layout.font.color !== dark", arg=dark)
    assert len(page.pdf()) > 50_000
    assert page.evaluate("document.querySelectorAll('.chart .main-svg').length") > 3 * 8
    assert seen.said == []


def test_names_documents_and_notes_run_nothing(tmp_path: Path, opened: Open) -> None:
    made = Made(
        tmp_path,
        experts=[SCRIPT, IMAGE, LINK],
        tasks=[IMAGE, LINK],
        trials=14,
        kept={**kept_example(SCRIPT), **conflict(IMAGE), "evomerge:leaks": [LINK], "evomerge:stopped": SCRIPT},
    )
    run = made.run()
    run.events.note(IMAGE)
    seen = opened(write_report(run))
    seen.draw_all()
    for folded in seen.page.query_selector_all("summary"):
        folded.click()
    assert seen.page.evaluate("window.taken") is None
    assert seen.page.query_selector_all("main img, main a[href], main svg a") == []
    assert seen.asked == []
    assert seen.said == []
    shown = seen.page.inner_text("main")
    assert all(text in shown for text in (SCRIPT, IMAGE, LINK))
    ticks = seen.page.evaluate("document.querySelector('#gains').textContent")
    assert "<script>" in ticks
    assert "<a href=" in ticks


def test_its_policy_lets_no_other_script_run(whole: Path, tmp_path: Path, opened: Open) -> None:
    injected = tmp_path / "report.html"
    injected.write_text(whole.read_text().replace("<main>", f"<main>{SCRIPT}<img src='http://192.0.2.1/x'>"))
    seen = opened(injected)
    assert seen.page.evaluate("window.taken") is None
    assert seen.asked == []
    assert len([line for line in seen.said if "Content Security Policy" in line]) == 2


@pytest.mark.exhaustive
def test_five_thousand_trials_are_drawn_and_respond(tmp_path: Path, opened: Open) -> None:
    path = write_report(Made(tmp_path, trials=5000, failed=100).run())
    assert path.stat().st_size < 6_000_000
    seen = opened(path)
    page = seen.page
    page.locator("#over-trials").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('#over-trials .main-svg')")
    sizes = page.evaluate("document.getElementById('over-trials').data.map(t => t.mode === 'markers' ? t.x.length : 0)")
    assert sum(sizes) == 5000
    page.locator("#over-trials .legendtoggle").first.click()
    page.wait_for_function("() => document.getElementById('over-trials').data[0].visible === 'legendonly'")
    assert seen.said == []


@pytest.mark.exhaustive
def test_a_hundred_experts_in_eighty_layers_fit(tmp_path: Path, opened: Open) -> None:
    experts = [f"an-expert-with-quite-a-long-name-{number}" for number in range(100)]
    made = Made(tmp_path, experts=experts, layers=80, modules=("all",), trials=2)
    path = write_report(made.run())
    assert path.stat().st_size < 6_000_000
    seen = opened(path, NARROW)
    page = seen.page
    page.locator("#coefficients-0").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('#coefficients-0 .main-svg')")
    sizes = page.evaluate("document.getElementById('coefficients-0').data[0].z.map(row => row.length)")
    assert sizes == [81] * 100  # the layers, and what lies outside of them
    assert not seen.is_overflowing()
    assert seen.said == []
