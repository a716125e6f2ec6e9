"""Nets of one's own, `base.net: FILE.py:NAME`: what is built, and each mistake in one line."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from pdiff.export.__main__ import main as export_main
from pdiff.nets.own import check_watch
from pdiff.nets.registry import build_net, check_net, check_size, head_classes, load_net, save_net
from pdiff.paper.experiments import shareable
from pdiff.parameters.subset import select_subset
from pdiff.system.errors import InputError
from tests.conftest import ROOT, change
from tests.toys.exports import run_card
from tests.toys.pipeline import STAGES, run_stages

CODE = """
from collections import OrderedDict

import torch
from torch import nn

NUMBER = 3

class TinyNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)
        self.after = nn.Linear(num_classes, num_classes + 1)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))

class NamedHead(TinyNet):
    classifier_name = "after"

def tiny_net(num_classes):
    return TinyNet(num_classes)

def no_classes():
    return TinyNet(10)

def no_net(num_classes):
    return {"net": TinyNet(num_classes)}

def one_more(num_classes):
    return TinyNet(num_classes + 1)

def pair(num_classes):
    class Pair(TinyNet):
        def forward(self, images):
            return super().forward(images), images
    return Pair(num_classes)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with `my_net.py`."""
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["my_net.py:TinyNet", "my_net.py:tiny_net", "{folder}/my_net.py:TinyNet"]
)
def test_a_class_or_a_function_makes_the_net(folder, name):
    name = name.format(folder=folder)
    check_net(name)
    net = build_net(name, 7, 32)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    check_size(net, name, 32, 7)


def test_a_changed_file_is_read_anew(folder):
    build_net("my_net.py:TinyNet", 7, 32)
    Path("my_net.py").write_text(CODE.replace("Conv2d(3, 8, 3", "Conv2d(3, 8, 5"))
    assert build_net("my_net.py:TinyNet", 7, 32).conv.weight.shape == (8, 3, 5, 5)
    assert [path.name for path in folder.iterdir()] == ["my_net.py"]  # no bytecode


def test_a_net_on_disk_is_built_anew_from_the_file(folder):
    net = build_net("my_net.py:TinyNet", 5, 32)
    save_net(Path("net.safetensors"), net, "my_net.py:TinyNet", 5, 32)
    images = torch.randn(2, 3, 32, 32)
    again = load_net(Path("net.safetensors"))
    assert not again.training
    assert torch.equal(again(images), net.eval()(images))
    Path("my_net.py").unlink()
    with pytest.raises(InputError, match=r"base\.net: my_net\.py is not a file"):
        load_net(Path("net.safetensors"))


@pytest.mark.parametrize(("name", "head"), [("TinyNet", "head"), ("NamedHead", "after")])
def test_the_head_is_the_named_layer_or_the_last_one_that_fits(folder, name, head):
    net = build_net(f"my_net.py:{name}", 7, 32)
    assert net.classifier_name == head
    assert head_classes(net, net.state_dict()) == len(net.state_dict()[f"{head}.weight"])


def test_weights_keep_all_but_a_head_of_another_size_and_may_lack_counters(folder):
    source = build_net("my_net.py:TinyNet", 9, 32).state_dict()
    state = {name: value for name, value in source.items() if value.ndim and "after" not in name}
    other = build_net("my_net.py:TinyNet", 7, 32).state_dict()
    state |= {name: value for name, value in other.items() if "after" in name}
    save_file(state, "weights.safetensors")
    net = build_net("my_net.py:TinyNet", 7, 32, weights=Path("weights.safetensors"))
    assert torch.equal(net.conv.weight, state["conv.weight"])
    assert net.head.weight.shape == (7, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.py:TinyNet", r"gone\.py is not a file; give FILE\.py:NAME"),
        ("my_net.py:", r"'my_net\.py:' must be my_net\.py:NAME .* defines TinyNet, "),
        (
            "my_net.py:TinyNets",
            r"TinyNets' must be my_net\.py:NAME .* defines TinyNet, NamedHead, tiny_net, "
            r"no_classes, no_net, one_more, pair$",
        ),
        ("my_net.py:NUMBER", r"NUMBER' must be my_net\.py:NAME with a class or function as NAME"),
        ("my_net.py:no_classes", r"no_classes\(num_classes=10\) fails: TypeError: no_classes\(\)"),
        ("my_net.py:no_net", r"no_net\(num_classes=10\) returns an object of type dict; it must"),
        ("my_net.py:one_more", r"one_more turns 1 image into \(1, 11\); .* shape \(1, 10\)"),
        ("my_net.py:pair", r"pair turns 1 image into a tuple; it must give logits of shape"),
        ("broken.py:Net", r"broken\.py cannot be imported: SystemExit: 3"),
        ("empty.py:Net", r"'empty\.py:Net' must be .*; empty\.py defines none"),
    ],
)
def test_a_mistake_is_one_line(folder, name, message):
    Path("broken.py").write_text("raise SystemExit(3)\n")
    Path("empty.py").write_text("")
    with pytest.raises(InputError, match=message) as caught:
        check_net(name)
        check_size(build_net(name, 10, 32), name, 32, 10)
    assert str(caught.value).startswith("base.net: ") and "\n" not in str(caught.value)


def test_an_own_net_has_nothing_to_download(folder):
    with pytest.raises(InputError, match=r"base\.pretrained: .* my_net\.py:TinyNet to download"):
        build_net("my_net.py:TinyNet", 10, 32, pretrained=True)


@pytest.mark.parametrize("watch", ["my_net.py", "{folder}/my_net.py", "."])
def test_the_file_or_its_folder_is_watched(folder, watch):
    check_watch("my_net.py:TinyNet", watch.format(folder=folder))
    check_watch(f"{folder}/my_net.py:TinyNet", watch.format(folder=folder))
    check_watch("resnet18.a1_in1k", "requirements.txt")


@pytest.mark.parametrize("watch", ["requirements.txt", "???", "other/my_net.py"])
def test_a_file_that_nobody_watches_is_refused(folder, watch):
    with pytest.raises(InputError, match=r"base\.watch: .* give -S base\.watch=my_net\.py$"):
        check_watch("my_net.py:TinyNet", watch)


@pytest.fixture(scope="module")
def piped(tiny_raw, tmp_path_factory) -> Path:
    """A folder in which the whole pipeline ran with an own net, given by an absolute path."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_net.py").write_text(CODE)
    net = {"base__net": f"{folder}/my_net.py:TinyNet", "base__watch": "my_net.py"}
    few = {"finetune__fresh_checkpoints": 0, "finetune__held_back": 0, "autoencoder__steps": 2}
    few |= {"base__epochs": 1, "ddpm__steps": 2, "subset__select": "norm", "novelty__audit": False}
    run_stages(folder, change(tiny_raw, **net, **few), STAGES)
    return folder


