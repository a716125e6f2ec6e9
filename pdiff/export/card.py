"""The model card: how to load the model, how good it is, how and from what it was made."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import jinja2

from pdiff.export.model import UNKNOWN, Model
from pdiff.nets.own import is_own, split_own
from pdiff.nets.registry import has_fixed_size
from pdiff.system.hub import SCHEME

LOCAL = {"root", "watch"}  # parameters that say where files lie on one machine
PATHS = {"folder", "weights"}  # only a path's last part is shown, but a whole address of the hub
PACKAGES = ("torch", "timm", "safetensors", "numpy")


def model_card(model: Model, file: Path, command: str, commit: str, repository: str = "") -> str:
    """Markdown from the template `card.md.j2`; a fact that cannot be found is `unknown`.

    `file` holds the model, in a `repository` of the hub if it is given; `command` made it.
    """
    source, maker = split_own(model.name) if is_own(model.name) else (model.name, "")
    reported, choosing = model.splits
    text = Path(__file__).with_name("card.md.j2").read_text()
    strict = {"undefined": jinja2.StrictUndefined, "keep_trailing_newline": True}
    return jinja2.Template(text, trim_blocks=True, **strict).render(
        model=model,
        title=title(model),
        source=Path(source),
        maker=maker,
        fixed_size=model.kind == "timm" and has_fixed_size(model.name),
        file=file.name,
        repository=repository,
        reported=reported,
        choosing=choosing,
        labels=", ".join(model.labels) or UNKNOWN,
        rows=_rows(model),
        settings={name: _settings(model, name) for name in model.sections},
        command=command,
        commit=commit,
        packages=[f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)],
    )


def title(model: Model) -> str:
    """`resnet18 on digits: generated model 4`, without paths of this machine."""
    what = "ensemble" if model.group == "ensemble" else f"{model.group} model {model.index}"
    return f"{_net(model)} on {model.params.data.name}: {what}"


def _net(model: Model) -> str:
    """`base.net`, of an own one without its folder."""
    if not is_own(model.name):
        return model.name
    source, maker = split_own(model.name)
    return f"{Path(source).name}:{maker}"


def _rows(model: Model) -> list[tuple[str, str, str, float]]:
    """Mean numbers of the model and of the groups beside it; a group of the model alone is not."""
    columns = [*model.metric.columns, "max_similarity"]
    rows = [("this model", model.row[columns])]
    for name in dict.fromkeys((model.group, "original", "generated", "ensemble")):
        part = model.table[model.table["group"] == name]
        if len(part) > (name == model.group):
            label = name if len(part) == 1 else f"mean of {len(part)} {name} models"
            rows.append((label, part[columns].mean()))
    return [(label, *map(model.metric.shown, row[:2]), row.iloc[2]) for label, row in rows]


def _settings(model: Model, section: str) -> str:
    """The parameters of one section, without paths of this machine."""
    values = getattr(model.params, section).model_dump(mode="json")
    values |= {"net": _net(model)} if section == "base" else {}
    for key in PATHS & values.keys():
        if values[key] and not values[key].startswith(SCHEME):
            values[key] = Path(values[key]).name
    shown = ((k, v if isinstance(v, str) else json.dumps(v)) for k, v in values.items())
    return ", ".join(f"{key} {value}" for key, value in shown if key not in LOCAL)
