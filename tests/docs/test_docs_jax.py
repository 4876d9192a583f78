"""docs/native_jax.md: its code runs, and prints what is printed there."""

import pages
import pytest
from steps import BACKEND


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_the_code_of_the_page_runs_and_prints_what_it_says(capsys):
    pages.run("native_jax.md", capsys)
