"""What one of several processes takes of the work, and what it leaves to the first."""

import itertools

import pytest
import torch

from pdiff import ranks
from pdiff.config import parse_params
from pdiff.data import EvaluationBatches, own_batches, prepare_images, training_batches
from pdiff.errors import InputError
from pdiff.files import save_tensors, write_text
from pdiff.launch import wanted_processes
from pdiff.resume import Checkpointer
from pdiff.runtime import get_device
from tests.conftest import change


@pytest.fixture
def become(monkeypatch):
    def become(rank, processes):
        monkeypatch.setattr(ranks, "place", ranks.Place(rank, processes, rank, processes))

    return become


def of_all(become, processes, what):
    results = []
    for rank in range(processes):
        become(rank, processes)
        results.append(what())
    return results


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_shares_are_everything_in_order_and_alike_in_size(become, processes):
    for count in range(9):
        shares = of_all(become, processes, lambda count=count: range(count)[ranks.share(count)])
        assert [*itertools.chain(*shares)] == [*range(count)]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", [2, 3, 5, 17])
def test_the_weights_of_a_batch_make_its_mean(become, size):
    losses = torch.arange(size).float()
    parts = of_all(
        become, 2, lambda: losses[ranks.batch_share(size)].mean() * ranks.batch_weight(size)
    )
    torch.testing.assert_close(sum(parts), losses.mean())


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_has_two_images_of_each_batch(become, processes):
    for size in range(2, 20):
        slices = of_all(become, processes, lambda size=size: ranks.batch_share(size))
        assert min(own.stop - own.start for own in slices) >= 2


@pytest.fixture(params=["one tensor", "files"])
def case(request, tiny_raw, image_folder):
    """A data section, and its images."""
    changes = {"data.train_size": 13, "data.crop_scale": [0.5, 1.0], "data.flip": True}
    if request.param == "files":
        folder = {"reader": "folder", "root": str(image_folder), "noise": 0.0, "test_size": None}
        changes |= {f"data.{name}": value for name, value in folder.items()}
        changes |= {"data.train_size": None, "data.validation_size": 3}
    data = parse_params(change(tiny_raw, **changes)).data
    return data, prepare_images(data, torch.Generator().manual_seed(0))


def test_the_processes_batches_joined_are_those_of_one(case, become):
    data, images = case
    assert len(images.train) == 13

    def batches():
        return [*training_batches(images.train, data, 8, torch.Generator().manual_seed(1))]

    pairs = zip(*of_all(become, 2, batches), of_all(become, 1, batches)[0], strict=True)
    for first, second, whole in pairs:
        for parts in zip(first, second, whole, strict=True):
            assert torch.equal(torch.cat(parts[:2]), parts[2])


@pytest.mark.parametrize("processes", [2, 5])
def test_the_processes_evaluate_the_batches_of_one(case, become, processes):
    data, images = case

    def batches():
        return [*EvaluationBatches(own_batches(images.test, 3), data, 3)]

    found = itertools.chain(*of_all(become, processes, batches))
    for own, whole in zip(found, of_all(become, 1, batches)[0], strict=True):
        assert torch.equal(own, whole)


def test_only_the_first_process_writes(become, tmp_path):
    become(1, 2)
    write_text(tmp_path / "a/text", "text")
    save_tensors(tmp_path / "a/tensors", {"one": torch.ones(1)})
    with Checkpointer(tmp_path / "b/state", every_s=0.0) as kept:
        kept.save(lambda: pytest.fail("not its to save"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5"])
def test_a_bad_number_of_processes_is_named(monkeypatch, text):
    monkeypatch.setenv("PDIFF_PROCESSES", text)
    with pytest.raises(InputError, match=rf"PDIFF_PROCESSES: '{text}' .* give 1 or more"):
        wanted_processes()


@pytest.mark.parametrize("text", ["", "1"])
def test_one_process_is_the_default(monkeypatch, text):
    monkeypatch.setenv("PDIFF_PROCESSES", text)
    assert wanted_processes() == 1


def test_processes_do_not_share_a_gpu(monkeypatch, become):
    become(1, 2)
    monkeypatch.setenv("PDIFF_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes need a GPU each, and there are 1"):
        get_device()
    monkeypatch.setenv("PDIFF_DEVICE", "cuda:0")
    with pytest.raises(InputError, match="PDIFF_DEVICE: cuda:0 is one GPU"):
        get_device()
