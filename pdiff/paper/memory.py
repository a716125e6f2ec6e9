"""Table 13: peak memory of training, the paper's way and ours, measured where it fits.

Every number is in MiB, which is what nvidia-smi calls MB.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from pdiff.paper.definitions import facts
from pdiff.paper.exactness import exactness
from pdiff.paper.experiments import make_experiment
from pdiff.paper.training_memory import Peak, Training, available_memory, compute_peak, measure_peak
from pdiff.tracking.process import git_commit

PLAIN = "as in the paper"
LARGER = ((1_000_000, 1024), (11_689_512, 1024))
"""Beyond the paper: (parameters, latent length); the second is a ResNet-18 with 1,000 classes."""
QUICK = 2048
"""Without a GPU and unless all is asked for, vectors up to this length are measured."""
MIB = 2**20
NOTES = (
    "Peak memory of one full training step at batch 50, in MiB. Paper: read from nvidia-smi, with "
    "the driver's own memory and what the allocator keeps. Computed: the storages that live at "
    "once, in bfloat16 autocast as the authors train or in float32; workspaces and the allocator's "
    "losses are not in it. The linear codec is fitted to 300 checkpoints on disk, encodes them and "
    "decodes 200 models. Between steps: weights, optimiser state and data. Measured: the CPU's "
    "resident memory beyond the imports (float32), or CUDA's allocated and reserved memory "
    "(bfloat16 autocast).",
    "",
    "The modes train the same net; the largest relative difference from the plain way, of the loss "
    "or of the whole gradient, over five steps of AdamW:",
)


@dataclass(frozen=True)
class Mode:
    """A way to train the autoencoder: what it changes in its section of `params.yaml`."""

    label: str
    values: dict[str, Any]
    smallest: int = 0
    """Shown from this many parameters on."""
    net: str = "autoencoder"
    """A section of `params.yaml` and a key of `pdiff.paper.training_memory.STARTS`, or `linear`."""

    def start(self, length: int, latent: int) -> Training:
        """The training of a vector of `length`."""
        if self.net == "linear":
            few = min(latent, self.values["checkpoints"] - 1)
            return Training("linear", length, self.values | {"latent_dim": few})
        values = _sections()[self.net] | {"latent_dim": latent} | self.values
        return Training(self.net, length, values)


LARGE = 300_288
MODES = (
    Mode(PLAIN, {}),
    Mode("checkpointing", {"checkpointing": True}),
    Mode("micro_batch 5", {"micro_batch": 5}),
    Mode("adafactor", {"optimizer": "adafactor"}, LARGE),
    Mode("checkpointing, adafactor", {"checkpointing": True, "optimizer": "adafactor"}, LARGE),
    Mode("micro_batch 5, adafactor", {"micro_batch": 5, "optimizer": "adafactor"}, LARGE),
    Mode("300 checkpoints, 200 decoded", {"checkpoints": 300, "models": 200}, net="linear"),
)


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    parameters: int
    latent: int
    mode: str
    paper: float
    training: Training

    @property
    def label(self) -> str:
        return f"{self.training.net}, {self.parameters:,} parameters, {self.mode}"


@cache
def lines() -> list[Line]:
    """The autoencoder's rows by size and mode, then the denoiser's."""
    paper = {row[0]: row for row in facts()["table_13"]["values"]}
    sizes = [(row[0], row[2]) for row in paper.values()]
    found = []
    for length, latent in (*sizes, *LARGER):
        for mode in MODES:
            if length >= mode.smallest:
                plain = length in paper and mode.label == PLAIN
                known = float(paper[length][1]) if plain else math.nan
                training = mode.start(length, latent)
                shown = training.values["latent_dim"]
                found.append(Line(length, shown, mode.label, known, training))
    for length, latent in sizes:
        training = Training("denoiser", latent, _sections()["ddpm"])
        found.append(Line(length, latent, PLAIN, float(paper[length][3]), training))
    return found


@cache
def _sections() -> dict[str, Any]:
    return make_experiment(("recipe=paper", "data=cifar100", "net=resnet18")).params


def plan(full: bool) -> str:
    """What `memory_table` will do for each row."""
    return "\n".join(f"  {line.label}: {_reason(line, full) or 'measured'}" for line in lines())


def memory_table(full: bool) -> pd.DataFrame:
    """What each training holds: measured here, or why not, and computed."""
    rows = tqdm(lines(), "table 13", unit="row", disable=None)
    return pd.DataFrame([_row(line, full) for line in rows])


def notes() -> list[str]:
    """What stands below the table, with the checks that all modes train the same net."""
    checks = exactness(_sections()["autoencoder"])
    return [*NOTES, "", *(f"- {check}" for check in checks), "", f"At commit {git_commit()[:12]}."]


def _row(line: Line, full: bool) -> dict[str, Any]:
    reason = _reason(line, full)
    single = half = Peak(None, None)
    if line.training.net != "linear":
        single, half = (compute_peak(line.training, p) for p in ("float32", "bfloat16"))
    measured = None if reason else measure_peak(line.training)
    return {
        "net": line.training.net,
        "parameters": line.parameters,
        "latent": line.latent,
        "mode": line.mode,
        "paper": line.paper,
        "ours, bfloat16 (computed)": _mib(half.peak),
        "ours, float32 (computed)": _mib(single.peak),
        "of it between steps": _mib(half.before),
        "measured": _mib(measured and measured.peak),
        "reserved": _mib(measured and measured.reserved),
        "how": reason or _here(line.training.net),
    }


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """As text, without decimals, - where there is no number."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "-" if math.isnan(value) else f"{value:.0f}"
        return str(value)

    return frame.map(cell)


def _mib(size: int | None) -> float:
    return math.nan if size is None else float(round(size / MIB))


def _here(net: str) -> str:
    if net == "linear":
        return "CPU, float64 and float32"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, bfloat16"
    return "CPU, float32"


def _reason(line: Line, full: bool) -> str:
    """Why a row is not measured, empty if it is.

    Libraries may take as much again as is computed: that must be free.
    """
    if line.training.net == "linear":
        return "" if full or line.parameters <= LARGE else "not measured without --full"
    cuda = torch.cuda.is_available()
    if not (full or cuda or line.training.length <= QUICK):
        return "not measured without --full"
    computed = compute_peak(line.training, "bfloat16" if cuda else "float32").peak
    return "" if 2 * computed < available_memory() else "too large for this machine"
