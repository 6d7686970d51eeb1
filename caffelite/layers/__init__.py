"""All layer types of the engine: importing this package registers them."""

from caffelite.layers import (  # noqa: F401
    activation,
    channelwise,
    dropout,
    eltwise,
    functions,
    input,
    join,
    python,
    reduction,
    select,
    shape,
    ssd,
)
