"""Train the zoo that the package ships: two networks, eight sources, two starts; and multi-domain experts.

    python experiments/zoo.py --scale laptop --data ../shared/data

Deshpande and others 2021, Tables 1 and 2, at 32×32. Single-domain: every source is learnt from random
weights and from the CIFAR-10 expert. Multi-domain: one ResNet on all eight sources with shared weights,
with batch norms of each domain, and with adapters; and one with batch norms on five sources only.
`linft pretrain` and `linft pretrain-domains` train into build/zoo; what is there already is skipped, so an
interrupted call goes on. Then the single-domain experts and the domains of the five-source network that
beat ridge regression on 16×16 pixels in balanced accuracy go to the package's zoo, linft/zoo/weights, in half
precision (the default model in full). At smoke scale (minutes) every training is of two steps, and all of it,
the zoo too, stays in results/zoo/smoke.

Expected: the tables in experiments/results/zoo/laptop/tables.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from options import Options
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score

import linft
from linft.cli.options import PretrainingOptions, TaskOptions
from linft.cli.pretrain import Pretrain
from linft.cli.pretrain_domains import PretrainDomains
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.core.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """A source data set."""

    citation: str
    augmentation: str = "crop"
    steps: int = 900
    """From random weights; half as many from the CIFAR-10 expert."""


SOURCES = {
    "cifar10": Source("Krizhevsky 2009", "crop_flip"),
    "gtsrb": Source("Stallkamp and others 2012", steps=1800),
    "ucmerced16": Source("Yang and Newsam 2010", "crop_flip"),
    "sign_digits": Source("Mavi 2020, arXiv:2011.08927", "crop_flip"),
    "mnist": Source("LeCun and others 1998"),
    "omniglot": Source("Lake, Salakhutdinov and Tenenbaum 2015", steps=1800),
    "imagenet_coarse": Source("Russakovsky and others 2015", "crop_flip"),
    "fashion": Source("Xiao, Rasul and Vollgraf 2017", "crop_flip"),
}
NO_TARGETS = ("cifar10", "gtsrb", "mnist", "omniglot", "imagenet_coarse")  # the others serve as target tasks

BASE = Recipe(
    learning_rate=0.05, schedule="cosine", warmup_steps=50, weight_decay=5e-4, batch_size=32, batch_norm="train"
)
DEFAULT = "resnet14-cifar10"  # the model of the demo: in full precision, so that the README's figures are its own
DOMAINS = BASE.replace(batch_size=16, augmentation="crop")


@dataclass(frozen=True)
class Network:
    """An architecture, and how it learns CIFAR-10."""

    architecture: str
    options: dict[str, int]
    cifar10: Recipe
    again: float
    """Learning rate from the CIFAR-10 expert."""
    share: float = 1.0
    """Of the steps that a source takes."""


NETWORKS = {
    "resnet14": Network(
        "cifar_resnet14",
        {},
        BASE.replace(learning_rate=0.1, warmup_steps=125, batch_size=128, epochs=40),
        again=0.02,
    ),
    "densenet22": Network(  # a step takes twice the time
        "cifar_densenet22",
        {"growth": 6, "width": 12},
        BASE.replace(learning_rate=0.1, batch_size=64, epochs=12),
        again=0.05,
        share=2 / 3,
    ),
}
SHARINGS = {  # what the domains share, which they are, steps
    "shared8": ("shared", tuple(SOURCES), 600),
    "multibn8": ("multi-bn", tuple(SOURCES), 600),
    "adapter8": ("adapter", tuple(SOURCES), 600),
    "multibn5": ("multi-bn", NO_TARGETS, 2000),
}


@dataclass(frozen=True)
class Config:
    """Where things are, and how long is trained."""

    options: Options
    work: Path
    """Where every expert is trained."""
    zoo: Path
    """Where those that beat the floor go."""
    steps: int | None = None
    """Of every training, in place of its own."""

    def source(self, source: str) -> str:
        return self.options.source(source)

    def trained(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    def recipe(self, recipe: Recipe) -> Recipe:
        """For as long as is trained here."""
        return recipe if self.steps is None else recipe.replace(steps=self.steps, epochs=None, warmup_steps=0)


def config_of(options: Options) -> Config:
    """The package's own zoo, or one to see that it runs."""
    if options.scale == "laptop":
        return Config(options, Path("build/zoo"), Path("linft/zoo/weights"))
    directory = options.directory("zoo")
    return Config(options, directory / "work", directory / "weights", steps=2)


