"""Does this machine give the same bytes? Digests of what the pipeline writes.

python .ci/digest.py                 what `make repro` wrote here, beside the committed dvc.lock
python .ci/digest.py --default DIR   the same, after running the stages in DIR, without DVC
python .ci/digest.py --tiny DIR      a tiny pipeline in DIR: compare two machines with `diff`
python .ci/digest.py --smallest DIR  a smaller one still, for an emulated processor

The exit status is 1 if an output differs from the committed one or is missing. With
`--stages NAME,NAME` only these run. In DIR stages that ran before are not run again by themselves:
give an empty folder. A log of the machine goes to stderr, so that stdout can be compared.
"""

import argparse
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PDIFF_TRACKING"] = "off"
os.environ["PDIFF_DEVICE"] = "cpu"

from stages import stage  # noqa: E402 - first, for it must come before torch

# isort: split
import numpy  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

from pdiff.tracking.made_by import FILE  # noqa: E402
from tests.conftest import TINY, change  # noqa: E402
from tests.toys.pipeline import STAGES  # noqa: E402

SMALLEST = TINY | {  # minutes where an emulator takes a hundred times as long
    "data.train_size": 40,
    "data.validation_size": 20,
    "data.test_size": 20,
    "base.epochs": 1,
    "base.batch_size": 20,
    "finetune.steps": 6,
    "finetune.checkpoints": 6,
    "finetune.batch_size": 20,
    "finetune.held_back": 1,
    "finetune.fresh_checkpoints": 2,
    "autoencoder.steps": 3,
    "autoencoder.batch_size": 3,
    "ddpm.steps": 3,
    "ddpm.batch_size": 3,
    "generate.models": 2,
    "generate.steps": 3,
    "baselines.noised_models": 2,
    "baselines.reconstructed_models": 2,
    "baselines.rival_models": 2,
    "baselines.noise_levels": [0.05],
    "baselines.noise_ladder": [0.5],
    "baselines.soups": [2],
    "baselines.ranks": [1],
    "baselines.soup_candidates": 2,
    "novelty.bootstrap": 5,
    "novelty.audit": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--default", type=Path, metavar="DIR")
    where.add_argument("--tiny", type=Path, metavar="DIR")
    where.add_argument("--smallest", type=Path, metavar="DIR")
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    names = options.stages.split(",")
    print(surroundings(), file=sys.stderr, flush=True)
    if small := options.tiny or options.smallest:
        run(small.resolve(), change(raw, **(TINY if options.tiny else SMALLEST)), names)
        for path in files(small):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            print(f"{digest}  {path.relative_to(small)}")
        return
    if options.default:
        run(options.default.resolve(), raw, names)
    sys.exit(compare(options.default or ROOT))


def run(folder: Path, raw: dict, names: list[str]) -> None:
    """Run stages in this process, with `folder` as working directory and project."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    os.environ["DVC_ROOT"] = str(folder)
    before = Path.cwd()
    os.chdir(folder)
    for name in names:
        start = time.perf_counter()
        stage(importlib.import_module(f"stages.{name}").main)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    os.chdir(before)


def compare(folder: Path) -> int:
    """Print each output's digest beside the committed one; 1 if one differs, else 0."""
    show = ["git", "-C", str(ROOT), "show", "HEAD:dvc.lock"]
    lock = yaml.safe_load(subprocess.run(show, capture_output=True, check=True).stdout)
    outputs = [
        (name, out)
        for name, entry in lock["stages"].items()
        for out in entry["outs"]
        if out["path"] != FILE.format(name)  # only stages that run in a DVC project leave it
    ]
    equal = 0
    for name, out in outputs:
        found = md5(folder / out["path"])
        equal += found == out["md5"]
        word = "same" if found == out["md5"] else "DIFFERS" if found else "missing"
        print(f"{word:8} {name:19} {out['path']:38} {found or '-':36} {out['md5']}")
    print(f"{equal} of {len(outputs)} outputs have the committed bytes")
    return int(equal < len(outputs))


def md5(path: Path) -> str | None:
    """DVC's digest of a file or a folder; None if it is missing."""
    if path.is_dir():
        entries = [{"md5": md5(f), "relpath": f.relative_to(path).as_posix()} for f in files(path)]
        text = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
        return hashlib.md5(text.encode()).hexdigest() + ".dir"
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else None


def files(folder: Path) -> list[Path]:
    """All but the state of interrupted trainings."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and ".work" not in p.parts]


def surroundings() -> str:
    """Processor, threads and versions; no part of what is compared."""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return (
        f"{model}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"PDIFF_PORTABLE {os.environ.get('PDIFF_PORTABLE', 'on')}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"{' '.join(platform.libc_ver())}"
    )


if __name__ == "__main__":
    main()
