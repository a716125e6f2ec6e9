"""Neural Network Diffusion (p-diff, arXiv 2402.13144v3): generate a net's parameters.

One matrix flows through: images make a base net, which leaves a matrix of checkpoints (K, D); the
autoencoder turns it into latents (K, L), the DDPM makes new latents, the decoder makes generated
parameters (G, D); evaluation turns models into wrong predictions (M, N), and the rest is
arithmetic on those. The rooms, top to bottom; an import points down this list only:

    cli.py        the command `pdiff`
    api/          the library: `from pdiff import PDiff`
    paper/        the paper's tables and figures, the verdict over pipelines
    audit/        is it new? One analysis after another, and the report
    export/       take a model away, to a file or to the Hugging Face Hub, with its card
    tracking/     the comparison of experiments and its MLflow mirror
    novelty/      IoU, summaries, intervals, claims (paper, Section 4)
    baselines/    the groups of models that generated ones are compared with
    tasks/        what the net is for: reading, loss, score; classification is the paper's
    datasets/     image sets by name -> train, validation, test
    evaluation/   parameters (M, D) -> predictions (M, N), paying only for what changed
    nets/         base nets by name; base training; fine-tuning; checkpoints from elsewhere
    autoencoder/  the parameter autoencoder and its codec (Section 2.3)
    images/       batches of one split on the device: pixels, augmentation, decoding
    parameters/   which parameters are generated: subset, stack, normalisation
    diffusion/    schedule and samplers, denoiser, training, latents (Section 2.4)
    core/         files, devices and seeds, learning curves, one training step
    config.py  outputs.py  conf/  reference/  system/     hold no number of a result
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdiff.api.model import PDiff

__all__ = ["PDiff"]


def __getattr__(name: str) -> Any:
    """`PDiff` when it is asked for: torch takes seconds to import."""
    if name != "PDiff":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pdiff.api.model import PDiff

    return PDiff
