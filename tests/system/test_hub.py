"""Addresses of the Hugging Face Hub: files come once, and a mistake is one line."""

import sys
from pathlib import Path

import pytest

from pdiff.system.errors import InputError
from pdiff.system.hub import fetched
from tests.toys.hub import TOKEN

FILES = {"1.pth": b"one", "2.pth": b"two", "more/3.pth": b"three", "more/deep/4.pth": b"four"}


def refused(address: str) -> str:
    with pytest.raises(InputError) as caught:
        fetched(address, "finetune.folder")
    message = str(caught.value)
    assert message.startswith("finetune.folder: ") and "\n" not in message
    return message


def test_what_is_no_address_stays_a_path(hub):
    assert fetched("some/folder", "finetune.folder") == Path("some/folder")
    assert hub.requests == []


@pytest.mark.parametrize("kind", ["", "datasets/"])
def test_a_folder_comes_without_the_folders_inside_it(hub, kind):
    commit = hub.commit(f"{kind}user/name", FILES)
    whole = fetched(f"hf://{kind}user/name@{commit}", "finetune.folder")
    assert {path.name: path.read_bytes() for path in whole.glob("*.pth")} == {
        "1.pth": b"one",
        "2.pth": b"two",
    }
    assert not (whole / "more").exists()
    for address in (f"hf://{kind}user/name@{commit}/more", f"hf://{kind}user/name@{commit}/more/"):
        part = fetched(address, "finetune.folder")
        assert [path.name for path in part.iterdir()] == ["3.pth"]


def test_a_file_comes_alone(hub):
    commit = hub.commit("user/name", FILES)
    file = fetched(f"hf://user/name@{commit}/more/3.pth", "base.weights")
    assert file.read_bytes() == b"three"
    assert not (file.parents[1] / "1.pth").exists()


def test_a_second_time_nothing_is_asked_for_and_the_hub_may_be_away(hub, monkeypatch):
    address = f"hf://user/name@{hub.commit('user/name', FILES)}"
    folder = fetched(address, "finetune.folder")
    assert {word.split("/")[-1] for word in hub.requests} >= {"1.pth", "2.pth"}
    hub.requests.clear()
    assert fetched(address, "finetune.folder") == folder
    assert hub.requests == []
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetched(address, "finetune.folder") == folder


def test_an_address_without_commit_is_answered_with_the_one_to_write(hub):
    first, last = hub.commit("user/name", FILES), hub.commit("user/name", {"5.pth": b"five"})
    for address, pinned in (
        ("hf://user/name", f"hf://user/name@{last}"),
        ("hf://user/name@main", f"hf://user/name@{last}"),
        ("hf://user/name/more", f"hf://user/name@{last}/more"),
    ):
        message = refused(address)
        assert message.endswith(f"{address} names no commit, so it may change; now: {pinned}")
        assert fetched(pinned, "finetune.folder").is_dir()
    old = fetched(f"hf://user/name@{first}", "finetune.folder")
    assert not (old / "5.pth").exists()


def test_only_the_repository_is_asked_for_and_the_token_comes_from_the_environment(hub):
    fetched(f"hf://user/name@{hub.commit('user/name', FILES)}", "finetune.folder")
    assert all("/user/name/" in request for request in hub.requests)  # no telemetry
    assert hub.tokens == {TOKEN}


@pytest.mark.parametrize(
    "address", ["hf://", "hf://name", "hf://user/na me@main", "hf://user/name@", "hf:///a/b"]
)
def test_a_wrong_address_is_answered_with_the_form(hub, address):
    assert f"{address!r} must look like hf://USER/NAME@COMMIT" in refused(address)
    assert hub.requests == []


def test_what_the_hub_lacks_or_hides_is_one_line(hub, monkeypatch):
    commit, unknown = hub.commit("user/name", FILES), "0" * 40
    assert "user/gone@main: no such repository, or a private one" in refused("hf://user/gone@main")
    assert "no such repository" in refused(f"hf://user/gone@{unknown}")
    assert "no such revision" in refused("hf://user/name@v3")
    assert "no such revision" in refused(f"hf://user/name@{unknown}")
    assert "the repository has no 9.pth" in refused(f"hf://user/name@{commit}/9.pth")
    hub.private |= {"user/name"}
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert "no such repository, or a private one" in refused("hf://user/name")
    hub.commit("user/gated", FILES)
    hub.gated |= {"user/gated"}
    assert "its page asks who wants access" in refused("hf://user/gated")


def test_without_network_or_package_one_line_says_so(hub, monkeypatch):
    from huggingface_hub import constants

    pinned = f"hf://user/name@{'0' * 40}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused(pinned).endswith(": HF_HUB_OFFLINE is set, and it is not in the cache")
    assert refused("hf://user/name").endswith(": HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused("hf://user/name").endswith(": http://127.0.0.1:9 cannot be reached")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs `pip install huggingface_hub`" in refused(pinned)
    assert hub.requests == []
