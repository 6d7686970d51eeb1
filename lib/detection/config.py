"""Every option of Fast R-CNN with its default, under the originals' names, and the named profiles.

`cfg` is the one set of options that the package reads. A YAML file (`cfg.merge_file`) or pairs of names and values
(`cfg.merge_pairs`) change it; a name that does not exist or a value of another type is an error that names the option.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from caffelite.proto import message
from detection import option_values, plain_yaml
from detection.errors import ConfigError


@dataclass(slots=True)
class TrainOptions:
    """Options of the training side, `cfg.TRAIN`."""

    SCALES: tuple[int, ...] = (600,)
    """Lengths of the image's shorter side, pixels; one is drawn per image and minibatch."""

    MAX_SIZE: int = 1000
    """Most pixels of the scaled image's longer side; it wins over SCALES."""

    IMS_PER_BATCH: int = 2
    """Images per minibatch."""

    BATCH_SIZE: int = 128
    """RoIs per minibatch, shared out evenly between its images."""

    FG_FRACTION: float = 0.25
    """Largest part of a minibatch's RoIs that is foreground."""

    FG_THRESH: float = 0.5
    """Least IoU with a ground-truth box for a RoI to be foreground."""

    BG_THRESH_HI: float = 0.5
    """A background RoI has an IoU below this ..."""

    BG_THRESH_LO: float = 0.1
    """... and of at least this, which keeps the hard ones."""

    USE_FLIPPED: bool = True
    """Train on every image and its mirror image (the data set is doubled)."""

    BBOX_REG: bool = True
    """Train box regressors, and un-normalise their layer at a snapshot."""

    BBOX_THRESH: float = 0.5
    """Least IoU with a ground-truth box for a RoI to be a training example of the box regressor."""

    BBOX_NORMALIZE_TARGETS: bool = True
    """Normalise box targets by their means and standard deviations, class by class."""

    BBOX_NORMALIZE_TARGETS_PRECOMPUTED: bool = False
    """Normalise box targets by the two options below instead of by means and deviations measured on the roidb."""

    BBOX_NORMALIZE_MEANS: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Means of dx, dy, dw, dh for all classes, if precomputed."""

    BBOX_NORMALIZE_STDS: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    """Standard deviations of dx, dy, dw, dh for all classes, if precomputed."""

    SNAPSHOT_ITERS: int = 10000
    """Iterations between snapshots."""

    SNAPSHOT_KEEP: int = 0
    """Snapshots of a training that are kept, the newest ones; 0: all."""

    SNAPSHOT_INFIX: str = ""
    """Goes into the names of snapshots: <prefix>_<infix>_iter_<n>.caffemodel."""

    USE_DIFFICULT: bool = True
    """Train on objects that are flagged difficult too, as `fast-rcnn` does and `py-faster-rcnn` does not."""

    ASPECT_GROUPING: bool = False
    """Pair images of one orientation, which saves padding where IMS_PER_BATCH is 2 (`py-faster-rcnn`)."""

    NONFINITE: str = "stop"
    """What a loss or gradient that is not finite does: `stop` the training, with a snapshot of the weights before it,
    or `skip` that update."""

    USE_PREFETCH: bool = True
    """Read and scale the images of coming minibatches ahead, in threads, or in processes beside a GPU (the minibatches
    are the same either way)."""


@dataclass(slots=True)
class TestOptions:
    """Options of the test side, `cfg.TEST`."""

    SCALES: tuple[int, ...] = (600,)
    """Lengths of the image's shorter side, pixels; with several, every RoI goes to the level that suits its size."""

    MAX_SIZE: int = 1000
    """Most pixels of the scaled image's longer side; it wins over SCALES."""

    NMS: float = 0.3
    """Of two boxes of a class whose IoU is at least this, the one with the lower score is dropped."""

    SVM: bool = False
    """Take blob `cls_score` (linear SVMs) as the scores instead of the output `cls_prob`."""

    BBOX_REG: bool = True
    """Move the proposals by the box regressors."""

    SELECTION: str = "rising"
    """What is kept of a data set's detections: `rising` (per class, a threshold that rises so that MAX_PER_SET * images
    are left) or `threshold` (all above SCORE_THRESH, then the best MAX_PER_IMAGE of an image)."""

    MAX_PER_CLASS: int = 100
    """`rising`: most boxes per class and image that go to non-maximum suppression."""

    MAX_PER_SET: int = 40
    """`rising`: boxes per class that go to non-maximum suppression, as a mean over the images of the set."""

    SCORE_THRESH: float = 0.05
    """`threshold`: a detection's score is above this."""

    MAX_PER_IMAGE: int = 100
    """`threshold`: most detections of an image, all classes together."""


