"""What detection is given: each target makes a damaged input from a random stream and uses it as a user would."""

from __future__ import annotations

import io
import json
import shutil
from functools import cache
from pathlib import Path
from random import Random

import cv2
import numpy as np
import scipy.io
import yaml

import caffelite as caffe
from caffelite import proto
from detection import training_log
from detection.config import Options, cfg
from detection.datasets.annotation import read_annotation
from detection.datasets.coco import CocoDataset
from detection.datasets.image import image_size, read_image
from detection.datasets.shapes import ShapesOptions, make
from detection.datasets.voc import VocDataset
from detection.evaluation.detections import load_detections, save_detections
from detection.experiments import report
from detection.fast_rcnn.train import Trainer
from detection.proposals import published, selective_search
from detection.roi_data.roidb import make_entry
from tests.fuzz.detection_seeds import (
    ANNOTATIONS,
    COCO,
    EVALUATION,
    EXTENSIONS,
    HEIGHT,
    NAMES,
    NET,
    OPTIONS,
    RESULT,
    WIDTH,
)
from tests.fuzz.mutations import mutate_bytes, mutate_text, mutate_tree


def image(random: Random) -> str:
    """Reads a damaged image in every way there is."""
    data = mutate_bytes(random.choice(_images()), random, random.choice(_images()))
    Path("image").write_bytes(data)
    way = random.randrange(5)
    if way == 0:
        return str(image_size("image"))
    if way == 1:
        return str(read_image("image").shape)
    if way == 2:
        return str(caffe.io.load_image("image", color=random.random() < 0.5).shape)
    if way == 3:
        return str(caffe.io.datum_to_array(proto.message("Datum")(encoded=True, data=data)).shape)
    return str(caffe.images.read_image("image", random.choice((True, False, None))).shape)


def annotation(random: Random) -> str:
    """Reads a damaged annotation by itself, or the data set that it belongs to."""
    text = mutate_text(random.choice(ANNOTATIONS), random, random.choice(ANNOTATIONS))
    data = text.encode(random.choice(("utf-8", "utf-8", "utf-16", "latin-1")), "replace")
    if random.random() < 0.3:
        data = mutate_bytes(data, random)
    Path("voc/Annotations/a.xml").write_bytes(data)
    if random.random() < 0.7:
        _, findings = read_annotation(Path("voc/Annotations/a.xml"), (WIDTH, HEIGHT), ("dark", "bright"))
        return f"{len(list(map(str, findings)))} findings"
    dataset = VocDataset("voc", "all", random.choice((None, ("dark", "bright"))))
    return f"{sum(len(entry['boxes']) for entry in dataset.gt_roidb())} objects"


def coco(random: Random) -> str:
    """Reads a damaged file of COCO's."""
    _write_json("coco.json", COCO, random)
    dataset = CocoDataset("coco.json", "voc/JPEGImages")
    boxes = sum(len(entry["boxes"]) for entry in dataset.gt_roidb())
    return f"{boxes} boxes, {sum(len(dataset.objects(i).boxes) for i in range(len(dataset)))} objects"


def log_of_training(random: Random) -> str:
    """Reads, or goes on with, a damaged log of a training."""
    lines = [{"iter": i, "lr": 0.001, "loss": 1.5 / (i + 1), "loss_cls": 1.0, "seconds": 0.5} for i in range(3)]
    if random.random() < 0.5:
        lines[random.randrange(3)] = mutate_tree(lines[0], random)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    data = (mutate_text(text, random, text) if random.random() < 0.3 else text).encode("utf-8", "surrogateescape")
    Path("log.jsonl").write_bytes(mutate_bytes(data, random) if random.random() < 0.3 else data)
    if random.random() < 0.5:
        return training_log.summary("log", training_log.read_log("log.jsonl"))[:20]
    log = training_log.TrainingLog("log.jsonl", random.randrange(1, 4))
    log.close()
    return "gone on with"


def result_of_a_study(random: Random) -> str:
    """Reads a result of a study, one of whose files is damaged."""
    damaged = random.choice(("result.json", "result.json", "evaluation.json", "log.jsonl"))
    content = {
        "result.json": RESULT, "evaluation.json": EVALUATION, "log.jsonl": {"iter": 0, "loss": 2.5, "loss_cls": 1}
    }  # fmt: skip
    for name, value in content.items():
        path = f"study/default/{name}"
        if name == damaged:
            _write_json(path, value, random)
        else:
            Path(path).write_text(json.dumps(value))
    return f"without {len(report.read_result(Path('study/default/result.json'))['lacking'])}"


def manifest(random: Random) -> str:
    """Makes the generated data set where a damaged one lies."""
    _write_json("shapes/manifest.json", _manifest(), random)
    make("shapes", ShapesOptions(train=1, test=1))
    return "made"


