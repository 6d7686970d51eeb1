"""The exceptions of the engine; every one of them is a CaffeliteError."""


class CaffeliteError(Exception):
    """Base of all errors that the engine raises on purpose."""


class PrototxtError(CaffeliteError):
    """A text that does not parse: names file, line, column and the nearest known name."""


class FileFormatError(CaffeliteError):
    """A binary, HDF5 or image file that is damaged or not what it should be."""


class NetError(CaffeliteError):
    """A net that cannot be built or run: names file and line, layer and blobs."""


class LayerError(NetError):
    """A layer that refuses its parameters, bottoms or tops."""


class WeightsError(CaffeliteError):
    """Weights that do not fit a net."""


class SolverError(CaffeliteError):
    """A solver that cannot be built or run."""


class BackendError(CaffeliteError):
    """A compiler, GPU or library that is missing or failed."""
