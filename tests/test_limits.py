"""What is refused because no machine could do it, with the name of the parameter."""

import pytest

from pdiff.config import parse_params
from pdiff.limits import check_limits
from pdiff.system.errors import InputError
from tests.conftest import change, composed

LINEAR = {"autoencoder.kind": "linear"}
KERNEL = {"autoencoder.kernel_size": 100_001}
OWN = {"finetune.folder": "/own", "finetune.checkpoints": 10**6}
FOLLOWED = {"generate.trajectories": 10**8, "generate.trajectory_every": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder.latent_dim": 2049}, r"latent_dim: 2049 is more than the 2048 param"),
        (KERNEL, r"^autoencoder\.kernel_size: 100001 is more than twice the 2048 positions"),
        ({"ddpm.kernel_size": 100_001}, r"^ddpm\.kernel_size: 100001 is more than twice the"),
        ({"autoencoder.batch_size": 10**7}, r"autoencoder\.batch_size, subset\.select: "),
        ({"generate.models": 10**6}, r"^generate\.models: at least 11,176 GiB"),
        ({"baselines.noised_models": 10**6}, r"^baselines\.noised_models: at least"),
        (LINEAR | OWN, r"^finetune\.checkpoints: at least 11,176 GiB"),
        ({"baselines.rival_models": 10**8}, r"^novelty\.bootstrap, baselines\.rival_models: "),
        ({"base.batch_size": 2 * 10**7}, r"^base\.batch_size, data\.size: at least 229 "),
        ({"base.epochs": 10**9}, r"^base\.epochs: 12 days or more"),
        ({"ddpm.steps": 10**9}, r"^ddpm\.steps, .*: 1 days or more"),
        ({"autoencoder.steps": 10**9}, r"^autoencoder\.steps, .*: \d+ days or more"),
        ({"finetune.save_after": 10**9, "finetune.steps": 2 * 10**9}, r"^finetune\.check"),
        (FOLLOWED, r"^generate\.trajectories: 23 days"),
        (LINEAR | {"novelty.bootstrap": 10**9, "generate.models": 1}, r"^novelty\.boot"),
    ],
)
def test_what_no_machine_can_do_is_refused_by_name(raw, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check_limits(parse_params(change(raw, **changes)), 2048)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "length", "message"),
    [
        (LINEAR | {"autoencoder.latent_dim": 40}, 39, r"^autoencoder\.latent_dim: 40 is more"),
        ({}, 10**9, r"autoencoder\.latent_dim, subset\.select: at least \d.*linear is meant for"),
    ],
)
def test_a_subset_may_be_too_short_or_too_long(raw, changes, length, message):
    with pytest.raises(InputError, match=message):
        check_limits(parse_params(change(raw, **changes)), length)


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        (["recipe=quick"], 2048),
        (["recipe=paper", "data=imagenet", "net=convnext_base"], 300_000),
        (["recipe=paper", "ablation=checkpoints_400"], 2048),
        (["recipe=paper", "ablation=timesteps_2000"], 2048),
        (["recipe=quick", "ablation=whole_net"], 11_689_512),
        (["recipe=paper", "ablation=param_x5000"], 2048),
    ],
)
def test_what_the_paper_does_is_allowed(overrides, length):
    check_limits(parse_params(composed(*overrides)), length)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.std": [1e-45, 1, 1]}, r"data\.std: 1.*e-45 is less than 0\.0001"),
        ({"base.weight_decay": 1e30}, r"base\.weight_decay: 1e\+30 times base\.lr: 0\.001 is 1 or"),
        ({"noise.param": 1e20}, r"noise\.param: 1e\+20 is more than 1000"),
        ({"finetune.lr": 1e10}, r"finetune\.lr: 1e\+10 is more than 1000"),
        ({"ddpm.beta_end": 0.999}, r"ddpm\.beta_end: with 0\.999 and ddpm\.timesteps: 1000 a lat"),
        ({"ddpm.timesteps": 10_000}, r"ddpm\.timesteps: 10000 a latent fades to e\^-101"),
    ],
)
def test_what_cannot_stay_finite_is_refused_with_the_right_name(raw, changes, message):
    with pytest.raises(InputError, match=message):
        parse_params(change(raw, **changes))
