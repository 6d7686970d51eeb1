"""The jobs of tools/train_net.py, test_net.py and demo.py: from names of data sets and files to results."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from caffelite import TEST, Net, backend, proto, set_random_seed
from caffelite.backend import kernels
from caffelite.errors import CaffeliteError, WeightsError
from caffelite.solver.lock import locked
from detection import datasets, visualize
from detection.config import cfg
from detection.datasets import shapes
from detection.datasets.image import read_image
from detection.errors import ConfigError
from detection.evaluation.detections import save_detections
from detection.evaluation.measure import measure, write_for_server
from detection.evaluation.voc import Evaluation, evaluate
from detection.fast_rcnn import classes as class_counts
from detection.fast_rcnn import snapshots
from detection.fast_rcnn.files import (
    class_names,
    kept_class_names,
    make_writable,
    newest_model,
    read_solver,
    refuse_other_classes,
)
from detection.fast_rcnn.svm import SvmTrainer
from detection.fast_rcnn.test import Detections, detect, test_net
from detection.fast_rcnn.train import Trainer
from detection.proposals.choice import dataset_proposals, image_proposals
from detection.roi_data.roidb import build_roidb, flip
from detection.training_log import read_log, summary

logger = logging.getLogger("detection")

DEFAULT_ITERS = 40000
"""Iterations of the paper's VOC 2007 schedule, for a solver that does not say."""

STRICT = 0.7
"""The IoU beside VOC's 0.5 at which a comparison counts."""

SAMPLES = 12
"""Images in the picture of sample detections."""


def configure(file: str | None, beside: str, pairs: Sequence[str]) -> None:
    """Set the options from a YAML file (by default config.yml beside the prototxt, if there), then from pairs."""
    default = Path(beside).with_name("config.yml")
    if file is None and default.is_file():
        file = str(default)
    if file:
        cfg.merge_file(file)
        logger.info("options from %s", file)
    cfg.merge_pairs(pairs)
    if not file and Path(beside).is_file():
        others = " but those of --set" * bool(pairs)
        logger.info("no %s: all options%s have their defaults; TEST.SCALES is %s", default, others, cfg.TEST.SCALES)


def get_dataset(name: str):
    """The data set of a name (detection.datasets.get); the generated one is made where it is not there yet."""
    folder = datasets.DATA / "shapes"
    if re.search(r"(^|\+)shapes_", name) and not folder.exists():
        logger.info("making the data set %s", folder)
        shapes.make(folder)
    return datasets.get(name)


