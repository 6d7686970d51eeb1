"""Experiment files: a study is a table or figure, a row one of its numbers.

A file is YAML with `title`, `source`, perhaps `notes`, `defaults` (of all rows) and `rows` ({name: row}). A name is
also that of a folder: letters, digits and _ . + -. A row has

    label           how the report names it
    model           CaffeNet, VGG_CNN_M_1024, VGG16, SqueezeNet or shapes
    train, test     names of data sets (detection.datasets); folders are looked for from the repository's root
    weights         file to start from, from the same root; null for random weights; without it that of the model's
                    ImageNet training
    proposals       published (the authors' files, where there are some) or search (made here)
    options         those of detection.config, as in its YAML files
    stages          trainings one after the other, each {variant, iterations, solver: {field: value}}; a stage starts
                    from the model of the one before. `variant`, `iterations` and `solver` in the row itself are short
                    for one stage
    svd             {layer: rank}: the trained net is compressed before it is tested
    svm             true: linear SVMs are trained on the net's features and take the place of its softmax
    metric          by which rule the numbers are measured
    published       {mAP: number, AP: list or mapping, note: text}, numbers in percent as in the paper
    deviations      what is knowingly not as published, a text each
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from caffelite import proto
from caffelite.errors import CaffeliteError
from caffelite.net_spec import assign_proto
from detection import datasets, plain_yaml
from detection.config import Options
from detection.datasets.voc import VOC_CLASSES
from detection.errors import ConfigError
from detection.models.build import Model, Variant
from detection.models.files import merge_options
from detection.models.nets import MODELS

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = ROOT / "experiments"

WEIGHTS = {
    "CaffeNet": "data/imagenet_models/CaffeNet.v2.caffemodel",
    "VGG_CNN_M_1024": "data/imagenet_models/VGG_CNN_M_1024.v2.caffemodel",
    "VGG16": "data/imagenet_models/VGG16.v2.caffemodel",
    "SqueezeNet": "data/imagenet_models/squeezenet_v1.0.caffemodel",
    "shapes": None,
}
"""Where the models' ImageNet weights are looked for."""

ELSEWHERE = {"max_iter": "iterations", "random_seed": "RNG_SEED in options", "train_net": "model and variant"}
"""Fields of the solver that experiments set themselves: what sets them."""


class StudyError(CaffeliteError):
    """An experiment file that does not say what it should, or asks for what there is not."""


@dataclass(frozen=True)
class Stage:
    """One training: a variant of the model, its iterations, and the solver's fields that differ from the model's."""

    variant: Variant
    iterations: int
    solver: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One number of a study and all that leads to it; `published` in fractions, `mAP` None where it is no mAP."""

    study: str
    name: str
    label: str
    model: Model
    weights: str | None
    train: str
    test: str
    proposals: str
    options: Mapping[str, Any]
    stages: tuple[Stage, ...]
    svd: Mapping[str, int]
    svm: bool
    metric: str
    published: Mapping[str, Any]
    deviations: tuple[str, ...]

    def shortened(self, iterations: int) -> Row:
        """The row with so many iterations in every stage, and the steps of the rate in proportion."""
        stages = []
        for stage in self.stages:
            step = stage.solver.get("stepsize", self.model.solver["stepsize"])
            stepsize = max(1, round(step * iterations / stage.iterations))
            stages.append(Stage(stage.variant, iterations, {**stage.solver, "stepsize": stepsize}))
        return replace(self, stages=tuple(stages))

    def configured(self, stage: Stage) -> Options:
        """The options of one of the row's stages: the model's (config.yml beside its prototxts), then the variant's,
        then the row's."""
        options = Options()
        own = ROOT / self.model.folder / "config.yml"
        if own.is_file():
            options.merge_file(own)
        where = f"{self.study}, row {self.name}"
        options.merge(stage.variant.options, where)
        options.merge(self.options, where)
        if self.svm:
            options.TEST.SVM = True
        return options


@dataclass(frozen=True)
class Study:
    """An experiment file."""

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        """The row of a name. Raises StudyError."""
        names = [row.name for row in self.rows]
        if name not in names:
            raise StudyError(f"{self.name}: has no row {name!r}; its rows: {', '.join(names)}")
        return self.rows[names.index(name)]


def names() -> list[str]:
    """The studies there are."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.yml"))


def read(name: str) -> Study:
    """The study of a name, or of a file's path. Raises StudyError, ConfigError."""
    path = Path(name) if name.endswith((".yml", ".yaml")) else EXPERIMENTS / f"{name}.yml"
    if not path.is_file():
        raise StudyError(f"{name}: there is no such study; there are {', '.join(names())}, or give a file .yml")
    try:
        content = plain_yaml.load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise StudyError(f"{path}: cannot be read as YAML: {' '.join(str(e).split())}") from None
    except OSError as e:
        raise StudyError(f"{path}: cannot be read: {e.strerror}") from None
    return _Reader(path).study(content)


def located(dataset: str) -> str:
    """The name of a data set with its folders, if it names any, from the repository's root instead of from here."""
    return "+".join(
        ":".join(str(ROOT / part) if i == 0 or ".json:" in name else part for i, part in enumerate(name.split(":")))
        if ":" in name
        else name
        for name in datasets.parts(dataset)
    )


