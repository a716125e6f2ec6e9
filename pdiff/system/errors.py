"""The one kind of error that the user can mend; all others are bugs."""


class InputError(ValueError):
    """A wrong parameter or a missing, broken or foreign file.

    The message is one line that names the culprit and what is allowed. `stages.stage` prints it
    without a traceback.
    """


def reason(error: BaseException) -> str:
    """The first line of an error's message; its type if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
