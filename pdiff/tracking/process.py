"""Where, by what and from which commit a stage runs, and whether its pipeline is still alive."""

import importlib.metadata
import os
import platform
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from pdiff.tracking.files import git


def git_commit(folder: Path | None = None) -> str:
    """The commit that is checked out, "" if unknown."""
    return (git("rev-parse", "HEAD", folder=folder) or b"").decode().strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks; tells apart two uses of one pid."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _pipeline_pid() -> int:
    """The DVC process above this stage, or whoever started it; no stage follows once it is gone."""
    pid = os.getppid()
    while "DVC_STAGE" in os.environ and pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            break
        if any(Path(word.decode(errors="replace")).name == "dvc" for word in words):
            return pid
        pid = int(parent)
    return os.getppid()


def _device() -> str:
    torch = sys.modules.get("torch")
    wanted = os.environ.get("PDIFF_DEVICE") or "cuda"
    if torch is not None and wanted.startswith("cuda") and torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "cpu"


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
    pid, commit = _pipeline_pid(), git_commit()
    tags = {
        "pdiff.host": socket.gethostname(),
        "pdiff.pid": str(pid),
        "pdiff.pid_start": process_start(pid),
        "pdiff.device": _device(),
        "pdiff.python": platform.python_version(),
        "pdiff.torch": _version("torch"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV") or commit,
        "mlflow.source.git.commit": commit,
    }
    return {name: value for name, value in tags.items() if value}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the pipeline process that these tags name has ended; unknown on another machine."""
    if tags.get("pdiff.host") != socket.gethostname() or "pdiff.pid" not in tags:
        return False
    pid = int(tags["pdiff.pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return process_start(pid) != tags.get("pdiff.pid_start", "")
