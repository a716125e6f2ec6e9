"""Detection on images and annotations that are made here."""

import json
import sys
import warnings
from functools import cache, partial

import numpy as np
import pytest
import torch
from PIL import Image

from pdiff import outputs
from pdiff.config import parse_params
from pdiff.evaluation.detection import DetectorModels
from pdiff.images.batches import load_images, save_images
from pdiff.nets.average_precision import METRICS, TrueBoxes, as_rows, check_library
from pdiff.nets.detectors import build_detector, detect, normalised, targets, total_loss
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError
from pdiff.tasks.detection import Detection, mirrored
from tests.conftest import TINY, change, composed
from tests.toys.pipeline import run_stages

pytest.importorskip("faster_coco_eval")

HEIGHT, WIDTH = 60, 80
OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox>
<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""
COLOURS = {"cell": (250, 40, 40), "dust": (40, 40, 250)}


def voc(root, name, *boxes, size=(HEIGHT, WIDTH), difficult=0):
    """An image with a rectangle for each box (class, left, top, right, bottom), and its file."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(90, 130, (HEIGHT, WIDTH, 3), np.uint8)
    for kind, left, top, right, bottom in boxes:
        if kind in COLOURS and isinstance(left, int):
            pixels[int(top) : int(bottom), int(left) : int(right)] = COLOURS[kind]
    Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=95)
    items = "".join(OBJECT.format(kind, difficult, *edges) for kind, *edges in boxes)
    sides = "<size><width>{1}</width><height>{0}</height></size>".format(*size)
    (root / f"Annotations/{name}.xml").write_text(f"<annotation>{sides}{items}</annotation>")
    return name


def lists(root, train, test):
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(train) + "\n")
    (root / "ImageSets/Main/test.txt").write_text("\n".join(test) + "\n")


def fill(root):
    """Six training images and three test images with one or two boxes."""
    names = []
    for i in range(9):
        boxes = [("cell", 5 + i, 10, 30 + i, 35)] + [("dust", 50, 20, 70, 50)] * (i % 2)
        names.append(voc(root, f"image{i}", *boxes))
    lists(root, names[:6], names[6:])
    return root


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


@cache
def preset(data):
    small = ("data.size=60", "data.resize=80", "data.expect=null", "data.validation_size=2")
    whole = ("data.train_size=null", "data.test_size=null", "evaluate.batch_size=2")
    net = "net=fcos_mobilenet_025"
    return composed(f"data={data}", net, "data.root=/images", *small, *whole)


def base(**changes):
    return parse_params(preset("bccd")).base.model_copy(update=changes)


def make_in(folder, data="bccd", **changes):
    """The task on that folder, with a few values changed."""
    params = parse_params(change(preset(data), data__root=str(folder), **changes))
    return Detection(params.task, params.data)


@pytest.fixture
def make(folder):
    return partial(make_in, folder)


def read(task):
    return task.read(torch.Generator().manual_seed(0))


def test_boxes_are_scaled_with_their_images_and_filled_up(make, folder):
    voc(folder, "image6", ("cell", 20, 10, 60, 30), ("dust", 0, 0, 80, 60))
    columns = read(make(data__size=30, data__resize=40)).test.columns
    assert columns["images"].shape == (3, 3, 30, 40)
    assert columns["boxes"][0].tolist() == [[10, 5, 30, 15], [0, 0, 40, 30]]
    assert columns["classes"].tolist() == [[1, 2], [1, 2], [1, 0]]
    assert columns["areas"][0].tolist() == [800, 4800]
    assert columns["scales"].tolist() == [0.5] * 3


def test_the_longer_side_is_bounded_too(make):
    columns = read(make(data__resize=60)).test.columns
    assert columns["sizes"][0].tolist() == [45, 60]


def test_splits_are_those_of_the_lists_and_survive_the_disk(make, tmp_path):
    images = read(make())
    assert [len(images.train), len(images.validation), len(images.test)] == [4, 2, 3]
    save_images(tmp_path / "images.safetensors", images)
    again = load_images(tmp_path / "images.safetensors")
    assert again.classes == ("cell", "dust")
    for name, values in images.train.columns.items():
        assert again.train.columns[name].equal(values)


def test_objects_called_difficult_are_not_learned(make, folder):
    voc(folder, "image6", ("cell", 20, 10, 60, 30), difficult=1)
    test = read(make()).test
    assert [len(each["boxes"]) for each in targets(test.columns)] == [0, 2, 1]


@pytest.mark.parametrize(
    ("box", "size", "message"),
    [
        (("cell", 20, 10, 20, 30), (60, 80), r"xml: cell \[20.0, 10.0, 20.0, 30.0\] has no area"),
        (("cell", 20, 10, 90, 30), (60, 80), "xml: cell .* leaves its image of 80 x 60"),
        (("cell", 20, 10, 40, 30), (600, 800), "is 80 x 60 pixels; .*image6.xml says 800 x 600"),
        (("cell", "left", 10, 90, 30), (60, 80), "xml is a broken annotation: could not convert"),
        (("", 20, 10, 30, 30), (60, 80), "xml is a broken annotation: <object> has no name"),
        (("virus", 20, 10, 30, 30), (60, 80), "xml has a 'virus'.*they have cell, dust"),
    ],
)
def test_a_wrong_box_or_size_is_named(make, folder, box, size, message):
    voc(folder, "image6", box, size=size)  # of the test split
    refused = {"split": "test", "skip_empty": False}
    with pytest.raises(InputError, match=message) as caught:
        read(make(data__test_options=refused))
    assert "image6.xml" in str(caught.value)


def test_boxes_without_area_are_left_out_on_request(make, folder):
    voc(folder, "image6", ("cell", 20, 10, 20, 30), ("cell", 20, 10, 40, 30))
    assert read(make()).test.columns["boxes"][0].tolist()[0] == [20, 10, 40, 30]


def test_a_missing_image_is_named_before_any_is_decoded(make, folder):
    (folder / "JPEGImages/image0.jpg").unlink()
    (folder / "JPEGImages/image1.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"image0.jpg is missing, which .*image0.xml describes"):
        read(make())


def test_xml_that_does_not_parse_is_named(make, folder):
    (folder / "Annotations/image0.xml").write_text("<annotation>")
    with pytest.raises(InputError, match=r"image0.xml is a broken annotation: no element found"):
        read(make())


def test_a_missing_list_is_found_without_reading_an_image(make, folder):
    (folder / "ImageSets/Main/test.txt").unlink()
    with pytest.raises(InputError, match=r"test.txt is missing"):
        make().check(base())


def test_images_of_classes_have_no_boxes(make):
    with pytest.raises(InputError, match="digits has no boxes; task=detection reads voc, coco"):
        make(data__reader="digits").check(base())


def test_an_unknown_detector_is_refused(make):
    with pytest.raises(InputError, match=r"unknown detector 'fcos_mobilenet'.*did you mean fcos"):
        make().check(base(net="fcos_mobilenet"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match="detection needs more: pip install faster-coco-eval"):
        check_library()


@pytest.fixture
def coco(folder):
    """The same kind of images, as COCO has them: one crowd, category numbers with a gap."""
    (folder / "annotations").mkdir()
    for split, names in (("train2017", range(6)), ("val2017", range(6, 9))):
        (folder / split).symlink_to(folder / "JPEGImages")
        items = [
            {"id": 1, "image_id": 6, "category_id": 3, "bbox": [20, 10, 40, 20], "area": 500},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 20], "iscrowd": 1},
        ]
        content = {
            "images": [
                {"id": i, "file_name": f"image{i}.jpg", "height": 60, "width": 80} for i in names
            ],
            "categories": [{"id": 1, "name": "cell"}, {"id": 3, "name": "dust"}],
            "annotations": items if split == "val2017" else [],
        }
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return "coco_detection"


def test_coco_keeps_its_numbers_of_classes(make, coco):
    images = read(make(coco))
    assert images.classes == ("cell", "N/A", "dust")
    columns = images.test.columns
    assert columns["boxes"][0].tolist() == [[20, 10, 60, 30]]
    assert columns["classes"].tolist() == [[3], [1], [0]]
    assert columns["ignored"].tolist() == [[False], [True], [False]]
    assert columns["areas"].tolist() == [[500], [200], [0]]


def test_a_broken_json_is_named(make, coco, folder):
    path = folder / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 3', '"category_id": 2'))
    with pytest.raises(InputError, match=r"val2017.json is a broken annotation: KeyError"):
        read(make(coco))


NETS = ("fcos_mobilenet_025", "fasterrcnn_mobilenet_025")


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return build_detector(request.param, 2, frozen_norms=True).eval()


@pytest.fixture
def batch(make):
    task = make()
    columns = read(task).train.columns
    sizes = [(60, 80)] * 4
    return normalised(columns["images"], columns["sizes"], task.data), sizes, targets(columns)


def without_resizing(net):
    net.transform.min_size, net.transform.max_size = (64,), 96
    net.transform.image_mean, net.transform.image_std = [0.0] * 3, [1.0] * 3
    return net


def test_the_loss_is_the_sum_of_torchvisions_losses(net, batch):
    images, _, wanted = batch
    torch.manual_seed(1)  # Faster R-CNN draws proposals
    ours = total_loss(net, images, [(64, 96)] * 4, wanted)
    torch.manual_seed(1)
    for module in (net, *(m for m in net.children() if hasattr(m, "fg_bg_sampler"))):
        module.training = True
    losses = without_resizing(net)(list(images), wanted)
    assert ours.item() == pytest.approx(sum(losses.values()).item(), rel=1e-5)


def test_the_loss_leaves_norms_and_modes_as_they_are(net, batch):
    before = {name: value.clone() for name, value in net.named_buffers()}
    total_loss(net, *batch).backward()
    assert not any(module.training for module in net.modules())
    assert all(before[name].equal(value) for name, value in net.named_buffers())


def test_detections_are_torchvisions(net, batch):
    images, *_ = batch
    for module in (net, *net.modules()):
        for name in ("score_thresh", "nms_thresh"):  # nets without training are sure of nothing
            if hasattr(module, name):
                setattr(module, name, 0.01 if name == "score_thresh" else 0.5)
    with torch.inference_mode():
        ours, finite = detect(net, images, [(64, 96)] * 4)
        theirs = without_resizing(net)(list(images))
    assert finite.all() and sum(len(own["boxes"]) for own in ours)
    for own, other in zip(ours, theirs, strict=True):
        assert all(torch.allclose(own[key], other[key], atol=1e-4) for key in other)


def rows(*found):
    """Detections (image, class, score, left, top, right, bottom)."""
    made = [(i, x, y, r - x, b - y, score, kind) for i, kind, score, x, y, r, b in found]
    return np.array(made, np.float32).reshape(-1, 7)


@pytest.fixture
def three(make):
    """Image 6: a cell; image 7: a cell and a dust; image 8: a cell."""
    return read(make()).test


PERFECT = [
    (0, 1, 0.9, 11, 10, 36, 35),
    (1, 1, 0.9, 12, 10, 37, 35),
    (1, 2, 0.9, 50, 20, 70, 50),
    (2, 1, 0.9, 13, 10, 38, 35),
]


@pytest.mark.parametrize(("found", "mark"), [(PERFECT, 1), ([], 0)])
def test_perfect_detections_have_full_marks_and_none_has_no_mark(three, found, mark):
    numbers, f1 = TrueBoxes(three).judge(rows(*found), ("AP", "AP50", "AR1"), 0.5, 0.5)
    assert numbers == pytest.approx(dict.fromkeys(("AP", "AP50", "AR1"), mark))
    assert f1.tolist() == [mark] * 3


def test_f1_counts_hits_false_alarms_and_what_is_not_sure(three):
    found = [
        *PERFECT[:2],
        (1, 1, 0.8, 0, 40, 10, 50),  # no such thing
        (2, 1, 0.4, 13, 10, 38, 35),  # not sure enough
    ]
    _, f1 = TrueBoxes(three).judge(rows(*found), ("AP",), 0.5, 0.5)
    assert f1.tolist() == [1, 0.5, 0]


def test_f1_asks_for_the_overlap_that_is_wanted(three):
    off = [(0, 1, 0.9, 16, 10, 41, 35)]  # 20 of 25 pixels across: an IoU of 2 / 3
    judged = [TrueBoxes(three).judge(rows(*off), ("AP",), 0.5, iou)[1][0] for iou in (0.6, 0.7)]
    assert judged == [1, 0]


def test_f1_of_an_image_where_nothing_is_and_nothing_is_found_is_1(make, folder):
    voc(folder, "image6")
    truth = TrueBoxes(read(make()).test)
    assert truth.judge(rows(*PERFECT[1:]), ("AP",), 0.5, 0.5)[1].tolist() == [1, 1, 1]
    assert truth.judge(rows(*PERFECT), ("AP",), 0.5, 0.5)[1].tolist() == [0, 1, 1]


def test_ignored_boxes_count_neither_way(make, folder):
    voc(folder, "image6", ("cell", 11, 10, 36, 35), difficult=1)
    truth = TrueBoxes(read(make()).test)
    for found in (PERFECT, PERFECT[1:]):
        numbers, f1 = truth.judge(rows(*found), ("AP",), 0.5, 0.5)
        assert (numbers["AP"], f1.tolist()) == (pytest.approx(1), [1, 1, 1])


def test_the_twelve_numbers_are_those_that_pycocotools_prints(three):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = np.random.default_rng(0)
    found = [
        (i, kind, score, *(np.array(edges) + generator.normal(0, 2, 4)))
        for i, kind, _, *edges in PERFECT * 5
        for score in generator.random(1)
    ]
    truth, theirs = TrueBoxes(three), COCO()
    theirs.dataset = truth._coco.dataset
    theirs.createIndex()
    evaluation = COCOeval(theirs, theirs.loadRes(rows(*found)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    printed = dict(zip(METRICS, evaluation.stats.clip(0).tolist(), strict=True))
    assert truth.judge(rows(*found), tuple(METRICS), 0.5, 0.5)[0] == pytest.approx(printed)
    for name in METRICS:
        assert truth.judge(rows(*found), (name,), 0.5, 0.5)[0] == pytest.approx(
            {name: printed[name]}
        )


def test_detections_are_scored_in_pixels_of_the_file(make):
    half = read(make(data__size=30, data__resize=40)).test
    found = [
        {"boxes": b["boxes"], "labels": b["labels"], "scores": torch.ones(len(b["labels"]))}
        for b in targets(half.columns)
    ]
    truth = TrueBoxes(half)
    made = as_rows(found[1:], 1, truth.scales)
    assert made[0].tolist() == [1, 12, 10, 25, 25, 1, 1]
    assert truth.judge(as_rows(found, 0, truth.scales), ("AP",), 0.5, 0.5)[0] == {
        "AP": pytest.approx(1)
    }


def test_mirrored_boxes_follow_their_pixels():
    images = torch.zeros(2, 3, 4, 8)
    images[:, :, 1:3, 1:4] = 1
    boxes, sizes = torch.tensor([[[1.0, 1, 4, 3]]] * 2), torch.tensor([[4, 6], [4, 8]])
    chosen = torch.tensor([True, False])
    turned, edges = mirrored(images, boxes, sizes, chosen)
    assert edges.tolist() == [[[2, 1, 5, 3]], [[1, 1, 4, 3]]]
    assert turned[0, 0, 1].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert turned[1].equal(images[1])


def test_frozen_norms_become_parameters_on_request():
    with torch.device("meta"):
        frozen = build_detector("fasterrcnn_resnet50_fpn", 2, frozen_norms=True)
        thawed = build_detector("fasterrcnn_resnet50_fpn", 2, frozen_norms=False)
    with pytest.raises(InputError, match="no normalisation layer"):
        select_subset(frozen, "last_norms:2")
    names = select_subset(thawed, "last_norms:1").shapes
    assert names == {f"backbone.body.layer4.2.bn3.{n}": (2048,) for n in ("weight", "bias")}
    assert thawed.state_dict().keys() == frozen.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "select", "length"),
    [
        (
            "fcos_resnet50_fpn",
            ["head.regression_head.conv.7", "head.regression_head.conv.10"],
            1024,
        ),
        ("fasterrcnn_resnet50_fpn", "roi_heads.box_predictor", 466_375),
    ],
)
def test_the_papers_detectors_have_the_subsets_of_the_presets(name, select, length):
    with torch.device("meta"):
        net = build_detector(name, 90, frozen_norms=True)
    assert select_subset(net, select).length == length


def test_weights_of_a_classifier_fill_the_trunk_alone(tmp_path):
    own = build_detector("fcos_mobilenet_025", 2, frozen_norms=True)
    trunk = {name: value + 1 for name, value in own.backbone.body.state_dict().items()}
    torch.save(trunk | {"classifier.bias": torch.zeros(1000)}, tmp_path / "trunk.pth")
    weights = tmp_path / "trunk.pth"
    net = build_detector("fcos_mobilenet_025", 2, frozen_norms=True, weights=weights)
    assert net.backbone.body.conv_stem.weight.equal(trunk["conv_stem.weight"])
    with pytest.raises(InputError, match=r"not belong to fcos_mobilenet_025.*trains no new head"):
        build_detector("fcos_mobilenet_025", 2, frozen_norms=True, weights=weights, new_head=False)


def test_weights_for_other_classes_need_a_new_head(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(build_detector("fcos_mobilenet_025", 5, frozen_norms=True).state_dict(), path)
    build_detector("fcos_mobilenet_025", 2, frozen_norms=True, weights=path)
    with pytest.raises(InputError, match=r"1 tensors|2 tensors"):
        build_detector("fcos_mobilenet_025", 2, frozen_norms=True, weights=path, new_head=False)


SUBSETS = {
    "fcos_mobilenet_025": ("last_norms:2", "backbone.fpn.*"),
    "fasterrcnn_mobilenet_025": ("roi_heads.box_predictor", "rpn.head", "backbone.fpn.*"),
}


@pytest.mark.slow  # tracing takes seconds
@pytest.mark.parametrize(("name", "select"), [(n, s) for n in SUBSETS for s in SUBSETS[n]])
@pytest.mark.parametrize("one_size", [True, False])
def test_models_detect_what_whole_nets_detect(batch, name, select, one_size):
    torch.manual_seed(0)
    net, (images, sizes, _) = build_detector(name, 2, frozen_norms=True).eval(), batch
    for module in (m for m in net.modules() if hasattr(m, "score_thresh")):
        module.score_thresh = 0.01  # nets without training are sure of nothing
    subset, parameters = select_subset(net, select), dict(net.named_parameters())
    models = [
        {n: parameters[n].detach() + each * torch.randn(s) for n, s in subset.shapes.items()}
        for each in (0.1, 0.2)
    ]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = DetectorModels(net, subset.names, images if one_size else None)
        shared = made.share(images, sizes)
        found = [made.detect(model, shared)[0] for model in models]
    cut = one_size and name.startswith("fcos")
    whole = [w for w in told if "runs the whole net" in str(w.message)]
    assert len(whole) == (select.startswith("backbone") and not cut)
    assert not found[0][0]["boxes"].equal(found[1][0]["boxes"])
    for model, ours in zip(models, found, strict=True):
        net.load_state_dict(model, strict=False)
        with torch.inference_mode():
            theirs, _ = detect(net, images, sizes)
        assert sum(len(own["boxes"]) for own in theirs)
        for own, other in zip(ours, theirs, strict=True):
            assert all(torch.allclose(own[key], other[key], atol=1e-4) for key in other)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Task, net that is sure of everything, images, and the evaluation of its last two norms."""
    task = make_in(fill(tmp_path_factory.mktemp("evaluated")))
    torch.manual_seed(0)
    net, images = task.build("fcos_mobilenet_025", 2, 60), read(task)
    net.head.classification_head.cls_logits.bias.data.fill_(3.0)
    names = select_subset(net, "last_norms:2").names
    return task, net, images, task.evaluation(net, names, images, (2, 1024))


