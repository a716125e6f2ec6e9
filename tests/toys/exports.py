"""What an export reads of a finished run, by hand, and what its card's code gives."""

import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
import yaml
from torch import nn

from pdiff import outputs
from pdiff.config import load_params
from pdiff.export.model import MEASURES
from pdiff.images.batches import EvaluationBatches, load_images
from pdiff.nets.registry import build_net, save_net
from pdiff.parameters.stack import write_rows
from pdiff.parameters.subset import select_subset
from tests.conftest import change
from tests.toys.project import GIT

OWN = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images):
        return self.fc(self.norm(images).mean((2, 3)))
"""
"""A net that timm does not know."""


def toy_project(tiny_raw: dict, net: str, size: int, **changes: object) -> torch.Tensor:
    """Write what an export reads of a run with `net`; the three generated models."""
    built = build_net(net, 10, size)
    subset = select_subset(built, "last_norms:1")
    matrix = torch.randn(3, subset.length, generator=torch.Generator().manual_seed(0))
    save_net(outputs.BASE, built, net, 10, size)
    write_rows(outputs.GENERATED, subset, 3, matrix)
    rows = [("generated", i, 0.5, 0.25, 0.75) for i in range(3)]
    pd.DataFrame(rows, columns=["group", "model", *MEASURES]).to_csv(outputs.MODELS, index=False)
    own = {"data.size": size, "data.resize": size, "base.net": net}
    Path("params.yaml").write_text(yaml.safe_dump(change(tiny_raw, **own | changes)))
    return matrix


def logits_of(net: nn.Module) -> torch.Tensor:
    """Of the test images of the project that lies here."""
    images = load_images(outputs.IMAGES).test
    with torch.inference_mode():
        batches = EvaluationBatches(images, load_params().data, 500)
        return torch.cat([net.eval()(images) for images in batches])


def git(*words: str) -> str:
    command = ["git", *GIT, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def code_of(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


def run_card(card: str, **names: object) -> dict[str, object]:
    """What the code of `card` leaves, run in this folder; no module of the folder stays."""
    here = str(Path.cwd())
    with patch.object(sys, "path", [here, *sys.path]):
        exec(code_of(card), names)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(here):
            del sys.modules[name]
    return names
