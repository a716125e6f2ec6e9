"""The errors that the user can mend: wrong input, a disk, memory; all others are bugs."""

import difflib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

NEEDED = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "space within the disk's quota",
    errno.EROFS: "a disk that can be written to",
    errno.EACCES: "the permission to use it",
    errno.ENAMETOOLONG: "a shorter name",
}
"""What each error of a disk asks for."""
NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory")


class InputError(ValueError):
    """A wrong parameter or a missing, broken or foreign file.

    The message is one line that names the culprit and what is allowed. `stages.stage` prints it
    without a traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: a question for the known name that is like it."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def reason(error: BaseException) -> str:
    """The first line of an error's message; its type if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def disk_error(error: BaseException) -> int | None:
    """The key of `NEEDED` that an error of Python or safetensors stands for, if any."""
    number = getattr(error, "errno", None)
    if type(error).__name__ == "SafetensorError":  # it has the number in its text alone
        number = int((re.findall(r"os error (\d+)", str(error)) or [0])[0])
    return number if number in NEEDED else None


def explained(error: Exception) -> str:
    """One line on an error that the user can mend; any other is raised again."""
    if isinstance(error, InputError):
        return str(error)
    if number := disk_error(error):
        place = getattr(error, "filename", None) or f"a file in {Path.cwd()}"
        return f"{place}: {os.strerror(number)}; needed: {NEEDED[number]}"
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return f"memory ran out; needed: smaller nets or batches, or fewer models ({reason(error)})"
    raise error