def models_of(net, *added):
    parameters, names = dict(net.named_parameters()), select_subset(net, "last_norms:2").names
    return [{name: parameters[name].detach() + each for name in names} for each in added]


@pytest.mark.slow  # tracing takes seconds
def test_the_score_of_a_model_is_that_of_the_net_with_its_parameters(evaluated):
    task, net, images, evaluation = evaluated
    models = models_of(net, 0.0, 0.1)
    right, scores = evaluation.judge("test", models)
    for model, score in zip(models[::-1], scores.tolist()[::-1], strict=True):
        net.load_state_dict(model, strict=False)
        assert score == pytest.approx(task.score(net, images.test, 2))
    assert right.shape == (2, 3)


@pytest.mark.slow  # tracing takes seconds
def test_a_model_that_is_not_finite_gets_no_image_right(evaluated):
    _, net, _, evaluation = evaluated
    right, scores = evaluation.judge("test", models_of(net, torch.nan))
    assert right.tolist() == [[-1, -1, -1]]
    assert scores.tolist() == [0]


@pytest.mark.slow  # tracing takes seconds
def test_the_picture_has_a_row_of_true_boxes_and_one_for_each_model(evaluated):
    _, net, _, evaluation = evaluated
    picture, words = evaluation.picture(models_of(net, 0.0, 0.0))
    assert picture.shape == (3, 3 * 62 + 2, 3 * 82 + 2)
    assert not picture[:, :62].equal(picture[:, 62:124])
    assert picture[:, 62:124].equal(picture[:, 124:186])
    assert "score below 0.5" in words