@dataclass(slots=True)
class ProposalOptions:
    """Which proposals there are, `cfg.PROPOSALS`; selective search's are kept in files until an option changes."""

    METHOD: str = "selective_search"
    """`selective_search`, or `dense`: all boxes of a grid over scale, aspect ratio and place, in random order."""

    MODE: str = "fast"
    """`fast` (2 colour spaces, 2 scales) or `quality` (5 colour spaces, 4 scales)."""

    MAX_SIDE: int = 500
    """Larger images are shrunk to this longer side, pixels; 0: never."""

    MIN_SIZE: int = 0
    """Least width and height of a proposal, pixels of the image."""

    MAX_PROPOSALS: int = 0
    """Best proposals kept of an image (of dense ones a random sample); 0: all."""

    SEED: int = 3
    """Of the order of selective search's boxes, and of what is drawn of dense ones."""

    REPLACE_BY_DENSE: float = 0.0
    """This part of an image's proposals, drawn at random, is replaced by the closest boxes (in IoU) of the grid."""

    ADD_DENSE: int = 0
    """So many boxes of the grid, drawn at random, are added to an image's proposals."""

    DENSE_OVERLAP: float = 0.65
    """How dense the grid is: the IoU of two boxes that differ by one step in place, scale or aspect ratio."""

    DENSE_MIN_AREA: int = 1000
    """Area of the grid's smallest box, pixels of the image."""

    DENSE_MAX_RATIO: float = 3.0
    """Longer to shorter side of the grid's longest box."""


@dataclass(slots=True)
class Options:
    """All options; `TRAIN` and `TEST` hold those of one side, `PROPOSALS` those of proposals."""

    PROFILE: str = "fast-rcnn"
    """Which authors' code is followed where they differ: `fast-rcnn` or `py-faster-rcnn`. Setting it sets all of
    the profile's options."""

    TRAIN: TrainOptions = field(default_factory=TrainOptions)
    TEST: TestOptions = field(default_factory=TestOptions)
    PROPOSALS: ProposalOptions = field(default_factory=ProposalOptions)

    BOX_WIDTH_OFFSET: float = 1e-14
    """Added to x2 - x1 for a box's width when targets are encoded and predictions decoded: 1e-14 in `fast-rcnn`
    (nothing, but never a division by zero), 1 in `py-faster-rcnn`."""

    CLIP_BOTH_SIDES: bool = False
    """Clip every predicted coordinate to the image on both sides (`py-faster-rcnn`), instead of x1, y1 below and
    x2, y2 above only (`fast-rcnn`)."""

    DEDUP_BOXES: float = 1 / 16
    """RoIs that are equal after rounding by this scale (that of the last feature map) are computed once; 0: off."""

    PIXEL_MEANS: tuple[float, ...] = (102.9801, 115.9465, 122.7717)
    """Subtracted from the image's blue, green and red."""

    RNG_SEED: int = 3
    """Seed of minibatch sampling and of the engine's random streams."""

    EPS: float = 1e-14
    """A small number: the count from which class-wise statistics of box targets start."""

    EXP_DIR: str = "default"
    """Name of the experiment: results go to output/<EXP_DIR>/<data set>/."""

    def merge(self, values: Mapping, source: str = "options") -> None:
        """Set options from nested mappings as a YAML file gives them. Raises ConfigError that begins with `source`."""
        _merge(self, values, source, "")

    def merge_file(self, path: str | Path) -> None:
        """Set options from a YAML file. Raises ConfigError."""
        try:
            values = plain_yaml.load(Path(path).read_text())
        except OSError as e:
            raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
        except yaml.MarkedYAMLError as e:
            place = f":{e.problem_mark.line + 1}:{e.problem_mark.column + 1}" if e.problem_mark else ""
            raise ConfigError(f"{path}{place}: cannot be read as YAML options: {e.problem}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: cannot be read as YAML options: {str(e).splitlines()[0]}") from None
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"{path}: expected options as NAME: value, actual {type(values).__name__}")
        self.merge(values or {}, str(path))

    def merge_pairs(self, words: Iterable[str]) -> None:
        """Set options from NAME VALUE NAME VALUE ..., names dotted (TRAIN.SCALES), values as in YAML.

        Raises ConfigError.
        """
        words = list(words)
        if len(words) % 2:
            raise ConfigError(f"--set: expected pairs NAME VALUE, actual {len(words)} word(s): {' '.join(words)}")
        pairs = sorted(zip(words[::2], words[1::2]), key=lambda pair: pair[0] != "PROFILE")
        for name, text in pairs:
            value = option_values.parse(text)
            for part in reversed(name.split(".")):
                value = {part: value}
            self.merge(value, "--set")

    def use_profile(self, name: str) -> None:
        """Set the options in which the named profile differs from the others. Raises ConfigError."""
        if name not in PROFILES:
            raise ConfigError(f"PROFILE: expected one of {', '.join(PROFILES)}, actual {name!r}")
        _assign(self, PROFILES[name])
        self.PROFILE = name

    def pixel_means(self) -> np.ndarray:
        """PIXEL_MEANS as an array that broadcasts over an image, (1, 1, 3) float64."""
        return np.array(self.PIXEL_MEANS).reshape(1, 1, -1)

    def reset(self) -> None:
        """Give every option its default again."""
        self.restore(dataclasses.asdict(Options()))

    def restore(self, values: Mapping) -> None:
        """Give every option the value that it had when `dataclasses.asdict` gave these."""
        _assign(self, values)

    def to_yaml(self) -> str:
        """All options as YAML that `merge_file` reads back."""
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False)