def singles(config: Config) -> Iterator[tuple[list[str], Pretrain]]:
    """Names made and the command that makes them; a network's CIFAR-10 expert first."""
    for network, row in NETWORKS.items():
        for source, about in SOURCES.items():
            name, first = f"{network}-{source}", f"{network}-cifar10"
            steps = round(row.share * about.steps)
            fresh = PretrainingOptions(row.architecture, options=row.options)
            recipe = row.cifar10 if source == "cifar10" else BASE.replace(steps=steps)
            recipe = config.recipe(recipe.replace(augmentation=about.augmentation))
            to_here = Pretrain(
                TaskOptions(config.source(source)), zoo=config.work, data=source, citation=about.citation
            )
            yield [name], replace(to_here, network=fresh, name=name, recipe=recipe)
            if source != "cifar10":
                name, start = f"{first}-{source}", PretrainingOptions(init=str(config.trained(first)))
                again = config.recipe(recipe.replace(learning_rate=row.again, steps=steps // 2))
                yield [name], replace(to_here, network=start, name=name, recipe=again)


def multi(config: Config) -> Iterator[tuple[list[str], PretrainDomains]]:
    """The same for the multi-domain experts."""
    for name, (sharing, sources, steps) in SHARINGS.items():
        tasks = tuple(config.source(source) for source in sources)
        start = PretrainingOptions(init=str(config.trained("resnet14-cifar10")))
        recipe = config.recipe(DOMAINS.replace(steps=steps))
        command = PretrainDomains(tasks, sharing, start, zoo=config.work, name=name, data=sources, recipe=recipe)
        cited = replace(command, citations=tuple(SOURCES[source].citation for source in sources))
        yield [f"{name}-{source}" for source in sources], cited


def floor(task: linft.Task) -> float:
    """Balanced test accuracy of ridge regression on 16×16 pixels, the best of five strengths."""
    pixels = Preprocessing((16, 16, 3))
    train, test = (pixels.resize(images).reshape(len(images), -1) / 255 for images in (task.x_train, task.x_test))
    fits = (RidgeClassifier(alpha=alpha).fit(train, task.y_train) for alpha in (0.1, 1.0, 10.0, 100.0, 1000.0))
    return max(float(balanced_accuracy_score(task.y_test, fit.predict(test))) for fit in fits)


def publish(config: Config, names: list[str], floors: dict[str, float]) -> list[str]:
    """Write those that beat the floor of their source to the zoo; a line on each that does not."""
    left_out = []
    for name in names:
        model = linft.load_model(config.trained(name))
        reached, needed = model.source["balanced_accuracy"], floors[model.source["data"]]
        if reached > needed:
            dtype = "float32" if name == DEFAULT else "float16"
            linft.save_model(model, config.zoo / f"{name}.safetensors", dtype)
        else:
            left_out.append(f"{name} is left out: its balanced accuracy {reached:.1%} is below the floor {needed:.1%}.")
    return left_out


def table(config: Config, rows: dict[str, str], corner: str) -> list[str]:
    """Test accuracy and balanced accuracy in per cent; `rows` gives the names of models with {} for the source."""
    lines = [f"| {corner} | {' | '.join(SOURCES)} |", "|" + " --- |" * (len(SOURCES) + 1)]
    for title, pattern in rows.items():
        paths = [config.trained(pattern.format(source)) for source in SOURCES]
        sources = [linft.load_model(path).source if path.exists() else None for path in paths]
        cells = ["–" if s is None else f"{s['test_accuracy']:.1%} ({s['balanced_accuracy']:.1%})" for s in sources]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def main(options: Options) -> None:
    """Train what is missing, then publish it and write the tables."""
    if options.tasks:
        raise LinftError("a zoo is of all its sources; leave out --tasks")
    config = config_of(options)
    if "run" in options.do:
        for names, command in [*singles(config), *multi(config)]:
            if not all(config.trained(name).exists() for name in names):
                command()
    if "report" in options.do:
        report(config)


def report(config: Config) -> None:
    """Publish the experts that beat the floor, and write the tables of all."""
    floors = {source: floor(linft.load_task(config.source(source))) for source in SOURCES}
    shipped = [name for names, _ in singles(config) for name in names]
    shipped += [f"multibn5-{source}" for source in NO_TARGETS]
    left_out = publish(config, shipped, floors)
    starts = {}
    for network in NETWORKS:
        starts[f"{network}, from random weights"] = f"{network}-{{}}"
        starts[f"{network}, from CIFAR-10"] = f"{network}-cifar10-{{}}"
    one = table(config, starts, "single-domain expert")
    sharings = {"single domain, from CIFAR-10": "resnet14-cifar10-{}"} | {name: f"{name}-{{}}" for name in SHARINGS}
    two = table(config, sharings, "ResNet-14")
    lines = [
        "# Experts of the shipped zoo",
        "",
        "Test accuracy (balanced over classes), as `python experiments/zoo.py --scale laptop --data ../shared/data` "
        "gives it.",
        "",
        *one,
        f"| ridge on pixels (balanced) | {' | '.join(f'{f:.1%}' for f in floors.values())} |",
        "",
        "Multi-domain experts, one network on all sources but for the last row:",
        "",
        *two,
        "",
        *(left_out or ["Every expert beats the floor."]),
    ]
    tables = config.options.directory("zoo") / "tables.md"
    tables.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(shipped) - len(left_out)} models in {config.zoo}, tables in {tables}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
