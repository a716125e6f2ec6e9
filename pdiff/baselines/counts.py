"""How many models the two stages of evaluation evaluate, from the parameters alone."""

from pdiff.config import Params


def made_of_originals(params: Params) -> int:
    """How many models `evaluate_originals` evaluates, less the candidates of the greedy soup."""
    config, finetune = params.evaluate, params.finetune
    count = finetune.checkpoints
    models = count + 1 + len(set(config.noise_levels)) * config.noised_models
    if not params.novelty.audit:
        return models
    groups = len({*config.noise_ladder} - {*config.noise_levels}) + len({*config.absolute_noise})
    groups += sum(size <= count for size in set(config.soups)) + 3
    unseen = finetune.held_back
    if finetune.folder is None:
        unseen += min(finetune.second_run, count)
    of_the_run = 1 + sum(rank < count - 1 for rank in set(config.ranks))  # ema, projections
    along = of_the_run * min(count, config.rival_models)
    return models + groups * config.rival_models + along + unseen + 1


def made_by_codec(params: Params) -> int:
    """How many models `evaluate_generated` evaluates, less those along trajectories."""
    config = params.evaluate
    reconstructed = min(config.reconstructed_models, params.finetune.checkpoints)
    groups = len(set(config.latent_noise)) + 1 + (params.autoencoder.kind == "vae")
    rivals = groups * config.rival_models if params.novelty.audit else 0
    return params.generate.models + reconstructed + rivals
