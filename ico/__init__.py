"""ico: in-context optimization and data poisoning in JAX.

One idea holds it together: an optimizer is a pure function, whether it lives in code, in weights or
in a context. Everything here loads at its first use, so `import ico` costs next to nothing.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ico._compare import Comparison as Comparison
    from ico._compare import Seeded as Seeded
    from ico._compare import compare as compare
    from ico._compare import likeness as likeness
    from ico._compare import sensitivity as sensitivity
    from ico._run import load_run as load_run
    from ico.types import Episode as Episode
    from ico.types import Prompt as Prompt
    from ico.types import Sequence as Sequence

__version__ = "0.1.0"

_PACKAGES = (
    "algorithms",
    "data",
    "layers",
    "lm",
    "losses",
    "metatrain",
    "models",
    "optim",
    "peers",
    "poison",
    "probes",
    "report",
    "tasks",
    "train",
    "worlds",
)
_NAMES = {
    "Comparison": "ico._compare",
    "Episode": "ico.types",
    "Prompt": "ico.types",
    "Seeded": "ico._compare",
    "Sequence": "ico.types",
    "compare": "ico._compare",
    "likeness": "ico._compare",
    "load_run": "ico._run",
    "sensitivity": "ico._compare",
}


def _exists(package: str) -> bool:
    return importlib.util.find_spec(f"{__name__}.{package}") is not None


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES and _exists(name):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(["__version__", *_NAMES, *filter(_exists, _PACKAGES)])
