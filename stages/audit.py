"""Ask whether what was generated is new: analyses, `report.html`, numbers to compare runs by.

All of it is left out, and the folder empty, if `novelty.audit` is false.
"""

import shutil

import pandas as pd

from pdiff import outputs, tracking
from pdiff.audit.evidence import Evidence, all_matrices
from pdiff.audit.neighbours import neighbours
from pdiff.audit.report import lead, write_audit
from pdiff.autoencoder.codec import load_codec
from pdiff.config import Params, load_params
from pdiff.core.files import load_json, load_tensor, write_json
from pdiff.core.runtime import get_device
from pdiff.novelty.bootstrap import by_group
from pdiff.novelty.ending import accuracies, where
from pdiff.novelty.summary import load_groups
from pdiff.parameters.stack import StackFile
from pdiff.tracking.changed import keep
from stages import stage, warn


def main() -> None:
    params = load_params()
    with tracking.run("audit", params, "seed", "evaluate", "baselines", "novelty") as log:
        evidence = gather(params) if params.novelty.audit else None
        headline, table = load_json(outputs.NOVELTY_METRICS), pd.read_csv(outputs.SUMMARY)
        said = "".join(table["warnings"].dropna().unique())
        fit = lead(headline, params.generate, params.autoencoder.min_r2, said)
        shutil.rmtree(outputs.AUDIT, ignore_errors=True)
        outputs.AUDIT.mkdir(parents=True)
        data = f"{params.data.name}, split {params.data.split}: {params.novelty.split} reported"
        facts = {"data": data, "net": params.base.net, "seed": params.seed, "noise": params.noise}
        codec = f"{params.autoencoder.kind}, {params.autoencoder.latent_dim} latents"
        facts |= {"autoencoder": codec, "sampler": params.generate.sampler}
        metrics = {}
        if evidence:
            parts = evidence, fit, facts, table, outputs.EXAMPLES
            metrics = write_audit(outputs.AUDIT, *parts)
        log.summary(metrics)
        write_json(outputs.AUDIT_METRICS, metrics)
    if said:
        warn(said)
    report = outputs.AUDIT / "report.html" if evidence else outputs.SUMMARY
    seconds, replicates = tracking.seconds_of(params), by_group(pd.read_csv(outputs.BOOTSTRAP))
    lines = accuracies(table, replicates, params.novelty.split, fits=fit.fits)
    print(*lines, *where(seconds, report, keep(tracking.experiment())), sep="\n")


def gather(params: Params) -> Evidence:
    """Every model that was evaluated: its errors, its parameters, its row of the table."""
    files = (outputs.PREDICTIONS_ORIGINALS, outputs.PREDICTIONS_GENERATED)
    predictions, labels = load_groups(files, params.novelty.split)
    stacks = {"original": outputs.CHECKPOINTS, "generated": outputs.GENERATED}
    stacks |= {"held_back": outputs.HELD_BACK, "fresh": outputs.FRESH}
    given, device = {group: StackFile(path) for group, path in stacks.items()}, get_device()
    codec = load_codec(outputs.AUTOENCODER, outputs.CHECKPOINTS, device)
    coded = codec.decode, load_tensor(outputs.LATENTS, "latents", device)
    kind, soup = params.autoencoder.kind, load_json(outputs.GREEDY_SOUP)["members"]
    matrices = all_matrices(given, soup, *coded, params.baselines, params.seed, kind)
    models = pd.read_csv(outputs.MODELS)
    groups = {group: rows for group, rows in predictions.items() if group in matrices}
    models = models[models["group"].isin(groups)].reset_index(drop=True)  # not a zoo's generators
    replicates = by_group(pd.read_csv(outputs.BOOTSTRAP))
    near = neighbours(params.finetune, params.novelty.neighbours)
    return Evidence(groups, labels, matrices, models, replicates, near, params.novelty.split)


if __name__ == "__main__":
    stage(main)
