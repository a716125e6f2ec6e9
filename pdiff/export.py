"""Take a model away: `python -m pdiff.export MODEL --to FILE`, a state dict and its model card.

MODEL is an index in its group, or `best`: the one that the choosing split would choose. The state
dict is complete and has the net's own names, so plain timm, or the file of an own net, loads it;
what the subset does not cover, running statistics among it, is the base net's.

Axes: M models of a group, D parameters of the subset, K checkpoints.
"""

import argparse
import hashlib
import io
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from pdiff import outputs
from pdiff.autoencoder.codec import load_codec
from pdiff.baselines.originals import ensemble
from pdiff.config import Params, load_params
from pdiff.core.files import load_header, load_tensor, save_tensors, write_text
from pdiff.core.runtime import get_device
from pdiff.nets.minis import MINIS
from pdiff.nets.own import is_own, split_own
from pdiff.nets.registry import has_fixed_size, load_net
from pdiff.parameters.stack import StackFile
from pdiff.parameters.subset import Models, Subset, spread_evenly
from pdiff.system.errors import InputError, disk_error, explained, reason
from pdiff.system.paths import replacing
from pdiff.tracking.files import git
from pdiff.tracking.process import git_commit

SUFFIXES = (".safetensors", ".pth", ".pt")
MEASURES = ["accuracy", "choosing_accuracy", "max_similarity"]
LINEAGE = (  # sections of params.yaml and files, step by step
    (("seed", "data", "base", "subset", "finetune"), (outputs.BASE, outputs.CHECKPOINTS)),
    (("noise", "autoencoder"), (outputs.AUTOENCODER,)),
    (("ddpm", "generate"), (outputs.DENOISER, outputs.GENERATED)),
)
GROUPS = {"generated": 3, "original": 1, "ensemble": 1, "reconstructed": 2}
"""How many steps of `LINEAGE` made each group that can be exported."""
LOCAL = {"root", "watch"}  # parameters that say where files lie on one machine
PACKAGES = ("torch", "timm", "safetensors", "numpy")
UNKNOWN = "unknown"


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
    if group not in GROUPS:
        raise InputError(f"--group: unknown {group!r}; known: {', '.join(GROUPS)}")
    table = load_table(outputs.MODELS)
    rows = table[table["group"] == group]
    index = choose(rows, model, group)
    net, header = load_net(outputs.BASE), load_header(outputs.BASE)
    subset, values = _find(group, index, len(rows))
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    if any(shapes.get(name) != shape for name, shape in subset.shapes.items()):
        raise InputError(f"{outputs.BASE} and the {group} models are of different runs")
    net.load_state_dict(values, strict=False)
    header = {name: header[name] for name in ("net", "classes", "size")}
    facts = {"group": group, "index": index, "chosen": model == "best", "subset": subset}
    text = model_card(header | facts, table, to)
    try:
        if to.suffix == ".safetensors":
            save_tensors(to, net.state_dict(), **header)
        else:
            content = io.BytesIO()  # torch itself does not say that a disk is full
            torch.save(net.state_dict(), content)
            with replacing(to) as partial:
                partial.write_bytes(content.getbuffer())
        write_text(card, text)
    except (OSError, SafetensorError) as error:
        if disk_error(error):
            raise
        raise InputError(f"--to: {to} cannot be written: {reason(error)}") from None
    return [to, card]


def load_table(path: Path) -> pd.DataFrame:
    """One row per model, as the stage novelty writes it."""
    try:
        return pd.read_csv(path, usecols=["group", "model", *MEASURES])
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from None


def choose(rows: pd.DataFrame, model: str, group: str) -> int:
    """The index that `model` stands for; of equally good ones the first, as in the tables."""
    if rows.empty:
        raise InputError(f"{outputs.MODELS} has no {group} models")
    if model == "best":
        return int(rows.loc[rows["choosing_accuracy"].idxmax(), "model"])
    if not model.isdecimal() or int(model) >= len(rows):
        last = len(rows) - 1
        raise InputError(
            f"MODEL: {model!r} is neither `best` nor an index; {group} has 0 to {last}"
        )
    return int(model)


