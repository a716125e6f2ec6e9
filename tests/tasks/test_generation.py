"""Image generation: the denoising loss, sampling of many models, FID, and what `check` refuses."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn
from torch.func import functional_call

from pdiff import outputs
from pdiff.config import Params, parse_params
from pdiff.evaluation import features
from pdiff.evaluation.features import frechet_distance, moments
from pdiff.evaluation.predictions import load_scores
from pdiff.images.batches import load_images, save_images
from pdiff.paper.cli import main
from pdiff.parameters.subset import Models, select_subset
from pdiff.system.errors import InputError
from pdiff.tasks.generation import pixels
from pdiff.tasks.registry import make_task
from tests.conftest import TINY, change, composed
from tests.toys.pipeline import run_stages

pytest.importorskip("diffusers")
NET = '''
import torch
from torch import nn

class Tiny(nn.Module):
    """A denoiser of two layers."""

    def __init__(self, num_classes, channels=3):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.conv_out = nn.Conv2d(4, channels, 3, padding=1)

    def forward(self, images, timesteps):
        level = (torch.as_tensor(timesteps).float() / 1000).reshape(-1, 1, 1, 1)
        return self.conv_out(torch.tanh(self.body(images) + level))

class Added(Tiny):
    """Its output layer is not the last thing that it does."""

    def forward(self, images, timesteps):
        return super().forward(images, timesteps) + images

def grey(num_classes):
    return Tiny(num_classes, channels=1)
'''


@pytest.fixture(scope="module")
def raw_generation(tmp_path_factory):
    """Images of two classes, dark and bright, and an own net of 8 px."""
    folder = tmp_path_factory.mktemp("generation")
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 30)):
        for name, level in (("bright", 200), ("dark", 20)):
            place = folder / "images" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 50, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(noise + np.uint8(level)).save(place / f"{i:03d}.png")
    (folder / "net.py").write_text(NET)
    raw = composed(
        *("net=unet_mini", "data=mnist_images", f"data.root={folder}/images", "data.expect=null"),
        *(f"base.net={folder}/net.py:Tiny", f"base.watch={folder}/net.py"),
    )
    data = {"data.size": 8, "data.resize": 8, "data.validation_size": 20, "data.test_size": None}
    own = {"task.options.samples": 40, "task.judging.steps": 4, "data.train_size": None}
    return change(raw, **data, **own, task__judging__classifier_steps=60)


def of(params: Params):
    return make_task(params.task, params.data)


def start(params: Params):
    return of(params).start(params.base, [])


@pytest.fixture
def make(raw_generation):
    """Parameters with a few changed."""

    def made(**changes):
        return parse_params(change(raw_generation, **changes))

    return made


@pytest.fixture(scope="module")
def ready(raw_generation):
    """Task, images, a net, four models of its output layer, the last of them the net itself."""
    params = parse_params(raw_generation)
    task = of(params)
    images = task.read(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = start(params)
    subset = select_subset(net, "conv_out")
    base = torch.cat([dict(net.named_parameters())[name].flatten() for name in subset.names])
    matrix = (
        base + torch.tensor([0.5, 0.1, 0.01, 0])[:, None] * torch.randn(4, len(base))
    ).detach()
    return task, images, net, Models(subset, matrix)


@pytest.fixture(scope="module")
def evaluation(ready):
    return evaluation_of(ready)


def evaluation_of(ready, batch_size=500):
    task, images, net, models = ready
    return task.evaluation(net, models.subset.names, images, (batch_size, 64))


def test_the_distance_of_one_dimensional_gaussians_is_known_by_hand():
    """(1 - 4)^2 + (2 - 3)^2, of means 1 and 4 and standard deviations 2 and 3."""
    a, b = (
        (torch.tensor([mean]).double(), torch.tensor([[std**2]]).double())
        for mean, std in ((1.0, 2.0), (4.0, 3.0))
    )
    assert frechet_distance(a, b) == pytest.approx(10)


def test_the_distance_agrees_with_a_matrix_square_root():
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)) + i for i in range(2))
    first, second = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected += np.trace(first + second - 2 * sqrtm(first @ second).real)
    found = frechet_distance(*(moments(torch.from_numpy(x).float()) for x in (a, b)))
    assert found == pytest.approx(expected, rel=1e-4)


def test_features_of_lower_rank_have_a_finite_distance_of_zero_to_themselves():
    flat = moments(
        torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 6)
    )
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-5)


def test_a_batch_is_noised_as_the_schedule_of_diffusers_does(ready):
    from diffusers import DDPMScheduler

    task, images, *_ = ready
    plain = replace(images.train, columns={n: c[:5] for n, c in images.train.columns.items()})
    ((noised, timesteps, noise),) = task.batches(plain, 5, torch.Generator().manual_seed(1))
    clean = noised[0] - DDPMScheduler().add_noise(noised * 0, noise, timesteps)[0]
    kept = DDPMScheduler().alphas_cumprod[timesteps[0]].sqrt()
    distances = (clean / kept - (plain.columns["images"].float() / 127.5 - 1)).abs().flatten(1)
    assert distances.max(1).values.min() < 1e-3


def test_a_net_that_finds_the_noise_has_no_loss(ready):
    task, images, *_ = ready

    class Knows(nn.Module):
        def forward(self, images, timesteps):
            return batch[2]

    batch = next(task.batches(images.train, 8, torch.Generator()))
    assert task.loss(Knows(), batch).item() == 0


def test_the_validation_loss_is_the_same_each_time(ready):
    task, images, net, _ = ready
    scores = {task.score(net, images.validation, 7) for _ in range(2)}
    assert len(scores) == 1 and 0.5 < scores.pop() < 5


def test_an_image_set_survives_its_file_and_has_an_entry_for_each_sample(ready, tmp_path):
    _, images, *_ = ready
    save_images(tmp_path / "images.safetensors", images)
    found = load_images(tmp_path / "images.safetensors")
    assert [len(getattr(found, name)) for name in ("train", "validation", "test")] == [100, 40, 40]
    assert torch.equal(found.test.columns["images"], images.test.columns["images"])
    repeated = found.validation.columns["images"]  # of 20
    assert torch.equal(repeated[:20], repeated[20:])


def test_models_that_share_a_pass_sample_what_each_samples_alone(ready, evaluation):
    """Against a plain loop over the steps with the whole net."""
    from diffusers import DDIMScheduler

    task, _, net, models = ready
    noise = evaluation._noise["test"]
    found = evaluation._sampler.sample([models[i] for i in range(3)], noise)
    schedule = DDIMScheduler(timestep_spacing="trailing")
    schedule.set_timesteps(task.judging.steps)
    for i in range(3):
        images = noise
        for t in schedule.timesteps:
            with torch.no_grad():
                epsilon = functional_call(net, models[i], (images, t))
            images = schedule.step(epsilon, t, images).prev_sample
        assert torch.allclose(found[i], images, atol=1e-4)


def test_samples_do_not_depend_on_the_size_of_a_batch(ready):
    found = [evaluation_of(ready, size).judge("test", ready[3]) for size in (7, 500)]
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3)


def test_the_base_net_has_all_samples_right_and_a_distant_model_is_further_away(ready, evaluation):
    rows, scores = evaluation.judge("validation", ready[3])
    assert rows[3].tolist() == [1] * 40
    assert scores.shape == (4,) and (scores > 0).all()
    assert abs(scores[2] - scores[3]) < abs(scores[0] - scores[3])


def test_a_score_is_the_distance_to_all_reference_images(ready, evaluation):
    _, images, _, models = ready
    samples = evaluation._sampler.sample([models[0]], evaluation._noise["test"])[0]
    scaled = images.train.columns["images"].float() / 127.5 - 1
    found = [moments(evaluation._judge.features(x)) for x in (samples, scaled)]
    assert evaluation.judge("test", models)[1][0].item() == pytest.approx(
        frechet_distance(*found), rel=1e-4
    )


def test_two_evaluations_judge_alike(ready, evaluation):
    first, second = (each.judge("test", ready[3]) for each in (evaluation, evaluation_of(ready)))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_the_classifier_tells_dark_from_bright(ready, evaluation):
    _, images, *_ = ready
    scaled = images.test.columns["images"].float() / 127.5 - 1
    assert torch.equal(evaluation._judge.classes(scaled), images.test.columns["classes"])


def test_a_model_that_is_not_finite_is_never_right_and_infinitely_far(ready, evaluation):
    models = ready[3]
    broken = Models(models.subset, torch.full((1, models.subset.length), torch.nan))
    rows, scores = evaluation.judge("test", broken)
    assert rows.unique().tolist() == [-1]
    assert math.isinf(scores.item())


def test_a_picture_shows_both_models_side_by_side(ready, evaluation):
    models = ready[3]
    picture, words = evaluation.picture([models[3], models[3]])
    half = picture[..., : (picture.shape[2] - 12) // 2]
    assert torch.equal(half, picture[..., -half.shape[2] :])
    assert half.float().std() > 10
    assert words.startswith("Samples of the first original (left)")


def test_inception_gets_whole_pixel_values(ready, monkeypatch):
    class Inception(nn.Module):
        def forward(self, images):
            assert images.dtype == torch.uint8
            return (images.flatten(1).float(),)

    monkeypatch.setattr(features, "_inception", Inception)
    task, images, *_ = ready
    train, generator = pixels(images.train), torch.Generator().manual_seed(0)
    judge = features.Judge(train, task.data, features.Classifier(8, 4, 2), 1, True, generator)
    found = judge.features(
        torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0]).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    )
    assert found[:, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("name", "select"), [("Added", "conv_out"), ("Tiny", "all")])
def test_what_cannot_share_a_pass_is_sampled_whole_and_says_so(ready, make, name, select):
    own = make().base.net.replace("Tiny", name)
    net = start(make(base__net=own))
    subset = select_subset(net, select)
    with pytest.warns(UserWarning, match="whole net for every model"):
        evaluation = ready[0].evaluation(net, subset.names, ready[1], (500, 64))
    base = {n: p.detach() for n, p in net.named_parameters() if n in subset.names}
    assert evaluation.judge("test", [base])[0].unique().tolist() == [1]


def test_no_warning_where_models_share_a_pass(ready, recwarn):
    evaluation_of(ready)
    assert not [w for w in recwarn if "whole net" in str(w.message)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__options__samples": 32}, "32 are too few for the covariance of the 32 features"),
        ({"task__judging__steps": 1001}, "task.judging: steps: 1001 is refused"),
        ({"task__judging__extractor": "vgg"}, "extractor: 'vgg' is refused"),
        ({"data__mean": [0.5, 0.4, 0.5]}, "data.mean, data.std: samplers expect"),
        ({"base__net": "resnet18"}, "unknown 'resnet18'; generation knows unet_mini"),
        ({"base__pretrained": True}, "no weights of .*Tiny to download"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(make, changes, message):
    with pytest.raises(InputError, match=message) as error:
        params = make(**changes)
        of(params).check(params.base)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_told_with_what_installs_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr("pdiff.tasks.generation.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs more: pip install diffusers torch_fidelity$"):
        params = make(task__judging__extractor="inception", task__options__samples=3000)
        of(params).check(params.base)


def test_a_net_with_another_number_of_channels_is_refused(make, raw_generation):
    own = raw_generation["base"]["net"].replace("Tiny", "grey")
    with pytest.raises(InputError, match=r"into \(1, 1, 8, 8\); a denoiser gives 3 channels"):
        start(make(base__net=own))


def test_a_size_that_the_net_cannot_halve_is_refused(make):
    with pytest.raises(InputError, match=r"unet_mini cannot take 3 channels of data.size: 10 px"):
        start(make(base__net="unet_mini", data__size=10, data__resize=10))


def test_images_of_any_size_are_brought_to_that_of_the_net(make, tmp_path):
    for part in ("train", "test"):
        for name, grey in (("a", 51), ("b", 102)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (120 + i, 100), (grey,) * 3).save(
                    tmp_path / part / name / f"{i}.png"
                )
    train = of(make(data__root=str(tmp_path))).read(torch.Generator()).train.columns
    assert train["images"].shape == (20, 3, 8, 8)
    assert torch.equal(train["images"][:, 0, 0, 0], 51 * (train["classes"] + 1))


def test_weights_of_another_net_are_refused(make, tmp_path):
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth does not belong to .*Tiny"):
        start(make(base__weights=str(tmp_path / "other.pth")))


@pytest.mark.parametrize(
    ("net", "size", "length"), [("unet_mini", 16, 435), ("ddpm_cifar10", 32, 3459)]
)
def test_the_output_layer_has_the_number_of_values_that_is_said(net, size, length):
    from pdiff.nets.unets import build_unet

    with torch.device("meta"):
        found = build_unet(net, 10, size)
    assert select_subset(found, "conv_out").length == length
    if net == "ddpm_cifar10":
        assert sum(p.numel() for p in found.parameters()) == 35_746_307


def test_the_papers_preset_is_the_papers_net_with_its_own_weights():
    params: Params = parse_params(composed("recipe=paper", "data=cifar10", "net=ddpm_cifar10"))
    assert (params.task.name, params.base.pretrained, params.base.epochs) == ("generation", True, 0)
    assert params.task.judging["extractor"] == "inception"
    assert params.finetune.lr == params.finetune.lr_end == 1e-4  # the recipe's 0.03 is for norms


@pytest.mark.slow
def test_the_whole_pipeline_ends_with_distances_and_a_picture(raw_generation, tmp_path):
    learned = {key: value for key, value in TINY.items() if not key.startswith(("data.", "base."))}
    own = {"task.options.samples": 40, "task.judging.steps": 2, "base.epochs": 2}
    raw = change(raw_generation, **learned | own)
    run_stages(tmp_path, raw)
    found = json.loads((tmp_path / outputs.NOVELTY_METRICS).read_text())["score"]
    scores, name, larger = load_scores(tmp_path / outputs.PREDICTIONS_GENERATED, "test")
    assert (name, larger) == ("FID", False)
    assert found["generated_best"] == pytest.approx(scores["generated"].min().item(), abs=1e-4)
    assert found["generated_best"] <= found["generated_mean"]
    base = json.loads((tmp_path / outputs.BASE_METRICS).read_text())
    assert 0 < base["base_test_denoising_loss"] < 2
    report = (tmp_path / outputs.AUDIT / "report.html").read_text()
    assert "FID mean" in report
    assert "Samples of the first original (left)" in report


def test_table_12_runs_the_local_net_and_shows_the_papers_with_its_command(capsys, tmp_path):
    assert main(["12", "--dry-run", "--data", "mnist_images", "-S", "data.root=/images"]) == 0
    planned = capsys.readouterr().out
    assert "table_12: 1 experiments, 1 to run" in planned
    assert "-S recipe=quick -S data=mnist_images -S net=unet_mini" in planned
    assert main(["12", "--no-run", "--any-code", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "table_12.md").read_text()
    assert "| CIFAR-10, google/ddpm-cifar10-32 | 3.17 / - / not run |" in page
    assert "dvc exp run -S recipe=paper -S data=cifar10 -S net=ddpm_cifar10" in page


def test_the_papers_cell_of_table_12_runs_if_it_is_named(capsys):
    assert main(["12", "--dry-run", "--net", "ddpm_cifar10"]) == 0
    assert "recipe=paper -S data=cifar10 -S net=ddpm_cifar10" in capsys.readouterr().out
