"""The number of classes, stated in up to three places of a net's prototxt: compared with the data set's, or fitted."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from detection import plain_yaml
from detection.errors import ConfigError


def stated_classes(definition) -> dict[str, object]:
    """{place: classes, background included} of a NetParameter: data layer, cls_score, bbox_pred, where it has them.

    They are numbers, but for what else a data layer's param_str may say."""
    stated = {}
    for layer in definition.layer:
        options = _data_options(layer)
        if options is not None:
            stated[f"num_classes of layer {layer.name!r}"] = options["num_classes"]
        elif layer.name == "cls_score":
            stated["num_output of 'cls_score'"] = _output(layer).num_output
        elif layer.name == "bbox_pred":
            stated["num_output / 4 of 'bbox_pred'"] = _output(layer).num_output / 4
    return stated


def num_classes(definition, where: str) -> int:
    """The number of classes, background included, that a NetParameter read from `where` states. Raises ConfigError."""
    stated = stated_classes(definition)
    if not stated:
        raise ConfigError(
            f"{where}: expected a layer cls_score, bbox_pred or a RoIDataLayer, which say how many classes"
        )
    place, count = next(iter(stated.items()))
    if not isinstance(count, int | float):
        raise ConfigError(f"{where}: {place}: expected a number, actual {count!r}")
    return int(count)


def check_classes(definition, classes: Sequence[str], where: str) -> None:
    """Raise ConfigError, naming all places, unless the NetParameter read from `where` is for these classes."""
    stated = stated_classes(definition)
    if any(count != len(classes) for count in stated.values()):
        found = "; ".join(f"{place}: {str(count).removesuffix('.0')}" for place, count in stated.items())
        raise ConfigError(
            f"{where}: the data set has {len(classes)} classes with the background ({', '.join(classes)}), but the "
            f"net says {found}. Change the prototxt, or let --fit-classes do it"
        )


def fit_classes(definition, num_classes: int) -> None:
    """Make the NetParameter one for so many classes, background included, in place."""
    for layer in definition.layer:
        options = _data_options(layer)
        if options is not None:
            options["num_classes"] = num_classes
            layer.python_param.param_str = yaml.safe_dump(options, default_flow_style=True).strip()
        elif layer.name in ("cls_score", "bbox_pred"):
            _output(layer).num_output = num_classes * (4 if layer.name == "bbox_pred" else 1)


def _output(layer):
    return layer.convolution_param if layer.type == "Convolution" else layer.inner_product_param


def _data_options(layer) -> dict | None:
    """The options of a data layer that states num_classes; None for other layers."""
    if layer.type != "Python":
        return None
    try:
        options = plain_yaml.load(layer.python_param.param_str)
    except yaml.YAMLError:
        return None
    return options if isinstance(options, dict) and "num_classes" in options else None
