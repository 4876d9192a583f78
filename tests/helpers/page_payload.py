"""Unpack the data of a neuron page."""

import base64
import gzip
import json
import re

import numpy as np


def data(path):
    """The JSON of a page, with arrays where it refers to some."""
    page = path.read_text(encoding="utf-8")
    told, blob = (
        gzip.decompress(base64.b64decode(packed))
        for packed in re.findall(r'octet-stream">([^<]+)<', page)
    )
    return _opened(json.loads(told), blob)


def _opened(value, blob):
    if isinstance(value, list):
        return [_opened(one, blob) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"a", "t", "n"}:
        count = int(np.prod(value["n"]))
        array = np.frombuffer(blob, f"<{value['t']}", count, value["a"])
        return array.reshape(value["n"])
    found = {key: _opened(one, blob) for key, one in value.items()}
    if found.keys() == {"texts", "codes"}:
        names = [*found["texts"], None]
        return [names[code] for code in found["codes"]]
    return found
