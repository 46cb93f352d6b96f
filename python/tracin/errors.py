"""The one exception type for everything a user can mend (files, arguments, devices), and how it shows values."""


class InputError(ValueError):
    """Bad input from outside: the message names the file or argument, what came, what was expected, and the remedy."""


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
