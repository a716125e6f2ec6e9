"""The files of an experiment that is not checked out, from its commit and from DVC's cache."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pdiff.export.model import UNKNOWN
from pdiff.nets.own import is_own, split_own
from pdiff.system.errors import InputError
from pdiff.tracking.files import Folder, cached, copy, git, locked_outputs, read_yaml
from pdiff.tracking.process import git_commit


@contextmanager
def files_of(experiment: str | None) -> Iterator[str]:
    """Make an experiment's files those of the working directory, and say which commit they are of.

    They are links in a temporary folder; the workspace stays as it is. None is the workspace.

    Raises:
        InputError: an unknown or ambiguous name; the errors of the block name the experiment.
    """
    if experiment is None:
        changed = ", with uncommitted changes" if git("status", "--porcelain") else ""
        yield f"{git_commit() or UNKNOWN}{changed}"
        return
    pattern = f"refs/exps/[0-9a-f][0-9a-f]/*/{experiment}"
    found = (git("for-each-ref", "--format=%(objectname)", pattern) or b"").decode().split()
    if not found:
        raise InputError(
            f"--exp: there is no experiment named {experiment!r} here; `dvc exp list -A` shows all"
        )
    if len(found) > 1:
        raise InputError(
            f"--exp: {len(found)} experiments are named {experiment!r}, from different commits; "
            "`dvc exp apply` one and leave --exp out"
        )
    with TemporaryDirectory() as name:
        absent = _lay_out(Folder(Path.cwd(), found[0]), Path(name))
        try:
            with chdir(name):
                yield found[0]
        except InputError as error:
            lost = [path for path in absent if path in str(error)]
            hint = "; DVC's cache has it not, `dvc fetch` may" if lost else ""
            raise InputError(f"--exp {experiment}: {error}{hint}") from None


def _lay_out(tree: Folder, folder: Path) -> list[str]:
    """Write what Git has, link what DVC's cache has, and return the paths that neither has."""
    net = str(read_yaml(tree, "params.yaml").get("base", {}).get("net", ""))
    copy(tree, ["params.yaml", "dvc.lock", *([split_own(net)[0]] if is_own(net) else [])], folder)
    absent = []
    for path, md5 in locked_outputs(tree).items():
        if (found := cached(md5)).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(found)
        elif not md5.endswith(".dir") and tree.read(path) is None:
            absent.append(path)
    return absent
