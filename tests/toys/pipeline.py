"""All stages in a row, in this process."""

import importlib
import os
from pathlib import Path

import pytest
import torch
import yaml

from stages import stage

STAGES = (
    "check_params",
    "prepare_data",
    "train_base",
    "finetune",
    "finetune_again",
    "train_autoencoder",
    "train_ddpm",
    "generate",
    "evaluate_originals",
    "evaluate_generated",
    "novelty",
)


def run_stages(folder: Path, raw: dict, names: tuple[str, ...] = STAGES) -> None:
    """Run stages with `folder` as working directory and project."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        try:
            for name in names:
                stage(importlib.import_module(f"stages.{name}").main)
        finally:
            os.chdir(before)
            torch.set_num_threads(threads)
