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
from collections.abc import Sequence
from typing import Any

from pdiff.config import Params
from pdiff.system.paths import root
from pdiff.tracking.files import COLUMNS
from pdiff.tracking.store import SETTINGS, Store, TrackingError, open_store, tracking_uri

SECTIONS = tuple(Params.model_fields)
MOST_PARAMS = 12
# Browsers take it for this machine; at 127.0.0.1 MLflow's assistant covers a quarter of the page.
HOST = "pdiff.localhost"


def differing_params(runs: Sequence[Any]) -> list[str]:
    """Names of the parameters that tell the runs apart, in the order of params.yaml's sections.

    Of parameters that always change together (a data set's name, size, classes) one is enough.
    """
    chosen: dict[tuple[int, ...], str] = {}
    names = {name for run in runs for name in run.data.params}
    for name in sorted(
        names, key=lambda name: (not name.endswith((".name", ".net")), _place(name))
    ):
        values = [run.data.params.get(name) for run in runs]
        pattern = tuple(values.index(value) for value in values)
        if any(pattern):
            chosen.setdefault(pattern, name)
    return sorted(chosen.values(), key=_place)[:MOST_PARAMS]


def _place(name: str) -> tuple[int, str]:
    section = name.split(".")[0]
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS), name


def table(store: Store) -> str:
    """The comparison as a Markdown table, newest experiment first."""
    runs = store.runs(role="pipeline")
    params = differing_params(runs)
    metrics = [name for name in COLUMNS if any(name in run.data.metrics for run in runs)]
    rows = [["experiment", "status", *params, *metrics]]
    rows.append([*["-"] * (2 + len(params)), *["-:"] * len(metrics)])
    for run in runs:
        row = [run.info.run_name, run.info.status.lower()]
        row += [run.data.params.get(name, "") for name in params]
        found = [run.data.metrics.get(name) for name in metrics]
        rows.append([*row, *("" if value is None else f"{value:.4g}" for value in found)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def save_view(store: Store) -> str:
    """Store the comparison as a shared view; its path in the UI comes back.

    The format is MLflow's own and undocumented, so a test looks at it.
    """
    params = {f"params.`{n}`": _width(n) for n in differing_params(store.runs(role="pipeline"))}
    metrics = {f"metrics.`{name}`": _width(name) for name in COLUMNS.values()}
    widths = {"attributes.`Run Name`": 170, **params, **metrics, "attributes.`Created`": 110}
    view = {
        "searchFilter": "tags.`pdiff.role` = 'pipeline'",
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
            raise TrackingError(f"port {port} is in use; choose with --port") from error


def serve(port: int) -> int:
    """Say where the comparison is: on the team's server, or on MLflow's own until Ctrl-C."""
    with open_store() as store:
        path = save_view(store)
    uri = tracking_uri()
    if uri.startswith("http"):
        print(uri.rstrip("/") + path, flush=True)
        return 0
    artifacts = (root() / "mlruns").as_uri()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", uri, "--default-artifact-root", artifacts]
    words += ["--artifacts-destination", artifacts, "--uvicorn-opts", "--log-level warning"]
    words += ["--allowed-hosts", f"{HOST}:*,localhost:*,127.0.0.1:*"]
    words += ["--cors-allowed-origins", f"http://{HOST}:{port}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env={**os.environ, **SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the server, and that us
    while server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            print(f"\nhttp://{HOST}:{port}{path}", flush=True)
            print(f"the same at http://127.0.0.1:{port}{path}; Ctrl-C ends the server", flush=True)
            break
        time.sleep(0.5)
    return server.wait()
