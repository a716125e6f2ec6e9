"""What is new about models beside the checkpoints: how good, how alike, how far away.

Axes: K checkpoints, G new models, M = K + G + 1 with the checkpoints' mean, N inputs.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float64
from matplotlib.figure import Figure
from torch import Tensor, nn

from pdiff.api.checkpoints import Stack, State, listed, stacked
from pdiff.config import library_params
from pdiff.evaluation.cut import CutNet
from pdiff.evaluation.predict import Predictor, wrong
from pdiff.novelty.iou import max_similarity, max_similarity_among
from pdiff.system.errors import InputError
from pdiff.system.progress import bars

COLOURS = {"checkpoints": "#0072b2", "mean of checkpoints": "#000000", "new": "#e69f00"}
"""Okabe and Ito's, which colour-blind readers tell apart; the groups in their order."""


class Picture(Figure):
    """A figure that a notebook shows, whatever backend it has."""

    def _repr_png_(self) -> bytes:
        self.savefig(png := BytesIO(), dpi=80)
        return png.getvalue()


@dataclass(frozen=True, repr=False)
class Audit:
    """One row a model: see `audit`."""

    models: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """The mean of every number in each group."""
        groups = self.models.drop(columns=["model", "nearest"]).groupby("group", sort=False)
        return groups.mean().assign(models=groups.size())

    def plot(self) -> Figure:
        """Accuracy against maximum similarity, and against the distance in steps."""
        figure = Picture(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        texts = {
            "max_similarity": "maximum similarity to a checkpoint (IoU of errors)",
            "steps": "distance to the nearest checkpoint (steps)",
        }
        for axes, (column, text) in zip((left, right), texts.items(), strict=True):
            for group, part in self.models.groupby("group", sort=False):
                style = {"marker": "*", "s": 160} if len(part) == 1 else {"s": 14, "alpha": 0.6}
                label = f"{group} ({len(part)})"
                y = 100 * part["accuracy"]
                axes.scatter(part[column], y, color=COLOURS[group], lw=0, label=label, **style)
            axes.set_xlabel(text)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        left.set_ylabel("accuracy (%)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return figure

    def __repr__(self) -> str:
        return self.summary.to_string(float_format="%.3f")

    def _repr_html_(self) -> str:
        return self.summary.to_html(float_format="%.3f")


def audit(
    new: Any, checkpoints: Any, net: nn.Module, loader: Iterable[Any], *, progress: bool = True
) -> Audit:
    """Compare models with the checkpoints, and with their mean, on labelled inputs.

    `models` has a row for each checkpoint, their mean and each new model: `group`, `model` (its
    index), `accuracy` (a fraction), `max_similarity` (IoU of wrong predictions with the most
    similar checkpoint), `distance` (L2 to the nearest checkpoint), `nearest` (its index), `steps`
    (the distance over the median distance of checkpoints that follow one another) and `centre`
    (the distance to the mean over the checkpoints' root mean square one). A checkpoint leaves out
    itself.

    Args:
        new: state dicts of the whole net or a part of it, or a folder of them.
        checkpoints: the same, with the same keys, in the order of their training.
        net: takes the tensors; all others are its own. It stays as it is, and a copy is in eval
            mode.
        loader: batches (inputs, labels) of a test set.

    Raises:
        InputError: models with other names or shapes than the net or each other, fewer than two
            checkpoints, NaN or infinity.
    """
    originals, new = listed(checkpoints), listed(new)
    count = len(originals)
    if count < 2 or not len(new):
        raise InputError(
            f"audit: 2 checkpoints and 1 new model are the least, not {count} and {len(new)}"
        )
    _, varying, constant = stacked([*originals, *new])
    stack = {n: t.float() for n, t in varying.items() if t.is_floating_point()}
    mean = {n: t[:count].double().mean(0, keepdim=True).float() for n, t in stack.items()}
    stack = {name: torch.cat([stack[name], mean[name]]) for name in stack}
    errors = _wrong(net, stack, constant, loader, progress)
    matrix = torch.cat([t.reshape(len(t), -1) for t in stack.values()], 1).double()
    parts = {"checkpoints": slice(0, count), "mean of checkpoints": slice(-1, None)}
    parts["new"] = slice(count, -1)
    tables = [_rows(group, part, errors, matrix, count) for group, part in parts.items()]
    return Audit(pd.concat(tables, ignore_index=True))


def _rows(
    group: str, part: slice, errors: Bool[Tensor, "M N"], matrix: Float64[Tensor, "M D"], count: int
) -> pd.DataFrame:
    """The rows of one group; the first `count` models are the checkpoints."""
    own, theirs = errors[part], errors[:count]
    originals, same = matrix[:count], group == "checkpoints"
    # from differences: checkpoints of a run differ by thousandths of their norm
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    found = torch.cdist(matrix[part], originals, **exact)
    step = (originals[1:] - originals[:-1]).norm(dim=1).median()
    distance, nearest = (found.fill_diagonal_(torch.inf) if same else found).min(1)
    centre = originals.mean(0)
    radius = (originals - centre).square().sum(1).mean().sqrt()
    columns = {
        "model": torch.arange(len(own)),
        "accuracy": (~own).double().mean(1),
        "max_similarity": max_similarity_among(own) if same else max_similarity(own, theirs),
        "distance": distance,
        "nearest": nearest,
        "steps": distance / step,
        "centre": (matrix[part] - centre).norm(dim=1) / radius,
    }
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    table.insert(0, "group", group)
    return table


def _wrong(
    net: nn.Module, stack: Stack, constant: State, loader: Iterable[Any], progress: bool
) -> Bool[Tensor, "M N"]:
    """The wrong predictions of all models, from one pass over the inputs."""
    net = _prepared(net, stack, constant)
    device = next(net.parameters()).device
    labels: list[Tensor] = []
    rest = iter(loader)  # it may be one that gives each batch once
    first = next(rest)

    def batches() -> Iterator[Tensor]:
        for inputs, targets in chain([first], rest):
            labels.append(targets)
            yield inputs.to(device)

    example = first[0].to(device)
    limit = library_params({}).evaluate.boundary_mib
    rows = zip(*stack.values(), strict=True)
    models = [dict(zip(stack, tensors, strict=True)) for tensors in rows]
    predictor = Predictor(CutNet(net, list(stack), example), batches, limit)
    with bars(progress):
        predictions = predictor.predict(models, "evaluate")
    return wrong(predictions, torch.cat(labels).cpu())


def _prepared(net: nn.Module, stack: Stack, constant: State) -> nn.Module:
    """A copy of the net with the tensors that all models share, ready to be cut.

    Statistics that differ become parameters, as only these can be replaced.
    """
    net, shapes = deepcopy(net), {name: tuple(t.shape) for name, t in net.state_dict().items()}
    found = {n: tuple(t.shape[1:]) for n, t in stack.items()}
    found |= {n: tuple(t.shape) for n, t in constant.items()}
    if strange := sorted(name for name in found if shapes.get(name) != found[name]):
        raise InputError(f"audit: the net has no {strange[0]!r} of shape {found[strange[0]]}")
    net.load_state_dict(constant, strict=False)
    for name in stack.keys() & dict(net.named_buffers()).keys():
        owner, _, own = name.rpartition(".")
        module = net.get_submodule(owner)
        value = module._buffers.pop(own)
        module.register_parameter(own, nn.Parameter(value, requires_grad=False))
    return net
