"""Stop a run with a wrong parameter before DVC removes any other output.

params.yaml -> a constant file that every other stage depends on
"""

from pathlib import Path

from pdiff.config import load_params
from pdiff.data import check_images
from pdiff.denoiser import Denoiser
from pdiff.files import write_text
from pdiff.nets import build_net, check_net, check_size
from pdiff.subset import select_subset
from stages import stage

CHECKED = Path("data/params_checked.txt")


def main() -> None:
    params = load_params()
    check_net(params.base.net)
    check_images(params.data)
    weights = Path(params.base.weights) if params.base.weights else None
    net = build_net(params.base.net, classes=10, size=params.data.size, weights=weights)
    check_size(net, params.base.net, params.data.size)
    subset = select_subset(net, params.subset.select)
    Denoiser(params.autoencoder.latent_dim, params.ddpm.channels, params.ddpm.kernel_size)
    print(f"{params.base.net}: {subset.length:,} parameters are generated: {_short(subset.names)}")
    write_text(CHECKED, "params.yaml was found to be valid\n")


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} tensors, first {names[0]}"


if __name__ == "__main__":
    stage(main)
