"""Layers written by the user in Python: `type: "Python"` with python_param { module layer param_str }."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys

from caffelite.layer import Layer, PassState, register

# modules of the originals that this project replaces: {name in old prototxts: module to import instead}
module_aliases: dict[str, str] = {}


@register("Python")
class Python(Layer):
    """The class python_param.layer of the module python_param.module, a subclass of Layer, does the work.

    `param_str` reaches it as an attribute, set before `setup`. The module is looked for on sys.path and then in the
    current folder; it may `import caffe` without having it. `share_in_parallel` makes no difference here. Bottoms and
    tops: as the class has it. Source: python_layer.hpp, layer_factory.cpp.
    """

    @classmethod
    def create(cls, param, phase: int, pass_state: PassState | None = None, where: str = "") -> Layer:
        """An instance of the user's class. Raises LayerError where module or class is missing or not a layer."""
        wanted = param.python_param
        error = Layer(param, phase, pass_state, where).error
        if not wanted.module or not wanted.layer:
            raise error(
                f"python_param: expected module and layer, actual module {wanted.module!r}, layer {wanted.layer!r}"
            )
        _load_plugins()
        name = module_aliases.get(wanted.module, wanted.module)
        try:
            with _import_as_pycaffe():
                module = importlib.import_module(name)
        except Exception as e:  # whatever the user's module raises
            raise error(
                f"python_param: cannot import module {name!r} for layer {wanted.layer!r}: {type(e).__name__}: {e}"
            ) from e
        found = getattr(module, wanted.layer, None)
        if not (isinstance(found, type) and issubclass(found, Layer)):
            actual = "none of that name" if found is None else repr(found)
            raise error(
                f"python_param: expected {wanted.layer!r} in module {name!r} ({getattr(module, '__file__', '')}) to be "
                f"a class derived from caffelite.Layer, actual {actual}"
            )
        layer = found(param, phase, pass_state, where)
        layer.param_str_ = layer.param_str  # its name in the Caffe that Fast R-CNN came with
        return layer


@functools.cache
def _load_plugins() -> None:
    """Import the modules that installed packages name under the entry point caffelite.layer_aliases."""
    for plugin in importlib.metadata.entry_points(group="caffelite.layer_aliases"):
        plugin.load()


@contextlib.contextmanager
def _import_as_pycaffe():
    """Let the import see the current folder, and caffelite as `caffe` where no caffe is installed.

    The name stays: methods of the layer may import it when they run.
    """
    import caffelite

    if "caffe" not in sys.modules:
        spec = importlib.util.find_spec("caffe")
        if spec is None or spec.origin is None:  # no origin: a mere folder of that name
            caffelite.install_as_caffe()
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
