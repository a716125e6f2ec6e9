"""Toy stages that are tracked, and a DVC project of them; quick to import in a process of its own.

python -c "from tests.toys.tracked import dvc_stage; dvc_stage()" NAME
"""

import json
import sys
from pathlib import Path

import yaml
from pydantic import BaseModel

from pdiff import tracking
from pdiff.system.speed import measured
from pdiff.tracking.files import REPORT_STAGE

PNG = b"\x89PNG"


class Noise(BaseModel):
    latent: float
    channels: tuple[int, ...]


class Toy(BaseModel):
    name: str
    noise: Noise


def toy(latent: float = 0.1) -> Toy:
    return Toy(name="toy", noise=Noise(latent=latent, channels=(8, 16)))


def write(files: dict[str, str], folder: Path = Path()) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run_stage(stage: str, latent: float = 0.1, points: int = 3) -> None:
    with tracking.run(stage, toy(latent), "noise") as log, measured(steps=points):
        for step in range(points):
            log({"loss": 1 / (step + 1)}, step)
        log.summary({"r2": 0.5})


def run_report(latent: float = 0.1) -> None:
    """The last stage, at whose end the results of the whole pipeline are there."""
    files = {
        "metrics/novelty.json": json.dumps({"accuracy": {"generated_best": latent}}),
        "metrics/train.json": '{"r2": 0.7}',
        "plots/train.csv": "step,loss,r2\n0,2.0,\n10,1.5,0.25\n",
        "report/other.csv": "x,y\n1,2\n",
        "report/summary.csv": "group,accuracy\noriginal,0.75\ngenerated,0.5\n",
        "dvc.yaml": yaml.safe_dump({"stages": {"train": {}, REPORT_STAGE: {}}}),
    }
    with tracking.run(REPORT_STAGE, toy(latent)):
        write(files)
        Path("report/figure.png").write_bytes(PNG)


def write_dvc_project(folder: Path) -> None:
    """Three stages in a row; the first does not depend on the parameters."""
    stages = {
        name: {
            "cmd": f"{sys.executable} stage.py {name}",
            "deps": ["stage.py", *deps],
            "params": [] if name == "prepare" else ["noise"],
            "outs": [f"{name}.out"],
            "metrics": [{f"metrics/{name}.json": {"cache": False}}],
            "plots": [{f"plots/{name}.csv": {"cache": False}}],
        }
        for name, *deps in (
            ["prepare", "room"],
            ["train", "prepare.out"],
            [REPORT_STAGE, "train.out"],
        )
    }
    room = ("b.py", "a.py", "inner/c.py", "inner/a.txt", "__pycache__/a.pyc")
    files = {
        "stage.py": "from tests.toys.tracked import dvc_stage\n\ndvc_stage()\n",
        "params.yaml": yaml.safe_dump(toy().model_dump(mode="json"), sort_keys=False),
        "dvc.yaml": yaml.safe_dump({"stages": stages}, sort_keys=False),
        ".gitignore": "/*.out\n/mlflow.db*\n/mlruns/\n/.work/\n/.mlflow.lock\n",
        **{f"room/{name}": name for name in room},
    }
    write(files, folder)


def dvc_stage() -> None:
    """What `python stage.py NAME` does in the DVC project; noise of 666 fails."""
    stage = sys.argv[1]
    params = Toy.model_validate(yaml.safe_load(Path("params.yaml").read_text()))
    latent = 0.0 if stage == "prepare" else params.noise.latent
    with tracking.run(stage, params, "noise") as log:
        if latent == 666:
            raise ValueError("the devil's noise")
        for step in range(20):
            log({"loss": 1 / (step + 1)}, step)
        curve = "".join(f"{step},{1 / (step + 1)}\n" for step in range(20))
        files = {f"{stage}.out": f"{stage} {latent}", f"plots/{stage}.csv": f"step,loss\n{curve}"}
        write({**files, f"metrics/{stage}.json": json.dumps({"half": latent / 2})})
