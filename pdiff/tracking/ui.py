"""The comparison of experiments: a ready view in MLflow's UI, and a Markdown table.

One row per experiment: the parameters that differ, whether the generator has learned, then how good
the originals and the generated models are, and how alike they are.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pdiff import tracking
from pdiff.tracking.files import COLUMNS
from pdiff.tracking.store import Store

PIPELINES = "tags.`pdiff.role` = 'pipeline'"
SECTIONS = (
    *("seed", "data", "base", "subset", "finetune", "noise"),
    *("autoencoder", "ddpm", "generate", "evaluate", "novelty"),
)
MOST_PARAMS = 12
# Browsers take it for this machine; at 127.0.0.1 MLflow's assistant covers a quarter of the page.
HOST = "pdiff.localhost"
LOCAL_HOSTS = "localhost:*,127.0.0.1:*"
PATIENCE_S = 90


def differing_params(runs: Sequence[Any]) -> list[str]:
    """Names of the parameters that tell the runs apart, in the order of params.yaml's sections.

    Of parameters that always change together (a data set's name, size, classes) one is enough.
    """
    chosen: dict[tuple[int, ...], str] = {}
    names = {name for run in runs for name in run.data.params}
    for name in sorted(names, key=lambda name: (_is_detail(name), _section(name), name)):
        values = [run.data.params.get(name) for run in runs]
        pattern = tuple(values.index(value) for value in values)
        if any(pattern):
            chosen.setdefault(pattern, name)
    return sorted(chosen.values(), key=lambda name: (_section(name), name))[:MOST_PARAMS]


def _section(name: str) -> int:
    section = name.split(".")[0]
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)


def _is_detail(name: str) -> bool:
    return name.rpartition(".")[2] not in ("name", "net")


def table(store: Store) -> str:
    """The comparison as a Markdown table, newest experiment first."""
    runs = store.runs(PIPELINES)
    params = differing_params(runs)
    metrics = [name for name in COLUMNS if any(name in run.data.metrics for run in runs)]
    rows = [["experiment", "status", *params, *metrics]]
    rows.append([*["-"] * (2 + len(params)), *["-:"] * len(metrics)])
    for run in runs:
        values = run.data.metrics
        rows.append(
            [
                run.info.run_name,
                run.info.status.lower(),
                *[run.data.params.get(name, "") for name in params],
                *[f"{values[name]:.4g}" if name in values else "" for name in metrics],
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def save_view(store: Store) -> str:
    """Store the comparison as a shared view; its path in the UI comes back.

    The format is MLflow's own and undocumented, so a test looks at it.
    """
    params = {f"params.`{n}`": _width(n) for n in differing_params(store.runs(PIPELINES))}
    metrics = {f"metrics.`{name}`": _width(name) for name in COLUMNS.values()}
    widths = {"attributes.`Run Name`": 170, **params, **metrics, "attributes.`Created`": 110}
    view = {
        "searchFilter": PIPELINES,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "compareRunCharts": None,
        "viewMaximized": False,
        "runListHidden": False,
        "selectedColumns": [*params, *metrics],
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    key = "mlflow.sharedViewState.pdiff"
    store.client.set_experiment_tag(store.experiment_id, key, json.dumps(view))
    return f"/#/experiments/{store.experiment_id}/runs?viewStateShareKey=pdiff"


def _width(name: str) -> int:
    """Pixels that a column's heading needs."""
    return max(66, 6 * len(name) + 20)


def check_port(port: int) -> None:
    """Raise if something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise tracking.TrackingError(f"port {port} is in use; choose with --port") from error


def show(port: int, browser: bool) -> int:
    """Open the comparison: on the team's server if there is one, else on our own until Ctrl-C."""
    with tracking.open_store() as store:
        path = save_view(store)
    uri = tracking.tracking_uri()
    if uri.startswith("http"):
        _announce(uri.rstrip("/") + path, browser)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    with contextlib.suppress(KeyboardInterrupt), server(uri, port) as (process, url):
        _announce(url + path, browser)
        print(f"the same at http://127.0.0.1:{port}{path}; Ctrl-C ends the server", flush=True)
        process.wait()
        raise tracking.TrackingError("the MLflow server ended")
    return 0


def _announce(url: str, browser: bool) -> None:
    print(url, flush=True)
    has_display = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if browser and has_display:
        webbrowser.open(url)


@contextlib.contextmanager
def server(uri: str, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An MLflow server on this machine only; it ends with the block."""
    artifacts = (tracking.root() / "mlruns").as_uri()
    log = tracking.root() / ".work" / "mlflow-server.log"
    log.parent.mkdir(exist_ok=True)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", uri, "--default-artifact-root", artifacts]
    words += ["--artifacts-destination", artifacts, "--allowed-hosts", f"{HOST}:*,{LOCAL_HOSTS}"]
    words += ["--cors-allowed-origins", f"http://{HOST}:{port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=output,
            stderr=output,
            env={**os.environ, **tracking.SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,  # a group of its own, which is ended as a whole
        )
    try:
        _wait_for(process, f"http://127.0.0.1:{port}", log)
        yield process, f"http://{_host_name()}:{port}"
    finally:
        _end_group(process)


def _host_name() -> str:
    """HOST where it is sure to work: browsers on Linux know it, others ask the system."""
    with contextlib.suppress(OSError):
        if sys.platform == "linux" or socket.gethostbyname(HOST) == "127.0.0.1":
            return HOST
    return "127.0.0.1"


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        time.sleep(0.2)
    raise tracking.TrackingError(f"the MLflow server did not start; see {log}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