def options(random: Random) -> str:
    """Reads damaged options."""
    text = mutate_text(random.choice(OPTIONS), random, random.choice(OPTIONS))
    if random.random() < 0.3:
        text = yaml.safe_dump(mutate_tree(yaml.safe_load(OPTIONS[0]), random), allow_unicode=True)
    if random.random() < 0.01:
        text = text.replace("[", "[" * random.choice((3, 900, 20_000)), 1)
    data = text.encode("utf-8", "surrogateescape")
    Path("options.yml").write_bytes(mutate_bytes(data, random) if random.random() < 0.2 else data)
    one = Options()
    one.merge_file("options.yml")
    return "merged" if Options() != one else "without options"


def option_pairs(random: Random) -> str:
    """Reads a damaged pair of an option and its value."""
    name = random.choice(("TRAIN.SCALES", "TEST.NMS", "PROFILE", "PIXEL_MEANS", "TRAIN.USE_FLIPPED", "TRAIN", ""))
    pairs = [name, "[600, 700]", "EXP_DIR", "default"]
    at = random.randrange(len(pairs))
    pairs[at] = mutate_text(pairs[at] or "x", random, random.choice(OPTIONS))
    Options().merge_pairs(pairs)
    return "merged"


def layer_options(random: Random) -> str:
    """Builds a data layer from damaged options."""
    definition = proto.parse_text(NET, "NetParameter")
    text = mutate_text("{num_classes: 3, x: [1, 2]}", random, random.choice(OPTIONS))
    definition.layer[0].python_param.param_str = text.encode("utf-8", "replace").decode()
    return f"{caffe.Net(definition, caffe.TRAIN).blobs['bbox_targets'].shape}"


def published_proposals(random: Random) -> str:
    """Reads a damaged file of proposals for a data set."""
    _write_mat(random, _mat_files()[:-2])
    dataset = VocDataset("voc", "all", ("dark", "bright"))
    return f"{sum(map(len, published.proposals(dataset, 'boxes.mat')))} boxes"


def demo_boxes(random: Random) -> str:
    """Reads a damaged file of proposals for one image."""
    _write_mat(random, _mat_files()[-2:])
    return str(published.demo_boxes("boxes.mat", (WIDTH, HEIGHT)).shape)


def resume(random: Random) -> str:
    """Restores a training from damaged arrays beside its state, and does an iteration."""
    arrays = dict(_resume())
    if random.random() < 0.3:
        origin = json.dumps(mutate_tree(json.loads(str(arrays["origin"])), random))
        arrays["origin"] = np.array(origin.replace("\0", "x"))
        np.savez("out/tiny_iter_1.resume.npz", **arrays)
    else:
        _write_arrays(Path("out/tiny_iter_1.resume.npz"), arrays, random)
    trainer = _trainer()
    trainer.restore("out/tiny_iter_1.solverstate", force=random.random() < 0.5)
    trainer.solver.step(1)
    return "trained"


def proposal_cache(random: Random) -> str:
    """Reads proposals from a damaged file of the cache."""
    _write_arrays(_cached_proposals()[0], _cached_proposals()[1], random)
    return f"{len(selective_search.proposals(VocDataset('voc', 'all', ('dark',)), cache='cache', threads=1))} images"


def detections(random: Random) -> str:
    """Reads damaged detections."""
    _write_arrays(Path("detections.npz"), _detections(), random)
    return f"{len(load_detections('detections.npz', VocDataset('voc', 'all', ('dark', 'bright'))))} classes"


def warm_up() -> None:
    """Make the data set, the training and the files that are to be damaged."""
    cfg.merge({"TRAIN": {"SCALES": [32], "BATCH_SIZE": 16, "USE_PREFETCH": False}})
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        Path("voc", part).mkdir(parents=True, exist_ok=True)
    Path("voc/ImageSets/Main/all.txt").write_text("".join(f"{name}\n" for name in NAMES))
    Path("study/default").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for name in NAMES:
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(f"voc/JPEGImages/{name}.png", cv2.GaussianBlur(pixels, (9, 9), 0))
        Path("voc/Annotations", f"{name}.xml").write_text(ANNOTATIONS[0])
    _images(), _manifest(), _mat_files(), _resume(), _cached_proposals(), _detections()


def _write_json(path: str, value, random: Random) -> None:
    """A damaged tree as JSON, or JSON that is damaged as text or as bytes."""
    kind = random.random()
    text = json.dumps(mutate_tree(value, random) if kind < 0.5 else value, indent=random.choice((None, 1)))
    if kind >= 0.5:
        text = mutate_text(text, random, text)
    if kind >= 0.98:
        text = text.replace("[", "[" * random.choice((3, 900, 100_000)), 1)
    data = text.encode("utf-8", "surrogateescape")
    Path(path).write_bytes(mutate_bytes(data, random) if kind >= 0.8 else data)


def _write_mat(random: Random, files: list[bytes]) -> None:
    Path("boxes.mat").write_bytes(mutate_bytes(random.choice(files), random, random.choice(_mat_files())))


def _write_arrays(path: Path, arrays: dict[str, np.ndarray], random: Random) -> None:
    """A file of arrays of which some are damaged, or whose bytes are."""
    arrays, stream = dict(arrays), io.BytesIO()
    in_arrays = random.random() < 0.5
    if in_arrays:
        name = random.choice(list(arrays))
        arrays[name] = _damaged_array(arrays[name], random)
        if random.random() < 0.2:
            del arrays[random.choice(list(arrays))]
    random.choice((np.savez, np.savez_compressed))(stream, **arrays)
    data = stream.getvalue()
    path.write_bytes(data if in_arrays else mutate_bytes(data, random))


