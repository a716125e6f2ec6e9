"""Predict with the checkpoints and with what is made from them without a generator.

images, base net, checkpoints, those held back and those of fresh runs
-> predictions of the originals and of all baselines made of them; the members of the greedy soup
"""

from functools import partial

from pdiff import outputs, tracking
from pdiff.baselines.originals import from_originals, greedy_soup, soup_of
from pdiff.config import load_params
from pdiff.core.files import write_json
from pdiff.core.runtime import get_device
from pdiff.evaluation.predictions import check_finite, save_predictions
from pdiff.images.batches import load_images
from pdiff.nets.registry import load_net
from pdiff.parameters.stack import StackFile
from pdiff.tasks.registry import make_task
from stages import stage, warn


def main() -> None:
    params, device = load_params(), get_device()
    task, images = make_task(params.task, params.data), load_images(outputs.IMAGES, device)
    net = load_net(outputs.BASE, device, task.build)
    originals, audit = StackFile(outputs.CHECKPOINTS), params.novelty.audit
    sizes = params.evaluate.batch_size, params.evaluate.boundary_mib
    evaluation = task.evaluation(net, originals.subset.names, images, sizes)

    groups = from_originals(originals, params.baselines, params.seed.base, audit=audit)
    unseen = {"held_back": outputs.HELD_BACK, "fresh": outputs.FRESH} if audit else {}
    stacks = {group: StackFile(path) for group, path in unseen.items()}
    groups |= {group: stack for group, stack in stacks.items() if len(stack)}
    with tracking.run("evaluate_originals", params, "seed", "task", "evaluate", "baselines") as log:
        validation = evaluation.predict_groups("validation", groups)
        check_finite(validation, ("original", *stacks))
        soup, accuracies = [], []
        if audit:
            labels, candidates = images.validation.labels.cpu(), params.baselines.soup_candidates
            predict = partial(evaluation.predict, "validation")
            known = groups["original"], validation["original"], labels
            soup, accuracies = greedy_soup(*known, candidates, predict)
            groups["soup_greedy"] = soup_of(originals, soup)
            evaluation.predict_groups("validation", groups)
        test = evaluation.predict_groups("test", groups)
        check_finite(test, ("original", *stacks))
        means = {g: evaluation.accuracy("test", found).mean().item() for g, found in test.items()}
        if means["original"] <= (guess := task.chance(images.test)):
            reached = f"{means['original']:.4f}; guessing reaches {guess:.4f}"
            warn(f"the originals' mean test accuracy is {reached}")
        log.summary(means)
        save_predictions(outputs.PREDICTIONS_ORIGINALS, evaluation)
        write_json(outputs.GREEDY_SOUP, {"members": soup, "validation_accuracy": accuracies})


if __name__ == "__main__":
    stage(main)
