"""What every augmentation does to pictures, to be judged by eye.

    python experiments/augmentation.py --scale laptop --data ../shared/data

A row for each augmentation, five draws of one digit, one sign-language digit and one piece of clothing
(Fashion-MNIST); the first row is the whole image on its canvas, the last two are the ten crops. At laptop
scale it is docs/augmentation.jpg that is drawn.

Expected: `flip` mirrors about half; `crop` has black edges, everything that cuts from a canvas has none;
`short_side_crop` and `li2020_crop` keep the scale, `resized_crop` and `li2020_resized_crop` change scale
and aspect; both `li2020_…_crop` change the colours and `li2020_flip` only mirrors; the ten crops are four
corners and the centre, then their mirrors.
"""

from pathlib import Path

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure
from options import Options

import linft
from linft.core.preprocessing import Preprocessing
from linft.data.augment import AUGMENTATIONS, augment
from linft.data.crops import ten_crops

SHAPE = (64, 64)
DRAWS = 5
PREPROCESSING = Preprocessing((*SHAPE, 3))
TASKS = ("digits", "sign_digits", "fashion")
DOCS = Path("docs/augmentation.jpg")
LAST = ("corners and centre", "their mirrors")


def main(options: Options) -> None:
    """Draw the contact sheet."""
    columns = {task: rows(linft.load_task(options.source(task)).x_train[:1]) for task in options.chosen(TASKS)}
    sheet = DOCS if options.scale == "laptop" else options.directory("augmentation") / DOCS.name
    figure(columns).savefig(sheet, pil_kwargs={"quality": 85})
    print(f"wrote {sheet}")


def rows(image: np.ndarray) -> dict[str, np.ndarray]:
    """Row name -> pictures [5 h w 3] of one image [1 h w] or [1 h w c]."""
    canvases, sizes = PREPROCESSING.canvas(image)
    found = {"on the canvas": canvases}
    keys = jax.random.split(jax.random.key(0), DRAWS)
    for name, row in AUGMENTATIONS.items():
        images, size = (canvases, sizes) if row.canvas else (PREPROCESSING.resize(image), None)
        sizes_of_draws = None if size is None else np.repeat(size, DRAWS, axis=0)
        found[name] = np.asarray(augment(name, keys, np.repeat(images, DRAWS, axis=0), sizes_of_draws, SHAPE))
    crops = np.asarray(ten_crops(canvases, sizes, SHAPE))[0]
    return found | dict(zip(LAST, np.split(crops, 2), strict=True))


def figure(columns: dict[str, dict[str, np.ndarray]]) -> Figure:
    """A panel for each row and task, the draws side by side with a gap between them."""
    names = list(next(iter(columns.values())))
    drawing = Figure(figsize=(14, 0.9 * len(names)), dpi=90, layout="constrained")
    panels = drawing.subplots(len(names), len(columns), squeeze=False)
    for name, line in zip(names, panels, strict=True):
        for axes, (title, found) in zip(line, columns.items(), strict=True):
            strip = [np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=255) for picture in found[name]]
            axes.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=title if name == names[0] else None)
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return drawing


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
