"""Libraries that the core can do without, imported where they are used."""

import importlib
from typing import Any


def need(module: str, extra: str, purpose: str) -> Any:
    """The module, or an `ImportError` that says how to get it.

    Args:
        module: Dotted name, `"scipy.stats"`.
        extra: The extra of this package that installs it, `"evidence"`.
        purpose: What cannot be done without it, `"`compare`"`.

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
