"""Pure functions on NetParameter messages: choosing layers by phase, level and stage, and inserting splits.

Source: net.cpp (FilterNet, StateMeetsRule) and insert_splits.cpp of Caffe.
"""

from __future__ import annotations

from collections import Counter

from caffelite.errors import NetError


def state_meets_rule(state, rule) -> bool:
    """Whether a NetState fulfils every condition of a NetStateRule."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


def filter_net(net, places: list[str]):
    """The net with only the layers that its own `state` includes, and their places. Raises NetError.

    `places` holds "file:line" of every layer. A layer with include rules is in when one is met, a layer with exclude
    rules when none is.
    """
    kept, kept_places = type(net)(), []
    kept.CopyFrom(net)
    del kept.layer[:]
    for layer, place in zip(net.layer, places):
        if layer.include and layer.exclude:
            raise NetError(f"{place}: layer {layer.name!r}: give either include rules or exclude rules, not both")
        if layer.include:
            included = any(state_meets_rule(net.state, rule) for rule in layer.include)
        else:
            included = not any(state_meets_rule(net.state, rule) for rule in layer.exclude)
        if included:
            kept.layer.add().CopyFrom(layer)
            kept_places.append(place)
    return kept, kept_places


def insert_splits(net, places: list[str], unfiltered):
    """The net with a Split layer behind every top that feeds more than one bottom, and the layers' places.

    A non-zero loss weight of a top counts as one more consumer; the split's first top then carries it.
    Raises NetError for a bottom that no earlier layer makes; it names the layer of `unfiltered`, the net before its
    layers were chosen, that does.
    """
    source = {}  # (layer, bottom index) -> (layer, top index) that makes it
    consumers = Counter()
    weights = {}
    last_top = {}
    for i, layer in enumerate(net.layer):
        for j, name in enumerate(layer.bottom):
            if name not in last_top:
                raise NetError(_unknown_bottom(net, i, j, places[i], unfiltered))
            source[i, j] = last_top[name]
            consumers[last_top[name]] += 1
        for j, name in enumerate(layer.top):
            last_top[name] = (i, j)
        for name, weight in zip(layer.top, layer.loss_weight):
            weights[last_top[name]] = weight
            consumers[last_top[name]] += weight != 0

    result, result_places = type(net)(), []
    result.CopyFrom(net)
    del result.layer[:]
    used = Counter()
    for i, layer in enumerate(net.layer):
        copy = result.layer.add()
        copy.CopyFrom(layer)
        result_places.append(places[i])
        for j, name in enumerate(layer.bottom):
            top = source[i, j]
            if consumers[top] > 1:
                copy.bottom[j] = f"{_split_name(net.layer[top[0]].name, name, top[1])}_{used[top]}"
                used[top] += 1
        for j, name in enumerate(layer.top):
            if consumers[i, j] > 1:
                split = result.layer.add()
                result_places.append(places[i])
                split.name = _split_name(layer.name, name, j)
                split.type = "Split"
                split.bottom.append(name)
                split.top.extend(f"{split.name}_{k}" for k in range(consumers[i, j]))
                if weights.get((i, j)):
                    del copy.loss_weight[:]
                    split.loss_weight.extend([weights[i, j]] + [0.0] * (consumers[i, j] - 1))
                    used[i, j] += 1
    return result, result_places


def _split_name(layer: str, blob: str, top_index: int) -> str:
    return f"{blob}_{layer}_{top_index}_split"


def _unknown_bottom(net, i: int, j: int, place: str, unfiltered) -> str:
    layer = net.layer[i]
    name = layer.bottom[j]
    later = _makers(net.layer[i + 1 :], name)
    left_out = _makers(unfiltered.layer, name)
    if later:
        hint = f"layer {later[0].name!r} makes it, but further down: move that layer up"
    elif left_out:
        state = f"phase {('TRAIN', 'TEST')[net.state.phase]}, level {net.state.level}"
        stages = f", stages {', '.join(net.state.stage)}" if net.state.stage else ""
        wanted = dict.fromkeys(stage for maker in left_out for rule in maker.include for stage in rule.stage)
        for_stage = f"; it is for the stage {' or '.join(wanted)}" if wanted else ""
        hint = (
            f"layer {left_out[0].name!r} makes it, but its include or exclude rules leave it out here "
            f"({state}{stages}){for_stage}"
        )
    else:
        known = dict.fromkeys(top for other in net.layer[:i] for top in other.top)
        hint = f"blobs known here: {', '.join(known) or 'none'}"
    return f"{place}: layer {layer.name!r} ({layer.type}): unknown bottom blob {name!r} (bottom {j}); {hint}"


def _makers(layers, blob: str) -> list:
    """The layers that make a blob, and not of a bottom in place."""
    return [layer for layer in layers if blob in layer.top and blob not in layer.bottom]
