"""The one kind of error that is the user's to mend, told apart from bugs."""


class InputError(ValueError):
    """A wrong parameter or a missing, broken or foreign file.

    The message is one line that names the culprit and what is allowed. Stages print it without a
    traceback (`stages.stage`); every other exception is a bug and keeps its traceback.
    """
