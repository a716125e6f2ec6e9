"""All stages in a row at toy sizes, in this process: the same seed gives the same bytes."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pdiff.autoencoder.codec import ConvCodec
from pdiff.baselines.registry import count_models
from pdiff.config import parse_params
from pdiff.core.files import load_json, load_tensors, save_tensors, write_json
from pdiff.core.runtime import make_generator
from pdiff.diffusion.latents import LatentModel
from pdiff.evaluation.predict import accuracy
from pdiff.evaluation.predictions import load_predictions
from pdiff.images.batches import load_images
from pdiff.nets.base import measure_accuracy
from pdiff.nets.registry import load_net
from pdiff.novelty.bootstrap import by_group
from pdiff.parameters.stack import load_stack
from pdiff.parameters.subset import Models
from pdiff.tracking.comparison import MEASURES, texts
from pdiff.tracking.files import Folder
from pdiff.tracking.files import headline as results_headline
from tests.conftest import change
from tests.toys.own import Own
from tests.toys.pipeline import STAGES, go_on, hashes, run_stages

PREDICTIONS = ("data/predictions_originals.safetensors", "data/predictions_generated.safetensors")


@pytest.fixture(scope="module")
def plain_raw(tiny_raw) -> dict:
    """Parameters of a run without an audit."""
    return change(tiny_raw, novelty__audit=False)


@pytest.fixture(scope="module")
def unaudited(finished, plain_raw, tmp_path_factory) -> Path:
    """The finished run, gone on with after the audit was switched off."""
    later = STAGES[STAGES.index("evaluate_originals") :]
    folder = tmp_path_factory.mktemp("unaudited") / "run"
    return go_on(finished, folder, plain_raw, "finetune_again", *later)


@pytest.fixture(scope="module")
def other(plain_raw, tmp_path_factory) -> Path:
    """A run of its own with another model seed, up to the stage `novelty`."""
    folder = tmp_path_factory.mktemp("other") / "run"
    run_stages(folder, change(plain_raw, seed__model=1), STAGES[: STAGES.index("novelty")])
    return folder


def test_the_same_seeds_give_the_same_bytes(other, unaudited, plain_raw, tmp_path):
    """What comes before the autoencoder is that of a run with another model seed."""
    later = ("train_autoencoder", "train_ddpm", "generate", "evaluate_generated")
    go_on(other, tmp_path / "again", plain_raw, *later, "novelty", "audit")
    assert hashes(tmp_path / "again") == hashes(unaudited)


def test_another_model_seed_changes_only_what_comes_after_the_checkpoints(unaudited, other):
    first, second = hashes(unaudited), hashes(other)
    changed = {name for name in second if first[name] != second[name]}
    assert changed - {"metrics/evaluate_generated.json"} == {  # accuracies may be equal by chance
        "params.yaml",
        "models/autoencoder.safetensors",
        "models/denoiser.safetensors",
        *(f"data/{name}.safetensors" for name in ("latents", "generated_latents", "generated")),
        "data/predictions_generated.safetensors",
        *(f"metrics/{name}.json" for name in ("train_autoencoder", "generate")),
        *(f"plots/{name}.csv" for name in ("train_autoencoder", "train_ddpm")),
        "report/examples.png",
    }


def test_generated_models_differ_and_are_finite(finished):
    _, generated = load_stack(finished / "data/generated.safetensors")
    assert generated.isfinite().all() and len(generated.unique(dim=0)) == 6


def test_every_group_has_predictions_on_both_splits(finished):
    originals = load_tensors(finished / "data/predictions_originals.safetensors")[0]
    generated = load_tensors(finished / "data/predictions_generated.safetensors")[0]
    shapes = {name: tuple(tensor.shape) for name, tensor in (originals | generated).items()}
    assert shapes == {
        **{f"{g}.{s}": (m, n) for g, m in (GROUPS | RIVALS).items() for s, n in SPLITS.items()},
        **{f"labels.{split}": (n,) for split, n in SPLITS.items()},
    }


GROUPS = {"original": 12, "ensemble": 1, "generated": 6, "reconstructed": 4}
GROUPS |= {"noised_0.001": 4, "noised_0.05": 4, "noised_0.15": 4}
RIVALS = {"noised_0.5": 3, "absolute_0.06": 3, "soup_2": 3, "soup_8": 3, "interpolated": 3}
RIVALS |= {"ema": 3, "projected_1": 3, "projected_4": 3, "gaussian_full": 3, "gaussian_diagonal": 3}
RIVALS |= {"reconstructed_noise_1": 3, "latent_gaussian": 3}
RIVALS |= {"soup_greedy": 1, "held_back": 3, "fresh": 5}
SPLITS = {"validation": 60, "test": 80}


def test_as_many_models_are_counted_for_an_estimate_as_there_are(tiny, plain_raw):
    without = parse_params(plain_raw)
    assert count_models(tiny) == sum((GROUPS | RIVALS).values())
    assert count_models(without) == sum(GROUPS.values())


def test_the_greedy_soup_begins_with_the_best_original_and_rises(finished):
    soup = load_json(finished / "data/greedy_soup.json")
    saved, labels = load_predictions(finished / PREDICTIONS[0], "validation")
    assert soup["members"][0] == accuracy(saved["original"], labels).argmax()
    assert soup["validation_accuracy"] == sorted(soup["validation_accuracy"])
    reached = accuracy(saved["soup_greedy"], labels).item()
    assert soup["validation_accuracy"][-1] == pytest.approx(reached, abs=1e-6)


def test_without_an_audit_there_are_the_papers_groups_with_the_same_predictions(
    unaudited, finished
):
    found = {}
    for path in PREDICTIONS:
        groups, audited = (load_tensors(folder / path)[0] for folder in (unaudited, finished))
        assert all(torch.equal(value, audited[key]) for key, value in groups.items())
        found |= groups
    labels = {f"labels.{split}" for split in SPLITS}
    assert found.keys() - labels == {f"{g}.{s}" for g in GROUPS for s in SPLITS}
    soup, numbers = (
        load_json(unaudited / name) for name in ("data/greedy_soup.json", "metrics/audit.json")
    )
    assert soup == {"members": [], "validation_accuracy": []}
    assert numbers == {} and list((unaudited / "report/audit").iterdir()) == []
    for name in ("report/summary.csv", "report/similarity.csv", "metrics/novelty.json"):
        assert (unaudited / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_summary_has_the_papers_groups_and_the_headline_their_means(finished):
    summary = pd.read_csv(finished / "report/summary.csv").set_index("group")
    assert summary["models"].to_dict() == GROUPS
    headline = load_json(finished / "metrics/novelty.json")["accuracy"]
    mean = summary.loc["original", "accuracy_mean"]
    assert headline["original_mean"] == pytest.approx(mean, abs=1e-6)


def test_no_output_holds_a_path_or_a_time_of_this_run(finished):
    for path in finished.rglob("*"):
        if path.is_file() and ".work" not in path.parts:
            assert str(finished).encode() not in path.read_bytes(), path


@pytest.fixture(scope="module")
def followed(unaudited, plain_raw, tmp_path_factory) -> Path:
    """The run without an audit, with three samples that are followed."""
    folder = tmp_path_factory.mktemp("followed") / "run"
    raw = change(plain_raw, generate__trajectories=3, generate__trajectory_every=2)
    return go_on(unaudited, folder, raw, "generate", "evaluate_generated")


def test_trajectories_are_a_curve_and_change_no_model(unaudited, followed):
    curve = pd.read_csv(followed / "plots/evaluate_generated.csv")
    assert list(curve) == ["step", "trajectory_mean", *(f"trajectory_{i}" for i in range(3))]
    assert curve["step"].tolist() == [0, 2, 4, 5]
    own = curve[[f"trajectory_{i}" for i in range(3)]]
    assert own.mean(axis=1).to_numpy() == pytest.approx(curve["trajectory_mean"].to_numpy())
    before, after = hashes(unaudited), hashes(followed)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "params.yaml",
        "data/generated_latents.safetensors",
        "plots/evaluate_generated.csv",
    }


def test_a_trajectory_is_evaluated_at_its_own_step(followed, tiny):
    """The accuracies of the curve are those of its latents, decoded and loaded one by one."""
    curve = pd.read_csv(followed / "plots/evaluate_generated.csv").set_index("step")
    saved = load_tensors(followed / "data/generated_latents.safetensors")[0]
    codec = ConvCodec.load(followed / "models/autoencoder.safetensors")
    images = load_images(followed / "data/images.safetensors").test
    for i, trajectory in enumerate(saved["trajectories"]):
        for step, latent in zip(saved["trajectory_steps"].tolist(), trajectory, strict=True):
            net = load_net(followed / "models/base.safetensors")
            ((_, matrix),) = codec.decode(latent[None])
            net.load_state_dict(Models(codec.subset, matrix)[0], strict=False)
            accuracy = measure_accuracy(net, images, tiny.data, 500)
            assert curve.loc[step, f"trajectory_{i}"] == pytest.approx(accuracy)


def test_the_drop_in_accuracy_is_that_of_the_originals_that_were_reconstructed(finished):
    """Of 12 originals 4 are spread evenly: 0, 4, 7 and 11."""
    (originals, labels), (decoded, _) = (
        load_predictions(finished / p, "test") for p in PREDICTIONS
    )
    before = accuracy(originals["original"][[0, 4, 7, 11]], labels).mean()
    metrics = load_json(finished / "metrics/evaluate_generated.json")
    drop = (before - accuracy(decoded["reconstructed"], labels).mean()).item()
    assert metrics["accuracy_drop"] == pytest.approx(drop, abs=1e-6)


def test_replicates_of_the_bootstrap_lie_around_the_headline(finished):
    replicates = by_group(pd.read_csv(finished / "data/bootstrap.csv"))
    headline = load_json(finished / "metrics/novelty.json")["accuracy"]
    names = {"ensemble": "ensemble", "original": "original_mean", "generated": "generated_mean"}
    for group, name in names.items():
        draws = replicates[group].accuracy
        assert len(draws) == 20
        assert draws.min() <= headline[name] <= draws.max()


AUTHORS = {
    **{"autoencoder.normalise": "tensor", "autoencoder.encode_norm": "minibatch"},
    **{"autoencoder.decode_norm": "sample", "ddpm.standardise": "none"},
    **{"ddpm.prediction": "epsilon", "ddpm.held_out": 0.0, "generate.sampler": "ddpm"},
    "ddpm.timesteps": 30,
}
OF_MODEL = ("train_autoencoder", "train_ddpm", "generate")


@pytest.fixture(scope="module")
def authors(finished, tiny_raw, tmp_path_factory):
    """The finished run with the authors' codec and denoiser."""
    folder, raw = tmp_path_factory.mktemp("authors") / "run", change(tiny_raw, **AUTHORS)
    return go_on(finished, folder, raw, *OF_MODEL), raw


