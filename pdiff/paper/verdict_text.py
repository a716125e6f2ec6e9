"""`results/verdict.md` and `.csv`: one document with a section for each setting.

A section stands between `<!-- verdict NAME -->` and `<!-- end NAME -->`; writing one leaves the
others, and whatever stands between them, as they are.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pdiff.core.files import write_text
from pdiff.diffusion.bars import MORE_ALIKE
from pdiff.paper.copies import copies_lines, copies_sentence
from pdiff.paper.render import bracket, line, number
from pdiff.paper.runs import FIT, WITHIN, Seed, Setting
from pdiff.paper.verdict import (
    LEVEL,
    MIN_BASES,
    Judged,
    Learned,
    is_conditional,
    judge_all,
    units,
)
from pdiff.system.errors import InputError

QUESTION = "did the generator learn?"
SIGNS = ("R²", "variance first / least", "outside", "held-out / Gaussian loss")
WORDS = ("holds", "does not hold", "cannot tell", "unfitted", "fit not measured", "not run")
READING = f"""# Do the paper's claims hold?

Each row is a claim as a difference that is positive if the claim is true, over all runs of its
section. It *holds* if the interval lies wholly above 0, *does not hold* if wholly below, and
otherwise we *cannot tell*; then the smallest difference that would have been seen stands there.
Accuracies are differences in percentage points, similarities are IoU of wrong predictions.

- **Interval** and p are corrected for the number of rows (Holm): {1 - LEVEL:.0%} of error in all.
  *Within* is the standard deviation of one unit (bootstrap over images and models, paired on the
  images), *between* that of the units' differences. The unit is the pipeline; with fewer than
  {MIN_BASES} bases and several models on each it is the run, and nothing is said of other bases.
- **Best** (2): the models that validation chooses, one against one. **Equal accuracy** (4):
  noise-added originals as accurate as p-diff, by interpolation along the noise levels. **The soup**
  (5): the average of originals, of whatever number, whose validation accuracy is nearest to
  p-diff's. 5 and 6 stand only if both their rows hold: what is less accurate is easily more novel.
- **The generator** (0) comes first: R² of the codec; variance of the generated latents over the
  originals', along their first leading direction and where it is least; the share outside these
  directions; the denoising loss on held-out latents over that of a Gaussian of the latents. It
  *fits* a run if R² reaches `autoencoder.min_r2`, the reconstructed models are not more alike (IoU)
  than the originals by more than {MORE_ALIKE:g}, the loss is not above the Gaussian's and the rest
  reaches `generate.variance_ratio` and `generate.max_outside`. A claim is *unfitted* where the
  generator does not fit at least half of its runs: its numbers stand there, and neither *holds* nor
  *does not hold*. Runs from before this was measured say *not measured*.
"""


def write_verdict(
    setting: Setting, seeds: Sequence[Seed], folder: Path, command: str
) -> tuple[list[Path], pd.DataFrame]:
    """Write the setting's section of both files; their paths, and its rows of the CSV.

    Raises `InputError` if nothing has run, or if the marks in the document do not match.
    """
    found = [seed for seed in seeds if "" in seed.runs]
    if not found:
        why = next((reason for seed in seeds for reason in seed.failures.values()), "not run")
        raise InputError(f"verdict: no experiment of {setting.name} is there: {why}")
    judged = judge_all(found)
    paths = [folder / "verdict.csv", folder / "verdict.md"]
    text = paths[1].read_text() if paths[1].exists() else ""
    text = replace_section(text, "how to read", READING)
    text = replace_section(text, setting.name, section(setting, judged, seeds, command))
    frame = verdict_frame(setting, judged, found)
    everything = frame
    if paths[0].exists():
        before = pd.read_csv(paths[0])
        everything = pd.concat([before[before["section"] != setting.name], frame])
    write_text(paths[0], everything.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(paths[1], text)
    return paths, frame


def replace_section(text: str, name: str, body: str) -> str:
    """The document with this section's body; a new section comes last."""
    start, end = f"<!-- verdict {name} -->", f"<!-- end {name} -->"
    if (text.count(start), text.count(end)) not in ((0, 0), (1, 1)) or (
        start in text and text.index(start) > text.index(end)
    ):
        raise InputError(f"verdict.md: {start} and {end} must each stand there once, in this order")
    block = f"{start}\n\n{body.strip()}\n\n{end}"
    if start not in text:
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    return text[: text.index(start)] + block + text[text.index(end) + len(end) :]


