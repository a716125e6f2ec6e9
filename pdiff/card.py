"""A model card: what an exported model is, how to load it, how good it is, where it came from."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from pdiff.config import Params
from pdiff.core.files import load_header
from pdiff.nets.minis import MINIS
from pdiff.nets.own import is_own, split_own
from pdiff.nets.registry import has_fixed_size
from pdiff.system.errors import InputError
from pdiff.tracking.files import git

if TYPE_CHECKING:
    from pdiff.export import Exported

IMAGES = Path("data/images.safetensors")
LOCK = Path("dvc.lock")
UNKNOWN = "unknown"
PACKAGES = ("torch", "timm", "safetensors", "numpy")

_CHECKPOINTS = (("seed", "data", "base", "subset", "finetune"), ("base", "checkpoints"))
_RECONSTRUCTED = (
    (*_CHECKPOINTS[0], "noise", "autoencoder"),
    ("base", "checkpoints", "autoencoder"),
)
MADE_FROM = {  # sections of params.yaml and outputs of the pipeline that a group comes from
    "original": _CHECKPOINTS,
    "ensemble": _CHECKPOINTS,
    "reconstructed": _RECONSTRUCTED,
    "generated": (
        (*_RECONSTRUCTED[0], "ddpm", "generate"),
        (*_RECONSTRUCTED[1], "denoiser", "generated"),
    ),
}
OUTPUTS = {
    "base": Path("models/base.safetensors"),
    "checkpoints": Path("data/checkpoints.safetensors"),
    "autoencoder": Path("models/autoencoder.safetensors"),
    "denoiser": Path("models/denoiser.safetensors"),
    "generated": Path("data/generated.safetensors"),
}
LOCAL = {"root", "watch"}
"""Parameters that say where files lie on one machine, and nothing about the model."""


def model_card(model: "Exported", params: Params, file: Path) -> str:
    """Markdown; what cannot be found out is said to be unknown."""
    parts = [
        f"# {_net(model.name)} on {params.data.name}: {_title(model)}",
        _what(model, params),
        "## Load it",
        _load(model, file),
        "## Images and classes",
        _images(model, params),
        "## How good it is",
        _numbers(model, params),
        "## How it was made",
        _made(model, params, file),
        "## Lineage",
        _lineage(model),
    ]
    return "\n\n".join(parts) + "\n"


def _title(model: "Exported") -> str:
    return "ensemble" if model.group == "ensemble" else f"{model.group} model {model.index}"


def _net(name: str) -> str:
    """The name of a net; where its file lies on one machine says nothing about it."""
    if not is_own(name):
        return name
    file, made_by = split_own(name)
    return f"{Path(file).name}:{made_by}"


def _what(model: "Exported", params: Params) -> str:
    names = model.subset.names
    listed = ", ".join(f"`{name}`" for name in names[:8]) + (", ..." if len(names) > 8 else "")
    origin = {
        "generated": "were drawn by a diffusion model that was trained on the latents of "
        "checkpoints; no training step was taken on them",
        "original": "are one of the checkpoints that the others are compared with",
        "ensemble": "are the mean of all checkpoints",
        "reconstructed": "are a checkpoint's, encoded and decoded by the autoencoder",
    }[model.group]
    return (
        f"A classifier for {model.classes} classes. {model.subset.length:,} of its parameters, in "
        f"{len(names)} tensors ({listed}), {origin}. All other parameters and the running "
        "statistics are the base net's. Method: Neural Network Diffusion (p-diff, "
        "arXiv 2402.13144)."
    )


def _load(model: "Exported", file: Path) -> str:
    if model.name in MINIS:
        return (
            f"`{model.name}` is one of p-diff's own small nets and not timm's, so p-diff "
            "loads it:\n\n```python\nfrom pathlib import Path\n"
            "from pdiff.nets.registry import build_net\n"
            f'net = build_net("{model.name}", classes={model.classes}, size={model.size}, '
            f'weights=Path("{file.name}")).eval()\n```'
        )
    if is_own(model.name):
        return _load_own(model, file)
    size = f", img_size={model.size}" if has_fixed_size(model.name) else ""
    return (
        "Plain [timm](https://github.com/huggingface/pytorch-image-models) loads it:\n\n"
        f'```python\nimport timm\nnet = timm.create_model("{model.name}", '
        f'num_classes={model.classes}{size}, checkpoint_path="{file.name}").eval()\n'
        f"logits = net(images)  # (B, 3, {model.size}, {model.size}) -> (B, {model.classes})\n```"
    )


def _load_own(model: "Exported", file: Path) -> str:
    source, name = Path(split_own(model.name)[0]), split_own(model.name)[1]
    if file.suffix == ".safetensors":
        reader, state = "from safetensors.torch import load_file", f'load_file("{file.name}")'
    else:
        reader, state = "import torch", f'torch.load("{file.name}", weights_only=True)'
    return (
        f"The net is no net of timm's but `{name}` in `{source.name}`, which is needed as it was "
        "when the pipeline ran. In a folder that holds this file and the model:\n\n"
        f"```python\nfrom {source.stem} import {name}\n{reader}\n"
        f"net = {name}(num_classes={model.classes})\nnet.load_state_dict({state})\n"
        f"logits = net.eval()(images)  # (B, 3, {model.size}, {model.size}) -> "
        f"(B, {model.classes})\n```"
    )


def _images(model: "Exported", params: Params) -> str:
    data = params.data
    noise = (
        f" Test images carry Gaussian pixel noise of std {data.noise:g} (pixels in [0, 1])."
        if data.noise
        else ""
    )
    return (
        f"RGB, the shorter side resized to {data.resize} px (bilinear, antialiased), the middle "
        f"{data.size} x {data.size} px cut out, pixels in [0, 1], then normalised with mean "
        f"{list(data.mean)} and std {list(data.std)}.{noise}\n\nClasses, in the order of the "
        f"logits: {_classes()}."
    )


def _classes() -> str:
    try:
        names = load_header(IMAGES)["classes"]
    except (InputError, KeyError):
        return UNKNOWN
    return ", ".join(names)


def _numbers(model: "Exported", params: Params) -> str:
    reported = params.novelty.split
    choosing = "validation" if reported == "test" else "test"
    table = model.table
    own = table[(table["group"] == model.group) & (table["model"] == model.index)]
    rows = [("this model", own)]
    for group in dict.fromkeys((model.group, "original", "generated", "ensemble")):
        part = table[table["group"] == group]
        if len(part) and not part.index.equals(own.index):
            label = group if len(part) == 1 else f"mean of {len(part)} {group} models"
            rows.append((label, part))
    lines = [
        f"| | accuracy, {reported} | accuracy, {choosing} | maximum similarity to an original |",
        "| - | -: | -: | -: |",
        *(f"| {label} | {_cells(part)} |" for label, part in rows),
    ]
    count = int((table["group"] == model.group).sum())
    if count == 1:
        how = "It is the only one of its kind."
    elif model.chosen:
        how = f"It is the best of {count} {model.group} models on the {choosing} split."
    else:
        how = f"It was picked by its index among {count} {model.group} models."
    if params.data.split == "paper":
        how += " Both splits are the same images here: whatever is chosen by them is flattered."
    how += (
        " Similarity is the IoU of wrongly predicted images; 1 means the same errors as an "
        "original. An original leaves out itself."
    )
    return "\n".join(lines) + "\n\n" + how


def _cells(part: pd.DataFrame) -> str:
    accuracies = (f"{100 * part[c].mean():.2f} %" for c in ("accuracy", "choosing_accuracy"))
    similarity = part["max_similarity"].mean()
    shown = UNKNOWN if pd.isna(similarity) else f"{similarity:.3f}"
    return " | ".join([*accuracies, shown])


def _made(model: "Exported", params: Params, file: Path) -> str:
    chosen = "best" if model.chosen else model.index
    lines = []
    for section in MADE_FROM[model.group][0]:
        values = getattr(params, section).model_dump(mode="json")
        if section == "base":
            values["net"] = _net(values["net"])
        shown = ", ".join(f"{k} {_plain(v)}" for k, v in values.items() if k not in LOCAL)
        lines.append(f"- `{section}`: {shown}")
    command = f"python -m pdiff.export {chosen} --group {model.group} --to {file.name}"
    return "\n".join([f"`{command}`, after the pipeline with", "", *lines])


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _lineage(model: "Exported") -> str:
    locked = _locked()
    lines = [f"- commit: {_commit()}"]
    for name in MADE_FROM[model.group][1]:
        path = OUTPUTS[name]
        known = locked.get(str(path), UNKNOWN)
        other = "" if known in (UNKNOWN, _md5(path)) else " (the exported file is another)"
        lines.append(f"- `{path}`: md5 in dvc.lock {known}{other}")
    packages = [f"{name} {_version(name)}" for name in PACKAGES]
    lines.append(f"- packages: python {platform.python_version()}, {', '.join(packages)}")
    return "\n".join(lines)


def _commit() -> str:
    found = (git("rev-parse", "HEAD") or b"").decode().strip()
    if not found:
        return UNKNOWN
    return found + (", with uncommitted changes" if git("status", "--porcelain") else "")


def _locked() -> dict[str, str]:
    """md5 of each output in `dvc.lock`; empty if that is missing or broken."""
    try:
        stages = yaml.safe_load(LOCK.read_text())["stages"].values()
        return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
