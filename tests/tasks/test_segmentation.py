"""Segmentation: what is read, refused, minimised, scored and evaluated."""

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torchvision import models

from examples.fcn import FCN
from examples.mobilenet import mobilenet_025
from pdiff.config import BaseConfig, Params, parse_params
from pdiff.evaluation.cut import CutNet
from pdiff.evaluation.segmentation import palette
from pdiff.images.batches import ImageSet
from pdiff.images.examples import Examples
from pdiff.images.miou import VOID, confusion, mean_iou
from pdiff.nets.segmenters import build_segmenter, check_logits
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError
from pdiff.tasks.segmentation import Segmentation
from tests.conftest import change, composed

HEIGHT, WIDTH = 12, 16
COUNTS = {"train": 6, "val": 3, "test": 4}


@pytest.fixture(autouse=True)
def _own_project(tmp_path, monkeypatch):
    """Locks and relative roots are not those of this checkout."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture(scope="module")
def camvid() -> dict:
    """The preset, for small images of three classes whose void is 3."""
    raw = deepcopy(preset(*CAMVID))
    raw["task"]["options"] |= {"classes": ["sky", "road", "car"], "void": 3, "width": WIDTH}
    small = {"size": HEIGHT, "resize": HEIGHT, "validation_size": 2, "expect": [6, 4]}
    return change(raw, **{f"data.{key}": value for key, value in small.items()})


def write_pair(root: Path, part: str, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for kind, pixels in (("images", image), ("labels", labels)):
        (root / part / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / part / kind / f"{name}.png")


@pytest.fixture
def root(tmp_path) -> Path:
    """CamVid's layout; the red of a pixel is 50 times its label, the green numbers the image."""
    random, folder = np.random.default_rng(0), tmp_path / "set"
    for part, count in COUNTS.items():
        for i in range(count):
            labels = random.integers(0, 4, (HEIGHT, WIDTH))
            image = np.stack([50 * labels, np.full_like(labels, i), 0 * labels], -1)
            write_pair(folder, part, f"{i}", image, labels)
    return folder


@pytest.fixture
def made(camvid, root) -> Callable[..., Segmentation]:
    """`made(section__key=value)`: the task with changed parameters."""

    def make(**changes) -> Segmentation:
        params = changed(camvid, root, **changes)
        return Segmentation(params.task, params.data)

    return make


def changed(camvid: dict, root: Path, **changes) -> Params:
    return parse_params(change(camvid, **{"data__root": str(root)} | changes))


def read(task: Segmentation) -> ImageSet:
    return task.read(torch.Generator().manual_seed(0))


