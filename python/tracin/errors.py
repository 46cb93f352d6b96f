"""The one exception type for everything a user can mend (files, arguments, devices), and how it shows values."""


class InputError(ValueError):
    """Bad input from outside: the message names the file or argument, what came, what was expected, and the remedy."""


def quote(value: object) -> str:
    """The value as it would be written in Python, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
