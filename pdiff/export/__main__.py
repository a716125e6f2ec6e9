"""Take a model away: `python -m pdiff.export MODEL --to FILE`, a state dict and its model card.

MODEL is an index in its group, or `best`: the one that the choosing split would choose. The state
dict is complete and has the net's own names, so plain timm, or the file of an own net, loads it;
what the subset does not cover, running statistics among it, is the base net's. `--to
hf://USER/NAME` makes a repository on the Hugging Face Hub instead of a file.
"""

import argparse
import io
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from pdiff.core.files import save_tensors, write_text
from pdiff.export.card import model_card
from pdiff.export.experiment import files_of
from pdiff.export.model import GROUPS, Model, load_model
from pdiff.export.upload import WEIGHTS, check_repository, upload
from pdiff.system.errors import InputError, disk_error, explained, reason
from pdiff.system.hub import SCHEME
from pdiff.system.paths import replacing

SUFFIXES = (".safetensors", ".pth", ".pt")


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        print(_export(options))
    except Exception as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("pdiff export", description=__doc__, formatter_class=form)
    parser.add_argument("model", metavar="MODEL", help="index in its group, or best")
    where = "ends in .safetensors, .pth or .pt, or is hf://USER/NAME"
    parser.add_argument("--to", required=True, metavar="FILE", help=where)
    parser.add_argument("--group", default="generated", help=" | ".join(GROUPS))
    parser.add_argument("--exp", metavar="NAME", help="of this experiment, not of the workspace")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    parser.add_argument(
        "--private", action="store_true", help="hide the repository if it is a new one"
    )
    return parser


def _export(options: argparse.Namespace) -> str:
    """Write one model and its card; say which, and where."""
    to, on_hub = options.to, options.to.startswith(SCHEME)
    repository = check_repository(to, options.force) if on_hub else ""
    file = WEIGHTS if on_hub else _check_file(Path(to), options.force)
    with files_of(options.exp) as commit:
        model = load_model(options.model, options.group)
        card = model_card(model, file, _command(options), commit, repository)
    if on_hub:
        places = [upload(model, card, repository, options.private)]
    else:
        places = _write(model, card, file)
    return f"{model}\nwrote {' and '.join(map(str, places))}"


def _command(options: argparse.Namespace) -> str:
    """What made the model, without folders of this machine."""
    to = options.to if options.to.startswith(SCHEME) else Path(options.to).name
    exp = f" --exp {options.exp}" if options.exp else ""
    return f"python -m pdiff.export {options.model} --group {options.group}{exp} --to {to}"


def _check_file(to: Path, force: bool) -> Path:
    if to.suffix not in SUFFIXES:
        raise InputError(f"--to: {to} must end in {', '.join(SUFFIXES)}")
    for path in (to, to.with_suffix(".md")):
        if path.exists() and not force:
            raise InputError(f"--to: {path} exists; --force overwrites it")
    return to


def _write(model: Model, text: str, to: Path) -> list[Path]:
    """Write the state dict and its card beside it; return both paths."""
    card, state = to.with_suffix(".md"), model.net.state_dict()
    try:
        if to.suffix == ".safetensors":
            save_tensors(to, state, net=model.name, classes=model.classes, size=model.size)
        else:
            content = io.BytesIO()  # torch itself does not say that a disk is full
            torch.save(state, content)
            with replacing(to) as partial:
                partial.write_bytes(content.getvalue())
        write_text(card, text)
    except (OSError, SafetensorError) as error:
        if disk_error(error):
            raise
        raise InputError(f"--to: {to} cannot be written: {reason(error)}") from None
    return [to, card]


if __name__ == "__main__":
    sys.exit(main())
