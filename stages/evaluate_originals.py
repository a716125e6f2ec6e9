"""Predict with the checkpoints and with what is made from them without a generator.

images, base net, checkpoints, those held back and those of a second run
-> predictions of original, ensemble, noised_LEVEL and all rivals; the members of the greedy soup
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Int16
from torch import Tensor

from pdiff import tracking
from pdiff.baselines.originals import of_the_paper
from pdiff.baselines.rivals import GreedySoup, from_originals, greedy_soup, soup_of
from pdiff.config import load_params
from pdiff.core.files import write_json
from pdiff.core.runtime import get_device
from pdiff.evaluation.predict import Model, accuracy
from pdiff.evaluation.predictions import Predict, predict_groups, save_predictions
from pdiff.images.batches import load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile
from stages import stage

IMAGES = Path("data/images.safetensors")
BASE = Path("models/base.safetensors")
CHECKPOINTS = Path("data/checkpoints.safetensors")
UNSEEN = {
    "held_back": Path("data/held_back.safetensors"),
    "second_run": Path("data/second_run.safetensors"),
}
PREDICTIONS = Path("data/predictions_originals.safetensors")
SOUP = Path("data/greedy_soup.json")


def main() -> None:
    params = load_params()
    device = get_device()
    images = load_images(IMAGES, device)
    net = load_net(BASE, device)
    originals = StackFile(CHECKPOINTS)
    config = params.evaluate
    audit = params.novelty.audit

    groups = (from_originals if audit else of_the_paper)(originals, config, params.seed.base)
    unseen = {group: StackFile(path) for group, path in UNSEEN.items() if audit}
    groups |= {group: stack for group, stack in unseen.items() if len(stack)}
    soup = GreedySoup([], [])

    def choose(
        found: Mapping[str, Int16[Tensor, "_ N"]], predict: Predict
    ) -> dict[str, Sequence[Model]]:
        nonlocal soup
        labels = images.validation.labels.cpu()
        best = config.soup_candidates
        soup = greedy_soup(originals, found["original"], labels, best, predict)
        return {"soup_greedy": soup_of(originals, soup.members)}

    with tracking.run("evaluate_originals", params, "seed", "evaluate") as log:
        predictions = predict_groups(
            net,
            originals.subset.names,
            groups,
            images,
            params.data,
            config.batch_size,
            config.boundary_mib,
            *([choose] if audit else []),
        )
        labels = images.test.labels.cpu()
        tests = {key: found for key, found in predictions.items() if key.endswith(".test")}
        log.summary(
            {
                key.removesuffix(".test"): accuracy(found, labels).mean().item()
                for key, found in tests.items()
            }
        )
        save_predictions(PREDICTIONS, predictions, images)
        write_json(SOUP, {"members": soup.members, "validation_accuracy": soup.accuracy})


if __name__ == "__main__":
    stage(main)
