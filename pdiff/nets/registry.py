"""Base nets by name: the paper's small nets, every classifier that timm knows, and own files.

timm takes seconds to import, so functions import it that need it.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pdiff.core.files import load_state_dict, load_tensors, save_tensors, whole
from pdiff.nets.minis import MINIS
from pdiff.nets.own import build_own, find_own, is_own
from pdiff.system.errors import InputError, reason

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights may be given in; the net keeps them in its own type."""
COUNTER = "num_batches_tracked"
NO_HEAD = "\0"
"""A prefix that no parameter has."""


def check_net(name: str) -> None:
    """Raise `InputError` with the nearest known names if there is no such net."""
    if is_own(name):
        find_own(name)
        return
    base = name.partition(".")[0]  # timm writes resnet18.a1_in1k for one set of weights
    if base in MINIS:
        return
    import timm

    known = [*MINIS, *timm.list_models()]
    if base not in known:
        near = difflib.get_close_matches(base, known, n=5, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(
            f"base.net: unknown net {name!r}; known are {', '.join(MINIS)}, "
            f"timm's {len(known) - len(MINIS)} names and FILE.py:NAME{hint}"
        )


def build_net(
    name: str,
    classes: int,
    size: int,
    *,
    pretrained: bool = False,
    weights: Path | None = None,
    new_head: bool = True,
) -> nn.Module:
    """A classifier for square RGB images of `size` pixels, (B, 3, size, size) -> (B, classes).

    Args:
        pretrained: download timm's pretrained weights.
        weights: start from this state dict instead.
        new_head: whether the head may stay new where the weights have another number of classes.

    Raises:
        InputError: unknown name, wrong size, weights that are missing, of another net, or anything
            but finite floats.
    """
    if pretrained and (is_own(name) or name in MINIS):
        raise InputError(
            f"base.pretrained: there are no pretrained weights of {name} to download; use false, "
            "and base.weights if you have a file"
        )
    if is_own(name):
        net = build_own(name, classes)
    elif name in MINIS:
        make, side = MINIS[name]
        if size != side:
            raise InputError(f"data.size: {name} is made for images of {side} px, not {size}")
        net = make(classes)
    else:
        check_net(name)
        net = _build_timm(name, classes, size, pretrained)
    if pretrained and not new_head:
        _same_head(name, net.pretrained_cfg.get("num_classes"), classes)
    if weights is not None:
        state = read_state(weights, "base.weights", net.state_dict())
        if not new_head:
            _same_head(str(weights), head_classes(net, state), classes)
        load_weights(net, name, weights, state, (_head_of(net),), new_head)
    return net


def head_classes(net: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """How many classes the head in a state dict of `net` tells apart; None if it holds no head."""
    weight = state.get(f"{_head_of(net)}weight")
    return None if weight is None or weight.ndim == 0 else len(weight)


def _same_head(source: str, found: int | None, classes: int) -> None:
    if found != classes:
        raise InputError(
            f"base.epochs: 0 trains no new head, and {source} has "
            + (f"one of {found} classes instead of {classes}" if found else "none")
        )


def _build_timm(name: str, classes: int, size: int, pretrained: bool) -> nn.Module:
    import timm

    options: dict[str, object] = {"num_classes": classes, "pretrained": pretrained}
    try:
        if has_fixed_size(name):
            options["img_size"] = size
        return timm.create_model(name, **options)
    except Exception as error:  # timm and its downloads raise many kinds
        hint = "; offline, give a file as base.weights" if pretrained else ""
        raise InputError(
            f"base.net: cannot build {name!r} at {size} px with {pretrained=}: "
            f"{reason(error)}{hint}"
        ) from None


@torch.no_grad()
def check_size(net: nn.Module, name: str, size: int, classes: int) -> None:
    """Raise `InputError` unless `net` turns images of `size` pixels into logits (B, classes)."""
    try:
        logits = net.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # nets check their input in many ways
        why = reason(error)
        raise InputError(f"data.size: {name} cannot take images of {size} px: {why}") from None
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"base.net: {name} turns 1 image into {found}; it must give logits of shape "
            f"{(1, classes)}"
        )


def has_fixed_size(name: str) -> bool:
    """Whether timm builds this net for one image size, as it does vision transformers."""
    import timm

    config = timm.get_pretrained_cfg(name)
    entry = inspect.signature(timm.model_entrypoint(name.partition(".")[0])).parameters
    return "img_size" in entry or bool(config and config.fixed_input_size)


def read_state(path: Path, parameter: str, names: Collection[str]) -> dict[str, Tensor]:
    """A state dict of a net with these names; `InputError` names the parameter that asks for it."""
    try:
        state = load_state_dict(path)
    except InputError as error:
        raise InputError(f"{parameter}: {error}") from None
    prefix = next(iter(state), "").partition(".")[0] + "."
    bare = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    if len(bare) == len(state) and not state.keys() & set(names) and bare & set(names):
        raise InputError(
            f"{parameter}: all names in {path} begin with {prefix!r}, the net's do not; save them "
            "without it"
        )
    return state


def check_values(
    parameter: str, source: Path | str, name: str, tensor: Tensor, *kinds: torch.dtype
) -> None:
    """Raise `InputError` unless a tensor of a state dict holds finite floats, or one of `kinds`."""
    kind = tensor.layout if tensor.layout != torch.strided else tensor.dtype
    if tensor.is_meta or kind not in (*FLOATS, *kinds):
        raise InputError(
            f"{parameter}: {name!r} is {'without values' if tensor.is_meta else kind} in {source}; "
            f"wanted is one of {', '.join(map(str, (*FLOATS, *kinds)))}"
        )
    if not tensor.float().isfinite().all():
        raise InputError(f"{parameter}: {name!r} holds NaN or infinity in {source}")


def published(name: str, which: str = "DEFAULT") -> Mapping[str, Tensor]:
    """torchvision's weights of a net, downloaded once; `InputError` if they cannot be had."""
    from torchvision.models import get_model_weights

    try:
        weights = getattr(get_model_weights(name), which)
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # downloads raise many kinds
        raise InputError(
            f"base.pretrained: torchvision's weights of {name} cannot be had: {reason(error)}; "
            "offline, give a file as base.weights"
        ) from None


def load_weights(
    net: nn.Module,
    name: str,
    source: Path | str,
    state: Mapping[str, Tensor],
    heads: tuple[str, ...] = (),
    new_head: bool = False,
) -> None:
    """Load a state dict; `InputError` names `source` if it belongs to another net.

    What begins with one of `heads` may stay new if `new_head`. Counters of batches, which older
    files lack and evaluation does not use, may be missing or too many.
    """
    own, new = net.state_dict(), heads if new_head else ()
    fits = {key for key in own if key in state and state[key].shape == own[key].shape}
    names = [*own, *(key for key in state if key not in own)]
    wrong = [key for key in names if key not in fits and not key.startswith(new)]
    wrong = [key for key in wrong if key in own.keys() & state.keys() or not key.endswith(COUNTER)]
    if wrong:
        hint = "; base.epochs: 0 trains no new head" * all(key.startswith(heads) for key in wrong)
        raise InputError(
            f"base.weights: {source} does not belong to {name}: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, the first {wrong[0]!r}{hint}"
        )
    for key in sorted(fits):
        kinds = () if own[key].is_floating_point() else (own[key].dtype,)
        check_values("base.weights", source, key, state[key], *kinds)
    net.load_state_dict({key: state[key] for key in fits}, strict=False)


def _head_of(net: nn.Module) -> str:
    """Prefix of the classifier's parameters; `NO_HEAD` if it is unknown."""
    config = getattr(net, "default_cfg", {})  # timm's
    name = getattr(net, "classifier_name", config.get("classifier"))
    return f"{name}." if isinstance(name, str) else NO_HEAD


def save_net(path: Path, net: nn.Module, name: str, classes: int, size: int) -> None:
    """Write weights and buffers with what rebuilds the net around them."""
    save_tensors(path, net.state_dict(), net=name, classes=classes, size=size)


def load_net(
    path: Path, device: torch.device | str = "cpu", build: Callable[..., nn.Module] = build_net
) -> nn.Module:
    """The net that `save_net` wrote, in eval mode; `InputError` if the file is anything else.

    `build` makes the net of a name, a number of classes and a size.
    """
    state, header = load_tensors(path, device)
    with whole(path):
        net = build(header["net"], header["classes"], header["size"])
        net.load_state_dict(state)
    return net.to(device).eval()