def train(
    solver: str,
    imdb: str,
    iters: int | None = None,
    weights: str | None = None,
    snapshot: str | None = None,
    proposals_file: str | None = None,
    output: str | None = None,
    strict: bool = False,
    fit_classes: bool = False,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    skip_mismatched: bool = False,
) -> Path:
    """Train the net of a solver file on a data set, from weights or from a snapshot's state; returns the model's file.

    `iters`: updates in all, by default the solver's max_iter. `seed`: instead of the solver's and RNG_SEED. `resume`:
    from the newest intact snapshot of the solver, if there is one. `force`: a snapshot of other options will do.
    `skip_mismatched`: layers that the weights have in other shapes start afresh. Raises CaffeliteError.
    """
    if snapshot and (weights or resume):
        raise CaffeliteError("--snapshot (to continue) goes with neither --weights (to fine-tune) nor --resume")
    if iters is not None and iters < 1:
        raise CaffeliteError(f"--iters: expected at least 1, actual {iters}")
    if snapshot and snapshots.sidecar(snapshot) and not Path(snapshot).is_file():
        raise CaffeliteError(f"--snapshot {snapshot}: no such file")
    dataset = get_dataset(imdb)
    param = read_solver(solver, dataset.name, output)
    iters = iters or param.max_iter or DEFAULT_ITERS
    if seed is not None:
        cfg.RNG_SEED = param.random_seed = seed
    make_writable(Path(param.snapshot_prefix).parent)
    with locked(param.snapshot_prefix):
        if resume:
            snapshot = snapshots.newest(param.snapshot_prefix)
            if snapshot is None:
                logger.info("there is no snapshot of %s to resume from: training starts afresh", param.snapshot_prefix)
        elif not snapshot and (earlier := snapshots.newest(param.snapshot_prefix)):
            logger.info("%s is there: --resume goes on from it; this training starts afresh", earlier)
        if snapshot and snapshots.sidecar(snapshot).exists():
            origin, _ = snapshots.read(snapshot)
            param.random_seed = origin.seed
        if not snapshot:
            refuse_other_classes(param.snapshot_prefix, dataset.classes)
            if param.random_seed not in (-1, cfg.RNG_SEED):
                text = "the solver's random_seed is %d; RNG_SEED %d draws the minibatches"
                logger.info(text, param.random_seed, cfg.RNG_SEED)
        trainer = Trainer(param, dataset.classes, fit_classes, solver)
        if weights and snapshot:
            logger.info("--weights %s: not read, as the training goes on from %s", weights, snapshot)
        elif weights:
            trainer.load_weights(weights, strict, skip_mismatched)
        trainer.set_data(build_roidb(dataset, dataset_proposals(dataset, proposals_file)))
        if snapshot:
            trainer.restore(snapshot, force)
            if resume and trainer.solver.iter == iters:
                logger.info("%s is of iteration %d: there is nothing left to train", snapshot, iters)
                return snapshots.model_of(snapshot)
        if not backend.on_gpu():
            kernels.tell_if_busy()
        model = trainer.train(iters)
        plot_losses(trainer.loss_log)
    return model


def plot_losses(log: Path) -> None:
    """Draw the curves of a loss log beside it; the model is there, so a picture that cannot be written is only told."""
    picture = log.with_suffix(".png")
    try:
        visualize.plot_logs({log.stem.removesuffix("_loss"): read_log(log)}, picture)
        logger.info("losses in %s, training curve %s", log, picture)
    except (CaffeliteError, OSError) as e:
        logger.error("no training curve: %s", e)


def compare_logs(logs: Sequence[str], picture: str | None = None) -> Iterator[str]:
    """Draw the curves of one or several loss logs in one picture, by default beside the first; yields a line about each
    and the picture's name. Raises FileFormatError."""
    columns = {}
    for log in logs:
        name = log.removesuffix(".jsonl").removesuffix("_loss")
        columns[name] = read_log(log)
        yield summary(name, columns[name])
    first = Path(logs[0])
    target = Path(picture) if picture else first.with_suffix(".png") if len(logs) == 1 else first.with_name("logs.png")
    visualize.plot_logs(columns, target)
    yield f"wrote {target}"


def load_net(definition: str, model: str | Path | None, classes: Sequence[str], fit: bool = False) -> Net:
    """The test net of a prototxt with a model's weights, or untrained; its numbers of classes checked, or fitted."""
    net, _ = proto.read_net(definition)
    if fit:
        class_counts.fit_classes(net, len(classes))
    else:
        class_counts.check_classes(net, classes, definition)
    set_random_seed(cfg.RNG_SEED)
    net = Net(net if fit else definition, phase=TEST)
    outputs = ["cls_prob", *["bbox_pred"] * cfg.TEST.BBOX_REG]
    lacking = {"data", "rois"}.difference(net.inputs) | set(outputs).difference(net.outputs)
    if lacking:
        raise ConfigError(
            f"{definition}: expected a net with the inputs data and rois and the outputs {' and '.join(outputs)} "
            f"(TEST.BBOX_REG is {cfg.TEST.BBOX_REG}), it lacks {', '.join(sorted(lacking))}"
        )
    if model is not None:
        report = net.copy_from(model)
        logger.info("%s", report)
        if report.missing:
            raise WeightsError(f"{model}: is no model of {definition}: it lacks the layers {', '.join(report.missing)}")
    return net