def test_the_pipeline_runs_with_an_own_net(piped):
    models = pd.read_csv(piped / "report/summary.csv").set_index("group")["models"]
    assert (models["original"], models["generated"]) == (12, 6)
    generated = load_file(piped / "data/generated.safetensors")
    shapes = {name: tuple(value.shape) for name, value in generated.items()}
    assert shapes == {"norm.weight": (6, 8), "norm.bias": (6, 8)}


def test_the_card_of_an_own_net_loads_it_with_its_file(piped, tmp_path, monkeypatch):
    monkeypatch.chdir(piped)
    assert export_main(["2", "--to", f"{tmp_path}/model.safetensors"]) == 0
    card = (tmp_path / "model.md").read_text()
    assert "my_net.py:TinyNet on digits: generated model 2" in card
    assert "`base`: net my_net.py:TinyNet, pretrained false" in card
    assert str(piped) not in card
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(CODE)
    names = run_card(card, images=torch.zeros(2, 3, 32, 32))
    assert names["logits"].shape == (2, 10)
    generated = load_file(piped / "data/generated.safetensors")
    assert torch.equal(names["net"].norm.weight, generated["norm.weight"][2])


def test_folders_elsewhere_use_the_main_checkouts_file(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(tmp_path_factory.mktemp("table"))
    assert build_net("my_net.py:TinyNet", 7, 32).head.out_features == 7
    check_watch("my_net.py:TinyNet", "my_net.py")


def test_a_command_for_other_machines_hides_where_the_file_lies(folder):
    local = f"base.net={folder}/my_net.py:TinyNet"
    assert shareable(local) == "base.net=/path/to/my_net.py:TinyNet"
    assert shareable("base.net=my_net.py:TinyNet") == "base.net=my_net.py:TinyNet"


def test_every_stage_that_builds_the_net_watches_its_file():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    build = {name for name, stage in stages.items() if "pdiff/nets" in stage["deps"]}
    assert "train_base" in build
    watch = {name for name, stage in stages.items() if "${base.watch}" in stage["deps"]}
    assert watch == build | {"check_params"}


@pytest.mark.parametrize(
    ("depth", "count"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_names_and_numbers_of_parameters_of_cifar_resnets_are_the_published_ones(depth, count):
    net, blocks = build_net(f"{ROOT}/examples/cifar_resnet.py:resnet{depth}", 10, 32), depth // 6
    layers = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(blocks)]
    parts = ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias")
    inside = [f"{layer}.{part}" for layer in layers for part in parts]
    names = [name for name, _ in net.named_parameters()]
    assert names == [*parts[:3], *inside, "linear.weight", "linear.bias"]
    assert sum(parameter.numel() for parameter in net.parameters()) == count
    last = [f"{layers[-1]}.{norm}.{part}" for norm in ("bn1", "bn2") for part in ("weight", "bias")]
    assert list(select_subset(net, "last_norms:2").names) == last


def test_a_shortcut_skips_pixels_and_pads_channels_on_both_sides():
    block = build_net(f"{ROOT}/examples/cifar_resnet.py:resnet20", 10, 32).layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(1, 16, 4, 4)
    out = block(images)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert out[:, :8].abs().max() == out[:, 24:].abs().max() == 0
