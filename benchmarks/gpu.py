"""python -m benchmarks.gpu run OUT --cifar100 DIR: what takes a GPU, within a time limit.

run     whole pipelines on CIFAR-100 and CIFAR-10, Table 2's mini nets with the authors' recipes,
        and ablations: a few at a time, the most wanted first, each in a folder of OUT with
        parameters, dvc.lock, metrics, tables and the time of each stage. The same command goes on
        from there. Give a GPU few at a time: they share its time, and base training alone fills it.
        Start NVIDIA's MPS first (`nvidia-cuda-mps-control -d`); else they take turns.
steps   time, memory and part of the GPU's peak of single steps, Table 13's among them, to
        OUT/steps.csv and steps.md
pack    the small results as one archive per group
job     one pipeline, in this process (`run` starts it)

Images are folders as `data.reader: folder` reads them, whole when they hold a file `complete`. DVC
and MLflow are not needed: stages whose parameters and inputs are those of an earlier pipeline are
taken from there.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any

import stages  # isort: skip - first, for it must come before torch

import pandas as pd
import torch
import yaml
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import once
from pdiff.core.optimise import autocast, make_optimizer, train_step
from pdiff.core.runtime import get_device
from pdiff.nets.registry import build_net
from pdiff.paper.experiments import make_experiment, pipeline
from pdiff.paper.memory import LARGE, trainings
from pdiff.paper.render import grid, signed
from pdiff.system.errors import InputError
from pdiff.tracking.files import Folder, md5_of
from pdiff.tracking.made_by import outputs_of, params_of
from pdiff.tracking.process import git_commit

Step = Callable[[], object]
Make = Callable[[], Step]
ROOT = Path(__file__).resolve().parents[1]
SMALL = ("params.yaml", "dvc.lock", "times.json", "metrics", "plots", "report", "data/models.csv")
SMALL += ("data/bootstrap.csv",)
SCRATCH = ("base.pretrained=false", "base.epochs=10", "base.batch_size=128", "base.lr=0.001")
FEWER = ("baselines.noised_models=100", "baselines.reconstructed_models=100")
FEWER += ("baselines.rival_models=50", "novelty.bootstrap=200", "evaluate.batch_size=2500")
SETTING = ("data.reader=folder", *FEWER)
RESNET = (
    *SETTING,
    "data.size=64",
    "data.resize=64",
    "data.crop_scale=[0.5,1.0]",
    *SCRATCH,
    "net=resnet18",
)
MINIS = ("convnet_mini", "mlp_mini", "resnet_mini", "vit_mini", "convnext_mini")
ABLATIONS = ("noise_none", "noise_param", "noise_latent", "latent_x001", "latent_x01", "latent_x10")
ABLATIONS += ("latent_x100", "checkpoints_10", "checkpoints_50", "checkpoints_200", "timesteps_10")
ABLATIONS += ("timesteps_100", "timesteps_2000", "both_x001", "both_x01", "both_x10", "both_x100")
ABLATIONS += ("checkpoints_400", "finetune_lr_high", "finetune_lr_low", "trajectories")


@dataclass(frozen=True)
class Job:
    """One pipeline: where its results lie below OUT, its overrides, and whose stages it shares."""

    name: str
    overrides: tuple[str, ...]
    shares: str = ""
    only: tuple[str, ...] = ()
    """Stages to run; all without any."""


def jobs(images: dict[str, Path], more: Sequence[str]) -> list[Job]:
    """The most wanted first; all with `more` overrides."""
    found, base = [], ("check_params", "prepare_data", "train_base")

    def add(data: str, group: str, seed: int, *more: str, shares: str) -> None:
        own = (f"data={data}", f"data.root={images[data]}", *RESNET, f"seed.base={seed}")
        only = base if group == "base" else ()
        if data == "cifar10":
            own += ("data.expect=[20000,10000]",)
        found.append(Job(f"{data}_{group}/{seed}", (*own, *more), shares, only))

    def pipelines(data: str, seeds: Sequence[int], *recipes: tuple[str, ...]) -> None:
        for seed in seeds:
            add(data, "base", seed, "recipe=quick", shares="")
        for seed in seeds:
            for recipe, *more in recipes:
                group = "_".join([recipe, *(word.partition("=")[2] for word in more)])
                words = f"recipe={recipe}", f"seed.model={seed}", *more
                first = f"{data}_{recipe if more else 'base'}/{seed}"
                add(data, group, seed, *words, shares=first)

    digits = ("data=digits", "recipe=quick", "net=resnet18", *FEWER)
    found.append(Job("digits_quick/0", digits))  # the default, but for sizes of batches and groups
    running = "autoencoder.decode_norm=running"
    quick, paper = ("quick",), ("paper",)
    pipelines("cifar100", range(3), paper, quick, ("paper", running))
    for net in MINIS:
        own = ("data=cifar10", f"data.root={images['cifar10']}", *SETTING)
        own += ("data.expect=[20000,10000]", "recipe=paper", f"net={net}")
        found.append(Job(f"table_2/{net}", own))
    pipelines("cifar10", range(3), paper, quick, ("paper", running))
    pipelines("cifar100", range(3, 7), quick, paper)
    for seed in range(3):
        words = "recipe=quick", f"seed.model={seed}", "ablation=runs_30"
        add("cifar100", "quick_runs_30", seed, *words, shares=f"cifar100_base/{seed}")
    for name in ABLATIONS:  # the first of them has what the others share
        for seed in range(3):
            words = "recipe=paper", f"seed.model={seed}", f"ablation={name}", "novelty.audit=false"
            group = "paper" if name == ABLATIONS[0] else f"paper_{ABLATIONS[0]}"
            add("cifar100", f"paper_{name}", seed, *words, shares=f"cifar100_{group}/{seed}")
    return [replace(job, overrides=(*job.overrides, *more)) for job in found]


def wanted(job: Job, only: Sequence[str]) -> bool:
    return not only or any(fnmatch(job.name, pattern) for pattern in only)


def run(
    out: Path,
    images: dict[str, Path],
    more: Sequence[str],
    only: Sequence[str],
    seconds: float,
    at_a_time: int,
) -> None:
    """Start jobs in their order, `at_a_time` at once, until `seconds` have passed; then end all."""
    end, running = time.monotonic() + seconds, {}
    out.mkdir(parents=True, exist_ok=True)
    todo = [j for j in jobs(images, more) if wanted(j, only) and not finished(out / j.name)]
    while (todo or running) and time.monotonic() < end:
        for name in [name for name, process in running.items() if process.poll() is not None]:
            state = "done" if finished(out / name) else "FAILED"
            running.pop(name)
            print(f"{end - time.monotonic():5.0f} s left: {name} {state}", flush=True)
        coming = {job.name for job in todo} | running.keys()
        for job in [job for job in todo if job.shares and job.shares not in coming]:
            if not finished(out / job.shares):
                todo.remove(job)
                print(f"{job.name} cannot start: {job.shares} is missing", flush=True)
        ready = [job for job in todo if can_start(job, out, images)]
        for job in ready[: at_a_time - len(running)]:
            todo.remove(job)
            running[job.name] = start(job, out)
        time.sleep(0.2)
    for process in running.values():
        process.kill()
    names = sorted(running)
    print(f"{len(todo)} did not start, {len(names)} were cut off: {', '.join(names)}", flush=True)


def finished(folder: Path) -> bool:
    return (folder / "times.json").exists()


def can_start(job: Job, out: Path, images: dict[str, Path]) -> bool:
    """Whether the images and what it shares with another are there."""
    data = job.overrides[0].partition("=")[2]
    shared = not job.shares or finished(out / job.shares)
    return shared and (data not in images or (images[data] / "complete").exists())


def start(job: Job, out: Path) -> subprocess.Popen:
    """A process of its own that runs the job, with a log beside its folder."""
    folder = out / job.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = {"name": job.name, "overrides": job.overrides, "only": job.only, "shares": job.shares}
    command = [sys.executable, "-m", "benchmarks.gpu", "job", str(out), "--job", json.dumps(words)]
    with folder.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def one(job: Job, out: Path) -> None:
    """Run a pipeline in its folder; `times.json` at the end says that it is whole."""
    folder, params = out / job.name, make_experiment(job.overrides).params
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copy(ROOT / "dvc.yaml", folder)
    os.environ |= {"DVC_ROOT": str(folder), "PDIFF_TRACKING": "off", "PDIFF_SAVE_EVERY_S": "1000"}
    sys.path[0] = str(ROOT)
    os.chdir(folder)
    names, times = job.only or tuple(pipeline()), {}
    shared = share(params, out / job.shares) if job.shares else set()
    for name in names:
        if name in shared:
            continue
        begin = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        stages.stage(importlib.import_module(f"stages.{name}").main)
        times[name] = {"seconds": round(time.perf_counter() - begin, 2)}
    for record in Path(".work/runs").glob("*/*.json"):
        found = json.loads(record.read_text())
        times[found["stage"]] |= found["timing"]
    lock = {name: locked(name, params) for name in names}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    told = {"device": where, "torch": torch.__version__, "commit": git_commit(ROOT)}
    told |= {"shared": sorted(shared), "stages": times}
    Path("times.json").write_text(json.dumps({"overrides": job.overrides, **told}, indent=1))


def share(params: dict[str, Any], other: Path) -> set[str]:
    """Link what stages of equal parameters and inputs left in `other`; their names."""
    known = yaml.safe_load((other / "params.yaml").read_text())
    same, changed = set(), set()
    for name, stage in pipeline().items():
        here, there = (params_of(stage, p) for p in (params, known))
        present = all((other / path).exists() for path in outputs_of(stage))
        if name == "check_params":
            same.add(name)  # its inputs are all parameters
        elif here == there and present and not changed & set(stage["deps"]):
            same.add(name)
        else:
            changed |= set(outputs_of(stage))
            continue
        for path in filter(lambda path: (other / path).exists(), outputs_of(stage)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            link = partial(shutil.copytree, copy_function=os.link)
            (link if (other / path).is_dir() else os.link)(other / path, path)
    return same


def locked(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """A stage as dvc.lock has it, with the code of this checkout and the files that lie here."""
    stage = pipeline()[name]
    deps = [path for path in stage["deps"] if not path.startswith("${")]
    found = {"cmd": stage["cmd"]}
    found["deps"] = [{"path": path, "hash": "md5", "md5": digest(path)} for path in deps]
    found["params"] = {"params.yaml": params_of(stage, params)}
    found["outs"] = [{"path": p, "hash": "md5", "md5": digest(p)} for p in outputs_of(stage)]
    return found


@cache
def digest(path: str) -> str | None:
    """Of code in the checkout, of all else in the working directory."""
    folder = ROOT if path.startswith(("pdiff/", "stages/")) else Path.cwd()
    return md5_of(Folder(folder), path)


def steps(out: Path, batch: int = 128, size: int = 64) -> None:
    """Single steps: time, TFLOP/s beside those of a large product of matrices, and memory."""
    device, rows, rates = get_device(), [], {}
    for kind in (torch.float32, torch.bfloat16):
        name, matrix = str(kind).partition(".")[2], torch.randn(8192, 8192, device=device)
        product = partial(torch.mm, matrix.to(kind), matrix.to(kind))
        row = measured(f"product of 8192 x 8192, {name}", lambda product=product: product)
        rates[name] = row["tflops"]
        rows.append(row | {"precision": name})
    known = [(*step, math.nan) for step in net_steps(device, batch, size)]
    for training in trainings():
        if training.net != "linear" and training.parameters <= LARGE:
            make = partial(training.prepare, device, "bfloat16")
            known.append((training.label, make, "bfloat16", training.paper))
    for name, make, precision, paper in known:
        row = measured(name, make) | {"precision": precision, "paper_mib": paper}
        rows.append(row | {"of_product": row["tflops"] / rates[precision]})
        table = pd.DataFrame(rows).assign(device=torch.cuda.get_device_name())
        table.to_csv(out / "steps.csv", index=False, float_format="%.6g")
    beside = {"steps.csv": (out / "steps.csv").read_text()}
    (out / "steps.md").write_text(signed(steps_page(table), beside))


def steps_page(table: pd.DataFrame) -> str:
    """Markdown."""
    heads = ["step", "precision", "ms", "TFLOP/s", "of the product's", "MiB allocated", "reserved"]
    forms = {"ms": ".1f", "tflops": ".1f", "of_product": ".1%"}
    forms |= dict.fromkeys(("allocated_mib", "reserved_mib", "paper_mib"), ".0f")
    rows = []
    for row in table.to_dict("records"):
        numbers = [format(row[name], form) for name, form in forms.items()]
        known = ["-" if number.startswith("nan") else number for number in numbers]
        rows.append([row["step"], row["precision"], *known])
    lines = grid([*heads, "the paper's"], rows)
    head = [
        f"# Single training steps on one {table['device'][0]}",
        "",
        f"`python -m benchmarks.gpu steps OUT`, torch {torch.__version__}; median of seven. Memory",
        "is what torch's allocator gave, and what it took from the device beyond what it had; the",
        "paper's is nvidia-smi's, with the driver's own.",
        "",
    ]
    return "\n".join([*head, *lines]) + "\n"


def net_steps(device: torch.device, batch: int, size: int) -> Iterator[tuple[str, Make, str]]:
    """A step of training the base net, and one of fine-tuning its last norms."""
    images, labels = (
        torch.randn(batch, 3, size, size, device=device),
        torch.arange(batch).to(device),
    )

    def trained() -> Step:
        net = build_net("resnet18", 1000, size).to(device)
        optimizer = make_optimizer("adamw", net.parameters(), 1e-6, 0.0)
        return partial(train_step, optimizer, lambda: functional.cross_entropy(net(images), labels))

    def tuned() -> Step:
        net = build_net("resnet18", 1000, size).to(device, memory_format=torch.channels_last).eval()
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith("layer4.1.bn"))
        chosen = [p for p in net.parameters() if p.requires_grad]

        def loss() -> torch.Tensor:
            with autocast(device):
                return functional.cross_entropy(net(images), labels)

        return partial(train_step, make_optimizer("adamw", chosen, 1e-6, 0.0), loss)

    yield f"ResNet-18 at {size} px, base training, batch {batch}", trained, "float32"
    yield f"ResNet-18 at {size} px, fine-tuning, batch {batch}", tuned, "bfloat16"


def measured(name: str, make: Make, repeats: int = 7) -> dict[str, Any]:
    """Of one step: peak MiB, then median milliseconds and floating-point operations a second."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    step = make()
    step()
    row = {
        "step": name,
        "allocated_mib": (torch.cuda.max_memory_allocated() - before) / 2**20,
        "reserved_mib": (torch.cuda.max_memory_reserved() - reserved) / 2**20,
    }
    counter, whole = FlopCounterMode(display=False), False
    with contextlib.suppress(AssertionError), counter:  # it cannot follow micro-batches
        step()
        whole = True
    seconds = sorted(once(step) for _ in range(repeats))[repeats // 2]
    flops = (whole and counter.get_total_flops()) or math.nan
    return row | {"ms": 1e3 * seconds, "gflop": flops / 1e9, "tflops": flops / seconds / 1e12}


def pack(out: Path, target: Path) -> None:
    """`target/GROUP.tar.gz` with the small files of all pipelines of a group."""
    target.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Path]] = {}
    for times in sorted(out.glob("*/*/times.json")):
        group = times.parent.parent.name.partition("_")[0]
        kind = "main" if (times.parent / "report/audit/groups.csv").exists() else "more"
        groups.setdefault(f"{group}_{kind}", []).append(times.parent)
    for group, folders in groups.items():
        with tarfile.open(target / f"{group}.tar.gz", "w:gz", compresslevel=6) as archive:
            for folder in folders:
                for path in (folder / name for name in SMALL):
                    if path.exists():
                        archive.add(path, path.relative_to(out), filter=unwanted)
    with tarfile.open(target / "logs.tar.gz", "w:gz") as archive:
        for path in [*out.glob("*/*.log"), *out.glob("*.csv"), *out.glob("*.log")]:
            archive.add(path, path.relative_to(out))


def unwanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith((".html", ".png")) else entry


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "steps", "pack", "job"])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--cifar100", type=Path, default=Path("cifar100"), metavar="DIR")
    parser.add_argument("--cifar10", type=Path, default=Path("cifar10"), metavar="DIR")
    parser.add_argument("--seconds", type=float, default=540, help="after these all ends")
    parser.add_argument("--jobs", type=int, default=3, help="pipelines at a time")
    parser.add_argument("--target", type=Path, help="pack: where the archives go")
    parser.add_argument("--set", action="append", default=[], help="an override for all of them")
    parser.add_argument("--only", action="append", default=[], help="pattern of names of pipelines")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out.resolve()
    images = {"cifar100": options.cifar100.resolve(), "cifar10": options.cifar10.resolve()}
    if options.what == "run":
        run(out, images, options.set, options.only, options.seconds, options.jobs)
    elif options.what == "job":
        words = json.loads(options.job)
        lists = {key: tuple(words[key]) for key in ("overrides", "only")}
        one(Job(**{**words, **lists}), out)
    elif options.what == "pack":
        pack(out, options.target)
    else:
        out.mkdir(parents=True, exist_ok=True)
        steps(out)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        traceback.print_exc()
        sys.exit(f"error: {error}")
