"""The one exception type for everything a user can mend (files, arguments, devices), and how it shows values."""

from __future__ import annotations

INTERRUPTED = 130  # exit code: 128 + SIGINT, as shells count
INTERRUPTED_TEXT = "interrupted; outputs that were not complete are left as they were"


class InputError(ValueError):
    """Bad input from outside: the message names the file or argument, what came, what was expected, and the remedy.

    Args:
        text: the message.
        argument: of the library, if one is at fault.
        called: what the text calls the argument; None: by its name.

    Example:
        >>> try:
        ...     top = TracIn(checkpoint).top_k(train, test, k=0)
        ... except InputError as error:
        ...     print(error)
        k is 0; expected a positive number of training triples
    """

    def __init__(self, text: object = "", argument: str | None = None, called: str | None = None) -> None:
        super().__init__(text)
        self.argument = argument
        self.called = called or argument

    def calling_it(self, name: str) -> str:
        """The message of an argument at fault that the user knows by another name, such as a flag."""
        return str(self).replace(self.called, name, 1) if self.called else str(self)


def quote(value: object) -> str:
    """The value as it would be written in Python, on one line, cut to a readable length."""
    try:
        text = " ".join(repr(value).split("\n"))
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def plain(name: str) -> str:
    """A name from a file as it is, or quoted where it would break the sentence."""
    return name if len(name) <= 100 and name.isprintable() else quote(name)


class LibraryWarning(UserWarning):
    """A warning of what the commands find out by the training triples, and do not repeat."""


def printable(text: str) -> str:
    """Text for a terminal: what would steer it (control characters, marks of direction) is shown as an escape."""
    return text if text.isprintable() else "".join(_shown(mark) for mark in text)


def _shown(mark: str) -> str:
    return mark if mark.isprintable() or mark == "\n" else mark.encode("unicode_escape", "surrogatepass").decode()
