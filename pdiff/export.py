"""Take a model away: `python -m pdiff.export MODEL --to FILE`, a state dict and its model card.

MODEL is an index in its group, or `best`: the one that the choosing split would choose. The state
dict is complete and has the net's own names, so plain timm, or the file of an own net, loads it;
what the subset does not cover, running statistics among it, is the base net's.

Axes: M models of a group, D parameters of the subset, K checkpoints.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pdiff.autoencoder.codec import load_codec
from pdiff.baselines.originals import ensemble
from pdiff.card import model_card
from pdiff.config import load_params
from pdiff.core.files import load_header, load_tensor, save_tensors, write_text
from pdiff.core.runtime import get_device
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile
from pdiff.parameters.subset import Models, Rows, Subset, spread_evenly
from pdiff.system.errors import InputError

BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
LATENTS = Path("data/latents.safetensors")
AUTOENCODER = Path("models/autoencoder.safetensors")
GENERATED = Path("data/generated.safetensors")
TABLE = Path("data/models.csv")

GROUPS = ("generated", "original", "ensemble", "reconstructed")
SUFFIXES = (".safetensors", ".pth", ".pt")
COLUMNS = {"group", "model", "accuracy", "choosing_accuracy", "max_similarity"}


@dataclass(frozen=True)
class Exported:
    """One model of a group and what is known about it."""

    group: str
    index: int
    chosen: bool
    """Whether the choosing split chose it among its group, not the user by its index."""
    net: nn.Module
    name: str
    """What `base.net` is called."""
    classes: int
    size: int
    subset: Subset
    table: pd.DataFrame
    """The rows of all models of all groups."""


def export(model: str, group: str, to: Path, force: bool = False) -> list[Path]:
    """Write one model of the current folder's experiment and its card; return both paths.

    Raises:
        InputError: unknown model or group, missing files, or a name that cannot be written to.
    """
    card = to.with_suffix(".md")
    if to.suffix not in SUFFIXES:
        raise InputError(f"--to: {to} must end in {', '.join(SUFFIXES)}")
    for path in (to, card):
        if path.exists() and not force:
            raise InputError(f"--to: {path} exists; --force overwrites it")
    exported = find_model(model, group)
    header = {"net": exported.name, "classes": exported.classes, "size": exported.size}
    text = model_card(exported, load_params(), to)
    try:
        _save_state(to, exported.net.state_dict(), header)
        write_text(card, text)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--to: {to} cannot be written: {reason}") from None
    return [to, card]


def find_model(model: str, group: str) -> Exported:
    """The net with the parameters of one model, looked up in the current folder."""
    if group not in GROUPS:
        raise InputError(f"--group: unknown {group!r}; known: {', '.join(GROUPS)}")
    table = load_table(TABLE)
    index = choose(table[table["group"] == group], model, group)
    header = load_header(BASE)
    net = load_net(BASE)
    subset, found = _find(group, index, count=int((table["group"] == group).sum()))
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    if any(shapes.get(name) != shape for name, shape in subset.shapes.items()):
        raise InputError(f"{BASE} and the {group} models are of different runs")
    net.load_state_dict(found, strict=False)
    facts = header["net"], header["classes"], header["size"]
    return Exported(group, index, model == "best", net, *facts, subset, table)


def load_table(path: Path) -> pd.DataFrame:
    """One row per model, as the stage novelty writes it."""
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; the pipeline writes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := COLUMNS - set(table):
        raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    return table


def choose(rows: pd.DataFrame, model: str, group: str) -> int:
    """The index that `model` stands for; of equally good ones the first, as in the tables."""
    if rows.empty:
        raise InputError(f"{TABLE} has no {group} models")
    if model == "best":
        return int(rows.loc[rows["choosing_accuracy"].idxmax(), "model"])
    try:
        index = int(model)
    except ValueError:
        raise InputError(f"MODEL: {model!r} is neither an index nor `best`") from None
    if not 0 <= index < len(rows):
        raise InputError(f"MODEL: {index} is out of range; {group} has 0 to {len(rows) - 1}")
    return index


def _find(group: str, index: int, count: int) -> tuple[Subset, dict[str, Tensor]]:
    """One model of a group that has `count` rows in the table, in the order of these rows."""
    if group == "reconstructed":
        device = get_device()
        codec = load_codec(AUTOENCODER, CHECKPOINTS, device)
        latents = load_tensor(LATENTS, "latents", device)
        wanted = load_params().evaluate.reconstructed_models
        latents = latents[spread_evenly(len(latents), wanted)]
        _check_run(group, len(latents), count)
        row = torch.cat([block[index] for _, block in codec.decode(latents)])
        return codec.subset, Models(codec.subset, row[None].cpu())[0]
    models: Rows = StackFile(GENERATED if group == "generated" else CHECKPOINTS)
    if group == "ensemble":
        models = ensemble(models)
    _check_run(group, len(models), count)
    return models.subset, models[index]


def _check_run(group: str, found: int, count: int) -> None:
    if found != count:
        raise InputError(
            f"{TABLE} and the {group} models are of different runs; run the pipeline again"
        )


def _save_state(path: Path, state: dict[str, Tensor], header: dict[str, Any]) -> None:
    if path.suffix == ".safetensors":
        save_tensors(path, state, **header)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save(state, partial)
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pdiff.export",
        description=__doc__.partition("\n\nAxes")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="index in its group, or best")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="FILE", help="ends in .safetensors, .pth or .pt"
    )
    parser.add_argument("--group", default="generated", help=f"{' | '.join(GROUPS)}")
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    options = parser.parse_args(arguments)
    try:
        paths = export(options.model, options.group, options.to, options.force)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {' and '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
