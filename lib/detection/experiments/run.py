"""Running the rows of a study: training stages, what follows them, the test, and the result in one file.

A training lies in <output>/trainings/<model>_<variant>_<hash of all that determines it>: rows of any study that need
the same one share it. A row's result and pictures lie in <output>/<study>/<row>. What is finished is not done again
unless something that determines it has changed; a training that was interrupted goes on from its newest snapshot.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from caffelite import proto
from caffelite.errors import CaffeliteError
from caffelite.net_spec import assign_proto
from caffelite.proto.files import replacing
from detection import plain_yaml
from detection.config import Options, cfg
from detection.experiments import measure, nets, report, requirements
from detection.experiments.scale_down import ScaleDown
from detection.experiments.study import ROOT, Row, Stage, Study, StudyError
from detection.fast_rcnn import jobs, svd
from detection.models import files
from detection.training_log import read_log

logger = logging.getLogger("detection")

OUTPUT = Path("output/experiments")
UNTRAINED = ("TEST", "EXP_DIR", "DEDUP_BOXES", "CLIP_BOTH_SIDES")
"""Options that no training depends on."""
HABITS = ("SNAPSHOT_ITERS", "SNAPSHOT_KEEP", "SNAPSHOT_INFIX", "USE_PREFETCH")
"""Options of TRAIN that change no weight."""


@dataclass(frozen=True)
class Settings:
    """How studies are run: in which folder; scaled down or whole; `iterations` of every stage, if not its own; with
    proposals made here even where published ones are asked for; `seed` instead of that of the options, which gives a
    row folders of its own."""

    output: Path = OUTPUT
    scale: ScaleDown | None = None
    iterations: int | None = None
    search: bool = False
    seed: int | None = None

    @property
    def own_scale(self) -> ScaleDown | None:
        """The scale with the iterations asked for."""
        return replace(self.scale, iterations=self.iterations) if self.scale and self.iterations else self.scale

    def applied(self, row: Row) -> Row:
        """The row with these settings, its deviations told."""
        if scale := self.own_scale:
            row = scale.row(row, self.output)
        elif self.iterations:
            whole = " and ".join(str(stage.iterations) for stage in row.stages)
            text = f"{self.iterations} iterations{' per stage' * (len(row.stages) > 1)} instead of {whole}"
            row = replace(row.shortened(self.iterations), deviations=(*row.deviations, text))
        if self.search and row.proposals == "published":
            text = "proposals made here by OpenCV's selective search instead of the authors' files"
            row = replace(row, proposals="search", deviations=(*row.deviations, text))
        if self.seed is not None:
            row = replace(row, options=files.merge_options(row.options, {"RNG_SEED": self.seed}))
        return row


@dataclass(frozen=True)
class Training:
    """A finished training: its key, folder and model, and the most bytes of memory that it took."""

    key: str
    folder: Path
    model: Path
    peak: int | None

    @property
    def loss_log(self) -> Path:
        """The file with the losses of its iterations."""
        return self.folder / f"{self.model.name.rpartition('_iter_')[0]}_loss.jsonl"

    def iteration_seconds(self) -> list[float]:
        """How long every iteration took, as far as its log tells. Raises FileFormatError."""
        columns = read_log(self.loss_log)
        seconds = columns.get("seconds", np.empty(0))
        return seconds[np.isfinite(seconds)].tolist()


def run(study: Study, names: Sequence[str] = (), settings: Settings = Settings()) -> list[Path]:
    """Run a study's rows (all, or those named), write its report, and return the rows' result files.

    A row that fails does not keep the others from running; in the end StudyError tells which did. Raises StudyError at
    once where data or weights are missing.
    """
    rows = [settings.applied(study.row(name)) for name in names or [row.name for row in study.rows]]
    requirements.check(rows)
    results, errors = [], []
    for row in rows:
        logger.info("== %s, row %s: %s", study.name, row.name, row.label)
        try:
            results.append(run_row(row, settings))
        except (CaffeliteError, OSError, MemoryError) as e:
            text = f"out of memory {e}".rstrip() if isinstance(e, MemoryError) else str(e)
            logger.error("%s, row %s: %s", study.name, row.name, text)
            errors.append(f"{row.name}: {text}")
    if results:
        write_report(study, settings)
    if errors:
        raise StudyError(f"{study.name}: {len(errors)} of {len(rows)} rows failed:\n" + "\n".join(errors))
    return results


def run_seeds(study: Study, names: Sequence[str], settings: Settings, seeds: Sequence[int | None]) -> list[Path]:
    """`run` once with each seed; a row that fails with one does not keep the others from running. Raises StudyError,
    at once where data or weights are missing."""
    requirements.check([settings.applied(study.row(name)) for name in names])
    results, errors = [], []
    for seed in seeds:
        try:
            results += run(study, names, replace(settings, seed=seed))
        except StudyError as e:
            errors.append(str(e) if seed is None else f"seed {seed}: {e}")
    if errors:
        raise StudyError("\n".join(errors))
    return results


def write_report(study: Study, settings: Settings = Settings()) -> Path:
    """Write the report of all results of a study that there are; returns the page. Raises ReportError."""
    title = f"{study.title} ({study.source})"
    return report.write(settings.output / study.name, title, [row.name for row in study.rows], study.notes)


def run_row(row: Row, settings: Settings) -> Path:
    """Run one row, settings applied; returns its result.json. Raises CaffeliteError."""
    folder = settings.output / row.study / (row.name if settings.seed is None else f"{row.name}_seed_{settings.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    train_set, test_set = (jobs.get_dataset(name) for name in (row.train, row.test))
    data = {"train": measure.dataset_summary(train_set), "test": measure.dataset_summary(test_set)}
    trainings: list[Training] = []
    for stage in row.stages:
        trainings.append(_train(row, stage, trainings, train_set, data["train"], settings))
    key = _hash(_test_identity(row, trainings[-1], data["test"]))
    result, state = folder / "result.json", folder / "state.json"
    if result.is_file() and state.is_file() and json.loads(state.read_text()).get("key") == key:
        logger.info("%s is there, and nothing has changed", result)
        return result
    for outdated in (result, folder / "evaluation.json"):
        outdated.unlink(missing_ok=True)
    measure.reset_peak_memory()
    _set_options(row.configured(row.stages[-1]))
    definition, model = _finish(row, trainings[-1], test_set, folder, settings)
    proposals = requirements.proposals_file(row, row.test)
    jobs.test(str(definition), row.test, str(model), proposals, str(folder))
    _write(result, _result(row, trainings, data, folder, settings))
    _write(state, {"key": key})
    return result


def _train(row: Row, stage: Stage, before: Sequence[Training], dataset, data: Mapping, settings: Settings) -> Training:
    """The training of a stage, done before, or done now."""
    options = row.configured(stage)
    net = nets.train_net(row, stage, dataset.num_classes, settings.scale)
    solver = files.solver(row.model, row.model.folder, stage.variant)
    for field, value in {**stage.solver, "max_iter": stage.iterations}.items():
        assign_proto(solver, field, value)
    solver.random_seed = options.RNG_SEED
    solver.snapshot_prefix = Path(solver.snapshot_prefix).name
    solver.ClearField("train_net")
    weights = before[-1].model if before else ROOT / row.weights if row.weights else None
    proposals = requirements.proposals_file(row, row.train)
    identity = {
        "net": proto.to_text(net),
        "solver": proto.to_text(solver),
        "options": _that_train(options),
        "data": data,
        "proposals": proposals or "selective search",
        "start": before[-1].key if before else measure.file_sha256(weights) if weights else None,
    }
    key = _hash(identity)
    model_name = Path(row.model.folder).name.replace("prototxt", "shapes")
    folder = settings.output / "trainings" / f"{model_name}_{stage.variant.name or 'default'}_{key}"
    record = folder / "training.json"
    if record.is_file():
        done = json.loads(record.read_text())
        if (folder / done["model"]).is_file():
            logger.info("%s is trained", folder)
            return Training(key, folder, folder / done["model"], done["peak"])
    folder.mkdir(parents=True, exist_ok=True)
    comment = f"{row.model.title}, for {dataset.name}.\nWritten by tools/reproduce.py."
    (folder / "train.prototxt").write_text(files.to_prototxt(net, comment))
    solver.train_net = str(folder / "train.prototxt")
    (folder / "solver.prototxt").write_text(files.to_prototxt(solver, comment))
    (folder / "config.yml").write_text(options.to_yaml())
    _write(folder / "identity.json", identity)
    _set_options(options)
    measure.reset_peak_memory()
    model = jobs.train(
        str(folder / "solver.prototxt"),
        row.train,
        stage.iterations,
        weights=str(weights) if weights else None,
        proposals_file=proposals,
        output=str(folder),
        resume=True,
    )
    peak = measure.peak_memory()
    _write(record, {"model": model.name, "peak": peak})
    return Training(key, folder, model, peak)


def _finish(row: Row, training: Training, test_set, folder: Path, settings: Settings) -> tuple[Path, Path]:
    """The test net and the model of a row, compressed or with SVMs where the row has them."""
    net = nets.test_net(row, test_set.num_classes, settings.scale)
    definition = folder / "test.prototxt"
    definition.write_text(files.to_prototxt(net, f"{row.model.title}, to test on {test_set.name}."))
    if row.svd:
        compressed, model = folder / "compressed.prototxt", folder / f"{training.model.stem}_svd.caffemodel"
        svd.compress(str(definition), str(training.model), row.svd, str(compressed), str(model))
        return compressed, model
    if row.svm:
        proposals, model = requirements.proposals_file(row, row.train), folder / f"{training.model.stem}_svm.caffemodel"
        return definition, jobs.train_svms(str(definition), row.train, str(training.model), proposals, str(model))
    return definition, training.model


def _result(row: Row, trainings: Sequence[Training], data: Mapping, folder: Path, settings: Settings) -> dict[str, Any]:
    """What result.json holds."""
    evaluation, timing = folder / "evaluation.json", folder / "timing.json"
    scores = json.loads(evaluation.read_text()) if evaluation.is_file() else {}
    seconds = [training.iteration_seconds() for training in trainings]
    peaks = [training.peak for training in trainings] + [measure.peak_memory()]
    options = row.configured(row.stages[-1])
    names = ("precision_recall.png", "detections.png", "worst.jpg", "best.jpg")
    pictures = [*(folder / name for name in names), trainings[-1].loss_log.with_suffix(".png")]
    weights = ROOT / row.weights if row.weights else None
    passes = row.stages[-1].solver.get("iter_size", 1)
    return {
        "format": 1,
        "study": row.study,
        "row": row.name,
        "label": row.label,
        "metric": row.metric,
        "scores": {"mAP": scores.get("mAP"), "AP": scores.get("AP", {})},
        "published": dict(row.published),
        "time": {
            "train_seconds": sum(map(sum, seconds)) if all(seconds) else None,
            "train_iteration_ms": 1000 * sum(seconds[-1]) / len(seconds[-1]) if seconds[-1] else None,
            "test_image_ms": json.loads(timing.read_text())["median_ms"],
        },
        "memory_peak_bytes": max((peak for peak in peaks if peak), default=None),
        "options": plain_yaml.load(options.to_yaml()),
        "solver": "\n".join((training.folder / "solver.prototxt").read_text() for training in trainings),
        "seed": options.RNG_SEED,
        "versions": measure.versions(),
        "data": data,
        "weights": {"file": row.weights, "sha256": measure.file_sha256(weights)} if weights else None,
        "effective_batch": {
            "images": passes * options.TRAIN.IMS_PER_BATCH,
            "rois": passes * options.TRAIN.BATCH_SIZE,
        },
        "deviations": list(row.deviations),
        "notes": [
            f"COCO's {name}: {value:.4f}" for name, value in (scores.get("coco") or {}).items() if value is not None
        ],
        "scaled_down": str(settings.own_scale) if settings.scale else None,
        "files": {
            "loss_log": os.path.relpath(trainings[-1].loss_log, folder),
            "evaluation": evaluation.name if evaluation.is_file() else None,
            "detections": "detections.npz",
            "pictures": [os.path.relpath(path, folder) for path in pictures if path.is_file()],
        },
    }


def _that_train(options: Options) -> dict[str, Any]:
    """The options that a training depends on."""
    values = {key: value for key, value in asdict(options).items() if key not in UNTRAINED}
    values["TRAIN"] = {key: value for key, value in values["TRAIN"].items() if key not in HABITS}
    return values


def _test_identity(row: Row, training: Training, data: Mapping) -> dict[str, Any]:
    """All that a row's result depends on."""
    return {
        "training": training.key,
        "data": data,
        "options": asdict(row.configured(row.stages[-1])),
        "proposals": requirements.proposals_file(row, row.test),
        "svd": dict(row.svd),
        "svm": row.svm,
        "row": [row.label, row.metric, dict(row.published), row.deviations],
    }


def _set_options(options: Options) -> None:
    cfg.reset()
    cfg.merge(plain_yaml.load(options.to_yaml()))


def _hash(identity: Mapping) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _write(path: Path, content: Mapping) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
