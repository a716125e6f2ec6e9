"""Models on the Hugging Face Hub: timm loads them from there, and the card says how."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from huggingface_hub import ModelCard, constants
from PIL import Image

from pdiff import outputs
from pdiff.core.files import load_state_dict
from pdiff.export.__main__ import main
from pdiff.nets.registry import load_net
from pdiff.parameters.subset import select_subset
from pdiff.system.hub import fetched
from tests.toys.exports import logits_of, run_card
from tests.toys.hub import TOKEN

ADDRESS = "hf://user/name"


def uploaded(hub) -> dict[str, bytes]:
    return hub.files("user/name")[1]


def card_of(hub) -> ModelCard:
    return ModelCard(uploaded(hub)["README.md"].decode())


def test_timm_loads_from_the_hub_a_model_with_the_same_logits(folder, hub):
    assert main(["4", "--to", "model.pth"]) == main(["4", "--to", ADDRESS]) == 0
    here = timm.create_model("test_resnet", num_classes=10, checkpoint_path="model.pth")
    there = timm.create_model("hf-hub:user/name", pretrained=True)
    assert torch.equal(logits_of(there), logits_of(here))
    names = run_card(card_of(hub).text, images=torch.zeros(2, 3, 32, 32))
    assert torch.equal(logits_of(names["net"]), logits_of(here))
    assert set(uploaded(hub)) == {"README.md", "config.json", "model.safetensors"}
    assert hub.tokens == {TOKEN}


def test_a_net_of_one_image_size_comes_back_with_it(toy, hub):
    matrix = toy("test_vit", 64)
    assert main(["2", "--to", ADDRESS]) == 0
    net, images = timm.create_model("hf-hub:user/name", pretrained=True), torch.rand(2, 3, 64, 64)
    subset = select_subset(net, "last_norms:1")
    assert torch.equal(torch.cat([net.get_parameter(n).flatten() for n in subset.names]), matrix[2])
    own = load_net(outputs.BASE)
    own.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(images), own(images))


@pytest.mark.parametrize(("size", "resize"), [(32, 32), (64, 93)])
def test_the_config_prepares_images_as_the_pipeline_does(toy, hub, size, resize):
    colours = {"data.mean": [0.1, 0.2, 0.3], "data.std": [0.4, 0.5, 0.6]}
    toy("test_resnet", size, **colours, **{"data.resize": resize})
    assert main(["0", "--to", ADDRESS]) == 0
    net = timm.create_model("hf-hub:user/name", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    kinds = {type(step).__name__: step for step in transform.transforms}
    assert kinds["Resize"].size == resize and kinds["Resize"].interpolation.value == "bilinear"
    assert tuple(kinds["CenterCrop"].size) == (size, size)
    pixels = np.full((2 * size, 3 * size, 3), (255, 128, 0), np.uint8)
    found = transform(Image.fromarray(pixels))[:, 0, 0]
    expected = torch.tensor([(1 - 0.1) / 0.4, (128 / 255 - 0.2) / 0.5, (0 - 0.3) / 0.6])
    torch.testing.assert_close(found, expected)


def test_the_config_says_nothing_of_the_weights_that_timm_has(folder, hub):
    assert main(["4", "--to", ADDRESS]) == 0
    config = json.loads(uploaded(hub)["config.json"])
    assert config["architecture"] == "test_resnet" and config["num_classes"] == 10
    assert config["label_names"] == [str(digit) for digit in range(10)]
    stated = {*config["pretrained_cfg"]}
    assert not stated & {"license", "origin_url", "paper_ids", "tag", "url", "hf_hub_id"}


def test_the_cards_metadata_says_what_the_tables_say(folder, hub):
    assert main(["best", "--to", ADDRESS]) == 0
    card, table = card_of(hub), pd.read_csv(outputs.MODELS)
    rows = table[table["group"] == "generated"]
    best = rows.loc[rows["choosing_accuracy"].idxmax()]
    data = card.data.to_dict()
    assert data["library_name"] == "timm" and data["pipeline_tag"] == "image-classification"
    assert data["datasets"] == ["digits"] and data["metrics"] == ["accuracy"]
    assert {"p-diff", "generated"} <= {*data["tags"]}
    assert "base_model" not in data and "license" not in data
    results = {result.dataset_split: result.metric_value for result in card.data.eval_results}
    assert results == {"test": best["accuracy"], "validation": best["choosing_accuracy"]}
    assert card.text.strip().startswith("# test_resnet on digits: generated model ")
    assert f"`python -m pdiff.export best --group generated --to {ADDRESS}`" in card.text


@pytest.mark.parametrize(
    ("net", "changes", "origin"),
    [
        ("test_resnet", {"base.weights": f"hf://timm/net@{'0' * 40}/x.safetensors"}, "timm/net"),
        ("test_resnet.r160_in1k", {"base.pretrained": True}, "timm/test_resnet.r160_in1k"),
        ("test_resnet", {"base.weights": "/home/somebody/base.pth"}, None),
    ],
)
def test_the_base_model_is_that_which_the_hub_has(toy, hub, net, changes, origin):
    toy(net, 32, **changes)
    assert main(["0", "--to", ADDRESS]) == 0
    assert card_of(hub).data.base_model == origin
    assert "somebody" not in card_of(hub).text


@pytest.mark.parametrize(
    ("net", "size", "library"), [("convnet_mini", 64, "pdiff"), ("my_net.py:MyNet", 32, "pytorch")]
)
def test_what_timm_does_not_know_has_no_config_and_a_card_that_loads_it(
    toy, hub, net, size, library
):
    matrix = toy(net, size)
    assert main(["1", "--to", ADDRESS]) == 0
    assert set(uploaded(hub)) == {"README.md", "model.safetensors"}
    assert card_of(hub).data.library_name == library
    names = run_card(card_of(hub).text, images=torch.zeros(2, 3, size, size))
    subset = select_subset(names["net"], "last_norms:1")
    values = torch.cat([names["net"].get_parameter(name).flatten() for name in subset.names])
    assert torch.equal(values, matrix[1])


def test_the_address_that_is_printed_gives_the_weights_back(folder, hub, capsys):
    assert main(["4", "--to", "model.safetensors"]) == main(["4", "--to", ADDRESS]) == 0
    shown = capsys.readouterr().out.splitlines()[-1].removeprefix("wrote ")
    commit = hub.files("user/name")[0]
    assert shown == f"{ADDRESS}@{commit}"
    assert uploaded(hub)["model.safetensors"] == Path("model.safetensors").read_bytes()
    there = load_state_dict(fetched(f"{shown}/model.safetensors", "base.weights"))
    assert there.keys() == load_state_dict(Path("model.safetensors")).keys()


def test_a_repository_with_a_model_is_kept_unless_forced(folder, hub, capsys):
    hub.commit("user/name", {"README.md": b"mine", "config.json": b"{}", "more.txt": b"mine"})
    assert main(["4", "--to", ADDRESS]) == 1
    error = capsys.readouterr().err
    assert error == f"error: --to: {ADDRESS} has config.json; --force replaces it\n"
    assert len(hub.commits["user/name"]) == 1
    assert main(["4", "--to", ADDRESS, "--force"]) == 0
    assert uploaded(hub)["more.txt"] == b"mine" and uploaded(hub)["config.json"] != b"{}"


def test_a_repository_is_public_unless_private_is_asked_for(folder, hub):
    assert main(["4", "--to", ADDRESS]) == 0 and hub.private == set()
    assert main(["4", "--to", "hf://user/hidden", "--private"]) == 0
    assert hub.private == {"user/hidden"}


@pytest.mark.parametrize(
    ("model", "address", "message"),
    [
        ("4", "hf://name", "--to: 'hf://name' must be hf://USER/NAME"),
        ("4", "hf://user/name@main", "--to: 'hf://user/name@main' must be hf://USER/NAME"),
        ("4", "hf://user/name/a.pth", "--to: 'hf://user/name/a.pth' must be hf://USER/NAME"),
        ("4", "hf://other/name", "--to: hf://other/name: no permission; HF_TOKEN or `hf auth l"),
        ("60", ADDRESS, "MODEL: '60' is neither `best` nor an index"),
    ],
)
def test_a_repository_that_cannot_be_written_is_one_line(
    folder, hub, capsys, model, address, message
):
    hub.refused |= {"other/name"}
    assert main([model, "--to", address]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert hub.commits == {}


def test_without_a_token_nothing_is_contacted(folder, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["4", "--to", ADDRESS]) == 1
    error = capsys.readouterr().err
    assert error == f"error: --to: {ADDRESS}: needs a token: HF_TOKEN, or `hf auth login`\n"
    assert hub.requests == []


def test_offline_an_upload_is_refused_in_one_line(folder, hub, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["4", "--to", ADDRESS]) == 1
    assert capsys.readouterr().err == f"error: --to: {ADDRESS}: HF_HUB_OFFLINE is set\n"
    assert hub.requests == []


def test_an_export_to_a_file_contacts_nobody(folder, hub):
    assert main(["4", "--to", "model.safetensors"]) == 0
    assert hub.requests == []


def test_an_upload_contacts_the_hub_about_its_repository_alone(folder, hub):
    assert main(["4", "--to", ADDRESS]) == 0
    others = [request for request in hub.requests if "user/name" not in request]
    assert others == ["POST /api/repos/create", "POST /api/validate-yaml"]