def test_the_authors_switches_generate_too(authors):
    """With epsilon, DDPM's own sampler and no standardisation: the statistics change nothing."""
    folder, raw = authors
    latents = load_tensors(folder / "data/generated_latents.safetensors")[0]["latents"]
    model = LatentModel.load(folder / "models/denoiser.safetensors")
    params = parse_params(raw)
    generator = make_generator(params.seed.model, "generate")
    *_, expected = model.diffusion.sample(model.denoiser, latents.shape, generator, "ddpm", 30)
    torch.testing.assert_close(latents, expected)
    fit = load_json(folder / "metrics/generate.json")["latent_fit"]
    assert (fit["loss_held_out"], fit["loss_gaussian"]) == (None, None)


def test_minibatch_statistics_change_what_the_denoiser_learns_and_no_latent(authors, tmp_path):
    """The latents on disk are those of `batch`."""
    folder, raw = authors
    before = hashes(folder)
    raw = change(raw, autoencoder__encode_norm="batch")
    after = hashes(go_on(folder, tmp_path / "run", raw, "train_autoencoder", "train_ddpm"))
    assert before["data/latents.safetensors"] == after["data/latents.safetensors"]
    assert before["models/denoiser.safetensors"] != after["models/denoiser.safetensors"]


def test_a_generator_that_does_not_fit_is_said_loudly(rerun, capsys):
    rerun({"generate.variance_ratio": [0.999, 1.001]}, "generate")
    assert "generate.variance_ratio: 0.999 to 1.001" in capsys.readouterr().err


