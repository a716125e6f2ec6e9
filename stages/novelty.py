"""Turn predictions into what the paper reports, and ask whether what was generated is new.

predictions, metrics of codec and latents, and for the audit images, base net, all parameters
-> one row per model, bootstrap replicates, tables, figures, the audit's report, and headline
   numbers that begin with the fit of the generator
"""

import shutil
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pdiff import tracking
from pdiff.audit.analyses import Evidence, write_audit
from pdiff.audit.boundaries import Boundaries, boundary_maps
from pdiff.autoencoder.codec import load_codec
from pdiff.baselines.latents import from_latents
from pdiff.baselines.originals import from_originals, matrix, soup_of
from pdiff.baselines.registry import of_the_paper, ordered
from pdiff.config import Params, load_params
from pdiff.core.files import load_json, load_tensor, write_json
from pdiff.core.runtime import get_device
from pdiff.diffusion.bars import conclusion, fit_numbers, missed_bars, one_line
from pdiff.evaluation.predict import wrong
from pdiff.evaluation.predictions import load_predictions
from pdiff.images.batches import ImageSet, load_images
from pdiff.nets.registry import load_net
from pdiff.novelty.bootstrap import bootstrap
from pdiff.novelty.summary import (
    headline,
    model_table,
    plot_scatter,
    plot_similarity,
    save_table,
    similarity_table,
    summary_table,
)
from pdiff.parameters.stack import StackFile
from stages import stage, warn

PREDICTIONS = ("data/predictions_originals.safetensors", "data/predictions_generated.safetensors")
IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
UNSEEN = {
    "held_back": Path("data/held_back.safetensors"),
    "second_run": Path("data/second_run.safetensors"),
}
SOUP = Path("data/greedy_soup.json")
AUTOENCODER = Path("models/autoencoder.safetensors")
GENERATED = Path("data/generated.safetensors")
LATENTS = Path("data/latents.safetensors")
AUTOENCODER_METRICS = Path("metrics/train_autoencoder.json")
GENERATE_METRICS = Path("metrics/generate.json")
MODELS = Path("data/models.csv")
BOOTSTRAP = Path("data/bootstrap.csv")
REPORT = Path("report")
AUDIT = REPORT / "audit"
METRICS = Path("metrics/novelty.json")
MAPPED_MODELS, MAP_SIDE = 3, 40
"""Decision boundaries: generated models, and points along each side of the plane."""


def main() -> None:
    params = load_params()
    split = params.novelty.split
    predictions, labels = _load(split)
    chosen_by, chosen_labels = _load("validation" if split == "test" else "test")
    codec, latents = load_json(AUTOENCODER_METRICS), load_json(GENERATE_METRICS)["latent_fit"]

    with tracking.run("novelty", params, "seed", "evaluate", "baselines", "novelty") as log:
        models = model_table(predictions, labels, chosen_by, chosen_labels)
        main_groups = [g for g in ordered(predictions) if of_the_paper(g, params.baselines)]
        shown = {group: predictions[group] for group in main_groups}
        of_shown = models[models["group"].isin(main_groups)]
        summary = summary_table(of_shown, shown, labels)
        numbers = headline(summary, of_shown)
        fit = fit_numbers(codec, latents, numbers["similarity"])
        missed = missed_bars(fit, params.generate, params.autoencoder.min_r2)
        metrics = {"fit": fit, **numbers}
        errors = {group: wrong(found, labels) for group, found in predictions.items()}
        choosing = {group: wrong(found, chosen_labels) for group, found in chosen_by.items()}
        replicates = bootstrap(errors, choosing, params.novelty.bootstrap, params.seed)
        save_table(MODELS, models)
        save_table(BOOTSTRAP, replicates)
        save_table(REPORT / "summary.csv", summary)
        save_table(REPORT / "similarity.csv", similarity_table(shown, labels))
        plot_scatter(REPORT / "scatter.png", of_shown, split)
        plot_similarity(REPORT / "similarity.png", of_shown)
        shutil.rmtree(AUDIT, ignore_errors=True)
        AUDIT.mkdir(parents=True)
        if params.novelty.audit:
            evidence = Evidence(errors, choosing, matrices(params), models, replicates)
            images = load_images(IMAGES, get_device())
            metrics["audit"] = write_audit(
                AUDIT,
                evidence,
                _maps(params, evidence, images),
                images.classes,
                metrics,
                _facts(params, evidence),
                params.novelty,
                missed,
                params.seed.model,
            )
        log.summary(metrics)
        write_json(METRICS, metrics)
        if missed:
            warn(conclusion(missed))
        print(one_line(fit, missed))
        print(summary.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


def _load(split: str) -> tuple[dict, object]:
    groups = {}
    for path in PREDICTIONS:
        found, labels = load_predictions(Path(path), split)
        groups |= found
    return groups, labels


def matrices(params: Params) -> dict[str, Float[Tensor, "_ D"]]:
    """The parameters of every model that was evaluated; what was drawn is drawn again."""
    originals, config, seed = StackFile(CHECKPOINTS), params.baselines, params.seed
    unseen = {group: StackFile(path) for group, path in UNSEEN.items()}
    groups = from_originals(originals, config, seed.base, audit=True)
    groups["generated"] = StackFile(GENERATED)
    groups |= {group: stack for group, stack in unseen.items() if len(stack)}
    groups["soup_greedy"] = soup_of(originals, load_json(SOUP)["members"])
    found = {group: matrix(models, originals.subset) for group, models in groups.items()}

    device = get_device()
    codec = load_codec(AUTOENCODER, CHECKPOINTS, device)
    latents = load_tensor(LATENTS, "latents", device)
    coded = from_latents(latents, config, params.autoencoder.kind, seed.model, audit=True)
    for group, own in coded.items():
        found[group] = torch.cat([block for _, block in codec.decode(own)], 1).cpu()
    return {group: found[group] for group in ordered(found)}


def _maps(params: Params, evidence: Evidence, images: ImageSet) -> Boundaries:
    config = params.evaluate
    return boundary_maps(
        load_net(BASE, get_device()),
        StackFile(CHECKPOINTS).subset,
        evidence.matrices["original"],
        evidence.matrices["generated"],
        images.test,
        params.data,
        models=MAPPED_MODELS,
        side=MAP_SIDE,
        batch_size=config.batch_size,
        boundary_mib=config.boundary_mib,
    )


def _facts(params: Params, evidence: Evidence) -> dict[str, str]:
    """What was run, for a reader of the report."""
    counts = {group: len(errors) for group, errors in evidence.wrong.items()}
    images, subset = evidence.wrong["original"].shape[1], StackFile(CHECKPOINTS).subset
    return {
        "images": f"{params.data.name}, {images:,} of the {params.novelty.split} split",
        "net": f"{params.base.net}, {subset.length:,} parameters in {len(subset.names)} tensors",
        "originals": f"{counts['original']} checkpoints",
        "generated": f"{counts['generated']} models, sampler {params.generate.sampler}",
        "noise": f"parameters {params.noise.param:g}, latents {params.noise.latent:g}",
        "autoencoder": f"{params.autoencoder.kind}, {params.autoencoder.latent_dim} latents, "
        f"decode_norm {params.autoencoder.decode_norm}",
        "seeds": f"base {params.seed.base}, model {params.seed.model}",
        "all groups": f"{len(counts)} with {sum(counts.values()):,} models",
    }


if __name__ == "__main__":
    stage(main)