PROFILES: dict[str, dict] = {
    "fast-rcnn": {
        "BOX_WIDTH_OFFSET": 1e-14,
        "CLIP_BOTH_SIDES": False,
        "TRAIN": {"USE_DIFFICULT": True, "ASPECT_GROUPING": False},
        "TEST": {"SELECTION": "rising"},
    },
    "py-faster-rcnn": {
        "BOX_WIDTH_OFFSET": 1.0,
        "CLIP_BOTH_SIDES": True,
        "TRAIN": {"USE_DIFFICULT": False, "ASPECT_GROUPING": True},
        "TEST": {"SELECTION": "threshold"},
    },
}
"""In which options the two authors' codes differ; they are never mixed by accident."""


def _merge(options, values: Mapping, source: str, prefix: str) -> None:
    if not prefix and "PROFILE" in values:
        if not isinstance(values["PROFILE"], str):
            raise ConfigError(f"{source}: PROFILE: expected str, actual {values['PROFILE']!r}")
        options.use_profile(values["PROFILE"])
    known = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in known:
            raise ConfigError(f"{source}: unknown option {path}{_nearest(path)}")
        if dataclasses.is_dataclass(known[name]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {path}: expected options below it, actual {value!r}")
            _merge(known[name], value, source, f"{path}.")
        else:
            setattr(options, name, option_values.converted(value, known[name], path, source))


def _assign(options, values: Mapping) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _assign(getattr(options, name), value)
        else:
            setattr(options, name, value)


def _names(options, prefix: str = "") -> list[str]:
    names = []
    for f in dataclasses.fields(options):
        value = getattr(options, f.name)
        names += _names(value, f"{prefix}{f.name}.") if dataclasses.is_dataclass(value) else [prefix + f.name]
    return names


def _nearest(path: str) -> str:
    if path in message("SolverParameter").DESCRIPTOR.fields_by_name:
        return "; it stands in the solver's prototxt"
    names = _names(Options())
    near = difflib.get_close_matches(path.upper(), names, 1, 0.5)
    near = near or [name for name in names if name.split(".")[-1] == path.upper()][:1]
    return f"; did you mean {near[0]}?" if near else f" (known: {', '.join(names)})"


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


cfg = Options()
"""The options in force."""
