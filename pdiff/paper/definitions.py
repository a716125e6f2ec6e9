"""Which experiments a table or figure of the paper consists of, and what the paper says of each.

The numbers stand in `pdiff/reference/`: `paper_tables.yaml` and the authors' own logs. Accuracies
there are percentages, here they are fractions as everywhere else.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pdiff.system.errors import InputError

REFERENCE = Path(__file__).resolve().parents[1] / "reference"

DATA = {
    **{"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "STL-10": "stl10", "Flowers": "flowers102"},
    **{"Pets": "pets", "Food-101": "food101", "ImageNet-1K": "imagenet"},
    **{"MNIST": "mnist", "SVHN": "svhn"},
}
NETS = {
    **{"ResNet-18": "resnet18", "ResNet-50": "resnet50", "ViT-Tiny": "vit_tiny"},
    **{"ViT-Base": "vit_base", "ConvNeXt-Tiny": "convnext_tiny", "ConvNeXt-Base": "convnext_base"},
    **{"ConvNet-mini": "convnet_mini", "MLP-mini": "mlp_mini", "ResNet-mini": "resnet_mini"},
    **{"ViT-mini": "vit_mini", "ConvNeXt-mini": "convnext_mini"},
}
SAME_IMAGES = {"cifar10_images": "cifar10"}
"""Presets that read the images of another one from files of another kind."""
TAG_OF_DATA = {"flowers102": "flowers", "imagenet": "in1k"}  # the authors' names of folders
MEASURES = {
    "original": "original_best",
    "ensemble": "ensemble",
    "p-diff": "generated_best",
    "best": "generated_best",
    "average": "generated_mean",
    "similarity_low": "generated_similarity_low",
    "similarity_high": "generated_similarity_high",
}
"""The paper's columns by our names; in the paper, `best` and `average` are of generated models."""
LOGGED = {
    "original_best": "original_acc_max",
    "original_mean": "original_acc_mean",
    "generated_best": "generated_acc_max",
    "generated_mean": "generated_acc_mean",
    "generated_similarity": "origin-generated(max)",
}
"""Our names by the columns of the authors' logs."""


@dataclass(frozen=True)
class Row:
    """One experiment of a table, which several seeds may repeat."""

    label: str
    overrides: tuple[str, ...] = ()
    """What tells it from the default experiment; data and net too where rows differ in them."""
    paper: Mapping[str, float] = field(default_factory=dict)
    tag: str | None = None
    """The authors' folder, which names the row of their logs."""

    def authors(self) -> dict[str, float]:
        """What the authors' own log says, in our names; empty where there is no log."""
        log = _logs().get(self.tag or "", {})
        return {name: float(log[key]) for name, key in LOGGED.items() if log.get(key)}


@dataclass(frozen=True)
class Claim:
    """That one number is larger than another; both are (label of a row, measure)."""

    text: str
    larger: tuple[str, str]
    smaller: tuple[str, str]


@dataclass(frozen=True)
class Table:
    name: str
    """`3c`, or `figure_4`."""
    title: str
    measures: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    own_cells: bool = False
    """Rows name their data set and net themselves (Tables 1, 2 and 7)."""
    kind: str = "experiments"
    """`experiments`, or `counts`, `recipe`, `memory` for Tables 6, 5 and 13, which need none."""
    draw: str | None = None
    """The function of `figures` that draws it."""

    @property
    def file(self) -> str:
        return self.name if self.name.startswith("figure") else f"table_{self.name}"


BEST = ("generated_best", "generated_mean")
BOTH = ("original_best", "original_mean", "ensemble", *BEST)
SCATTER = (*BOTH, "original_similarity", "generated_similarity")
SIMILARITY = ("generated_similarity_low", "generated_similarity", "generated_similarity_high")

