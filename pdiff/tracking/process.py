"""Where, by what and from which commit a stage runs, and the memory that it takes."""

import os
import platform
import resource
import socket
import sys
from pathlib import Path

from pdiff.tracking.files import git


def git_commit(folder: Path | None = None) -> str:
    """The commit that is checked out, "" if unknown."""
    return (git("rev-parse", "HEAD", folder=folder) or b"").decode().strip()


def peak_memory() -> dict[str, float]:
    """Peak memory of this process in MB (2^20 bytes), on the GPU too if one was used."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak


def process_tags() -> dict[str, str]:
    """Where, by what and from which commit this process runs."""
    commit, torch = git_commit(), sys.modules.get("torch")
    wanted = os.environ.get("PDIFF_DEVICE") or "cuda"
    on_gpu = torch is not None and wanted.startswith("cuda") and torch.cuda.is_available()
    tags = {
        "pdiff.host": socket.gethostname(),
        "pdiff.device": f"cuda: {torch.cuda.get_device_name()}" if on_gpu else "cpu",
        "pdiff.python": platform.python_version(),
        "pdiff.torch": torch.__version__ if torch else "",
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV") or commit,
        "mlflow.source.git.commit": commit,
    }
    return {name: str(value) for name, value in tags.items() if value}
