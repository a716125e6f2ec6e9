"""Read the images and split them.

image files -> train, validation and test split, uint8
"""

from pdiff import outputs, tracking
from pdiff.config import load_params
from pdiff.core.runtime import make_generator
from pdiff.images.batches import SPLITS, save_images
from pdiff.tasks.registry import make_task
from stages import stage


def main() -> None:
    params = load_params()
    generator = make_generator(params.seed.base, "prepare_data")
    with tracking.run("prepare_data", params, "seed", "task", "data") as log:
        images = make_task(params.task, params.data).read(generator)
        log.summary({f"{name}_images": len(getattr(images, name)) for name in SPLITS})
        log.summary({"classes": len(images.classes)})
        save_images(outputs.IMAGES, images)


if __name__ == "__main__":
    stage(main)
