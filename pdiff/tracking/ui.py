"""The comparison of experiments in the browser: a ready view in MLflow, and its server."""

import json
import os
import signal
import socket
import subprocess
import sys

from pdiff.tracking.comparison import COLUMNS, MEASURES
from pdiff.tracking.store import SETTINGS, Store, TrackingError, open_store, tracking_uri

# Browsers take it for this machine; at 127.0.0.1 MLflow's assistant covers a quarter of the page.
HOST = "pdiff.localhost"
NAME, CREATED = "attributes.`Run Name`", "attributes.`Created`"
WIDTHS = {"changed": 134, "gen - orig": 126, "gen - ens": 126, "max sim": 70, "within": 60}
"""Pixels of columns, all of which fit a window of 1440; others have `WIDTH`."""
WIDTH = 75


def save_view(store: Store) -> str:
    """Store the comparison as a shared view; its path in the UI comes back.

    The format is MLflow's own and undocumented, so a test looks at it.
    """
    kinds = {name: "metrics" if name in MEASURES else "tags" for name in COLUMNS[1:]}
    widths = {f"{kind}.`{name}`": WIDTHS.get(name, WIDTH) for name, kind in kinds.items()}
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
        "selectedColumns": list(widths),
        "columnOrder": [NAME, CREATED, *widths],
        "columnWidths": {NAME: 140, CREATED: 100, **widths},
    }
    key = "mlflow.sharedViewState.pdiff"
    store.client.set_experiment_tag(store.experiment_id, key, json.dumps(view))
    place = f"/#/experiments/{store.experiment_id}/runs"
    return f"{place}?viewStateShareKey=pdiff&workflowType=machine_learning"


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
    print(f"(where {HOST} is not found, 127.0.0.1 is the same; Ctrl-C ends it)", flush=True)
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
