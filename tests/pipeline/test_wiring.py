"""What a stage hands to the next one equals a plain computation of it, at toy sizes."""

import pandas as pd
import pytest
import torch

import pdiff.autoencoder.train
import pdiff.diffusion.train
from pdiff.autoencoder.codec import ConvCodec
from pdiff.core.files import load_tensors
from pdiff.diffusion.latents import LatentModel, held_out_rows
from pdiff.evaluation.predict import accuracy, predict_plain
from pdiff.evaluation.predictions import load_predictions
from pdiff.images.batches import EvaluationBatches, load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.normalisation import Normalisation
from pdiff.parameters.stack import load_stack
from pdiff.parameters.subset import Models
from stages import audit

PREDICTIONS = ("predictions_originals", "predictions_generated")


def predictions(folder, split) -> tuple[dict, torch.Tensor]:
    found = [load_predictions(folder / f"data/{name}.safetensors", split) for name in PREDICTIONS]
    return found[0][0] | found[1][0], found[0][1]


@pytest.fixture(scope="module")
def matrices(finished, tiny) -> dict[str, torch.Tensor]:
    """The parameters of all models, drawn again from their seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        return audit.gather(tiny).matrices


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_group_predicts_what_its_parameters_predict(finished, tiny, matrices, split):
    """Parameters are drawn again from their seeds and evaluated the plain way."""
    saved, _ = predictions(finished, split)
    assert saved.keys() == matrices.keys()
    net = load_net(finished / "models/base.safetensors")
    subset, _ = load_stack(finished / "data/checkpoints.safetensors")
    images = getattr(load_images(finished / "data/images.safetensors"), split)
    batches = EvaluationBatches(images, tiny.data, 60)
    for group, matrix in matrices.items():
        plain = predict_plain(net, Models(subset, matrix), lambda: batches)
        assert torch.equal(saved[group], plain), group


@pytest.mark.parametrize(("split", "choosing"), [("test", "validation"), ("validation", "test")])
def test_a_model_has_the_accuracies_of_both_splits(rerun, split, choosing):
    folder = rerun({"novelty.split": split, "novelty.audit": False}, "novelty")
    models = pd.read_csv(folder / "data/models.csv")
    for column, name in (("accuracy", split), ("choosing_accuracy", choosing)):
        saved, labels = predictions(folder, name)
        for group, part in models.groupby("group"):
            expected = accuracy(saved[group], labels).tolist()
            assert part[column].tolist() == pytest.approx(expected, abs=1e-6), group
    assert (models["accuracy"] != models["choosing_accuracy"]).mean() > 0.9


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_latents_are_encoded_as_params_say(rerun, tiny_raw, norm):
    """And decoded so: a plain pass of the normalised checkpoints through the autoencoder."""
    decode_norm = {"running": "running", "batch": "sample"}[norm]
    norms = {"autoencoder.encode_norm": norm, "autoencoder.decode_norm": decode_norm}
    folder = rerun(norms, "train_autoencoder", "train_ddpm", "generate")
    codec = ConvCodec.load(folder / "models/autoencoder.safetensors")
    subset, matrix = load_stack(folder / "data/checkpoints.safetensors")
    normalisation = Normalisation.fit(Models(subset, matrix), tiny_raw["autoencoder"]["normalise"])
    with torch.no_grad():
        latents = codec.autoencoder.encode(normalisation.apply(matrix), norm)
        saved = load_tensors(folder / "data/latents.safetensors")[0]["latents"]
        torch.testing.assert_close(saved, latents)
        drawn = load_tensors(folder / "data/generated_latents.safetensors")[0]["latents"]
        decoded = normalisation.invert(codec.autoencoder.decode(drawn, decode_norm))
    torch.testing.assert_close(load_stack(folder / "data/generated.safetensors")[1], decoded)


@pytest.mark.parametrize("kind", ["tensor", "parameter"])
def test_the_autoencoder_trains_on_normalised_checkpoints(rerun, monkeypatch, kind):
    seen = spy(monkeypatch, pdiff.autoencoder.train, "train_autoencoder")
    folder = rerun({"autoencoder.normalise": kind}, "train_autoencoder")
    subset, _ = load_stack(folder / "data/checkpoints.safetensors")
    (matrix,) = seen
    if kind == "parameter":
        means, stds = matrix.mean(0), matrix.std(0)
    else:
        tensors = matrix.split(subset.sizes, 1)
        means = torch.stack([part.mean() for part in tensors])
        stds = torch.stack([part.std(1).mean() for part in tensors])
    torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-4, rtol=0)
    torch.testing.assert_close(stds, torch.ones_like(stds), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["dimension", "whiten"])
def test_the_denoiser_trains_on_standard_latents_and_its_samples_are_scaled_back(
    rerun, tiny, monkeypatch, kind
):
    seen = spy(monkeypatch, pdiff.diffusion.train, "train_denoiser")
    folder = rerun({"ddpm.standardise": kind}, "train_ddpm", "generate")
    (standard,) = seen
    count = standard.shape[1]
    torch.testing.assert_close(standard.mean(0), torch.zeros(count), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0), torch.ones(count), atol=1e-3, rtol=0)
    latents = load_tensors(folder / "data/latents.safetensors")[0]["latents"]
    held_out = held_out_rows(len(latents), tiny.ddpm.held_out)
    model = LatentModel.load(folder / "models/denoiser.safetensors")
    back, scale = model.statistics.invert(standard), latents.std(0).max().item()
    rounding = 5e-3 * scale  # `whiten` leaves out directions that are smaller than this
    torch.testing.assert_close(back, latents[~held_out], atol=rounding, rtol=0)
    generated = load_tensors(folder / "data/generated_latents.safetensors")[0]["latents"]
    # a toy denoiser's samples are no further away than noise
    assert ((generated - latents.mean(0)).abs() < 6 * scale).all()


def spy(monkeypatch, module, name: str) -> list[torch.Tensor]:
    """The first argument of each call of a module's training."""
    seen, train = [], getattr(module, name)

    def watched(first, *args, **kwargs):
        seen.append(first.clone())
        return train(first, *args, **kwargs)

    monkeypatch.setattr(module, name, watched)
    return seen
