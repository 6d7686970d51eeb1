"""Everything that is measured of a data set's detections, into one folder; and once more by other rules."""

from __future__ import annotations

import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

from caffelite.proto.files import replacing
from detection import visualize
from detection.datasets import CocoDataset, Dataset
from detection.errors import EvaluationError
from detection.evaluation import coco, images, report, voc
from detection.evaluation.bootstrap import band
from detection.evaluation.detections import load_detections
from detection.evaluation.voc import Detections, Evaluation

PICTURES = 12
"""Images in the pictures of the worst and the best."""


def measure(
    dataset: Dataset, detections: Detections, folder: Path, results: Path | None = None, **protocol
) -> Evaluation:
    """Evaluate detections by VOC's rules, with options of `evaluation.voc.evaluate`, and those of COCO also by its own.

    Writes to `folder`: evaluation.json with the band of chance, precision_recall.png, worst.jpg and best.jpg; result
    files to `results` (without it, the detections are evaluated as they are). Raises EvaluationError, DatasetError.
    """
    evaluation = voc.evaluate(dataset, detections, results, **protocol)
    evaluation = replace(evaluation, band=band(evaluation))
    if isinstance(dataset, CocoDataset):
        evaluation = replace(evaluation, coco=coco.evaluate(dataset, detections))
        coco.write_results(dataset, detections, folder)
    report.write_json(evaluation, folder / "evaluation.json")
    visualize.plot_precision_recall(evaluation, folder / "precision_recall.png")
    ranking = images.ranking(evaluation)
    for name, chosen in (("worst.jpg", ranking[:PICTURES]), ("best.jpg", ranking[::-1][:PICTURES])):
        if chosen:
            visualize.write_image(folder / name, images.picture(dataset, detections, chosen))
    return evaluation


def reevaluate(
    dataset: Dataset, file: str | Path, output: str | Path | None = None, server: str | Path | None = None, **protocol
) -> Evaluation | None:
    """Evaluate the detections that a test saved in `file` (detections.npz, or its folder) by other rules.

    `protocol`: options of `evaluation.voc.evaluate`. `output`: folder for what `measure` writes (default: `reval`
    beside the file). `server`: also write an archive for VOC's or COCO's server. None for a data set without
    annotations. Raises EvaluationError, DatasetError.
    """
    file = Path(file) / "detections.npz" if Path(file).is_dir() else Path(file)
    detections = load_detections(file, dataset)
    folder = evaluation_folder(file, output)
    if server:
        write_server_archive(dataset, detections, server, folder / "results", protocol.get("competition", "comp4"))
    if not dataset.has_annotations:
        return None
    return measure(dataset, detections, folder, folder / "results", **protocol)


def evaluation_folder(file: str | Path, output: str | Path | None = None) -> Path:
    """Where `reevaluate` writes."""
    if output:
        return Path(output)
    return (Path(file) if Path(file).is_dir() else Path(file).parent) / "reval"


def write_for_server(
    dataset: Dataset, detections: Detections, folder: Path, results: Path, competition: str = "comp4"
) -> list[Path]:
    """Write the files that the data set's evaluation server takes: COCO's one to `folder`, VOC's to `results`.

    Raises EvaluationError.
    """
    if isinstance(dataset, CocoDataset):
        return [coco.write_results(dataset, detections, folder)]
    return list(voc.write_results(dataset, detections, results, competition))


def write_server_archive(
    dataset: Dataset, detections: Detections, archive: str | Path, folder: Path, competition: str = "comp4"
) -> None:
    """Write the result files to `folder` and into an archive as the server takes it: for COCO a .zip, for VOC a .tgz
    with results/VOC<year>/Main/<competition>_det_<set>_<class>.txt. Raises EvaluationError."""
    of_coco = isinstance(dataset, CocoDataset)
    if not re.fullmatch(r".+\.zip" if of_coco else r".+\.(tgz|tar\.gz)", str(archive)):
        raise EvaluationError(f"{archive}: expected the name of an archive {'.zip' if of_coco else '.tgz or .tar.gz'}")
    Path(archive).parent.mkdir(parents=True, exist_ok=True)
    paths = write_for_server(dataset, detections, folder, folder, competition)
    with replacing(archive) as temporary:
        if of_coco:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
                packed.write(paths[0], paths[0].name)
            return
        with tarfile.open(temporary, "w:gz") as tar:
            for path in paths:
                tar.add(path, f"results/VOC{dataset.year}/Main/{path.name}")
