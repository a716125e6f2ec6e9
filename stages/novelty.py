"""Turn predictions into what the paper reports: accuracies, similarities, tables, figures.

predictions, latents -> one row per model, bootstrap replicates, tables, figures, headline numbers
"""

from pathlib import Path

from pdiff import tracking
from pdiff.bootstrap import bootstrap
from pdiff.config import load_params
from pdiff.evaluation import wrong
from pdiff.files import load_json, load_tensor, write_json
from pdiff.groups import load_predictions
from pdiff.novelty import spread
from pdiff.report import (
    headline,
    model_table,
    plot_scatter,
    plot_similarity,
    save_table,
    similarity_table,
    summary_table,
)
from stages import stage

PREDICTIONS = ("data/predictions_originals.safetensors", "data/predictions_generated.safetensors")
LATENTS = Path("data/latents.safetensors")
GENERATED_LATENTS = Path("data/generated_latents.safetensors")
AUTOENCODER_METRICS = Path("metrics/train_autoencoder.json")
MODELS = Path("data/models.csv")
BOOTSTRAP = Path("data/bootstrap.csv")
REPORT = Path("report")
METRICS = Path("metrics/novelty.json")


def main() -> None:
    params = load_params()
    split = params.novelty.split
    predictions, labels = _load(split)
    chosen_by, chosen_labels = _load("validation" if split == "test" else "test")
    spreads = {
        "original": spread(load_tensor(LATENTS, "latents")),
        "generated": spread(load_tensor(GENERATED_LATENTS, "latents")),
    }

    with tracking.run("novelty", params, "novelty") as log:
        models = model_table(predictions, labels, chosen_by, chosen_labels)
        summary = summary_table(models, predictions, labels)
        metrics = headline(summary, models, spreads)
        metrics["reconstruction"] = {"r2": load_json(AUTOENCODER_METRICS).get("r2")}
        log.summary(metrics)
        errors = {group: wrong(found, labels) for group, found in predictions.items()}
        choosing = {group: wrong(found, chosen_labels) for group, found in chosen_by.items()}
        drawn = bootstrap(errors, choosing, params.novelty.bootstrap, params.seed)
        save_table(BOOTSTRAP, drawn)
        save_table(MODELS, models)
        save_table(REPORT / "summary.csv", summary)
        save_table(REPORT / "similarity.csv", similarity_table(predictions, labels))
        plot_scatter(REPORT / "scatter.png", models, split)
        plot_similarity(REPORT / "similarity.png", models)
        write_json(METRICS, metrics)
        print(summary.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
        tracking.finish(params)


def _load(split: str) -> tuple[dict, object]:
    groups = {}
    for path in PREDICTIONS:
        found, labels = load_predictions(Path(path), split)
        groups |= found
    return groups, labels


if __name__ == "__main__":
    stage(main)