def detect_dataset(net: Net, dataset, boxes: Sequence[np.ndarray], seconds: list[float] | None = None) -> Detections:
    """The net's detections in a data set, given every image's proposals; `seconds` gets the time of each image."""
    images = (dataset.image_path(i) for i in range(len(dataset)))
    return test_net(net, images, [{"boxes": b} for b in boxes], dataset.num_classes, seconds)


def test(
    definition: str,
    imdb: str,
    model: str | None = None,
    proposals_file: str | None = None,
    output: str | None = None,
    fit_classes: bool = False,
    competition: bool = False,
    compare: bool = False,
) -> dict[str, Evaluation]:
    """Test a model (default: the newest of the solver beside the prototxt) on a data set.

    Writes to `output` (default: a folder named after the model and the data set) VOC's result files, the detections
    (npz), the evaluation and the time per image (JSON), precision-recall curves and pictures. Returns the evaluation
    as `trained`; with `compare` also `without box regression` and `untrained`, and the first two at an IoU over STRICT,
    where good boxes pay; nothing for a data set without annotations. Raises CaffeliteError.
    """
    dataset = get_dataset(imdb)
    model = _model_for(dataset, definition, model)
    logger.info("testing %s on %s", model, dataset.name)
    if model.stem.endswith("_svm") and not cfg.TEST.SVM:
        logger.warning("%s seems to hold SVMs, but its scores go through the softmax: TEST.SVM is off", model)
    net = load_net(definition, model, dataset.classes, fit_classes)
    boxes = dataset_proposals(dataset, proposals_file)
    folder = Path(output) if output else model.with_suffix("") / dataset.name
    make_writable(folder)
    with locked(folder / "test"):  # result files are written, and read back
        seconds: list[float] = []
        detections = detect_dataset(net, dataset, boxes, seconds)
        timing = {"images": len(seconds), "median_ms": 1000 * float(np.median(seconds)), "total_s": sum(seconds)}
        (folder / "timing.json").write_text(json.dumps(timing) + "\n")
        save_detections(folder / "detections.npz", detections, dataset.image_index)
        results = folder if competition else folder / "results"
        draw_samples(dataset, detections, folder / "detections.png")
        if not dataset.has_annotations:
            files = write_for_server(dataset, detections, folder, results)
            logger.info("%s has no annotations to measure by; for its server: %s", dataset.name, files[0].parent)
            return {}
        evaluation = measure(dataset, detections, folder, results=results)
        logger.info("results, curves and pictures (detections.png) in %s", folder)

        evaluations = {"trained": evaluation}
        if compare:
            strict = f", IoU > {STRICT:g}"
            evaluations["trained" + strict] = evaluate(dataset, detections, None, STRICT)
            if cfg.TEST.BBOX_REG:
                cfg.TEST.BBOX_REG = False
                try:
                    plain = detect_dataset(net, dataset, boxes)
                finally:
                    cfg.TEST.BBOX_REG = True
                evaluations["without box regression"] = evaluate(dataset, plain, None)
                evaluations["without box regression" + strict] = evaluate(dataset, plain, None, STRICT)
            untrained = load_net(definition, None, dataset.classes, fit_classes)
            evaluations["untrained"] = evaluate(dataset, detect_dataset(untrained, dataset, boxes), None)
        return evaluations


def _model_for(dataset, definition: str, model: str | None) -> Path:
    """The file of a model, by default the newest of a test net, that has learned the classes of a data set."""
    model = Path(model) if model else newest_model(definition, lambda names: names == list(dataset.classes))
    if not model.exists():
        raise CaffeliteError(f"--net {model}: there is no such file")
    learned = kept_class_names(model)
    if learned is not None and learned != list(dataset.classes):
        if sorted(learned) == sorted(dataset.classes):
            advice = "name them in this order, as FOLDER:SET:CLASS,CLASS,..."
        else:
            advice = f"name a model that learned them (--net), or its net (--def, now {definition})"
        raise ConfigError(
            f"{dataset.name} has the classes {', '.join(dataset.classes[1:])}, but {model} learned "
            f"{', '.join(learned[1:])}: {advice}"
        )
    return model


