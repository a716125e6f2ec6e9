"""Tensors on disk: safetensors with a JSON header, written whole or not at all, never pickled."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pdiff.system.errors import InputError

KEY = "pdiff"
"""The one key of a file's metadata, since the order of several changes from run to run."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **header: Any) -> None:
    """Write `tensors` and the JSON-able `header` to `path`, by way of a temporary name.

    The same tensors and header give the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(_unshared(tensors), partial, metadata={KEY: json.dumps(header, sort_keys=True)})
    partial.replace(path)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU, each with memory of its own, as safetensors wants them."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        if copy.untyped_storage().data_ptr() in storages:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        plain[name] = copy
    return plain


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """The tensors and the header that `save_tensors` wrote.

    Raises:
        InputError: the file is missing, truncated, or was not written by p-diff.
    """
    tensors, metadata = read_safetensors(path, device)
    if KEY not in metadata:
        raise InputError(f"{path} was not written by p-diff: it lacks the header {KEY!r}")
    return tensors, json.loads(metadata[KEY])


def load_header(path: Path) -> dict[str, Any]:
    """Only the header that `save_tensors` wrote, without reading a tensor; errors as above."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from None
    if KEY not in metadata:
        raise InputError(f"{path} was not written by p-diff: it lacks the header {KEY!r}")
    return json.loads(metadata[KEY])


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a model is rebuilt from `path` into one clear `InputError`."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} lacks parts or is of another version: {reason}") from None


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object; `InputError` if the file is missing or holds anything else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def load_tensor(path: Path, name: str, device: torch.device | str = "cpu") -> Tensor:
    """The one tensor `name` of a file of ours; `InputError` if the file holds something else."""
    tensors, _ = load_tensors(path, device)
    if name not in tensors:
        raise InputError(f"{path} holds no {name}")
    return tensors[name]


def read_safetensors(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Any safetensors file: its tensors and its metadata; `InputError` if it is not one."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from None


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict from a foreign `.safetensors`, `.pth` or `.pt` file, without running its code.

    Raises:
        InputError: the file is missing, broken, or holds anything but named tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or unsafe file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a state dict that loads safely: {reason}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no state dict: expected {{name: tensor}}")
    return state


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, by way of a temporary name; only the first process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write metrics as JSON, by way of a temporary name; NaN becomes null."""
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    write_text(path, text + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and value != value:
        return None
    return value