def section(setting: Setting, judged: Sequence[Judged], seeds: Sequence[Seed], command: str) -> str:
    """The Markdown of one setting; `seeds` are all that were asked for."""
    found = [seed for seed in seeds if "" in seed.runs]
    bases = list(dict.fromkeys(seed.base for seed in found)) if is_conditional(found) else []
    lines = [
        f"## {setting.title}",
        "",
        f"`{command}`, run at commit {', '.join(commits(found))}.",
        "",
        paragraph(judged, found),
        "",
        *claim_lines(judged, Learned([seed.run() for seed in found]), len(units(found)), bases),
        "",
        *run_lines(found),
        *copies_lines(found),
        *_missing_lines(judged, seeds, command),
    ]
    return "\n".join(lines)


def paragraph(judged: Sequence[Judged], seeds: Sequence[Seed]) -> str:
    """What the table says, in sentences."""
    learned = Learned([seed.run() for seed in seeds])
    why = f"; in the first that it does not fit, {_missed(learned)}" if learned.unfitted else ""
    answer = f"{QUESTION.capitalize()} **{learned.word.capitalize()}** ({learned.share}){why}."
    parts = [_unit(seeds), answer]
    for word in WORDS:
        texts = [f"{j.claim.text} ({j.claim.key})" for j in judged if j.word == word]
        if texts:
            parts.append(f"**{word.capitalize()}** ({len(texts)}): {', '.join(texts)}.")
    return " ".join([*parts, *copies_sentence(seeds)])


def _missed(learned: Learned) -> str:
    """What the first run that does not fit misses."""
    return "; ".join(learned.unfitted[0].missed or [])


def _unit(seeds: Sequence[Seed]) -> str:
    """Of what the intervals speak."""
    bases = len({seed.base for seed in seeds})
    count = len(units(seeds))
    if len(seeds) == 1:
        return "One run: the intervals cover images and models, and say nothing of other runs."
    if is_conditional(seeds):
        return (
            f"{count} runs on {bases} base{'s' if bases > 1 else ''}: the intervals are "
            "conditional on that and say nothing of other bases; the mean on each stands beside."
        )
    more = f", the mean of {len(seeds) // count} models each" if len(seeds) > count else ""
    return f"{count} whole pipelines{more}: the intervals speak of further pipelines."


def claim_lines(
    judged: Sequence[Judged], learned: Learned, count: int, bases: Sequence[int]
) -> list[str]:
    """Row 0, of `count` units, and one row a claim."""
    heads = ["#", "claim", "difference", "interval", "p", "within", "between", "n"]
    heads += [f"base {base}" for base in bases]
    heads.append("verdict")
    rows = [_learned_cells(learned, count, bases), *(_cells(j, bases) for j in judged)]
    return [line(heads), line(["-"] * len(heads)), *map(line, rows)]


def _learned_cells(learned: Learned, count: int, bases: Sequence[int]) -> list[str]:
    """Row 0."""
    beside = ", ".join(f"{s} {v}" for s, v in zip(SIGNS, _signs(learned.numbers), strict=True))
    verdict = f"**{learned.word}** ({learned.share})"
    return ["0", f"{QUESTION} ({beside})", *["-"] * 5, str(count), *["-"] * len(bases), verdict]


def _cells(judged: Judged, bases: Sequence[int]) -> list[str]:
    kind, combined = judged.claim.kind, judged.combined
    numbers = ["-"] * 6
    if combined is not None:
        numbers = [
            number(combined.estimate, kind, signed=True),
            bracket(combined.low, combined.high, kind, signed=True),
            f"{judged.p_holm:.3f}" if judged.p_holm >= 0.001 else "<0.001",
            number(combined.within_std, kind),
            number(combined.between_std, kind),
            str(len(units(judged.seeds))),
        ]
    of_bases = [number(judged.by_base.get(base, math.nan), kind, signed=True) for base in bases]
    beside = judged.claim.beside(judged.seeds) if combined is not None else ""
    text = f"{judged.claim.text} ({beside})" if beside else judged.claim.text
    return [judged.claim.key, text, *numbers, *of_bases, _verdict(judged)]


