"""The comparison of experiments: a ready view in MLflow's UI, and a Markdown table.

One row per experiment: the parameters that differ, whether the generator has learned, then how good
the originals and the generated models are, and how alike they are.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from pdiff.config import Params
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
    names = sorted({name for run in runs for name in run.data.params}, key=_place)
    for name in sorted(names, key=lambda name: not name.endswith((".name", ".net"))):
        values = [run.data.params.get(name) for run in runs]
        pattern = tuple(values.index(value) for value in values)
        if any(pattern):
            chosen.setdefault(pattern, name)
    return sorted(chosen.values(), key=_place)[:MOST_PARAMS]


def _place(name: str) -> tuple[int, str]:
    section = name.partition(".")[0]
    return (*SECTIONS, section).index(section), name


def table(store: Store) -> str:
    """The comparison as a Markdown table, newest experiment first."""
    runs = store.runs(role="pipeline")
    params = differing_params(runs)
    metrics = [name for name in COLUMNS if any(name in run.data.metrics for run in runs)]
    rows = [["experiment", "status", *params, *metrics]]
    rows.append([*["-"] * (2 + len(params)), *["-:"] * len(metrics)])
    for run in runs:
        numbers = [run.data.metrics.get(name) for name in metrics]
        texts = ["" if number is None else f"{number:.4g}" for number in numbers]
        values = [run.data.params.get(name, "") for name in params]
        rows.append([run.info.run_name, run.info.status.lower(), *values, *texts])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def save_view(store: Store) -> str:
    """Store the comparison as a shared view; its path in the UI comes back.

    The format is MLflow's own and undocumented, so a test looks at it.
    """
    names = {f"params.`{name}`": name for name in differing_params(store.runs(role="pipeline"))}
    names |= {f"metrics.`{name}`": name for name in COLUMNS.values()}
    widths = {column: max(66, 6 * len(name) + 20) for column, name in names.items()}  # in pixels
    widths = {"attributes.`Run Name`": 170, **widths, "attributes.`Created`": 110}
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
        "selectedColumns": list(names),
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    key = "mlflow.sharedViewState.pdiff"
    store.client.set_experiment_tag(store.experiment_id, key, json.dumps(view))
    return f"/#/experiments/{store.experiment_id}/runs?viewStateShareKey=pdiff"


def check_port(port: int) -> None:
    """Raise if there is no such port, or if something else listens there."""
    if not 0 < port < 2**16:
        raise TrackingError(f"--port: {port} is not between 1 and {2**16 - 1}")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise TrackingError(f"port {port} is in use; choose with --port")


def serve(port: int) -> int:
    """Say where the comparison is: on the team's server, or on MLflow's own until Ctrl-C."""
    with open_store() as store:
        path = save_view(store)
    uri = tracking_uri()
    if uri.startswith("http"):
        print(uri.rstrip("/") + path, flush=True)
        return 0
    print(f"in some ten seconds: http://{HOST}:{port}{path}")
    print(f"the same at http://127.0.0.1:{port}{path}; Ctrl-C ends it", flush=True)
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    words += ["--backend-store-uri", uri, "--uvicorn-opts", "--log-level warning"]
    words += ["--allowed-hosts", f"{HOST}:*,localhost:*,127.0.0.1:*"]
    words += ["--cors-allowed-origins", f"http://{HOST}:{port}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words],
        env={**os.environ, **SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,  # MLflow passes Ctrl-C on: its workers would get it twice
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever was inherited
        signal.signal(number, signal.default_int_handler)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0
