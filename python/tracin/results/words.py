"""Numbers and triples in words."""

from __future__ import annotations

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def ordinal(rank: float) -> str:
    """1st, 2nd, 2.5th."""
    if rank != int(rank):
        return f"{rank:,}th"
    number = int(rank)
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def in_letters(number: int) -> str:
    """Up to ten in letters."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def percent(share: float) -> str:
    """31 %, 3.1 %, <0.1 %."""
    value = 100 * abs(share)
    text = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.1 or value == 0 else "<0.1"
    return f"{'-' if share < 0 and value >= 0.1 else ''}{text} %"


def several(number: int, one: str, more: str) -> str:
    """1 exact copy, 1,200 exact copies."""
    return f"{number:,} {one if number == 1 else more}"
