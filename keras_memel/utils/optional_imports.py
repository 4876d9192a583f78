"""Import optional libraries where they are used."""

import importlib
from typing import Any


def need(module: str, extra: str, purpose: str) -> Any:
    """Return a module, or raise an `ImportError` that names its extra.

    Args:
        module: Dotted name, such as `"scipy.stats"`.
        extra: Extra of this package that installs it, such as `"evidence"`.
        purpose: Function that requires it, such as `"`compare`"`.

    Raises:
        ImportError: If the module, or one that it needs, is not installed.

    Example:

    >>> need("json", "evidence", "`compare`").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {library}, which could not be imported "
            f"({error}). Install it: pip install 'keras-memel[{extra}]'"
        ) from error