def train_svms(
    definition: str,
    imdb: str,
    model: str | None = None,
    proposals_file: str | None = None,
    output: str | None = None,
    fit_classes: bool = False,
) -> Path:
    """Replace the softmax classifier of a model (default: the newest of the solver beside the prototxt of the test net)
    by SVMs trained on a data set, its mirror images with TRAIN.USE_FLIPPED.

    Returns the file written, by default <model>_svm.caffemodel; TEST.SVM must be on where it is tested. Raises
    CaffeliteError.
    """
    dataset = get_dataset(imdb)
    model = _model_for(dataset, definition, model)
    net = load_net(definition, model, dataset.classes, fit_classes)
    written = Path(output) if output else model.with_name(f"{model.stem}_svm.caffemodel")
    make_writable(written.parent)
    entries = build_roidb(dataset, dataset_proposals(dataset, proposals_file))
    if cfg.TRAIN.USE_FLIPPED:
        entries += [flip(entry) for entry in entries]
    SvmTrainer(net, entries, dataset.classes).train()
    net.save(written)
    logger.info("wrote %s", written)
    return written


def draw_samples(dataset, detections: Detections, picture: Path) -> None:
    """Write one picture of SAMPLES images, evenly spread over the data set, with their detections."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int))
    drawn = []
    for i in chosen:
        image, zoom = visualize.fit_cell(read_image(dataset.image_path(i)))
        of_image = [of_class[i] for of_class in detections]
        drawn.append(visualize.draw_detections(image, of_image, dataset.classes, zoom=zoom))
    visualize.write_image(picture, visualize.montage(drawn))


def demo(
    images: Sequence[str],
    definition: str,
    model: str | None = None,
    threshold: float = 0.5,
    output: str | None = None,
) -> Iterator[tuple[Path, list[str]]]:
    """Detect in images of one's own: proposals by selective search, the net, suppression, and of what is left all with
    a score of at least `threshold`. Writes <image>_detections.png beside each, or into the folder `output`; yields
    those files as they are written, each with a line per detection. Raises CaffeliteError."""
    if not 0 <= threshold <= 1:
        raise CaffeliteError(f"--threshold: expected a score from 0 to 1, actual {threshold:g}")
    model = Path(model) if model else newest_model(definition)
    if not model.exists():
        raise CaffeliteError(f"--net {model}: there is no such file; ./tools/train_net.py trains one")
    pictures = {path: Path(output or Path(path).parent) / f"{Path(path).name}_detections.png" for path in images}
    if len(set(pictures.values())) < len(pictures):
        raise CaffeliteError(f"--output {output}: two of these images have the same name: their pictures would be one")
    names = class_names(model, class_counts.num_classes(proto.read_net(definition)[0], definition))
    net = load_net(definition, model, names, fit=True)
    logger.info("%s has learned: %s", model, ", ".join(names[1:]))
    if output:
        make_writable(output)
    for path, picture in pictures.items():
        image = read_image(path)
        dets = detect(net, image, image_proposals(image, Path(path).stem))
        visualize.write_image(picture, visualize.draw_detections(image, dets, names, threshold))
        lines = [
            f"{names[c]} {det[4]:.3f} at {' '.join(f'{v:.0f}' for v in det[:4])}"
            for c in range(1, len(names))
            for det in dets[c]
            if det[4] >= threshold
        ]
        best = max(((det[4], names[c]) for c in range(1, len(names)) for det in dets[c]), default=None)
        if not lines and best:
            logger.info("%s: no score reaches %g; the best: %s %.3f (--threshold)", path, threshold, best[1], best[0])
        yield picture, lines
