"""A task in one file: how bright an image is, from a small net with a batch norm."""

import torch
from torch import nn
from torch.nn import functional

from pdiff.config import Section
from pdiff.images.batches import ImageSet
from pdiff.images.examples import Examples
from pdiff.system.errors import InputError
from pdiff.tasks.registry import Task


class Regression(Task):
    class Judging(Section):
        close: float
        """An image is right if its brightness is no further off than this."""

    metric = "squared error"
    larger_is_better = False

    def check(self, base):
        if base.net != "brightness":
            raise InputError(f"base.net: unknown net {base.net!r}; known: brightness")

    def start(self, base, checkpoints):
        return self.build(base.net, 1, self.data.size)

    def read(self, generator):
        splits = []
        for size in (self.data.train_size, self.data.validation_size, self.data.test_size):
            images = torch.rand(size, 3, 4, 4, generator=generator)
            images *= torch.rand(size, 1, 1, 1, generator=generator)
            splits.append(Examples({"images": images, "brightness": images.mean((1, 2, 3))}))
        return ImageSet(*splits, classes=("brightness",))

    def build(self, name, classes, size, **options):
        norm = nn.BatchNorm1d(8)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), norm, nn.ReLU(), nn.Linear(8, 1))

    def batches(self, split, batch_size, generator):
        for rows in torch.randperm(len(split), generator=generator).split(batch_size):
            yield split.columns["images"][rows], split.columns["brightness"][rows]

    def loss(self, net, batch):
        images, brightness = batch
        return functional.mse_loss(net(images)[:, 0], brightness)

    @torch.no_grad()
    def score(self, net, split, batch_size):
        return self.loss(net.eval(), (split.columns["images"], split.columns["brightness"])).item()

    def evaluation(self, net, names, images, sizes):
        from pdiff.evaluation.predictions import Evaluation, grid

        task = self

        class Judged(Evaluation):
            metric, larger_is_better = task.metric, False

            @torch.no_grad()
            def judge(self, split, models, progress=None):
                own, right, scores = getattr(images, split).columns, [], []
                for model in models:
                    found = torch.func.functional_call(net, dict(model), (own["images"],))[:, 0]
                    off = found - own["brightness"]
                    right.append((off.abs() <= task.judging.close).short())
                    scores.append(off.square().mean())
                return torch.stack(right), torch.stack(scores)

            def picture(self, models):
                return grid(images.test.columns["images"][:6], 6), "Six test images."

        return Judged(images, "validation")


TASK = Regression