def test_own_checkpoints_take_the_place_of_training(plain_raw, tmp_path):
    own = Own(tmp_path / "own")
    folder = tmp_path / "run"
    run_stages(folder, own.params(plain_raw, subset__select="fc"))
    base = load_tensors(folder / "models/base.safetensors")[0]
    assert base.keys() == own.base.keys()
    assert all(torch.equal(value, own.base[name]) for name, value in base.items())
    checkpoints = load_tensors(folder / "data/checkpoints.safetensors")[0]
    assert set(checkpoints) == {"fc.weight", "fc.bias"}
    for name, stack in checkpoints.items():
        assert torch.equal(stack, torch.stack([state[name] for state in own.states]))
    assert (folder / "plots/finetune.csv").read_text() == "step,finetune_loss,finetune_lr\n"
    assert len(pd.read_csv(folder / "data/models.csv").query("group == 'original'")) == 5


def test_checkpoints_of_the_hub_are_those_of_a_folder(plain_raw, tmp_path, hub):
    own = Own(tmp_path / "own")
    raw = own.params(plain_raw, subset__select="fc")
    run_stages(tmp_path / "folder", raw, STAGES[:4])
    assert hub.requests == []
    files = {path.name: path.read_bytes() for path in [own.weights, *own.folder.iterdir()]}
    base = files.pop("base.pth")
    commit = hub.commit("user/name", files | {"net/base.pth": base})
    hub.commit("user/name", {"epoch_7.pth": files["epoch_12.pth"]})  # not asked for
    addresses = {"finetune.folder": "", "base.weights": "/net/base.pth"}
    there = {name: f"hf://user/name@{commit}{path}" for name, path in addresses.items()}
    raw = change(raw, **there, finetune__watch="requirements.txt")
    run_stages(tmp_path / "hub", raw, STAGES[:4])
    for name in ("models/base", "data/checkpoints", "data/held_back"):
        file = f"{name}.safetensors"
        assert (tmp_path / "hub" / file).read_bytes() == (tmp_path / "folder" / file).read_bytes()
    assert hub.requests and all("user/name/" in request for request in hub.requests)


