"""The error that a user can act on."""


class CondnetError(ValueError):
    """Bad input: data, settings, files or architectures that do not fit, told in one line.

    The commands end with that line. Any other exception is a fault of the program, and keeps its traceback.
    """