class _Reader:
    """Checks a file's content and builds the study of it; errors begin with file and row."""

    def __init__(self, path: Path):
        self.path = self.where = path

    def error(self, message: str) -> StudyError:
        return StudyError(f"{self.where}: {message}")

    def study(self, content) -> Study:
        self.known(content, ("title", "source", "notes", "defaults", "rows"), "study")
        rows, defaults = self.mapping(content, "rows"), self.mapping(content, "defaults")
        if not rows:
            raise self.error("expected rows, found none")
        built = []
        for name, row in rows.items():
            self.where = f"{self.path}: row {name}"
            if not re.fullmatch(r"\w[\w.+-]*", str(name)):
                raise self.error("its name is that of a folder: expected letters, digits and _ . + - only")
            built.append(self.row(str(name), merge_options(defaults, self.expect("row", row or {}, Mapping))))
        self.where = self.path
        title, source = (self.text(content, key) for key in ("title", "source"))
        return Study(self.path.stem, title, source, tuple(built), self.texts(content, "notes"))

    def row(self, name: str, row: Mapping) -> Row:
        short = ("variant", "iterations", "solver")
        self.known(row, [f.name for f in fields(Row) if f.name not in ("study", "name")] + list(short), "row")
        model = self.one_of("model", self.text(row, "model"), MODELS)
        if "stages" in row and any(key in row for key in short):
            raise self.error(f"give either stages or {', '.join(short)}, not both")
        stages = row.get("stages", [{key: row[key] for key in short if key in row}])
        if not self.expect("stages", stages, list):
            raise self.error("stages: expected at least one, found none")
        weights = row.get("weights", WEIGHTS[model])
        built = Row(
            study=self.path.stem,
            name=name,
            label=str(row.get("label", name)),
            model=MODELS[model],
            weights=None if weights is None else self.expect("weights", weights, str),
            train=located(self.text(row, "train")),
            test=located(self.text(row, "test")),
            proposals=self.one_of("proposals", row.get("proposals", "search"), ("search", "published")),
            options=self.mapping(row, "options"),
            stages=tuple(self.stage(MODELS[model], stage) for stage in stages),
            svd={layer: self.at_least_one(f"svd: {layer}", n) for layer, n in self.mapping(row, "svd").items()},
            svm=self.expect("svm", row.get("svm", False), bool),
            metric=self.text(row, "metric"),
            published=self.published(self.mapping(row, "published")),
            deviations=self.texts(row, "deviations"),
        )
        if built.svd and built.svm:
            raise self.error("svd and svm exclude each other: the SVMs would be trained on other features")
        for stage in built.stages:
            try:
                built.configured(stage)
            except ConfigError as e:
                raise StudyError(f"{self.path}: {e}") from None
        return built

    def stage(self, model: Model, stage) -> Stage:
        self.known(self.expect("stage", stage, Mapping), ("variant", "iterations", "solver"), "stage")
        variants = {variant.name or "default": variant for variant in model.variants}
        variant = variants[self.one_of("variant", stage.get("variant", "default"), variants)]
        solver = self.mapping(stage, "solver")
        param = proto.message("SolverParameter")()
        for key, value in solver.items():
            if key in ELSEWHERE:
                raise self.error(f"solver: {key} is not given here but by {ELSEWHERE[key]}")
            try:
                assign_proto(param, str(key), value)
            except CaffeliteError as e:
                raise self.error(f"solver: {e}") from None
        iterations = self.at_least_one("iterations", stage.get("iterations", model.solver["max_iter"]))
        return Stage(variant, iterations, solver)

    def published(self, numbers: Mapping) -> dict[str, Any]:
        self.known(numbers, ("mAP", "AP", "note"), "published")
        ap = numbers.get("AP")
        if isinstance(ap, list):
            if len(ap) != len(VOC_CLASSES):
                raise self.error(f"published: AP: expected {len(VOC_CLASSES)} numbers, actual {len(ap)}")
            ap = dict(zip(VOC_CLASSES, ap))
        elif ap is not None:
            self.expect("published: AP", ap, Mapping)
        mean = numbers.get("mAP")
        for value in [*([] if mean is None else [mean]), *(ap or {}).values()]:
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
                raise self.error(f"published: expected percents, actual {value!r}")
        return {
            "mAP": None if mean is None else mean / 100,
            "AP": None if ap is None else {name: value / 100 for name, value in ap.items()},
            "note": str(numbers.get("note", "")),
        }

    def known(self, values, allowed: Iterable[str], what: str) -> None:
        for key in self.expect(what, values, Mapping):
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(allowed)}"
                raise self.error(f"a {what} has no {key!r}; {hint}")

    def expect(self, what: str, value, kind: type):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"{what}: expected {kind.__name__.lower()}, actual {value!r}")
        return value

    def at_least_one(self, what: str, value) -> int:
        if self.expect(what, value, int) < 1:
            raise self.error(f"{what}: expected at least 1, actual {value}")
        return value

    def text(self, values: Mapping, key: str) -> str:
        return self.expect(key, values.get(key), str)

    def texts(self, values: Mapping, key: str) -> tuple[str, ...]:
        return tuple(self.expect(key, text, str) for text in self.expect(key, values.get(key, []), list))

    def mapping(self, values: Mapping, key: str) -> Mapping:
        return self.expect(key, values.get(key) or {}, Mapping)

    def one_of(self, what: str, value: str, allowed: Iterable[str]) -> str:
        if self.expect(what, value, str) not in allowed:
            raise self.error(f"{what}: expected one of {', '.join(allowed)}, actual {value!r}")
        return value