def refused(call: Callable, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@cache
def preset(*overrides: str) -> dict:
    return composed("task=segmentation", *overrides)


CAMVID = ("data=camvid", "net=fcn_mobilenet_025", "data.root=/none")


def base(net: str = "examples/fcn.py:FCN", **changes) -> BaseConfig:
    return parse_params(preset(*CAMVID)).base.model_copy(update={"net": net} | changes)


# what is read


def test_images_and_label_maps_come_back_with_void_as_255(made):
    test = read(made()).test
    red, maps = test.columns["images"][:, 0].long(), test.columns["maps"].long()
    assert maps.shape == (4, HEIGHT, WIDTH)
    assert torch.equal(torch.where(maps == VOID, 3, maps) * 50, red)
    assert (maps == VOID).any() and maps[maps != VOID].unique().tolist() == [0, 1, 2]


def test_the_folder_val_is_the_validation_split(made):
    images = read(made())
    assert [len(split) for split in (images.train, images.validation, images.test)] == [6, 2, 4]
    assert images.classes == ("sky", "road", "car")


def test_without_a_folder_val_training_images_are_held_back(made, root):
    (root / "val").rename(root / "else")
    images = read(made())
    numbers = [s.columns["images"][:, 1, 0, 0].tolist() for s in (images.train, images.validation)]
    assert sorted(numbers[0] + numbers[1]) == [0, 1, 2, 3, 4, 5] and len(numbers[1]) == 2


def test_the_split_of_the_paper_chooses_on_the_test_images(made):
    images = read(made(data__split="paper"))
    assert images.validation is images.test and len(images.train) == 6


def test_fewer_images_are_read_where_fewer_are_wanted(made):
    images = read(made(data__train_size=2, data__test_size=3))
    assert [len(images.train), len(images.test)] == [2, 3]


def test_the_centre_of_a_larger_image_is_taken(made, root):
    """Twice as high and twice as wide but for 8 columns, 4 on each side, that are left out."""
    labels = np.zeros((2 * HEIGHT, 2 * WIDTH + 8))
    labels[:, :4] = labels[:, -4:] = 2
    labels[:, 4 + WIDTH : -4] = 1
    write_pair(root, "test", "0", np.repeat(50 * labels[..., None], 3, -1), labels)
    test = read(made()).test
    assert test.columns["maps"][0, 0].tolist() == [0] * (WIDTH // 2) + [1] * (WIDTH // 2)
    assert test.columns["images"][0, :, 0, 1:7].unique().tolist() == [0]


def test_a_palette_image_is_a_label_map_of_its_numbers(made, root):
    labels = np.full((HEIGHT, WIDTH), 2, np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([200, 100, 0] * 256)
    image.save(root / "test/labels/0.png")
    assert read(made()).test.columns["maps"][0].unique().tolist() == [2]


# what is refused, each in one line


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("L", (WIDTH, HEIGHT + 1)), "has 13 x 16 pixels, .*images/1.png 12 x 16"),
        (Image.new("L", (WIDTH, HEIGHT), 7), "holds the label 7; .* 0 to 2, .* is 3"),
        (Image.new("L", (WIDTH, HEIGHT), VOID), "holds the label 255"),  # here void is 3
        (Image.new("RGB", (WIDTH, HEIGHT)), ".*one channel of 8 bits, not Pillow's RGB"),
    ],
)
def test_a_label_map_that_cannot_be_one_is_refused(made, root, image, said):
    image.save(root / "train/labels/1.png")
    assert re.search(f"train/labels/1.png {said}", refused(read, made()))


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("test/labels/1.png", "test/images/1.png has no label map of the same name"),
        ("train/images/0.png", "train/labels/0.png has no image of the same name"),
        ("train/labels", "train/labels: No such file or directory; a folder of label maps has"),
    ],
)
def test_a_missing_part_is_refused_before_anything_is_read(made, root, gone, said):
    path = root / gone
    path.rename(root / "elsewhere")
    (root / "test/images/3.png").write_bytes(b"broken")  # is never opened
    assert said in refused(made().check, base())


def test_a_folder_of_another_layout_is_refused(made, image_folder):
    said = refused(made(data__root=str(image_folder)).check, base())
    assert "train/images" in said and "train/labels/NAME.png" in said


def test_a_folder_without_images_is_refused(made, root):
    for path in (root / "test/images").iterdir():
        path.unlink()
    assert "test/images holds no image" in refused(made().check, base())


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_broken_file_is_named(made, root, kind):
    (root / "train" / kind / "3.png").write_bytes(b"no image")
    assert f"train/{kind}/3.png is not an image" in refused(read, made())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__expect": [7, 4]}, "the train split in .* has 6 images, a whole copy 7"),
        ({"data__validation_size": 4}, "data.validation_size: 4 images are wanted, at most 3"),
        ({"data__train_size": 9}, "data.train_size: 9 images"),
        ({"data__test_size": 5}, "data.test_size: 5 images"),
    ],
)
def test_a_count_that_the_files_do_not_have_is_refused(made, changes, said):
    with pytest.raises(InputError, match=said):
        read(made(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task__options__void": 1}, "task.options.void: 1 is the label of the class 'road'"),
        ({"data__shift": 2}, "data.shift: 2 has no meaning in segmentation; give 0"),
        ({"data__crop_scale": [0.5, 1.0]}, "data.crop_scale: .* give None"),
        ({"data__noise": 0.1}, "data.noise: 0.1 .* give 0"),
        ({"data__resize": 20}, "data.resize: 20 .* give 12"),
        ({"data__reader": "folder"}, "'folder' gives no label maps; known: label_maps, VOC"),
        ({"data__reader": "coco"}, r"annotations/instances_None.json, .*image_set: val2017"),
        ({"task__options__classes": ["road"]}, "classes: .* at least 2"),
        ({"task__judging__right_from": 1.0}, "right_from: 1.0"),
    ],
)
def test_a_parameter_that_cannot_work_is_refused(made, changes, said):
    with pytest.raises(InputError, match=said):
        made(**changes).check(base())


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("fcn_resnet5", "'fcn_resnet5' does not segment .* did you mean fcn_resnet50"),
        ("resnet18", "'resnet18' does not segment images; known are deeplabv3_"),
        ("examples/fcn.py:Missing", "must be examples/fcn.py:NAME"),
    ],
)
def test_an_unknown_net_is_refused(made, net, said):
    with pytest.raises(InputError, match=said):
        made().check(base(net, watch="examples/fcn.py"))


