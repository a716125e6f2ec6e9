"""Stop a run with a wrong parameter before DVC removes any other output.

params.yaml -> a constant file that every other stage depends on
"""

from pdiff import outputs
from pdiff.config import Params, load_params
from pdiff.limits import check_limits
from pdiff.system.errors import InputError
from pdiff.system.hub import fetched
from stages import stage

AUDITED = 16 * 2**30
"""Most bytes that the parameters of all models in an audit may take; the same on every machine."""


def main() -> None:
    params = load_params()  # a wrong one is told before torch is imported, which takes seconds
    import torch

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
    _check_audit(params, subset.length)
    print(f"{params.base.net}: {subset.length:,} parameters are generated: {_short(subset.names)}")
    write_text(outputs.CHECKED, "params.yaml was found to be valid\n")


def _check_audit(params: Params, length: int) -> None:
    """The audit holds every model that is evaluated; refuse what no memory would hold."""
    from pdiff.baselines.registry import count_models

    models = count_models(params)
    if params.novelty.audit and 4 * models * length > AUDITED:
        raise InputError(
            f"novelty.audit: it would hold {models:,} models of {length:,} parameters, "
            f"{4 * models * length / 2**30:.0f} GiB of at most {AUDITED // 2**30}; set "
            "novelty.audit: false, fewer baselines.rival_models, or a smaller subset.select"
        )


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{len(names)} tensors, first {names[0]}"


if __name__ == "__main__":
    stage(main)