def test_own_checkpoints_are_looked_at_before_any_work(tiny_raw, tmp_path, capsys, hub):
    own = Own(tmp_path / "own", classes=7)
    run_stages(tmp_path / "run", own.params(tiny_raw, subset__select="fc"), ("check_params",))
    assert "test_resnet: " in capsys.readouterr().out

    def refused(raw):
        with pytest.raises(SystemExit):
            run_stages(tmp_path / "run", raw, ("check_params",))
        error = capsys.readouterr().err
        assert error.count("error: ") == error.count("\n") == 1
        return error

    raw = own.params(tiny_raw)
    assert "'/gone' is not a folder" in refused(change(raw, finetune__folder="/gone"))
    assert "6 are wanted" in refused(change(raw, finetune__checkpoints=6))
    assert "epoch_8.pth has no" in refused(
        change(raw, base__net="test_vit", base__weights=None, base__epochs=1)
    )
    for key in ("finetune.folder", "base.weights"):
        message = refused(change(raw, **{key: f"hf://user/gone@{'0' * 40}/x.pth"}))
        assert f"error: {key}: hf://user/gone@{'0' * 40}/x.pth: no such repository" in message
    other = Own(tmp_path / "other", classes=9)
    assert "one of 9 classes instead of 7" in refused(change(raw, base__weights=str(other.weights)))