def test_a_classifier_is_refused():
    said = refused(check_logits, mobilenet_025(3), "mobilenet", 3, (32, 48))
    assert "mobilenet turns 1 image of 32 x 48 px into (1, 3)" in said and "(1, 3, 32, 48)" in said


def test_a_net_that_fails_on_the_size_is_refused():
    said = refused(check_logits, nn.Conv2d(3, 3, 99), "net.py:Net", 3, (32, 48))
    assert "data.size: net.py:Net cannot take images of 32 x 48 px: " in said


# COCO and PASCAL VOC


@pytest.fixture
def coco(tmp_path) -> Path:
    """An image of a cat (17, VOC's 8) over a dog (18, 12) beside a bear (23, none of VOC's)."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)

    def box(key: int, image: int, category: int, x: int, y: int, size: int) -> dict:
        corners = [x, y, x + size, y, x + size, y + size, x, y + size]
        area = {"area": size**2, "segmentation": [corners], "iscrowd": 0}
        return area | {"id": key, "image_id": image, "category_id": category}

    boxes = [box(1, 1, 17, 0, 0, 40), box(2, 1, 18, 30, 0, 30), box(3, 1, 23, 0, 50, 10)]
    boxes.append(box(4, 2, 17, 0, 0, 20))
    for part in ("train2017", "val2017"):
        (folder / part).mkdir()
        images = []
        for i in (1, 2):
            Image.new("RGB", (80, 60)).save(folder / part / f"{i}.jpg")
            images.append({"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80})
        categories = [{"id": i, "name": str(i)} for i in (17, 18, 23)]
        found = {"images": images, "annotations": boxes, "categories": categories}
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(found))
    return folder


def coco_task(folder: Path) -> Segmentation:
    raw = deepcopy(preset("data=coco_voc"))
    raw["task"]["options"]["width"] = 80
    small = {"root": str(folder), "size": 60, "resize": 60, "train_size": None, "split": "paper"}
    params = parse_params(change(raw, **{f"data.{key}": value for key, value in small.items()}))
    return Segmentation(params.task, params.data)


def test_coco_is_read_with_the_classes_of_pascal_voc(coco):
    pytest.importorskip("pycocotools")
    images = read(coco_task(coco))
    assert (len(images.train), len(images.test)) == (1, 2)  # 20 x 20 pixels are no training image
    maps = images.test.columns["maps"][0]
    assert maps[20, [5, 35, 50, 70]].tolist() == [8, VOID, 12, 0]
    assert maps[55, 5] == 0 and images.classes[8] == "cat" and images.classes[12] == "dog"


def test_a_missing_pycocotools_is_one_line(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert "pip install pycocotools" in refused(coco_task(coco).check, base())


def test_broken_annotations_are_named(coco):
    pytest.importorskip("pycocotools")
    (coco / "annotations/instances_val2017.json").write_text("{")
    assert "instances_val2017.json is broken" in refused(read, coco_task(coco))


def test_pascal_voc_is_read_as_it_lies(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2012"
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    for i, part in enumerate(("train", "val")):
        (folder / f"ImageSets/Segmentation/{part}.txt").write_text(f"{part}\n")
        Image.new("RGB", (80, 60)).save(folder / f"JPEGImages/{part}.jpg")
        labels = np.full((60, 80), 20 - i, np.uint8)
        labels[:, :40] = VOID
        image = Image.fromarray(labels)
        image.putpalette(palette().flatten().tolist())
        image.save(folder / f"SegmentationClass/{part}.png")
    raw = deepcopy(preset("data=voc_segmentation"))
    raw["task"]["options"]["width"] = 60
    small = {"root": str(tmp_path), "size": 60, "resize": 60, "expect": None, "split": "paper"}
    params = parse_params(change(raw, **{f"data.{key}": value for key, value in small.items()}))
    images = read(Segmentation(params.task, params.data))
    maps = [split.columns["maps"] for split in (images.train, images.test)]
    assert [part[0].unique().tolist() for part in maps] == [[20, VOID], [19, VOID]]
    assert maps[0][0, 0].tolist() == [VOID] * 30 + [20] * 30  # the middle 60 of 80 columns


# what is minimised and scored


class Toy(nn.Module):
    """Logits of three classes at half the size, brought up; a dict as torchvision's if `aux`."""

    classifier_name = "head"

    def __init__(self, aux: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 3, 1)
        self.aux = nn.Conv2d(3, 3, 1) if aux else None

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        logits = self.head(functional.relu(self.norm(self.stem(images))))
        out = functional.interpolate(logits, images.shape[2:], mode="bilinear")
        return {"out": out, "aux": self.aux(images)} if self.aux else out


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    net = Toy().eval()
    nn.init.zeros_(net.head.bias)  # or it says one class everywhere
    return net