def _damaged_array(values: np.ndarray, random: Random) -> np.ndarray:
    kind = random.randrange(6)
    if kind == 0 and values.dtype.kind in "iuf":
        return values.astype(random.choice((np.float64, np.int8, np.uint64, bool, "U3", "S3", complex)))
    if kind == 1:
        return values.reshape(random.choice(((-1,), (1, -1), (-1, 1))))
    if kind == 2:
        return values[: random.randrange(len(values) + 1)] if values.ndim else np.zeros(random.randrange(3))
    if kind == 3:
        return np.concatenate([values.ravel()] * 2)
    changed = values.copy().reshape(-1)
    if changed.size and changed.dtype.kind in "iuf":
        low = np.finfo if changed.dtype.kind == "f" else np.iinfo
        ends = [low(changed.dtype).max, low(changed.dtype).min, 0, 1]
        changed[random.randrange(changed.size)] = random.choice([*ends, *[np.nan] * (changed.dtype.kind == "f")])
    return changed.reshape(values.shape)


@cache
def _images() -> list[bytes]:
    """Small images in all formats that OpenCV writes here, in colour and gray, some of 16 bits and with alpha."""
    generator = np.random.default_rng(2)
    colour = generator.integers(0, 256, (9, 12, 3), np.uint8)
    gray, alpha = np.zeros((8, 300), np.uint8), np.concatenate([colour, colour[..., :1]], axis=2)
    found = []
    for extension in EXTENSIONS:
        for pixels in (colour, gray, alpha, colour.astype(np.uint16) * 257, colour.astype(np.float32)):
            try:
                written, data = cv2.imencode(extension, pixels)
            except cv2.error:
                continue
            if written:
                found.append(data.tobytes())
    found.append(cv2.imencode(".jpg", colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    found.append(cv2.imencode(".png", gray, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes())
    return found


@cache
def _manifest() -> dict:
    make("shapes", ShapesOptions(train=1, test=1))
    return json.loads(Path("shapes/manifest.json").read_text())


@cache
def _mat_files() -> list[bytes]:
    """Files of proposals, plain and compressed, the last two of a single image."""
    cells = np.empty((1, len(NAMES)), object)
    cells[0, :] = [np.array([(1, 2, HEIGHT, WIDTH), (3, 4, 5, 6)], np.uint16), np.ones((1, 4)), np.zeros((0, 0))]
    names = np.empty((len(NAMES), 1), object)
    names[:, 0] = NAMES
    one = {"boxes": np.array([(1, 2, WIDTH - 1, HEIGHT - 1)], float)}
    found = []
    for arrays, options in (
        ({"boxes": cells}, {}),
        ({"boxes": cells, "images": names}, {"do_compression": True}),
        ({"boxes": cells, "images": names, "more": {"a": np.ones(3), "b": ["x"]}, "c": 1 + 2j}, {}),
        (one, {"do_compression": True}),
        (one, {}),
    ):
        stream = io.BytesIO()
        scipy.io.savemat(stream, arrays, **options)
        found.append(stream.getvalue())
    return found


@cache
def _trainer() -> Trainer:
    Path("train.prototxt").write_text(NET)
    Path("out").mkdir(exist_ok=True)
    param = proto.parse_text(
        'train_net: "train.prototxt" snapshot_prefix: "out/tiny" base_lr: 1e-5 lr_policy: "fixed" random_seed: 7',
        "SolverParameter",
    )
    trainer = Trainer(param, ("__background__", "dark", "bright"))
    dataset = VocDataset("voc", "all", ("dark", "bright"))
    boxes = np.array([(8, 6, 30, 20), (10, 8, 29, 19), (0, 0, 20, 20), (30, 20, 47, 31)])
    entries = [
        make_entry({"image": str(dataset.image_path(i)), **dataset.gt_roidb()[i]}, boxes) for i in range(len(dataset))
    ]
    trainer.set_data(entries)
    return trainer


@cache
def _resume() -> dict[str, np.ndarray]:
    _trainer().train(1)
    with np.load("out/tiny_iter_1.resume.npz") as arrays:
        return dict(arrays)


@cache
def _cached_proposals() -> tuple[Path, dict[str, np.ndarray]]:
    shutil.rmtree("cache", ignore_errors=True)
    selective_search.proposals(VocDataset("voc", "all", ("dark",)), cache="cache", threads=1)
    (path,) = Path("cache/selective_search").iterdir()
    with np.load(path) as arrays:
        return path, dict(arrays)


@cache
def _detections() -> dict[str, np.ndarray]:
    boxes = np.arange(20, dtype=np.float32).reshape(4, 5)
    rows = [[boxes[:0]] * 3, [boxes[:1], boxes[:0], boxes[1:]], [boxes[:2]] * 3]
    save_detections("detections.npz", rows, NAMES)
    with np.load("detections.npz") as arrays:
        return dict(arrays)
