"""Tensors on disk: safetensors with a JSON header, written whole or not at all, never pickled."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pdiff.system.errors import InputError, reason
from pdiff.system.paths import replacing

KEY = "pdiff"
"""The one key of a file's metadata: the order of several would change from run to run."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **header: Any) -> None:
    """Write `tensors` and the JSON-able `header`; the same content gives the same bytes."""
    # safetensors refuses tensors that share memory
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata={KEY: json.dumps(header, sort_keys=True)})


def load_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """The tensors and the header that `save_tensors` wrote.

    Raises:
        InputError: the file is missing, truncated, or was not written by p-diff.
    """
    with _opened(path, device) as (file, header):
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def load_tensor(path: Path, name: str, device: torch.device | str = "cpu") -> Tensor:
    """The tensor `name`, without reading the others; errors as `load_tensors`."""
    with _opened(path, device) as (file, _):
        return file.get_tensor(name)


def load_header(path: Path) -> dict[str, Any]:
    """The header alone, without reading a tensor; errors as `load_tensors`."""
    with _opened(path) as (_, header):
        return header


@contextmanager
def _opened(path: Path, device: torch.device | str = "cpu") -> Iterator[tuple[Any, Any]]:
    """A file that `save_tensors` wrote, and its header."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise InputError(f"{path} was not written by p-diff: it lacks the header {KEY!r}")
            yield file, json.loads(metadata[KEY])
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from None


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a model is rebuilt from `path` into one clear `InputError`."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{path} lacks parts or is of another version: {reason(error)}") from None


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict from a foreign `.safetensors`, `.pth` or `.pt` file, without running its code.

    Raises:
        InputError: the file is missing, broken, or holds anything but named tensors.
    """
    if not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'missing'}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or unsafe file
        found = re.search(r"GLOBAL (\S+)", str(error))  # behind torch's advice, which is long
        why = f"it contains code ({found[1]})" if found else reason(error)
        if "weights_only" in why:
            why = "it is a pickle of other things than tensors"
        raise InputError(f"{path} is not a state dict that loads safely: {why}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(map(_named_tensor, state.items())):
        raise InputError(f"{path} holds no state dict: expected {{name: tensor}}")
    return state


def _named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor) and not value.is_nested


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object; `InputError` if the file is missing or cannot be parsed."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write metrics as JSON; NaN and infinity become null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
