"""Stop a run with a wrong parameter before DVC removes any other output.

params.yaml -> a constant file that every other stage depends on
"""

from pdiff import outputs
from pdiff.config import load_params
from pdiff.limits import check_limits
from pdiff.system.hub import fetched
from stages import stage


def main() -> None:
    params = load_params()  # a wrong one is told before torch is imported, which takes seconds
    import torch

    from pdiff.baselines.registry import check_audit
    from pdiff.core.files import write_text
    from pdiff.diffusion.denoiser import Denoiser
    from pdiff.nets.given import list_checkpoints, load_checkpoints
    from pdiff.nets.zoo import check_zoo
    from pdiff.parameters.subset import select_subset
    from pdiff.tasks.registry import make_task

    ddpm = params.ddpm
    with torch.device("meta"):
        Denoiser(params.autoencoder.latent_dim, ddpm.channels, ddpm.kernel_size)
    task = make_task(params.task, params.data)
    task.check(params.base)
    folder, count = params.finetune.folder, params.finetune.checkpoints
    paths = []
    if folder is not None:
        paths = list_checkpoints(fetched(folder, "finetune.folder"), count)
    net = task.start(params.base, paths)
    subset = select_subset(net, params.subset.select)
    if params.finetune.zoo is not None:
        check_zoo(net, subset, params.finetune, torch.randn(4, 3, *[params.data.size] * 2))
    list(load_checkpoints(paths[:1], subset))
    check_limits(params, subset.length)
    check_audit(params, subset.length)
    print(f"{params.base.net}: {subset.length:,} parameters are generated: {_short(subset.names)}")
    write_text(outputs.CHECKED, "params.yaml was found to be valid\n")


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} tensors, first {names[0]}"


if __name__ == "__main__":
    stage(main)
