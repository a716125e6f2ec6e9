"""The audit as one HTML report: which figures and tables it holds, and how to read them.

It is made from the files of the folder `report/audit` alone; an analysis whose files are not there
is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pdiff.audit.html import Claim, Figure, Section, write_report
from pdiff.baselines.registry import FAMILIES, family

PAPER = "Wang et al., Neural Network Diffusion, arXiv 2402.13144v3"
MEMORISATION = "its question, Zeng et al., arXiv 2506.07998"


@dataclass(frozen=True)
class Analysis:
    """A section of the report before its files are read."""

    title: str
    question: str
    figures: Mapping[str, str]
    """Alternative text, by the name of the PNG."""
    tables: Mapping[str, str]
    """Caption, by the name of the CSV."""
    reading: str
    definition: str
    source: str


ANALYSES = (
    Analysis(
        "Accuracy and similarity",
        "Is p-diff more accurate than its rivals, or as accurate and more novel?",
        {"pareto": "Accuracy against maximum similarity, one point a model, with the Pareto front"},
        {"groups": "All groups", "front": "Who holds the Pareto front"},
        "Up and to the left is better, and no model beats those on the black line. Generated "
        "models add something where they hold a part of it that no simple rival reaches.",
        "Similarity of two models is the IoU of the sets of test images they get wrong; a model's "
        "maximum similarity is that to the original most like it, and an original leaves out "
        "itself. A model is on the front if no other is as accurate and less similar, or as "
        "dissimilar and more accurate. Diamonds are the means of groups that differ in a level.",
        f"{PAPER}, Section 4, Figures 3, 4 and 5a; the front is ours.",
    ),
    Analysis(
        "Codec",
        "How much of p-diff is its codec?",
        {
            "codec": "Accuracy and maximum similarity against similarity within: a curve through "
            "exact codecs of rising rank, with the trained codec and the generated models beside it"
        },
        {"codec": "Exact codecs by rank, then the trained codec, the generator and a second run"},
        "The curve is what an exact codec makes of the originals: at rank 0 (right) it returns "
        "their mean, at K - 1 (left) themselves. Models on the curve do what a codec of that rank "
        "does: where it rises to the right they gain accuracy by forgetting how originals differ. "
        "Models below it in the lower panel err unlike any original. An ideal generator lies at "
        "the second run.",
        "Rank R keeps the originals' first R principal components, in the parameters as they are; "
        "`r2` is the share of their squared deviation from the mean that is kept. Maximum "
        "similarity counts the original that a model was made from, as in all other tables; "
        "`max_similarity_others`, which is drawn, leaves it out, as originals leave out "
        "themselves. All models of rank 0 are one, so its similarity within is 1. Vertical lines "
        "are the standard deviation of a group's accuracies.",
        "Not in the paper.",
    ),
    Analysis(
        "Comparisons",
        "Which differences are larger than chance?",
        {},
        {
            "comparisons": "Generated models against each group; positive where they win",
            "equal_accuracy": "Similarity of rivals that are as accurate as the generated models",
        },
        "A difference counts where its interval lies wholly on one side of 0. Where it does not, "
        "this run cannot tell, which is not the same as no difference.",
        "Groups are compared on the same test images; intervals come from a bootstrap over images "
        "and models, and p-values are corrected for the number of rows (Holm), at whose level the "
        "intervals stand: a difference below `detectable` could not have been seen. The chosen "
        "models, one of each group, are compared by McNemar's exact test. A ladder's similarity "
        "is interpolated where its accuracy crosses that of the generated models; `no overlap` is "
        "the share of replicates in which it does not.",
        "Not in the paper.",
    ),
    Analysis(
        "Distribution of similarity",
        "Do generated models err like the originals, more so than other models do?",
        {
            "similarity": "Box for each group of the maximum similarity to an original",
            "similarity_matrix": "Heat map of the mean IoU within and between groups",
        },
        {"similarity_matrix": "Mean IoU of wrong predictions"},
        "A group left of the originals is more novel than originals are among themselves; the "
        "dashed lines are the medians of originals and generated models. A bright cell on the "
        "diagonal of the map is a group whose models are all alike, as of a collapsed generator.",
        "Line: 5 to 95 % of a group's models; bar: the middle half; dot: the median. The map "
        "averages over pairs of different models.",
        f"{PAPER}, Section 4, Figure 5c.",
    ),
    Analysis(
        "Distance in parameters",
        "Do generated models lie nearer to the checkpoints that were learned than unseen ones do?",
        {
            "distances": "Boxes for each group of the L2 distance to the nearest "
            "original and of the interpolation index"
        },
        {"distances": "Distances"},
        "A group left of the bands lies nearer to an original than unseen checkpoints do. An index "
        "below 1 says that it lies further inside than originals, as averages of them do.",
        "L2 distance in the parameters as they are. An original leaves out itself; held-back "
        "checkpoints follow the originals in their run, the second run has another data order. "
        "The index is the distance to the mean of all originals over the originals' root mean "
        "square distance from it; outside span is the share of that squared distance which no "
        "mixture of originals explains.",
        f"Not in the paper; {MEMORISATION}.",
    ),
    Analysis(
        "Copying",
        "Would a test call the generated models copies of what was learned?",
        {
            "copying": "The statistic Z_U of each group against both held-out sets, and the "
            "share of models of rank 1"
        },
        {"copying": "Data-copying test and ranks"},
        "Far left of the grey band is copying, far right underfitting. Checkpoints of a run are "
        "not independent, so read a group beside the known copies (noise) and averages (soups).",
        "Z_U is the standardised Mann-Whitney U between a group's and the held-out checkpoints' "
        "distances to the nearest original. Rank 1: the model is nearer to its nearest original "
        "than any other original is.",
        "Meehan, Chaudhuri and Dasgupta, AISTATS 2020, Section 3.",
    ),
    Analysis(
        "Novel and performant",
        "How many models are far from every original and still good?",
        {"performant": "Share of novel and performant models against the multiple c"},
        {"performant": "Share of models that are novel and performant"},
        "The slower a line falls, the farther from the originals a group keeps working. A rival "
        "above the generated models finds novel ones without a generator.",
        "Novel: farther from every original than c times the originals' own leave-one-out "
        "distance. Performant: above the originals' mean accuracy on the split that chooses, a bar "
        "fixed beforehand.",
        f"Not in the paper; {MEMORISATION}.",
    ),
    Analysis(
        "Parameters",
        "Are generated parameters those of an original, and are they distributed alike?",
        {
            "heat_map": "Generated models above their nearest originals in a stretch of parameters",
            "values": "Histograms of nine parameters in four groups",
        },
        {},
        "Rows of a pair that look the same, with a blank lower panel, are copies. In the "
        "histograms a generated line narrower than the originals' area is a loss of variety.",
        "Deviation from the originals' mean in the parameters' own units, the same colours in both "
        "panels. The nine parameters are spread evenly over the rank of their variance.",
        f"Not in the paper; {MEMORISATION}.",
    ),
    Analysis(
        "Maps of all models",
        "Where do generated models lie among all others?",
        {"projection": "All groups projected by PCA and by t-SNE"},
        {},
        "Generated models on the originals' path repeat it, those at the star average it. "
        "Distances in the t-SNE panel say who are neighbours, not how far apart groups are.",
        "PCA: the originals' first two components, on which all models are projected. t-SNE: of "
        "the L2 distances between all models shown.",
        "van der Maaten and Hinton, 2008, for t-SNE.",
    ),
    Analysis(
        "Decision boundaries",
        "Do generated models divide the images as their nearest originals do?",
        {
            "boundaries": "Classes on the plane through three test images, for generated models, "
            "their nearest originals and the ensemble"
        },
        {"boundaries": "Shares of the plane with the same class"},
        "A generated model that agrees with its nearest original as much as two neighbouring "
        "originals do is that model again. One that agrees with the ensemble more is an average.",
        "The plane goes through three test images of different classes that the base net gets "
        "right (white points); agreement is the share of its grid with the same class.",
        "Somepalli et al., CVPR 2022.",
    ),
)


def audit_report(
    folder: Path,
    *,
    lead: str,
    facts: Mapping[str, str],
    headline: pd.DataFrame,
    claims: Sequence[Claim] = (),
) -> None:
    """Write `report.html` into the folder that holds the audit's PNG and CSV files.

    Args: as `pdiff.audit.html.write_report` takes them.
    """
    sections = [s for s in (_section(folder, a) for a in ANALYSES) if s.figures or s.tables]
    if (folder / "groups.csv").is_file():
        sections.append(_glossary(pd.read_csv(folder / "groups.csv")["group"]))
    write_report(
        folder / "report.html",
        sections,
        title="Is it new? The audit of one p-diff run",
        lead=lead,
        facts=facts,
        headline=headline,
        claims=claims,
    )


def _section(folder: Path, analysis: Analysis) -> Section:
    figures = {folder / f"{name}.png": alt for name, alt in analysis.figures.items()}
    tables = {caption: folder / f"{name}.csv" for name, caption in analysis.tables.items()}
    return Section(
        title=analysis.title,
        question=analysis.question,
        reading=analysis.reading,
        definition=analysis.definition,
        source=analysis.source,
        figures=[Figure(path, alt) for path, alt in figures.items() if path.is_file()],
        tables={c: _read(path) for c, path in tables.items() if path.is_file()},
    )


def _read(path: Path) -> pd.DataFrame:
    """A table with whole numbers as such, also beside a missing one."""
    return pd.read_csv(path).convert_dtypes()


def _glossary(groups: Iterable[str]) -> Section:
    """What each family is."""
    kinds = {family(group) for group in groups}
    shown = {kind: entry for kind, entry in FAMILIES.items() if kind in kinds}
    rows = [{"name": entry.label.format("N"), "what": entry.what} for entry in shown.values()]
    return Section(
        title="Groups of models",
        question="What are the groups that this report compares?",
        reading="Original, ensemble, generated and noise are the paper's. All others are rivals "
        "or checkpoints that nothing learned from.",
        definition="A number behind a name is the level of noise or the number of models averaged.",
        source=f"{PAPER}, Section 3, for the paper's groups.",
        tables={"Groups": pd.DataFrame(rows)},
    )