DEFAULT = "default"
ABLATIONS: dict[str, dict[str, str | None]] = {
    "3a": {
        "none": "noise_none",
        "parameter": "noise_param",
        "latent": "noise_latent",
        "both": None,
    },
    "3b": {
        **{"0.001": None, "x0.01": "param_x001", "x5": "param_x5"},
        **{"x2000": "param_x2000", "x5000": "param_x5000"},
    },
    "3c": {
        **{"0.1": None, "x0.01": "latent_x001", "x0.1": "latent_x01"},
        **{"x10": "latent_x10", "x100": "latent_x100"},
    },
    "3d": {"SGD": "optimizer_sgd", "Adam": "optimizer_adam", "AdamW": None},
    "3e": {
        **{"10": "checkpoints_10", "50": "checkpoints_50", "200": "checkpoints_200"},
        **{"300": None, "400": "checkpoints_400"},
    },
    "3f": {
        "conv. layer (1)": "layers_conv1",
        "fc layer": "layers_fc",
        "BN layers (10-13)": "layers_bn10_13",
        "BN layers (14-15)": "layers_bn14_15",
        "BN layers (16-17)": None,
    },
    "4": {
        **{"0.001 & 0.1": None, "x0.01": "both_x001", "x0.1": "both_x01"},
        **{"x10": "both_x10", "x100": "both_x100"},
    },
    "8": {"vae": "vae", "p-diff": None},
    "9": {
        **{"10": "timesteps_10", "100": "timesteps_100", "1000": "timesteps_1000"},
        **{"2000": "timesteps_2000"},
    },
    "figure_1": {DEFAULT: None},
    "figure_3": {
        "10 epochs": None,
        "3 epochs": "base_epochs_3",
        "1 epoch": "base_epochs_1",
    },
    "figure_4": {
        "rate 0.3": "finetune_lr_high",
        "rate 0.03": None,
        "rate 0.0003": "finetune_lr_low",
    },
    "figure_5a": {
        "w/o noise": "noise_none",
        "parameter noise": "noise_param",
        "latent noise": "noise_latent",
        "both": None,
    },
    "figure_5b": {"followed": "trajectories"},
}
ABLATIONS["figure_5c"] = {f"K = {label}": name for label, name in ABLATIONS["3e"].items()}
DEFAULT_TAG = "main/cifar100_resnet18"
_TAGS = {
    "noise_none": "noise_0000a00",
    "noise_param": "noise_0001a00",
    "noise_latent": "noise_0000a01",
    **{f"both_{scale}": f"noise_{scale}" for scale in ("x001", "x01", "x10", "x100")},
    "optimizer_sgd": "sgd_optimizer",
    "optimizer_adam": "adam_optimizer",
    **{f"checkpoints_{k}": f"numberckpt_{k:03d}" for k in (10, 50, 200, 400)},
    "layers_conv1": "layers_cv0000",
    "layers_fc": "layers_fc0000",
    "layers_bn10_13": "layers_bn1013",
    "layers_bn14_15": "layers_bn1415",
    "vae": "vae_sample",
    **{f"timesteps_{t}": f"diffusionstep_{t:04d}" for t in (10, 100, 2000)},
    "base_epochs_1": "save_epoch1",
    "base_epochs_3": "save_epoch3",
    "finetune_lr_high": "save_lr03000",
    "finetune_lr_low": "save_lr00003",
}
TAGS = {name: f"ablation/{tag}" for name, tag in _TAGS.items()} | {"timesteps_1000": DEFAULT_TAG}
"""The authors' folder of each of our ablations that they ran."""

