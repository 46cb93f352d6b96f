"""The one exception type for everything a user can mend: files, arguments, devices."""


class InputError(ValueError):
    """Bad input from outside: the message names the file or argument, what came, what was expected, and the remedy."""
