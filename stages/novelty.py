"""Turn predictions into what the paper reports: one row per model, replicates, tables, the paper's
figures, and headline numbers that begin with the fit of the generator."""

import math

from pdiff import outputs, tracking
from pdiff.baselines.registry import of_the_paper
from pdiff.config import load_params
from pdiff.core.files import load_json, write_json
from pdiff.diffusion.bars import caveats, fit_numbers, missed_bars, one_line
from pdiff.images.batches import chance
from pdiff.novelty import pictures, summary
from pdiff.novelty.bootstrap import bootstrap, save_replicates
from stages import stage, warn


def main() -> None:
    params = load_params()
    split = params.novelty.split
    other = "validation" if split == "test" else "test"
    files = (outputs.PREDICTIONS_ORIGINALS, outputs.PREDICTIONS_GENERATED)
    scores = summary.gather_scores(files, split, other)
    wrong, choosing = (summary.load_wrong(files, name) for name in (split, other))
    earlier = outputs.AUTOENCODER_METRICS, outputs.GENERATE_METRICS, outputs.TRAJECTORY_METRICS
    codec, generated, decoded = map(load_json, earlier)
    metric = scores.metric if scores else "accuracy"
    # another task's score has no level that guessing reaches, and may be chosen by another metric
    guess = -math.inf if scores else chance(summary.load_groups(files[:1], split)[1])
    base = load_json(outputs.BASE_METRICS).get(f"base_{split}_accuracy", math.nan)
    with tracking.run("novelty", params, "seed", "evaluate", "baselines", "novelty") as log:
        models = summary.model_table(wrong, choosing, scores)
        groups = [group for group in wrong if of_the_paper(group, params.baselines)]
        shown = models[models["group"].isin(groups)].reset_index(drop=True)
        errors = {group: wrong[group] for group in groups}
        table = summary.summary_table(shown, errors, scores)
        numbers = summary.headline(table, shown)
        fit = fit_numbers(codec, generated["latent_fit"], numbers["similarity"])
        missed = missed_bars(fit, params.generate, params.autoencoder.min_r2)
        known = {"the base net": base, "the originals": numbers["accuracy"]["original_mean"]}
        drop = decoded["accuracy_drop"], params.evaluate.max_accuracy_drop
        said = caveats(missed, known, guess, *drop)
        table["warnings"] = " ".join(said)
        replicates = bootstrap(wrong, params.novelty.bootstrap, params.seed.model)
        summary.save_table(outputs.MODELS, models)
        save_replicates(outputs.BOOTSTRAP, replicates)
        summary.save_table(outputs.SUMMARY, table)
        summary.save_table(outputs.SIMILARITY, summary.similarity_table(errors))
        figure, _ = pictures.plot_scatter(shown, split, groups, None, " ".join(said), metric)
        pictures.save_figure(figure, outputs.SCATTER_FIGURE)
        pictures.save_figure(pictures.plot_similarities(shown)[0], outputs.SIMILARITY_FIGURE)
        log.summary({"fit": fit, **numbers})
        write_json(outputs.NOVELTY_METRICS, {"fit": fit, **numbers})
        warn(*said)
        print(one_line(fit, missed))


if __name__ == "__main__":
    stage(main)
