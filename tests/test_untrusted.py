"""What must not stand in the sources: ways by which a file could run code, and readers besides those that check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("caffelite", "lib", "tools", "examples", "benchmarks", "docs", "data")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "xml.sax", "xml.dom"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "np.fromregex", "np.genfromtxt"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.safe_load_all"),
}
# what is read without trust is read in one place each
ONLY_IN = {
    "cv2.imdecode": {"caffelite/images.py"},
    "cv2.imread": set(),
    "importlib.import_module": {"caffelite/layers/python.py"},
    "scipy.io.loadmat": set(),
    "yaml.load": {"lib/detection/plain_yaml.py"},
    "yaml.safe_load": set(),
    "ElementTree.parse": set(),
    "ElementTree.fromstring": {"lib/detection/datasets/annotation.py"},
    "pickle": {"caffelite/backend/processes.py"},  # between a process and those that it has started
}


def faults(text: str, file: str) -> list[str]:
    """What of the above is in a source, with its line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [
                (node, module)
                for module in modules
                for bad in MODULES
                if f"{module}.".startswith(f"{bad}.") and file not in ONLY_IN.get(bad, ())
            ]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in CALLS | set(ONLY_IN) and file not in ONLY_IN.get(name, ()):
                found.append((node, name))
            if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                found.append((node, name))
            if name in ("np.load", "numpy.load") and "allow_pickle" not in given:
                found.append((node, f"{name} without allow_pickle=False"))
    return [f"{file}:{node.lineno}: {what}" for node, what in found]


def test_no_source_runs_what_a_file_says():
    assert len(SOURCES) > 100
    assert [fault for path in SOURCES for fault in faults(path.read_text(), path.relative_to(ROOT).as_posix())] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import xml.dom.minidom",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.safe_load(text)",
        "cv2.imread(path)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_what_is_looked_for_is_found(text):
    assert faults(text, "x.py")