def _signs(fit: Mapping[str, float]) -> list[str]:
    """The cells of `SIGNS`."""
    return [
        _plain(fit["r2"]),
        f"{_plain(fit['variance_first'])} / {_plain(fit['variance_least'])}",
        _plain(fit["outside"]),
        _plain(fit["loss_held_out"] / fit["loss_gaussian"]),
    ]


def _plain(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _verdict(judged: Judged) -> str:
    if judged.combined is None:
        return f"{judged.word}: {judged.reason}"
    if judged.word == "cannot tell":
        seen = number(judged.combined.detectable, judged.claim.kind)
        return f"cannot tell (would have seen {seen})"
    return f"**{judged.word}**"


def run_lines(seeds: Sequence[Seed]) -> list[str]:
    """One line a run: its numbers, and whether the generator learned."""
    heads = ["run (seed.base, seed.model)", "accuracy: generated / originals / ensemble"]
    heads += ["max. similarity: generated / originals", *SIGNS]
    heads += ["IoU within generated / reconstructed / originals", "fits"]
    lines = [line(heads), line(["-"] * len(heads))]
    for seed in seeds:
        run = seed.run()
        accuracies = [run.mean(g, "accuracy") for g in ("generated", "original", "ensemble")]
        similar = [run.mean(g, "max_similarity") for g in ("generated", "original")]
        cells = [seed.label, " / ".join(number(a, "accuracy") for a in accuracies)]
        cells.append(" / ".join(number(s, "similarity") for s in similar))
        cells += [*_signs(run.fit), " / ".join(_plain(run.fit[name], 3) for name in WITHIN)]
        cells.append("not measured" if run.missed is None else "no" if run.missed else "yes")
        lines.append(line(cells))
    return lines


def _missing_lines(judged: Sequence[Judged], seeds: Sequence[Seed], command: str) -> list[str]:
    """Runs that are not there, and the command for claims that were not run."""
    lines = []
    for seed in seeds:
        if "" not in seed.runs:
            lines.append(f"- run {seed.label}: {seed.failures.get('', 'not run')}")
        lines += [f"- run {seed.label}, {a}: {why}" for a, why in seed.failures.items() if a]
    if any(j.word == "not run" for j in judged):
        more = command if "--ablations" in command else f"{command} --ablations"
        lines.append(f"- what was not run, runs with `{more}`")
    return ["", *lines] if lines else []


def verdict_frame(
    setting: Setting, judged: Sequence[Judged], seeds: Sequence[Seed]
) -> pd.DataFrame:
    """Row 0 and one row a claim, numbers as fractions; empty where there are none."""
    learned = Learned([seed.run() for seed in seeds])
    row = {"section": setting.name, "claim": "0", "text": QUESTION, "kind": "fit"}
    row |= {"verdict": learned.word, "reason": _missed(learned) if learned.unfitted else ""}
    row |= {"units": len(units(seeds)), "runs": len(seeds), **learned.numbers}
    first = row | {"fitted": learned.fitted, "commit": " ".join(commits(seeds))}
    rows = []
    for j in judged:
        c = j.combined
        numbers = ("estimate", "low", "high", "within_std", "between_std", "detectable")
        row = {"section": setting.name, "claim": j.claim.key, "text": j.claim.text}
        row |= {"kind": j.claim.kind, "verdict": j.word, "reason": j.reason}
        row |= {name: math.nan if c is None else getattr(c, name) for name in numbers}
        row |= {"level": j.level, "p": j.p, "p_holm": j.p_holm}
        row |= {"units": len(units(j.seeds)), "runs": len(j.seeds)}
        row |= {name: j.learned.numbers.get(name, math.nan) for name in FIT}
        row |= {"fitted": j.learned.fitted, "commit": " ".join(commits(j.seeds))}
        rows.append(row)
    return pd.DataFrame([first, *rows], columns=list(rows[0]))


def commits(seeds: Sequence[Seed]) -> list[str]:
    """The commits that the runs and their ablations come from, each once."""
    return list(dict.fromkeys(r.result.commit for seed in seeds for r in seed.runs.values()))
