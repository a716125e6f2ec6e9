"""The library: checkpoints in, new models out, and what is new about them."""

import subprocess
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pdiff import PDiff, outputs
from pdiff.api.audit import audit
from pdiff.config import LibraryParams, library_params
from pdiff.core.files import load_json
from pdiff.parameters.stack import StackFile, load_stack
from pdiff.system import progress as progress_module
from pdiff.system.errors import InputError
from tests.conftest import ROOT

SMALL = {  # a second of training that fits nothing, without bars to reach
    "autoencoder": {"channels": [4, 8], "latent_dim": 8, "steps": 5, "min_r2": -100.0},
    "ddpm": {"channels": [4, 8, 4], "steps": 5, "held_out": 0.0},
    "generate": {"models": 5, "steps": 4, "variance_ratio": [0.0, 1e9], "max_outside": 1.0},
}
LINEAR = {**SMALL, "autoencoder": {"kind": "linear", "latent_dim": 4, "min_r2": 0.0}}


def states(count: int = 6, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """A net whose second layer alone is trained, with running statistics that move."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=random)  # noqa: E731
    frozen, names = draw(3, 2), ("0.running_mean", "1.weight", "1.bias")
    return [
        {
            "frozen.weight": frozen.clone(),
            **dict(zip(names, (draw(3), draw(2, 3), draw(2)), strict=True)),
            "0.num_batches_tracked": torch.tensor(index),
        }
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def fitted() -> PDiff:
    return PDiff.fit(states(), seed=4, **SMALL)


def equal(one: dict, other: dict) -> bool:
    return list(one) == list(other) and all(torch.equal(one[n], other[n]) for n in one)


def test_the_defaults_are_those_of_the_committed_params(raw):
    sections = {name: raw[name] for name in LibraryParams.model_fields}
    assert library_params({}) == LibraryParams.model_validate(sections)


def test_sampled_state_dicts_have_new_weights_and_else_the_last_checkpoints_tensors(fitted):
    checkpoints, new = states(), fitted.sample(3)
    assert len(new) == 3
    for model in new:
        assert list(model) == list(checkpoints[0])
        for name in ("frozen.weight", "0.running_mean", "0.num_batches_tracked"):
            assert torch.equal(model[name], checkpoints[-1][name])
        for name in ("1.weight", "1.bias"):
            assert model[name].shape == checkpoints[0][name].shape
            assert not any(torch.equal(model[name], old[name]) for old in checkpoints)


def test_the_seed_of_the_fit_is_that_of_the_samples_unless_another_is_given(fitted):
    again = PDiff.fit(states(), seed=4, **SMALL)
    assert equal(fitted.sample(2)[1], again.sample(2)[1])
    assert equal(fitted.sample(2)[1], fitted.sample(2, seed=4)[1])
    assert not equal(fitted.sample(2)[1], fitted.sample(2, seed=5)[1])


@pytest.mark.parametrize("as_rows", [torch.Tensor.clone, torch.Tensor.numpy])
def test_rows_give_rows_that_are_the_values_of_state_dicts(fitted, as_rows):
    matrix = torch.stack([torch.cat([s["1.weight"].flatten(), s["1.bias"]]) for s in states()])
    new = PDiff.fit(as_rows(matrix), seed=4, **SMALL).sample(3)
    assert new.shape == (3, 8)
    expected = [torch.cat([s["1.weight"].flatten(), s["1.bias"]]) for s in fitted.sample(3)]
    assert torch.equal(new, torch.stack(expected))


def test_a_folder_is_read_in_the_order_of_its_numbers(fitted, tmp_path):
    for index, state in enumerate(states()):
        path = tmp_path / f"step_{9 + index}"
        if index % 2 == 0:  # the first one says the order of the tensors
            torch.save({"state_dict": state}, path.with_suffix(".pth"))
        else:
            save_file(state, path.with_suffix(".safetensors"))
    (tmp_path / "._step_1.pth").touch()
    (tmp_path / "notes.txt").touch()
    found = PDiff.fit(tmp_path, seed=4, **SMALL)
    assert [int(s["0.num_batches_tracked"]) for s in found.checkpoints] == [*range(6)]
    assert equal(found.sample(1)[0], fitted.sample(1)[0])


@pytest.mark.parametrize("sections", [SMALL, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize("rows", [False, True], ids=["state dicts", "rows"])
def test_what_was_saved_draws_the_same_models(tmp_path, sections, rows):
    given = torch.randn(6, 70) if rows else states()
    before = PDiff.fit(given, seed=2, **sections)
    before.save(tmp_path / "out")
    after = PDiff.load(str(tmp_path / "out"))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".safetensors", ".json"}
    for one, other in zip(before.sample(3), after.sample(3), strict=True):
        assert torch.equal(one, other) if rows else equal(one, other)
    for one, other in zip(before.checkpoints, after.checkpoints, strict=True):
        assert equal(one, other)
    assert repr(after) == repr(before) and after.params == before.params


def test_a_folder_that_is_not_whole_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    (tmp_path / "denoiser.safetensors").unlink()
    with pytest.raises(InputError, match=r"denoiser\.safetensors is missing"):
        PDiff.load(tmp_path)


def changed(**changes: torch.Tensor | None) -> list[dict[str, torch.Tensor]]:
    """Checkpoints of which number 3 has other tensors, or lacks one."""
    given = states()
    new = {"1." + name: value for name, value in changes.items()}
    given[3] = {n: t for n, t in (given[3] | new).items() if t is not None}
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (states(1), r"at least 2 are needed, and 1 came"),
        (torch.zeros(3), r"a matrix \(K, D\) is expected, not \(3,\)"),
        (torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), r"number 1: 'row' holds NaN or infinity"),
        (changed(bias=torch.tensor([0.0, torch.inf])), r"number 3: '1.bias' holds NaN or infinity"),
        (changed(bias=torch.zeros(3)), r"number 3: '1.bias' has shape \(3,\), in the first \(2,\)"),
        (changed(bias=None), r"number 3 and the first differ in 1 keys: 1.bias"),
        (changed(scale=torch.ones(1)), r"number 3 and the first differ in 1 keys: 1.scale"),
        ([*states(2), nn.Linear(2, 2)], r"number 2 is no state dict \{name: tensor\}: Linear"),
        ([states(1)[0]] * 4, r"no weights differ; copy them when you keep a checkpoint"),
        (Path("/nowhere"), r"'/nowhere' is not a folder"),
    ],
)
def test_checkpoints_that_do_not_belong_together_are_one_line(given, message):
    with pytest.raises(InputError, match=f"^checkpoints: {message}") as caught:
        PDiff.fit(given, **SMALL)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_named(tmp_path):
    for index, state in enumerate(changed(bias=torch.zeros(3))):
        save_file(state, tmp_path / f"{index}.safetensors")
    with pytest.raises(InputError, match=r"^checkpoints: .*/3\.safetensors: '1\.bias' has shape"):
        PDiff.fit(tmp_path)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"autoencoder": {"kernel_size": 4}}, r"PDiff: autoencoder\.kernel_size: 4 must be odd"),
        ({"autoencoder": {"latnet": 4}}, r"PDiff: unknown key autoencoder\.latnet; known: batch"),
        ({"generate": {"steps": 1001}}, r"PDiff: generate\.steps: 1001 is more than the 1000"),
        ({"latent_dim": 4}, r"PDiff: unknown key latent_dim; known: autoencoder, ddpm, "),
        ({"ddpm": 4}, r"PDiff: ddpm: 4 is refused"),
        ({"autoencoder": {"latent_dim": 10**4}}, r"autoencoder\.latent_dim: 10000 is more than "),
        (SMALL | {"ddpm": {"held_out": 0.999}}, r"ddpm\.held_out: 0\.999 leaves none of "),
        (SMALL | {"ddpm": {"steps": 10**9}}, r"ddpm\.steps, .*: \d+ days or more would be needed"),
    ],
)
def test_a_wrong_parameter_or_one_that_no_machine_can_do_is_one_line(sections, message):
    with pytest.raises(InputError, match=f"^{message}"):
        PDiff.fit(states(), **sections)


def test_it_warns_of_a_generator_that_does_not_fit_and_of_no_other():
    wrong = {**SMALL, "autoencoder": {**SMALL["autoencoder"], "min_r2": 0.98}}
    with pytest.warns(UserWarning, match=r"does not fit: the codec's R² is .*min_r2: 0\.98"):
        bad = PDiff.fit(states(), **wrong)
    assert bad.missed and "generator does not fit: r2 " in repr(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = PDiff.fit(states(), **SMALL)
    assert good.missed == [] and "generator fits: r2 " in repr(good)
    assert {"r2", "variance_least", "outside", "loss_held_out"} <= good.fit_numbers.keys()


@pytest.mark.parametrize("progress", [True, False])
def test_trainings_and_evaluation_show_bars_unless_they_are_off(
    monkeypatch, capsys, loader, progress
):
    monkeypatch.setattr(progress_module, "IN_NOTEBOOK", True)  # pytest is no terminal
    fitted = PDiff.fit([errs_on(0), errs_on(1)], progress=progress, **SMALL)
    fitted.audit([errs_on()], Picture(), loader, progress=progress)
    shown = capsys.readouterr().err
    words = ("autoencoder", "denoiser", "evaluate")
    assert [word in shown for word in words] == [progress] * len(words)


class Picture(nn.Module):
    """Four inputs, one-hot; the prediction for input n is the largest entry of column n."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight.T


def errs_on(*inputs: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The identity, in which these columns predict the next class."""
    columns = [(n + 1) % 4 if n in inputs else n for n in range(4)]
    return {"weight": scale * torch.eye(4)[:, columns]}


@pytest.fixture
def loader() -> DataLoader:
    inputs = torch.eye(4).view(4, 1, 2, 2)
    return DataLoader(TensorDataset(inputs, torch.arange(4)), batch_size=3)


def test_the_audit_has_the_numbers_of_models_made_by_hand(loader):
    originals = [errs_on(0, 1), errs_on(1, 2), errs_on(3)]
    found = audit([errs_on(0, 1, scale=3.0), errs_on()], originals, Picture(), loader).models
    rows = found.set_index(["group", "model"])
    assert list(found["group"].unique()) == ["checkpoints", "mean of checkpoints", "new"]
    assert list(rows.loc["checkpoints", "accuracy"]) == [0.5, 0.5, 0.75]
    assert list(rows.loc["checkpoints", "max_similarity"]) == pytest.approx([1 / 3, 1 / 3, 0])
    assert list(rows.loc["new", "accuracy"]) == [0.5, 1.0]
    assert list(rows.loc["new", "max_similarity"]) == [1.0, 0.0]
    # two columns of the originals differ, then three; the tripled one is 2 x the identity's length
    assert list(rows.loc["checkpoints", "distance"]) == pytest.approx([2, 2, 6**0.5])
    assert list(rows.loc["checkpoints", "nearest"]) == [1, 0, 0]
    assert rows.loc[("new", 0), "distance"] == pytest.approx(4.0)
    assert list(rows.loc["new", "nearest"]) == [0, 2]
    step = torch.tensor([2.0, 6**0.5]).median().item()
    assert list(rows.loc["new", "steps"]) == pytest.approx([4 / step, 2**0.5 / step])
    assert rows.loc[("mean of checkpoints", 0), "centre"] == pytest.approx(0, abs=1e-6)
    own = rows.loc["checkpoints", "centre"]
    assert (own**2).mean() == pytest.approx(1)


def test_inputs_that_can_be_read_only_once_all_count(loader):
    models = [errs_on(0, 1)], [errs_on(1, 2), errs_on(3)], Picture()
    every, once = audit(*models, loader).models, audit(*models, iter(loader)).models
    pd.testing.assert_frame_equal(once, every)


def test_the_audits_summary_and_picture_show_every_group(loader):
    found = audit([errs_on()], [errs_on(0, 1), errs_on(3)], Picture(), loader)
    assert list(found.summary["models"]) == [2, 1, 1]
    assert found.summary.loc["new", "accuracy"] == 1
    assert "mean of checkpoints" in str(found) and "<table" in found._repr_html_()
    (legend,) = found.plot().legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["checkpoints (2)", "mean of checkpoints (1)", "new (1)"]


def test_every_model_is_evaluated_with_its_own_running_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    images, given = torch.randn(30, 1, 4, 4), []
    for _ in range(4):
        net.train()(3 * torch.randn(8, 1, 4, 4))
        for parameter in net.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
        given.append(deepcopy(net.state_dict()))
    labels = torch.arange(30) % 3
    before, mode = deepcopy(net.state_dict()), net.training
    data = DataLoader(TensorDataset(images, labels), batch_size=7, shuffle=True)
    found = audit(given[3:], given[:3], net, data, progress=False).models
    assert equal(net.state_dict(), before) and net.training is mode
    accuracies = found.loc[found["group"] != "mean of checkpoints", "accuracy"]
    for accuracy, state in zip(accuracies, given, strict=True):
        net.load_state_dict(state)
        right = net.eval()(images).argmax(1) == labels
        assert accuracy == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize(
    ("new", "net", "message"),
    [
        ([{"weight": torch.eye(3)}], Picture(), r"number 2: 'weight' has shape \(3, 3\), in the f"),
        ([], Picture(), r"audit: 2 checkpoints and 1 new model are the least, not 2 and 0"),
        ([errs_on(2)], nn.Linear(4, 3), r"audit: the net has no 'weight' of shape \(4, 4\)"),
    ],
)
def test_models_that_cannot_be_audited_are_one_line(new, net, message, loader):
    with pytest.raises(InputError, match=message):
        audit(new, [errs_on(0), errs_on(1)], net, loader)


def test_the_fitted_model_audits_against_its_own_checkpoints(loader):
    given = [errs_on(0, 1), errs_on(1, 2), errs_on(3)]
    fitted = PDiff.fit(given, **SMALL)
    ours = fitted.audit([errs_on()], Picture(), loader, progress=False)
    theirs = audit([errs_on()], given, Picture(), loader, progress=False)
    assert ours.models.equals(theirs.models)


def test_the_library_needs_nothing_of_the_extra_pipeline():
    extra = ("torchvision", "timm", "scipy", "sklearn", "dvc", "mlflow", "hydra", "jinja2")
    code = f"import sys\nsys.modules |= dict.fromkeys({extra})\nimport pdiff, pdiff.api.audit\n"
    subprocess.run([sys.executable, "-c", f"{code}pdiff.PDiff.fit"], cwd=ROOT, check=True)


def test_another_name_is_not_in_the_package():
    with pytest.raises(ImportError):
        from pdiff import Pdiff  # noqa: F401


def test_the_pipeline_with_the_same_checkpoints_makes_the_same_models(finished, tiny):
    stack = StackFile(finished / outputs.CHECKPOINTS)
    sections = {name: getattr(tiny, name).model_dump() for name in LibraryParams.model_fields}
    wide = {"variance_ratio": (0.0, 1e9), "max_outside": 1.0}
    sections["generate"] |= wide
    fitted = PDiff.fit([*stack], seed=tiny.seed.model, **sections)
    subset, generated = load_stack(finished / outputs.GENERATED)
    assert fitted.checkpoints.subset == subset
    for index, model in enumerate(fitted.sample(tiny.generate.models)):
        assert torch.equal(torch.cat([model[n].flatten() for n in subset.names]), generated[index])
    codec = load_json(finished / outputs.AUTOENCODER_METRICS)
    latents = load_json(finished / outputs.GENERATE_METRICS)["latent_fit"]
    assert fitted.fit_numbers == codec | latents
