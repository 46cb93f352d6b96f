"""A headless Chromium that notes what a page does wrong; a test that asks for it is skipped where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]


@contextmanager
def chromium() -> Iterator[Any]:
    """A playwright Browser; TRACIN_CHROMIUM names the program where it is not on PATH."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("TRACIN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH, and TRACIN_CHROMIUM is not set")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page of the browser, and what went wrong in it."""

    def __init__(self, browser: Any, width: int, dark: bool = False, own: str = "") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", lambda request: self._note(request.url, own))

    def _note(self, url: str, own: str) -> None:
        if not url.startswith(("data:", "file:", "about:")) and not (own and url.startswith(own)):
            self.wrong.append(f"request: {url}")

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