def _find(group: str, index: int, count: int) -> tuple[Subset, dict[str, Tensor]]:
    """One model of a group that has `count` rows in the table, in the order of these rows."""
    codec = None
    if group == "reconstructed":
        device, wanted = get_device(), load_params().baselines.reconstructed_models
        codec = load_codec(outputs.AUTOENCODER, outputs.CHECKPOINTS, device)
        latents = load_tensor(outputs.LATENTS, "latents", device)
        models = latents[spread_evenly(len(latents), wanted)]
    else:
        models = StackFile(outputs.GENERATED if group == "generated" else outputs.CHECKPOINTS)
        models = ensemble(models) if group == "ensemble" else models
    if len(models) != count:
        raise InputError(f"{outputs.MODELS} and the {group} models are of different runs")
    if codec is None:
        return models.subset, models[index]
    row = torch.cat([block[index] for _, block in codec.decode(models)])
    return codec.subset, Models(codec.subset, row[None].cpu())[0]


def model_card(facts: Mapping[str, Any], table: pd.DataFrame, file: Path) -> str:
    """Markdown from the template `card.md.j2`; a fact that cannot be found is `unknown`.

    `facts` are group, index, chosen (by the choosing split, not by its index), subset, and the base
    net's name, classes and image size; `table` has the rows of all models of all groups.
    """
    name, group, params = facts["net"], facts["group"], load_params()
    source, maker = split_own(name) if is_own(name) else (name, "")
    kind = "own" if maker else "mini" if name in MINIS else "timm"
    title = f"{Path(source).name}:{maker}" if maker else name
    steps = LINEAGE[: GROUPS[group]]
    text = Path(__file__).with_name("card.md.j2").read_text()
    strict = {"undefined": jinja2.StrictUndefined, "keep_trailing_newline": True}
    return jinja2.Template(text, trim_blocks=True, **strict).render(
        facts,
        kind=kind,
        title=title,
        source=Path(source),
        maker=maker,
        fixed_size=kind == "timm" and has_fixed_size(name),
        file=file,
        params=params,
        labels=_labels(),
        rows=_rows(table, group, facts["index"]),
        count=(table["group"] == group).sum(),
        settings={s: _settings(params, s, title) for sections, _ in steps for s in sections},
        files=_lineage([path for _, paths in steps for path in paths]),
        commit=git_commit() or UNKNOWN,
        changed=bool(git("status", "--porcelain")),
        packages=[f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)],
    )


def _labels() -> str:
    """The classes by name, in the order of the logits."""
    try:
        return ", ".join(load_header(outputs.IMAGES)["classes"])
    except (InputError, KeyError):
        return UNKNOWN


def _rows(table: pd.DataFrame, group: str, index: int) -> list[dict[str, Any]]:
    """Mean numbers of the model and of the groups beside it; a group of the model alone is not."""
    own = table[(table["group"] == group) & (table["model"] == index)]
    rows = [{"label": "this model", **own[MEASURES].mean()}]
    for name in dict.fromkeys((group, "original", "generated", "ensemble")):
        part = table[table["group"] == name]
        if len(part) and not part.index.equals(own.index):
            label = name if len(part) == 1 else f"mean of {len(part)} {name} models"
            rows.append({"label": label, **part[MEASURES].mean()})
    return rows


def _settings(params: Params, section: str, net: str) -> str:
    """The parameters of one section, without paths of this machine."""
    values = getattr(params, section).model_dump(mode="json")
    values |= {"net": net} if section == "base" else {}
    shown = ((k, v if isinstance(v, str) else json.dumps(v)) for k, v in values.items())
    return ", ".join(f"{key} {value}" for key, value in shown if key not in LOCAL)


def _lineage(paths: list[Path]) -> list[tuple[Path, str, bool]]:
    """Each file, its md5 in dvc.lock, and whether the file is another one now."""
    try:
        stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"].values()
        known = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        known = {}
    found = []
    for path in paths:
        locked = now = known.get(str(path), UNKNOWN)
        if path.is_file() and locked != UNKNOWN:
            with path.open("rb") as file:
                now = hashlib.file_digest(file, "md5").hexdigest()
        found.append((path, locked, now != locked))
    return found


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
    parser.add_argument("--group", default="generated", help=" | ".join(GROUPS))
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    options = parser.parse_args(arguments)
    try:
        paths = export(options.model, options.group, options.to, options.force)
    except Exception as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 1
    print(f"wrote {' and '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
