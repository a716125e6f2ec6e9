"""Generated parameters beside those of the nearest originals.

Axes: M generated models and C parameters, those that are shown.
"""

import torch
from matplotlib import pyplot as plt

from pdiff.audit.analysis import MEMORISATION, Analysis
from pdiff.audit.distances import distances
from pdiff.audit.evidence import Evidence, finite_rows
from pdiff.novelty.pictures import Picture, empty_figure

MODELS, PARAMETERS = 10, 128


def plot_heat_map(evidence: Evidence, table: None) -> Picture:
    """Generated models, each above its nearest original, in a stretch of the parameters.

    What is shown is the deviation from the originals' mean: the values themselves differ far more
    between parameters than between models. The lower panel shows generated minus nearest.
    """
    generated, originals = evidence.matrices["generated"], evidence.matrices["original"]
    chosen = finite_rows(generated, MODELS)
    if not len(chosen):
        return empty_figure("no generated model has finite parameters")
    shown = originals[:, :PARAMETERS]
    mean = shown.nanmean(0)
    near = distances(generated[chosen], originals).nan_to_num(torch.inf).argmin(1)
    ours, theirs = generated[chosen, :PARAMETERS] - mean, shown[near] - mean  # (M, C)
    rows = torch.stack([ours, theirs, torch.full_like(ours, torch.nan)], 1).flatten(0, 1)[:-1]
    limit = float(rows.abs().flatten().nanquantile(0.95)) or 1.0
    count, columns = ours.shape
    size, panels = (6.4, 2.2 + 0.4 * count), {"height_ratios": [3, 1], "sharex": True}
    figure, (above, below) = plt.subplots(2, 1, figsize=size, **panels, layout="constrained")
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    style |= {"aspect": "auto"}
    picture = above.imshow(rows.numpy(), extent=(0, columns, len(rows), 0), **style)
    below.imshow((ours - theirs).numpy(), extent=(0, columns, count, 0), **style)
    own = [f"generated {index}" for index in chosen.tolist()]
    pairs = zip(own, (f"original {index}" for index in near.tolist()), strict=True)
    ticks = [3 * i + j for i in range(count) for j in (0.5, 1.5)]
    above.set_yticks(ticks, [name for pair in pairs for name in pair], fontsize=7)
    below.set_yticks([i + 0.5 for i in range(count)], own, fontsize=7)
    whole = originals.shape[1]
    name = f"parameter (the first {columns:,} of {whole:,})" if whole > columns else "parameter"
    below.set(xlabel=name, title="generated minus nearest original")
    above.set_title("deviation from the originals' mean")
    text = "difference in value"
    bar = {"location": "bottom", "extend": "both", "shrink": 0.7, "aspect": 40}
    figure.colorbar(picture, ax=[above, below], label=text, **bar)
    ratio = float((ours - theirs).abs().nanmean() / theirs.abs().nanmean())
    return figure, (
        f"Generated models differ from their nearest originals by {ratio:.2f} of what these differ "
        "from the mean; copies would by 0."
    )


ANALYSIS = Analysis(
    name="parameters",
    order=6,
    title="Parameters",
    question="Are generated parameters those of an original?",
    reading="Rows of a pair that look the same, with a blank lower panel, are copies.",
    definition="Deviation from the originals' mean in the parameters' own units, the same colours "
    "in both panels.",
    source=f"Not in the paper; {MEMORISATION}.",
    figures={"heat_map": plot_heat_map},
)
