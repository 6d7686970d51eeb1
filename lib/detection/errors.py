"""The exceptions of detection; every one of them is a CaffeliteError."""

from caffelite.errors import CaffeliteError


class ConfigError(CaffeliteError):
    """An option that does not exist, a value of the wrong type, or options that contradict each other."""


class DatasetError(CaffeliteError):
    """A data set that is missing, incomplete or inconsistent: names file, object and values."""


class ProposalError(CaffeliteError):
    """Proposals that cannot be made, read or matched to the images."""


class EvaluationError(CaffeliteError):
    """Detections or result files that do not belong to the data set they are evaluated on."""
