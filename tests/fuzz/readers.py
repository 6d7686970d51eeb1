"""Every reader of files, with the targets that give it damaged ones and how often each of them is chosen."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz import detection_targets as detection
from tests.fuzz import engine_targets as engine

Target = Callable[[Random], str]

READERS: dict[str, dict[Target, int]] = {
    "text": {engine.net_text: 6, engine.solver_text: 1, engine.lists: 1},
    "binary": {engine.caffemodel: 3, engine.solverstate: 2, engine.mean: 1},
    "hdf5": {engine.hdf5_weights: 1, engine.hdf5_solverstate: 1, engine.hdf5_data: 1},
    "lmdb": {engine.records: 2, engine.database: 3},
    "images": {detection.image: 1},
    "xml": {detection.annotation: 1},
    "json": {detection.coco: 5, detection.log_of_training: 3, detection.result_of_a_study: 3, detection.manifest: 1},
    "yaml": {detection.options: 2, detection.option_pairs: 1, detection.layer_options: 1},
    "mat": {detection.published_proposals: 3, detection.demo_boxes: 1},
    "npz": {detection.resume: 1, detection.proposal_cache: 1, detection.detections: 1},
}


def target_of(reader: str, number: int, seed: int) -> tuple[Target, Random]:
    """The target of a reader's input `number`, and the random stream that makes the input."""
    random = Random(f"{seed} {reader} {number}")
    targets = READERS[reader]
    return random.choices(list(targets), targets.values())[0], random


def warm_up(readers: list[str]) -> None:
    """Make what the readers' targets start from, compile and load what they use."""
    for room in (engine, detection):
        if any(target.__module__ == room.__name__ for reader in readers for target in READERS[reader]):
            room.warm_up()
