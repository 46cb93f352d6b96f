"""The pages in a browser: nothing fetched, no error, no serious issue for those who do not see or use no mouse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import tracin
from tests.samples.browser import Watched, chromium
from tests.samples.odd_labels import LABELS, odd_model
from tracin.explanation import Explainer
from tracin.explanation.answer import save_all
from tracin.explanation.question import read_question
from tracin.exploring import Explorer
from tracin.exploring.server import Server
from tracin.subject import open_subject

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SERIOUS = ("serious", "critical")
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of pages whose labels are as odd as can be."""
    folder = tmp_path_factory.mktemp("pages")
    checkpoint, train = odd_model()
    explainer = Explainer(open_subject(checkpoint, train))
    asked = [(0, 0, 2), (1, 1, "?"), ("?", 2, 4), tuple(train[0].tolist())]
    found = [explainer.ask(read_question(explainer.subject, each)) for each in asked]
    first = found[1].answers.first[0].entity
    kinds = ("necessary", "sufficient")
    found.append(explainer.ask(read_question(explainer.subject, (1, 1, first)), kinds=kinds))
    save_all(found[:1], folder / "explain.html")
    save_all(found, folder / "several.html")
    tracin.audit(checkpoint, train, train[:9]).save(folder / "audit.html")
    (folder / "notebook.html").write_text(
        "<!doctype html><html lang=en><title>Notebook</title><main><h1>Cells</h1>"
        + found[0]._repr_html_() + tracin.audit(checkpoint, train)._repr_html_() + "</main>",
        encoding="utf-8",
    )  # fmt: skip
    return {path.stem: path.as_uri() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    checkpoint, train = odd_model()
    with Server(Explorer(Explainer(open_subject(checkpoint, train)))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def serious(page: Any) -> list[str]:
    """What axe-core finds; nothing where it is not installed."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['target']} {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("name", ["explain", "several", "audit", "notebook"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_fetched_and_nothing_fails(browser: Any, pages: dict[str, str], name: str, width: int) -> None:
    with Watched(browser, width) as watched:
        watched.page.goto(pages[name])
        assert watched.page.title() != "broken in"
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
        assert watched.wrong == []


@pytest.mark.parametrize("name", ["explain", "several", "audit"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_issue(browser: Any, pages: dict[str, str], name: str, width: int, dark: bool) -> None:
    with Watched(browser, width, dark) as watched:
        watched.page.goto(pages[name])
        assert serious(watched.page) == []


def test_labels_are_shown_as_text(browser: Any, pages: dict[str, str]) -> None:
    with Watched(browser, 1280) as watched:
        watched.page.goto(pages["explain"])
        heading = watched.page.locator("h1").inner_text()
        assert LABELS[0] in heading
        assert LABELS[2] in heading
        assert watched.page.locator("img, b:has-text('r')").count() == 0


def test_tables_are_sorted_by_click_and_by_key(browser: Any, pages: dict[str, str]) -> None:
    with Watched(browser, 1280) as watched:
        page = watched.page
        page.goto(pages["audit"])
        button = page.get_by_role("button", name="loss", exact=True)
        cells = "[...document.querySelector('table').tBodies[0].rows].map((row) => Number(row.cells[3].dataset.v))"
        button.click()
        falling = page.evaluate(cells)
        assert falling == sorted(falling, reverse=True)
        assert button.locator("xpath=..").get_attribute("aria-sort") == "descending"
        button.focus()
        page.keyboard.press("Enter")
        assert page.evaluate(cells) == falling[::-1]
        assert watched.wrong == []


def test_the_picture_is_drawn_once_for_each_width(browser: Any, pages: dict[str, str]) -> None:
    for width, shown in ((390, ".tall"), (1280, ".wide")):
        with Watched(browser, width) as watched:
            watched.page.goto(pages["explain"])
            visible = watched.page.locator("svg:visible")
            assert visible.count() == 1
            assert visible.locator(f"xpath=self::*[contains(@class, '{shown[1:]}')]").count() == 1


def test_it_prints(browser: Any, pages: dict[str, str]) -> None:
    with Watched(browser, 1280) as watched:
        for name in ("several", "audit"):
            watched.page.goto(pages[name])
            assert watched.page.pdf(format="A4").startswith(b"%PDF")
        assert watched.wrong == []


@pytest.mark.parametrize("width", WIDTHS)
def test_looking_around(browser: Any, server: Server, width: int) -> None:
    """From a search to a reason, by what a person would click."""
    with Watched(browser, width, own=server.address) as watched:
        page = watched.page
        page.goto(server.address)
        found = serious(page)
        page.get_by_role("searchbox").fill("family")
        page.keyboard.press("Enter")
        page.locator("ul.found a").first.click()
        found += serious(page)
        page.locator("details a").first.click()
        found += serious(page)
        page.get_by_role("link", name="why").first.click()
        assert page.get_by_role("heading", name="Which training triples made the model say so?").is_visible()
        page.get_by_role("link", name="answers").click()
        assert page.url.startswith(server.address + "ask")
        assert (found, watched.wrong) == ([], [])
