"""A model as a repository on the Hugging Face Hub: weights, card, and timm's config.

Token and endpoint are huggingface_hub's own (`pdiff.system.hub`).
"""

import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
from timm.models._hub import save_config_for_hf

from pdiff.core.files import save_tensors
from pdiff.export.card import title
from pdiff.export.model import Model
from pdiff.nets.registry import has_fixed_size
from pdiff.system.errors import InputError
from pdiff.system.hub import ADDRESS, SCHEME, hub

WEIGHTS = Path("model.safetensors")
FILES = {str(WEIGHTS), "config.json"}  # a repository with one of them has a model
TASKS = {
    "classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "generation": "unconditional-image-generation",
}
"""What the hub calls them."""
KEPT = ("architecture", "classifier", "first_conv", "pool_size", "fixed_input_size")
"""What stays of timm's description of its own weights; licence and source are theirs."""


def check_repository(address: str, force: bool) -> str:
    """USER/NAME of `hf://USER/NAME`.

    Raises:
        InputError: no such form, no token, or a repository that has a model, unless forced.
    """
    found = ADDRESS.fullmatch(address)
    if found is None or found["datasets"] or found["revision"] or found["path"]:
        raise InputError(f"--to: {address!r} must be {SCHEME}USER/NAME")
    repository = found["repo"]
    with hub(f"--to: {address}") as client:
        if client.get_token() is None:
            raise InputError(f"--to: {address}: needs a token: HF_TOKEN, or `hf auth login`")
        api, held = client.HfApi(), set()
        if api.repo_exists(repository):
            held = FILES & {*api.list_repo_files(repository)}
    if held and not force:
        raise InputError(f"--to: {address} has {', '.join(sorted(held))}; --force replaces it")
    return repository


def upload(model: Model, card: str, repository: str, private: bool) -> str:
    """Upload the model in one commit and return its address with the commit.

    Args:
        card: its Markdown, to which metadata for the hub is added.
        private: hide the repository if it is new.
    """
    address = f"{SCHEME}{repository}"
    with TemporaryDirectory() as name:
        folder = Path(name)
        header = {"net": model.name, "classes": model.classes, "size": model.size}
        save_tensors(folder / WEIGHTS, model.net.state_dict(), **header)
        if model.kind == "timm":
            write_config(model, folder / "config.json")
        metadata = _metadata(model)
        with hub(f"--to: {address}") as client:
            results = [client.EvalResult(**result) for result in _results(model)]
            data = client.ModelCardData(eval_results=results, **metadata)
            client.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card}").save(folder / "README.md")
            api = client.HfApi()
            api.create_repo(repository, private=private or None, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=str(model)
            )
    return f"{address}@{done.oid}"


def write_config(model: Model, path: Path) -> None:
    """The file from which `timm.create_model("hf-hub:...")` builds the net and its transforms."""
    data, net = model.params.data, model.net
    crop = data.size / data.resize
    while math.floor(data.size / crop) < data.resize:  # timm rounds down; 1e-16 may be missing
        crop = math.nextafter(crop, 0)
    net.pretrained_cfg = {key: net.pretrained_cfg.get(key) for key in KEPT} | {
        "input_size": (3, data.size, data.size),
        "mean": data.mean,
        "std": data.std,
        "interpolation": "bilinear",
        "crop_pct": crop,
        "crop_mode": "center",
        "num_classes": model.classes,
    }
    known = {"label_names": model.labels} if model.labels else {}
    fixed = {"img_size": data.size} if has_fixed_size(model.name) else {}
    save_config_for_hf(net, path, known, fixed)


def _metadata(model: Model) -> dict[str, object]:
    """What the hub's search finds the model by."""
    origin = _origin(model)
    return {
        "model_name": title(model),
        "library_name": {"timm": "timm", "own": "pytorch"}.get(model.kind, "pdiff"),
        "pipeline_tag": _task(model),
        "tags": [_task(model), "p-diff", model.group, "arxiv:2402.13144"],
        "datasets": [_data(model)],
        "metrics": [model.metric.name],
    } | ({"base_model": origin} if origin else {})


def _results(model: Model) -> list[dict[str, object]]:
    """Accuracy, or the score of another task, on both splits."""
    shared = {
        "task_type": _task(model),
        "dataset_type": _data(model),
        "dataset_name": model.params.data.name,
        "metric_type": model.metric.name,
    }
    values = (float(model.row[name]) for name in model.metric.columns)
    return [
        shared | {"dataset_split": split, "metric_value": value}
        for split, value in zip(model.splits, values, strict=True)
    ]


def _task(model: Model) -> str:
    name = model.params.task.name
    return TASKS.get(name, name)


def _data(model: Model) -> str:
    """The image set's name in letters that the hub allows."""
    return re.sub(r"[^\w.-]+", "-", model.params.data.name.lower())


def _origin(model: Model) -> str | None:
    """The repository whose weights the base net started from, if the hub has it."""
    base = model.params.base
    found = ADDRESS.fullmatch(base.weights or "")
    if found:
        return found["repo"]
    pretrained = base.pretrained and model.kind == "timm"
    return timm.get_pretrained_cfg(model.name).hf_hub_id if pretrained else None