def batch_of(task: Segmentation, count: int = 4) -> tuple[Tensor, Tensor]:
    return next(task.batches(read(task).test, count, torch.Generator().manual_seed(0)))


def test_the_loss_is_the_mean_over_the_pixels_that_count(made, toy):
    task = made()
    images, maps = batch_of(task)
    counts = maps != VOID
    expected = functional.cross_entropy(toy(images).movedim(1, -1)[counts], maps[counts].long())
    torch.testing.assert_close(task.loss(toy, (images, maps)), expected)


def test_an_auxiliary_head_adds_half_of_its_loss(made):
    torch.manual_seed(0)
    task, net = made(), Toy(aux=True)
    images, maps = batch_of(task)
    found, labels = net(images), torch.where(maps == VOID, -100, maps.long())
    losses = [functional.cross_entropy(found[name], labels) for name in ("out", "aux")]
    torch.testing.assert_close(task.loss(net, (images, maps)), losses[0] + 0.5 * losses[1])


def test_a_batch_without_a_pixel_that_counts_has_loss_0_and_finite_gradients(made, toy):
    task = made()
    images, maps = batch_of(task)
    loss = task.loss(toy, (images, torch.full_like(maps, VOID)))
    loss.backward()
    assert loss == 0 and all(p.grad.isfinite().all() for p in toy.parameters())


def test_an_image_and_its_label_map_are_mirrored_together(made):
    task = made(data__flip=True)
    split = read(task).train
    images, maps = next(task.batches(split, 6, torch.Generator().manual_seed(1)))
    red = images[:, 0] * task.data.std[0] + task.data.mean[0]
    labels = torch.where(maps == VOID, 3, maps.long())
    torch.testing.assert_close(red * 255, 50.0 * labels)
    numbers = ((images[:, 1, 0, 0] * task.data.std[1] + task.data.mean[1]) * 255).round().long()
    stored = split.columns["maps"][split.columns["images"][:, 1, 0, 0].argsort()]
    mirrored = (stored[numbers] != maps).flatten(1).any(1)
    assert 0 < mirrored.sum() < 6


def test_no_image_is_mirrored_without_flip(made):
    task = made(data__flip=False)
    split = read(task).train
    _, maps = next(task.batches(split, 6, torch.Generator().manual_seed(1)))
    assert sorted(m.sum().item() for m in maps[:, :, :5].long()) == sorted(
        m.sum().item() for m in split.columns["maps"][:, :, :5].long()
    )