TITLES = {
    "3a": "noise on while the autoencoder trains",
    "3b": "scale of the parameter noise (0.001)",
    "3c": "scale of the latent noise (0.1)",
    "3d": "optimiser that trains and fine-tunes the base net",
    "3e": "number K of checkpoints",
    "3f": "which layers are generated",
    "4": "scale of both noises",
    "8": "a VAE alone against p-diff",
    "9": "diffusion steps T, sampled with DDPM",
    "figure_1": "the generated parameters along the checkpoints",
    "figure_3": "accuracy against maximum similarity, base nets of 10, 3 and 1 epochs",
    "figure_4": "accuracy against maximum similarity, three fine-tuning rates",
    "figure_5a": "accuracy against maximum similarity, noise on and off",
    "figure_5b": "accuracy along the reverse process",
    "figure_5c": "maximum similarity against the number K of checkpoints",
}
MEASURED = {
    **dict.fromkeys(("3a", "3b", "3c", "3e", "9"), BEST),
    **dict.fromkeys(("3d", "3f"), ("original_best", *BEST)),
    "4": ("generated_best", *SIMILARITY),
    "8": (*BOTH, *SIMILARITY),
    **dict.fromkeys(("figure_3", "figure_4", "figure_5a", "figure_5c"), SCATTER),
    "figure_1": ("original_best", "original_mean"),
    "figure_5b": ("original_mean", "generated_mean"),
}
DRAWN = {
    "figure_1": "heat_map",
    **dict.fromkeys(("figure_3", "figure_4"), "scatter_panels"),
    "figure_5a": "scatter_together",
    "figure_5b": "trajectories",
    "figure_5c": "violins",
}
MORE_CLAIMS = {
    "3a": [
        Claim("latent noise beats no noise (mean)", ("latent", BEST[1]), ("none", BEST[1])),
        Claim("latent noise beats parameter noise", ("latent", BEST[1]), ("parameter", BEST[1])),
        Claim("both noises beat none (mean)", ("both", BEST[1]), ("none", BEST[1])),
    ],
    "3c": [
        Claim("0.1 beats a hundredth of it (mean)", ("0.1", BEST[1]), ("x0.01", BEST[1])),
        Claim("0.1 beats a hundred times it (mean)", ("0.1", BEST[1]), ("x100", BEST[1])),
    ],
    "3e": [
        Claim("300 checkpoints beat 10 (mean)", ("300", BEST[1]), ("10", BEST[1])),
        Claim("300 checkpoints beat 10 (best)", ("300", BEST[0]), ("10", BEST[0])),
        Claim("300 checkpoints beat 50 (mean)", ("300", BEST[1]), ("50", BEST[1])),
    ],
    "8": [Claim("p-diff beats the VAE (mean)", ("p-diff", BEST[1]), ("vae", BEST[1]))],
    "9": [
        Claim("T = 1000 beats T = 10 (mean)", ("1000", BEST[1]), ("10", BEST[1])),
        Claim("T = 1000 beats T = 2000 (mean)", ("1000", BEST[1]), ("2000", BEST[1])),
    ],
    "figure_5c": [
        Claim(
            "K = 10 gives more similar models than K = 300",
            ("K = 10", "generated_similarity"),
            ("K = 300", "generated_similarity"),
        )
    ],
}


def names() -> list[str]:
    """Every table and figure that can be made, in the paper's order."""
    return ["1", "2", *ABLATIONS_OF_3, "4", "5", "6", "7", "8", "9", "13", *DRAWN]


WITHOUT_EXPERIMENTS = {
    "5": ("recipe", "the recipe of the default experiment"),
    "6": ("counts", "number of generated parameters"),
    "13": ("memory", "memory of training, in MiB"),
}
ABLATIONS_OF_3 = ("3a", "3b", "3c", "3d", "3e", "3f")


def table(name: str) -> Table:
    """A table by `3c`, a figure by `figure_4`; `InputError` with what there is."""
    name = name.lower().removeprefix("table_").replace("fig_", "figure_")
    if name in ("1", "2", "7"):
        return _cells(name)
    if name in WITHOUT_EXPERIMENTS:
        kind, title = WITHOUT_EXPERIMENTS[name]
        return Table(name, title, (), (), kind=kind)
    if name not in ABLATIONS:
        raise InputError(f"unknown table {name!r}; there are {', '.join(names())}")
    rows = tuple(_ablation_row(name, *item) for item in ABLATIONS[name].items())
    draw = DRAWN.get(name)
    return Table(name, TITLES[name], MEASURED[name], rows, _claims(name, rows), draw=draw)


