"""What progress bars say."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from tracin.progress import RateColumn, format_count, progress_bar, progress_stages


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0.5, "0.5"),
        (3.21, "3.2"),
        (12.3, "12"),
        (1234, "1,234"),
        (999_999, "999,999"),
        (5_678_000, "5,678 k"),
        (9_012_000_000, "9,012 M"),
    ],
)
def test_counts(count: float, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(("unit", "text"), [("pairs", "500 pairs/s"), ("", "500/s")])
def test_rate_and_time_left(unit: str, text: str) -> None:
    now = [100.0]
    progress = Progress(get_time=lambda: now[0], speed_estimate_period=300)
    task = progress.add_task("influence", total=100_000, completed=90_000, unit=unit)
    assert RateColumn().render(progress.tasks[0]).plain == ""
    progress.advance(task, 0)
    now[0] += 10
    progress.advance(task, 5_000)
    assert RateColumn().render(progress.tasks[0]).plain == text
    assert progress.tasks[0].time_remaining == 10  # the 90,000 of an earlier run are no part of the rate
    now[0] += 10
    progress.advance(task, 5_000)
    assert RateColumn().render(progress.tasks[0]).plain == text and progress.finished


def test_quiet_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (None, False):
        with progress_stages(shown) as stage:
            stage("influence", 10, "pairs", done=3)(7)
        with progress_bar("training", 10, shown) as advance:
            advance(10)
    assert capsys.readouterr() == ("", "")


def test_bars_of_several_stages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    with progress_stages(True) as stage:
        stage("test factors", 4, "triples")(4)
        stage("influence", 10, "pairs")(5)
    said = capsys.readouterr().err
    assert "test factors" in said and "influence" in said and "100%" in said and "50%" in said and "left" in said