def test_a_base_net_that_is_not_finite_is_refused(make):
    task = make()
    net = task.build("fcos_mobilenet_025", 2, 60)
    net.head.regression_head.bbox_reg.bias.data.fill_(torch.nan)
    with pytest.raises(InputError, match="the base net detects is not finite"):
        task.score(net, read(task).test, 2)


@pytest.mark.slow
def test_the_whole_pipeline_runs_on_boxes(folder, tmp_path_factory):
    after = ("finetune", "autoencoder", "ddpm", "generate", "baselines", "novelty", "evaluate")
    small = {key: value for key, value in TINY.items() if key.partition(".")[0] in after}
    own = {"data.root": str(folder), "base.epochs": 1, "base.batch_size": 2}
    raw = change(preset("bccd"), **small | own | {"finetune.batch_size": 2})
    work = tmp_path_factory.mktemp("work")
    run_stages(work, raw)
    scores = json.loads((work / outputs.NOVELTY_METRICS).read_text())["score"]
    assert 0 <= scores["generated_mean"] <= scores["generated_best"] <= 100
    with Image.open(work / outputs.EXAMPLES) as picture:
        assert picture.size == (3 * 82 + 2, 3 * 62 + 2)
        assert "AP50" in picture.text["Description"]
    assert "AP mean" in (work / outputs.AUDIT / "report.html").read_text()
