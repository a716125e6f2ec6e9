"""`python -m pdiff.tracking.changed`: which results differ from the last commit, how to keep them.

Nothing is said where none does, as on a processor that gives the committed bytes.
"""

from collections import Counter

from pdiff.tracking.files import git

RESULTS = ("params.yaml", "dvc.lock", "metrics", "plots", "report")
"""What of a run Git keeps."""
KEEP = f'git commit -m "my baseline" {" ".join(RESULTS)}'


def keep(experiment: str | None) -> str:
    """How to keep what lies here: the command, unless it is an experiment, which DVC keeps."""
    return f"dvc exp apply {experiment} brings it back" if experiment else KEEP


def changed() -> str:
    """What differs, by file and folder, and the command; "" where nothing does or without Git."""
    listed = git("status", "--porcelain", "-z", "--untracked-files=no", "--", *RESULTS) or b""
    paths = [entry[3:].decode(errors="replace") for entry in listed.split(b"\0") if entry]
    count = Counter(path.partition("/")[0] for path in paths)
    where = ", ".join(name if name in paths else f"{n} in {name}/" for name, n in count.items())
    told = f"{where} differ from the last commit: other parameters, processor or versions made it"
    return f"{told}\nto make them your baseline: {KEEP}" if paths else ""


if __name__ == "__main__":
    if text := changed():
        print(text)
