"""A zoo through all stages at toy sizes: which nets it leaves, and which rivals are evaluated."""

import pandas as pd
import pytest
import torch

from pdiff import outputs
from pdiff.config import parse_params
from pdiff.core.runtime import run_generators
from pdiff.evaluation.predictions import load_predictions
from pdiff.images.batches import load_images
from pdiff.nets.registry import load_net
from pdiff.nets.zoo import align_zoo, zoo_runs
from pdiff.parameters.stack import load_stack
from pdiff.parameters.subset import Models
from pdiff.tasks.registry import make_task
from tests.conftest import TINY, change, composed
from tests.toys.pipeline import run_stages

pytestmark = pytest.mark.slow
SMALL = {name: value for name, value in TINY.items() if not name.startswith(("base", "finetune"))}
SMALL |= {"base.epochs": 2, "finetune.runs": 6, "finetune.checkpoints": 12, "finetune.steps": 20}
SMALL |= {"finetune.save_after": 16, "finetune.save_every": 2, "finetune.held_back": 2}
SMALL |= {"finetune.fresh_runs": 2, "finetune.fresh_checkpoints": 4}
SMALL |= {"finetune.zoo": {"align": True, "at_once": 4}, "autoencoder.latent_dim": 6}
SMALL |= {"baselines.zoo": {"steps": 5, "kde_seed": "independent"}, "baselines.rival_models": 12}


@pytest.fixture(scope="module")
def params_raw():
    return change(composed("data=digits", "net=cnn_small", "checkpoints=zoo"), **SMALL)


@pytest.fixture(scope="module")
def run(params_raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "run"
    run_stages(folder, params_raw)
    return folder


def test_a_stage_leaves_the_nets_of_its_own_seeds(run, params_raw):
    params = parse_params(params_raw)
    net, images = load_net(run / outputs.BASE), load_images(run / outputs.IMAGES).train
    given = outputs.CHECKPOINTS, outputs.HELD_BACK, outputs.FRESH
    (subset, originals), (_, held_back), (_, fresh) = (load_stack(run / path) for path in given)

    def rows(purpose, nets, known):
        generators = run_generators(params.seed.base, purpose, nets, torch.device("cpu"))
        settings = net, subset, images, make_task(params.task, params.data)
        found = zoo_runs(*settings, params.finetune, generators, lambda *_: None)
        return torch.stack(list(align_zoo(found, *settings, known)))

    torch.testing.assert_close(torch.cat([originals, held_back]), rows("finetune", 7, 12))
    known = Models(subset, originals)
    torch.testing.assert_close(fresh, rows("finetune_again", 2, known))
    assert not torch.isclose(fresh[:, None], originals).all(2).any()


def test_the_rivals_of_a_zoo_are_evaluated_and_the_audit_does_without_those_it_cannot_draw(run):
    given = load_predictions(run / outputs.PREDICTIONS_GENERATED, "test")[0]
    sizes = {group: len(rows) for group, rows in given.items()}
    assert (sizes["s_kde30"], sizes["sane_kde30"], sizes["sane_sub"]) == (12, 12, 10)
    models = pd.read_csv(run / outputs.MODELS)
    assert {"sane_sub", "soup_shuffled_2", "soup_2"} <= set(models["group"])
    audited = pd.read_csv(run / outputs.AUDIT / "groups.csv")["group"]
    assert "soup_shuffled_2" in set(audited) and "s_kde30" not in set(audited)
