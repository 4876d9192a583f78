"""docs/generate/check_api.py: a changed signature needs a changelog line."""

import subprocess

import pytest
from scripts import ROOT
from scripts import load

pytest.importorskip("griffe")
pytestmark = pytest.mark.once

BEFORE = '__all__ = ["run"]\n\n\ndef run(model, features=None): ...\n'
AFTER = '__all__ = ["run"]\n\n\ndef run(model, labels=None): ...\n'


@pytest.fixture
def repository(tmp_path):
    """A package whose working tree renames an argument of the commit."""

    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *author, *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "library").mkdir()
    file = tmp_path / "library" / "__init__.py"
    file.write_text(BEFORE)
    (tmp_path / "CHANGELOG.md").write_text("- `run` exists.\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "First", "--no-gpg-sign")
    file.write_text(AFTER)
    return tmp_path


def test_a_changed_signature_must_be_in_the_changelog(repository):
    check_api = load(ROOT / "docs" / "generate" / "check_api.py")
    found = check_api.undocumented(repository, "HEAD", "library")
    assert "features" in str(found[0].as_dict())
    log = repository / "CHANGELOG.md"
    log.write_text(log.read_text() + "- Another line.\n")
    assert check_api.undocumented(repository, "HEAD", "library")
    log.write_text(log.read_text() + "- `run` takes `labels`.\n")
    assert not check_api.undocumented(repository, "HEAD", "library")
