"""Layers written by the user in Python: `type: "Python"` with python_param { module layer param_str }."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from caffelite.errors import CaffeliteError
from caffelite.layer import Layer, PassState, register, registered_classes

# modules of the originals that this project replaces: {name in old prototxts: module to import instead}
module_aliases: dict[str, str] = {}
# modules of the originals that it does not, by the first part of their names: what an error says of them
absent: dict[str, str] = {}
VARIABLE = "CAFFELITE_ALLOW_PYTHON"
_allowed: set[str] = set()


def allow_python(*modules: str) -> None:
    """Let prototxts name Python layers of these modules, and of the modules below them: importing them runs their code.

    Raises CaffeliteError for what is no name of a module.
    """
    for module in modules:
        if module.endswith(".py") or not _is_name(module):
            raise CaffeliteError(
                f"allow_python: expected the name of a module as in `import my_layers`, actual {module!r}"
            )
        _allowed.add(module)


@register("Python")
class Python(Layer):
    """The class python_param.layer of the module python_param.module, a subclass of Layer, does the work.

    A prototxt alone runs no code: the module must be the project's (in `module_aliases`), or be given to
    `caffelite.allow_python` or to a command's `--allow-python`, or lie in a folder that the caller has put on sys.path
    or PYTHONPATH, or beside the caller's script; or the class is one that `@register` has made known, or stands in the
    script that runs. What is allowed by name is looked for in the current folder, too, last; a module may `import
    caffe` without having it. `param_str` reaches the layer as an attribute, set before `setup`. `share_in_parallel`
    makes no difference here. Bottoms and tops: as the class has it. Source: python_layer.hpp, layer_factory.cpp.
    """

    @classmethod
    def create(cls, param, phase: int, pass_state: PassState | None = None, where: str = "") -> Layer:
        """An instance of the user's class. Raises LayerError where it may not run, is missing or is no layer."""
        wanted = param.python_param
        error = Layer(param, phase, pass_state, where).error
        if not _is_name(wanted.module) or not wanted.layer:
            raise error(
                f"python_param: expected module and layer, actual module {wanted.module!r}, layer {wanted.layer!r}"
            )
        _load_plugins()
        name = module_aliases.get(wanted.module, wanted.module)
        if _is_loaded_by_the_caller(name, wanted.layer):
            module = sys.modules[name]
        elif _may_run(name) or _lies_in_a_folder_of_the_caller(name):
            module = _imported(name, wanted.layer, error)
        else:
            note = absent.get(wanted.module.partition(".")[0])
            if note:
                raise error(f"python_param: module {name!r} is not part of caffelite: {note}")
            raise error(
                f"python_param: module {name!r} may not run, as a prototxt alone runs no code; if you trust it, say "
                f"caffelite.allow_python({name!r}) before the net is built, or give the command --allow-python {name}, "
                f"or set {VARIABLE}={name}, or put its folder on PYTHONPATH"
            )
        found = getattr(module, wanted.layer, None)
        if not _is_layer(found):
            actual = "none of that name" if found is None else repr(found)
            raise error(
                f"python_param: expected {wanted.layer!r} in module {name!r} ({getattr(module, '__file__', '')}) to be "
                f"a class derived from caffelite.Layer, actual {actual}"
            )
        layer = found(param, phase, pass_state, where)
        layer.param_str_ = layer.param_str  # its name in the Caffe that Fast R-CNN came with
        return layer


def _is_name(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _is_layer(found) -> bool:
    return isinstance(found, type) and issubclass(found, Layer)


def _is_loaded_by_the_caller(name: str, layer: str) -> bool:
    """Whether this layer class is there already, registered or in the script that runs: nothing has to be imported."""
    # not getattr of the class, which may run a module's __getattr__
    found = getattr(sys.modules.get(name), "__dict__", {}).get(layer)
    return _is_layer(found) and (name == "__main__" or found in registered_classes())


def _may_run(name: str) -> bool:
    if name in module_aliases.values():
        return True
    allowed = _allowed.union(os.environ.get(VARIABLE, "").split(","))
    return any(name == module or name.startswith(f"{module}.") for module in filter(None, allowed))


def _lies_in_a_folder_of_the_caller(name: str) -> bool:
    """Whether the module would be found in a folder that someone chose for modules, as pycaffe's users do: one put on
    sys.path or PYTHONPATH, or that of the script that runs.

    The standard library, installed packages, and the current folder where it is merely current are no such choice.
    """
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])  # of a name without dots: imports nothing
    except ValueError:  # __main__, or a module that someone has made up
        return False
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    if not places or not places[0]:
        return False
    folder = Path(places[0]).resolve().parent
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if folder == Path.cwd() and not (script and Path(script).resolve().parent == folder):
        return False
    if {"site-packages", "dist-packages"}.intersection(folder.parts):
        return False
    python = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    chosen = {Path(entry).resolve() for entry in sys.path if entry}
    return folder in chosen and not any(folder.is_relative_to(place) for place in python)


def _imported(name: str, layer: str, error):
    try:
        with _import_as_pycaffe():
            return importlib.import_module(name)
    except Exception as e:  # whatever the user's module raises
        raise error(f"python_param: cannot import module {name!r} for layer {layer!r}: {type(e).__name__}: {e}") from e


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