def _ablation_row(name: str, label: str, ablation: str | None) -> Row:
    overrides = (f"ablation={ablation}",) if ablation else ()
    tag = TAGS.get(ablation) if ablation else DEFAULT_TAG
    return Row(label, overrides, _paper(name).get(label, {}), tag)


def _claims(name: str, rows: tuple[Row, ...]) -> tuple[Claim, ...]:
    """The paper's general claims on the default row, then those of this table."""
    default = next((row.label for row in rows if not row.overrides), None)
    default = default or {"9": "1000"}.get(name, rows[-1].label)
    return (*general_claims(default), *MORE_CLAIMS.get(name, []))


def general_claims(label: str) -> tuple[Claim, ...]:
    best, mean = (label, "generated_best"), (label, "generated_mean")
    return (
        Claim("generated best beats the originals' best", best, (label, "original_best")),
        Claim("generated mean beats the originals' mean", mean, (label, "original_mean")),
        Claim("generated best beats the ensemble", best, (label, "ensemble")),
        Claim("generated mean beats the ensemble", mean, (label, "ensemble")),
    )


def _cells(name: str) -> Table:
    """Tables 1, 2 and 7, whose rows are pairs of data set and net."""
    if name == "7":
        rows = []
        for data, values in _facts("table_7")["values"].items():
            paper = {"original_mean": values[0] / 100, "generated_mean": values[-1] / 100}
            rows.append(_cell("full", data, "3-layer CNN", "cnn_medium", paper))
        title = "mean accuracy of a 3-layer CNN, all parameters generated"
        return Table(name, title, BOTH, tuple(rows), own_cells=True)
    folder, title = {
        "1": ("main", "the last two normalisation layers are generated"),
        "2": ("full", "all parameters are generated"),
    }[name]
    facts, rows = _facts(f"table_{name}"), []
    for outer, inner in facts["values"].items():
        for other, values in inner.items():
            data, net = (outer, other) if outer in DATA else (other, outer)
            paper = _fractions(facts["columns"], values)
            rows.append(_cell(folder, data, net, NETS[net], paper))
    return Table(name, title, BOTH, tuple(rows), own_cells=True)


def _cell(folder: str, data: str, net_label: str, net: str, paper: Mapping[str, float]) -> Row:
    name = DATA[data]
    tag_net = net.removesuffix("_mini").replace("_", "")
    tag = f"{folder}/{TAG_OF_DATA.get(name, name)}_{tag_net}"
    return Row(f"{data}, {net_label}", (f"data={name}", f"net={net}"), paper, tag)


def _paper(name: str) -> dict[str, dict[str, float]]:
    """The paper's numbers by row, in our names; figures have none but those of Table 3e."""
    if name.startswith("figure"):
        return {}
    facts = _facts(f"table_{name}")
    found = {}
    for label, row in facts.get("rows", facts.get("values", {})).items():
        values = row["values"] if isinstance(row, dict) else row
        found[str(label)] = _fractions(facts["columns"], values)
    if name == "8":
        original = found["original"]
        also = {"original_best": original["generated_best"]}
        found = {label: {**values, **also} for label, values in found.items()}
    return found


def _fractions(columns: list[str], values: list[float]) -> dict[str, float]:
    return {
        MEASURES[column]: value if "similarity" in column else value / 100
        for column, value in zip(columns, values, strict=True)
    }


def _facts(key: str) -> Any:
    return facts()[key]


@cache
def facts() -> dict[str, Any]:
    """What the paper says, as it stands in `pdiff/reference/paper_tables.yaml`."""
    return yaml.safe_load((REFERENCE / "paper_tables.yaml").read_text())


@cache
def _logs() -> dict[str, dict[str, str]]:
    with (REFERENCE / "author_logs.csv").open(newline="") as file:
        return {row["tag"]: row for row in csv.DictReader(file)}