def test_weights_that_are_taken_as_they_are_must_know_the_images_classes(
    tiny_raw, tmp_path, capsys
):
    own = Own(tmp_path / "own", classes=7)
    with pytest.raises(SystemExit):
        run_stages(tmp_path / "run", own.params(tiny_raw), STAGES[:3])
    assert "base.pth has one of 7 classes instead of 10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base.net": "resnet81"},
            "error: base.net: unknown net 'resnet81'; known are convnet_mini, ",
        ),
        ({"subset.select": "layer9"}, "error: subset.select: 'layer9' selects nothing"),
        ({"subset.select": "last_norms:0"}, "error: subset.select: 'last_norms:0' selects"),
        ({"noise.latent": -1}, "error: params.yaml: noise.latent: -1 is refused"),
        ({"data.reader": "folder", "data.root": "/nowhere"}, "error: data.root: /nowhere/train: "),
        ({"data.reader": "imagenot"}, "error: data.reader: unknown 'imagenot'; known: "),
        ({"base.weights": "gone.pth"}, "error: base.weights: gone.pth is missing"),
        ({"ddpm.channels": [4, 8]}, "error: denoiser: channels must be symmetric"),
    ],
)
def test_a_wrong_parameter_is_one_line_before_any_work(
    tiny_raw, tmp_path, capsys, changes, message
):
    with pytest.raises(SystemExit) as stopped:
        run_stages(tmp_path, change(tiny_raw, **changes), ("check_params",))
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("stage_name", "path"),
    [
        ("finetune", "models/base.safetensors"),
        ("train_autoencoder", "data/checkpoints.safetensors"),
        ("train_ddpm", "data/latents.safetensors"),
        ("generate", "models/denoiser.safetensors"),
        ("evaluate_generated", "models/autoencoder.safetensors"),
        ("evaluate_generated", "data/generated_latents.safetensors"),
        ("novelty", "data/predictions_generated.safetensors"),
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_a_broken_input_is_one_line_and_outputs_stay(
    finished, tiny_raw, tmp_path, capsys, stage_name, path, damage
):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    broken = folder / path
    if damage == "truncated":
        broken.write_bytes(broken.read_bytes()[:-7])
    elif damage == "foreign":
        shutil.copyfile(folder / "data/images.safetensors", broken)
    else:
        broken.unlink()
    before = hashes(folder)
    with pytest.raises(SystemExit):
        run_stages(folder, tiny_raw, (stage_name,))
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and Path(path).name in error
    after = hashes(folder)
    assert {name: after[name] for name in before if name != "params.yaml"} == {
        name: value for name, value in before.items() if name != "params.yaml"
    }


def test_the_fit_leads_the_headline_and_the_terminal(unaudited, plain_raw, tmp_path, capsys):
    folder = go_on(unaudited, tmp_path / "copy", plain_raw, "novelty")
    headline, codec, generate = (
        load_json(folder / f"metrics/{name}.json")
        for name in ("novelty", "train_autoencoder", "generate")
    )
    assert next(iter(headline)) == "fit"
    assert {*MEASURES.values()} <= results_headline(Folder(folder)).keys()
    assert texts(Folder(folder))["word"] == "unfit"
    fit, latents = headline["fit"], generate["latent_fit"]
    assert fit["r2"] == codec["r2"]
    shared = fit.keys() & latents.keys()
    assert len(shared) == 8
    assert {name: fit[name] for name in shared} == {name: latents[name] for name in shared}
    summary = pd.read_csv(folder / "report/summary.csv").set_index("group")["similarity_within"]
    assert fit["reconstructed_more_alike"] == pytest.approx(
        summary["reconstructed"] - summary["original"], abs=1e-5
    )
    out, error = capsys.readouterr()
    assert out.startswith(f"generator does not fit: r2 {fit['r2']:.3f}, ")
    assert "WARNING: The generator does not fit: " in error


def test_a_poor_autoencoder_is_said_loudly(rerun, capsys):
    folder = rerun({"autoencoder.min_r2": 0.999}, "train_autoencoder")
    error = capsys.readouterr().err
    assert "less than autoencoder.min_r2: 0.999" in error
    r2 = load_json(folder / "metrics/train_autoencoder.json")["r2"]
    assert f"{'farther away than' if r2 < 0 else 'close to'} the mean checkpoint" in error


def test_a_base_net_and_originals_at_chance_are_said_loudly(rerun, capsys):
    poor = {"base.epochs": 1, "base.lr": 1e-9, "finetune.lr": 1e-9}
    folder = rerun(poor, "train_base", "finetune", "evaluate_originals")
    error = capsys.readouterr().err
    metrics = load_json(folder / "metrics/train_base.json")
    assert f"base net's test accuracy is {metrics['base_test_accuracy']:.4f}; guessing re" in error
    assert "WARNING: the originals' mean test accuracy is 0." in error


def test_generated_models_without_finite_logits_are_counted_and_said(rerun, tiny_raw, capsys):
    folder = rerun({})
    path = folder / "data/generated.safetensors"
    tensors, header = load_tensors(path)
    for tensor in tensors.values():
        tensor[[1, 4]] = 3e38  # times anything above 1.2 it is infinite
    save_tensors(path, tensors, **header)
    run_stages(folder, tiny_raw, ["evaluate_generated"])
    metrics = load_json(folder / "metrics/evaluate_generated.json")
    assert metrics["generated_not_finite"] == 2
    assert "are not finite, and count as wrong, of generated 1, 4\n" in capsys.readouterr().err


def test_checkpoints_that_make_no_finite_logits_are_refused(rerun, tiny_raw, capsys):
    folder = rerun({})
    path = folder / "models/base.safetensors"
    tensors, header = load_tensors(path)
    tensors["fc.bias"][0] = float("nan")
    save_tensors(path, tensors, **header)
    with pytest.raises(SystemExit):
        run_stages(folder, tiny_raw, ["evaluate_originals"])
    error = capsys.readouterr().err
    assert "error: checkpoints: logits are not finite of original 0, 1, 2," in error


def test_the_last_stages_repeat_what_earlier_ones_warned_of(unaudited, plain_raw, tmp_path, capsys):
    """Here only the last two run; a run ends with six lines."""
    folder, raw = tmp_path / "copy", change(plain_raw, evaluate__max_accuracy_drop=0.25)
    shutil.copytree(unaudited, folder)
    for name, key, value in (
        ("train_base", "base_test_accuracy", 0.1),
        ("train_autoencoder", "r2", -86.56),
        ("evaluate_generated", "accuracy_drop", 0.5),
    ):
        path = folder / f"metrics/{name}.json"
        write_json(path, load_json(path) | {key: value})
    wanted = ("R² is -86.56", "accuracy of the base net is 0.1000; guessing", "lose 0.5000 of mean")
    for name in ("novelty", "audit"):
        run_stages(folder, raw, (name,))
        out, error = capsys.readouterr()
        assert all(f"{text}" in error and "WARNING: " in error for text in wanted), name
    (warnings,) = set(pd.read_csv(folder / "report/summary.csv")["warnings"])
    assert all(text in warnings for text in wanted)
    lines = out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("test accuracy (%): original ")
    assert lines[1].startswith("the generator does not fit; generated - original ")
    assert lines[3] == "report:  report/summary.csv"