def test_a_last_image_alone_is_left_out(made):
    task = made()
    sizes = [len(m) for _, m in task.batches(read(task).train, 5, torch.Generator().manual_seed(0))]
    assert sizes == [5]


def test_the_confusion_counts_pixels_by_image_class_and_word():
    labels = torch.tensor([[[0, 1], [VOID, 1]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    said = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [0, 0]]])
    logits = functional.one_hot(said, 2).permute(0, 3, 1, 2).float()
    assert confusion(logits, labels).tolist() == [[[1, 0, 0], [1, 1, 0]], [[2, 2, 0], [0, 0, 0]]]


def test_all_pixels_of_an_image_with_a_logit_that_is_not_finite_are_wrong():
    logits = torch.zeros(2, 2, 3, 3)
    logits[:, 0] = 1
    logits[1, 1, 2, 2] = float("inf")
    pixels = confusion(logits, torch.zeros(2, 3, 3, dtype=torch.uint8))
    assert pixels.tolist() == [[[9, 0, 0], [0, 0, 0]], [[0, 0, 9], [0, 0, 0]]]
    assert mean_iou(pixels.sum(0)) == 0.5


def test_the_mean_iou_leaves_out_a_class_that_is_neither_there_nor_said():
    # class 0: 3 of 4; class 1: 1 of 2; class 2: nowhere
    pixels = torch.tensor([[3, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert mean_iou(pixels).item() == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert mean_iou(torch.zeros(3, 4, dtype=torch.long)).isnan()


@pytest.mark.slow  # the package takes seconds to import
def test_the_mean_iou_is_that_of_torchmetrics(generator):
    classification = pytest.importorskip("torchmetrics.classification")
    metric = classification.MulticlassJaccardIndex(6, ignore_index=VOID)
    pixels = torch.zeros(6, 7, dtype=torch.long)
    for _ in range(3):
        logits = torch.randn(4, 6, 9, 11, generator=generator)
        logits[:, 5] = -9  # is never said and is not there
        labels = torch.randint(0, 5, (4, 9, 11), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = VOID
        metric.update(logits, labels)
        pixels += confusion(logits, labels.to(torch.uint8)).sum(0)
    torch.testing.assert_close(mean_iou(pixels), metric.compute())


def plain_scores(said: Tensor, maps: Tensor, classes: int = 3) -> tuple[list[float], list[float]]:
    """Mean IoU in per cent of each image and of all of them, by sets of pixels."""

    def of(said: Tensor, maps: Tensor) -> float:
        counts, ious = maps != VOID, []
        for label in range(classes):
            here, there = (said == label) & counts, maps == label
            if (here | there).any():
                ious.append((here & there).sum().item() / (here | there).sum().item())
        return 100 * sum(ious) / len(ious)

    return [of(*pair) for pair in zip(said, maps, strict=True)], [of(said, maps)]


@torch.no_grad()
def whole_net(net: nn.Module, task: Segmentation, split: Examples, model: Mapping) -> Tensor:
    """What the whole net says with a model's parameters, (N, H, W)."""
    images = split.columns["images"].float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (task.data.mean, task.data.std))
    return functional_call(net, dict(model), ((images - mean) / std,)).argmax(1)


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_the_score_is_from_one_confusion_matrix_over_the_split(made, toy, batch_size):
    task = made()
    split = read(task).test
    _, (expected,) = plain_scores(whole_net(toy, task, split, {}), split.columns["maps"])
    assert task.score(toy, split, batch_size) == pytest.approx(expected, abs=1e-3)


def test_a_base_net_whose_logits_are_not_finite_is_refused(made, toy):
    nn.init.constant_(toy.head.bias, float("nan"))
    task = made()
    assert "base.net: the base net's logits" in refused(task.score, toy, read(task).test, 2)


# evaluation


def models_of(net: nn.Module, names: tuple[str, ...], count: int = 4) -> list[dict[str, Tensor]]:
    generator, own = torch.Generator().manual_seed(0), dict(net.named_parameters())
    return [
        {n: own[n].detach() + i * torch.randn(own[n].shape, generator=generator) for n in names}
        for i in range(count)
    ]


NAMES = ("norm.weight", "norm.bias")


@pytest.fixture
def _uncut_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be cut")
        yield


@pytest.mark.usefixtures("_uncut_is_an_error")
@pytest.mark.parametrize(
    ("batch_size", "boundary_mib"), [(3, 0), pytest.param(2, 1, marks=pytest.mark.slow)]
)
def test_models_are_judged_as_the_whole_net_would_be(made, toy, batch_size, boundary_mib):
    task = made(task__judging__right_from=0.15)
    images = read(task)
    found = task.evaluation(toy, NAMES, images, (batch_size, boundary_mib))
    right, scores = found.judge("test", models_of(toy, NAMES))
    maps, chosen = images.test.columns["maps"], []
    for row, score, model in zip(right, scores, models_of(toy, NAMES), strict=True):
        of_images, (expected,) = plain_scores(whole_net(toy, task, images.test, model), maps)
        assert score.item() == pytest.approx(expected, abs=1e-3)
        assert row.tolist() == [int(value >= 15) for value in of_images]
        chosen += of_images
    assert min(chosen) < 15 <= max(chosen) and len(set(scores.tolist())) == 4


@pytest.mark.parametrize(("boundary_mib", "expected"), [(1, 2), (0, 4)])
def test_what_comes_before_the_subset_runs_once_where_a_split_fits(
    made, toy, monkeypatch, boundary_mib, expected
):
    runs, plain = [], CutNet.prefix
    found = made().evaluation(toy, NAMES, read(made()), (2, boundary_mib))
    monkeypatch.setattr(CutNet, "prefix", lambda *a: runs.append(1) or plain(*a))
    first, second = (found.judge("test", models_of(toy, NAMES))[1] for _ in range(2))
    assert len(runs) == expected and torch.equal(first, second)  # 4 images are 2 batches


@pytest.mark.usefixtures("_uncut_is_an_error")
def test_a_net_in_the_form_of_torchvision_is_cut_and_judged_by_its_main_head(made):
    torch.manual_seed(0)
    net, task = Toy(aux=True).eval(), made()
    images = read(task)
    _, scores = task.evaluation(net, NAMES, images, (2, 1)).judge("test", models_of(net, NAMES))
    net.aux = None
    plain = whole_net(net, task, images.test, models_of(net, NAMES)[2])
    _, (expected,) = plain_scores(plain, images.test.columns["maps"])
    assert scores[2].item() == pytest.approx(expected, abs=1e-3)


def test_a_model_that_is_not_finite_gets_no_image_right_and_scores_0(made, toy):
    task = made()
    models = models_of(toy, NAMES, 2)
    models[1]["norm.bias"] = torch.full((4,), float("nan"))
    found = task.evaluation(toy, NAMES, read(task), (2, 1))
    right, scores = found.judge("test", models)
    assert right[1].tolist() == [-1] * 4 and scores[1] == 0 < scores[0]


def test_groups_keep_their_scores_by_split(made, toy):
    task = made()
    found = task.evaluation(toy, NAMES, read(task), (2, 1))
    models = models_of(toy, NAMES)
    found.predict_groups("test", {"original": models[:3], "generated": models[3:]})
    _, scores = found.judge("test", models)
    assert torch.equal(torch.cat([*found.scores["test"].values()]), scores)
    assert found.metric == task.metric == "mIoU" and found.scores["validation"] == {}


def test_the_picture_has_rows_of_images_label_maps_and_what_both_models_say(made, toy):
    task = made()
    images, models = read(task), models_of(toy, NAMES)
    picture, words = task.evaluation(toy, NAMES, images, (9, 1)).picture([models[0], models[3]])
    times = 64 // HEIGHT  # small images are enlarged
    height, width = times * HEIGHT + 2, times * WIDTH + 2
    assert picture.shape == (3, 4 * height + 2, 4 * width + 2)  # 4 test images

    def row(number: int) -> Tensor:
        """The panels of a row, (4, H, W, 3)."""
        panels = picture[:, 2:, 2:].unflatten(1, (4, height)).unflatten(3, (4, width))
        return panels[:, number, :-2:times, :, :-2:times].permute(2, 1, 3, 0)

    assert torch.equal(row(0).permute(0, 3, 1, 2), images.test.columns["images"])
    assert torch.equal(row(1), palette()[images.test.columns["maps"].long()])
    for number, model in ((2, models[0]), (3, models[3])):
        said = whole_net(toy, task, images.test, model)
        assert torch.equal(row(number), palette()[said])
    assert not torch.equal(row(2), row(3)) and "4 of 4 test images" in words


def test_labels_have_the_colours_of_pascal_voc():
    expected = {0: [0, 0, 0], 1: [128, 0, 0], 15: [192, 128, 128], VOID: [224, 224, 192]}
    assert {label: palette()[label].tolist() for label in expected} == expected


# nets


def test_the_example_takes_the_weights_of_the_mobilenet_and_images_of_any_size():
    trunk = {k: v.shape for k, v in mobilenet_025(7).state_dict().items() if "classifier" not in k}
    own = {k: v.shape for k, v in FCN(3).state_dict().items() if not k.startswith("classifier.")}
    assert own == trunk
    check_logits(FCN(3), "FCN", 3, (37, 50))


def test_the_paper_s_subset_is_the_last_batch_norm_of_resnet50():
    with torch.device("meta"):
        net = build_segmenter("fcn_resnet50", 21, 520)
    raw = preset("data=coco_voc", "net=fcn_resnet50")
    assert select_subset(net, raw["subset"]["select"]).length == 4096
    assert len(raw["task"]["options"]["classes"]) == 21


class Torchvisions(nn.Module):
    """The names of torchvision's nets."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)
        for name in ("classifier", "aux_classifier"):
            head = nn.Sequential(*(nn.Identity() for _ in range(4)), nn.Conv2d(2, classes, 1))
            setattr(self, name, head)


@pytest.fixture
def weights(monkeypatch) -> dict[str, Tensor]:
    """What is downloaded for a small `fcn_resnet50`: ones, of 5 classes."""
    monkeypatch.setattr(models, "get_model", lambda _, num_classes, **__: Torchvisions(num_classes))
    ones = {name: torch.ones_like(t) for name, t in Torchvisions(5).state_dict().items()}
    download = type("Weights", (), {"get_state_dict": staticmethod(lambda **_: ones)})
    found = type("Enum", (), {"DEFAULT": download})
    monkeypatch.setattr(models, "get_model_weights", lambda _: found)
    return ones


def test_pretrained_weights_are_taken_whole(weights):
    net = build_segmenter("fcn_resnet50", 5, 8, pretrained=True, new_head=False)
    assert all((value == 1).all() for value in net.state_dict().values())


def test_a_head_of_another_number_of_classes_stays_new(weights, tmp_path):
    save_file(weights, tmp_path / "file.safetensors")
    for options in ({"pretrained": True}, {"weights": tmp_path / "file.safetensors"}):
        net = build_segmenter("fcn_resnet50", 3, 8, **options)
        assert (net.backbone.weight == 1).all()
        assert (
            net.classifier[4].weight.shape == (3, 2, 1, 1) and (net.classifier[4].weight != 1).all()
        )


def test_a_head_of_another_number_of_classes_is_refused_where_nothing_is_trained(weights):
    said = refused(build_segmenter, "fcn_resnet50", 3, 8, pretrained=True, new_head=False)
    assert "base.epochs: 0 trains no new head" in said and "'classifier.4.weight'" in said


def test_weights_that_cannot_be_downloaded_are_one_line(weights, monkeypatch):
    def offline(_: str) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(models, "get_model_weights", offline)
    said = refused(build_segmenter, "fcn_resnet50", 5, 8, pretrained=True)
    assert "no route to host; offline, give a file as base.weights" in said
