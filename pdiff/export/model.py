"""One model of an experiment, rebuilt whole, with the facts that its card states.

Axes: M models of a group, D parameters of the subset, K checkpoints.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from pdiff import outputs
from pdiff.autoencoder.codec import load_codec
from pdiff.baselines.originals import ensemble
from pdiff.config import Params, load_params
from pdiff.core.files import load_header, load_tensor
from pdiff.core.runtime import get_device
from pdiff.nets.minis import MINIS
from pdiff.nets.own import is_own
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile
from pdiff.parameters.subset import Models, Subset, spread_evenly
from pdiff.system.errors import InputError, reason
from pdiff.tasks.registry import make_task
from pdiff.tracking.files import Folder, locked_outputs, md5_of

MEASURES = ["accuracy", "choosing_accuracy", "max_similarity"]
SCORES = ["score", "choosing_score"]
"""What `outputs.MODELS` has beside them for a task other than classification."""
LINEAGE = (  # sections of params.yaml and files, step by step
    (("seed", "data", "base", "subset", "finetune"), (outputs.BASE, outputs.CHECKPOINTS)),
    (("noise", "autoencoder"), (outputs.AUTOENCODER,)),
    (("ddpm", "generate"), (outputs.DENOISER, outputs.GENERATED)),
)
GROUPS = {"generated": 3, "original": 1, "ensemble": 1, "reconstructed": 2}
"""How many steps of `LINEAGE` made each group that can be exported."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Metric:
    """What models are judged by, on the split that is reported and on the one that chooses."""

    name: str = "accuracy"
    larger_is_better: bool = True

    @property
    def columns(self) -> list[str]:
        """Of `outputs.MODELS`."""
        return MEASURES[:2] if self.name == "accuracy" else SCORES

    def shown(self, value: float) -> str:
        """An accuracy in percent, a score in its own units."""
        return f"{100 * value:.2f} %" if self.name == "accuracy" else f"{value:.2f}"

    def best(self, rows: pd.DataFrame) -> int:
        """The model that the choosing split chooses; of equally good ones the first."""
        values = rows[self.columns[1]]
        return int(rows.loc[values.idxmax() if self.larger_is_better else values.idxmin(), "model"])


@dataclass(frozen=True)
class Model:
    """A net with the parameters of one model, and what is known of it."""

    net: nn.Module
    name: str
    """`base.net`."""
    classes: int
    size: int
    subset: Subset
    group: str
    index: int
    best: bool
    """Whether the choosing split chose it."""
    table: pd.DataFrame
    """One row for each model of each group."""
    params: Params
    labels: tuple[str, ...]
    """The classes in the order of the logits; empty if unknown."""
    metric: Metric
    files: list[tuple[Path, str, bool]]
    """Each file it was made from, its md5 in dvc.lock, and whether the file is another one now."""

    @property
    def kind(self) -> str:
        """What loads it: `timm`, p-diff (`mini`), an `own` file, or another `task` of p-diff."""
        if self.params.task.name != "classification":
            return "task"
        return "own" if is_own(self.name) else "mini" if self.name in MINIS else "timm"

    @property
    def sections(self) -> list[str]:
        """The sections of params.yaml that it depends on."""
        names = [name for names, _ in LINEAGE[: GROUPS[self.group]] for name in names]
        return ["task", *names] if self.kind == "task" else names

    @property
    def splits(self) -> tuple[str, str]:
        """The split that is reported, and the one that chooses."""
        reported = self.params.novelty.split
        return reported, "validation" if reported == "test" else "test"

    @property
    def row(self) -> pd.Series:
        """Its own measures."""
        own = (self.table["group"] == self.group) & (self.table["model"] == self.index)
        return self.table[own].iloc[0]

    @property
    def count(self) -> int:
        """How many models its group has."""
        return int((self.table["group"] == self.group).sum())

    def __str__(self) -> str:
        reported, choosing = self.splits
        found, chosen = (self.metric.shown(self.row[name]) for name in self.metric.columns)
        found = found if self.metric.name == "accuracy" else f"{self.metric.name} {found}"
        if self.count == 1:
            return f"{self.group}; {found} on {reported}"
        best = f", the best of {self.count} on {choosing} ({chosen})"
        text = f"{self.group} model {self.index}{best if self.best else f' of {self.count}'}"
        return f"{text}; {found} on {reported}"


def load_model(model: str, group: str) -> Model:
    """A model of the working directory's experiment: an index in its group, or `best`.

    Raises:
        InputError: unknown model or group, or files that are missing or of different runs.
    """
    if group not in GROUPS:
        raise InputError(f"--group: unknown {group!r}; known: {', '.join(GROUPS)}")
    params, table = load_params(), load_table(outputs.MODELS)
    rows, metric = table[table["group"] == group], Metric()
    if "score" in table:
        scored = load_header(outputs.PREDICTIONS_GENERATED)
        metric = Metric(scored["metric"], scored["larger"])
    index = choose(rows, model, group, metric)
    task = make_task(params.task, params.data)
    net, header = load_net(outputs.BASE, build=task.build), load_header(outputs.BASE)
    subset, values = _find(group, index, len(rows))
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    if any(shapes.get(name) != shape for name, shape in subset.shapes.items()):
        raise InputError(f"{outputs.BASE} and the {group} models are of different runs")
    net.load_state_dict(values, strict=False)
    paths = [path for _, paths in LINEAGE[: GROUPS[group]] for path in paths]
    return Model(
        net,
        header["net"],
        header["classes"],
        header["size"],
        subset,
        group,
        index,
        model == "best",
        table,
        params,
        _labels(),
        metric,
        _lineage(paths),
    )


def load_table(path: Path) -> pd.DataFrame:
    """One row per model, as the stage novelty writes it."""
    needed = ["group", "model", *MEASURES]
    try:
        table = pd.read_csv(path, usecols=lambda column: column in (*needed, *SCORES))
        if absent := set(needed) - {*table}:
            raise ValueError(f"it has no {', '.join(sorted(absent))}")
        return table
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from None


def choose(rows: pd.DataFrame, model: str, group: str, metric: Metric) -> int:
    """The index that `model` stands for."""
    if rows.empty:
        raise InputError(f"{outputs.MODELS} has no {group} models")
    if model == "best":
        return metric.best(rows)
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


def _labels() -> tuple[str, ...]:
    try:
        return tuple(load_header(outputs.IMAGES)["classes"])
    except (InputError, KeyError):
        return ()


def _lineage(paths: list[Path]) -> list[tuple[Path, str, bool]]:
    here = Folder(Path.cwd())
    try:
        known = locked_outputs(here)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        known = {}
    found = []
    for path in paths:
        locked = known.get(str(path), UNKNOWN)
        differs = locked != UNKNOWN and md5_of(here, str(path)) not in (None, locked)
        found.append((path, locked, differs))
    return found
