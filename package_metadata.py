"""The metadata of the package that depend on the address of the repository.

The readme links to files of the repository by relative links, which a package
index cannot follow. hatchling calls this hook, which reads the address from
`[tool.keras-memel]` in pyproject.toml. With an address, relative links become
absolute and the package names its addresses. Without one, a relative link
becomes its text, and a relative picture is omitted.
"""

import pathlib
import re
import tomllib
from urllib.parse import urljoin
from urllib.parse import urlsplit

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A block or a span of code, or a link or a picture. A test fails if README.md
# contains another form of link.
_LINK = re.compile(
    r"^```.*?^```|`[^`]*`"
    r"|(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]*)\)",
    re.MULTILINE | re.DOTALL,
)


class PackageMetadata(MetadataHookInterface):
    """Provide the long description and the project's addresses."""

    def update(self, metadata):
        root = pathlib.Path(self.root)
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
        settings = tomllib.loads(text)["tool"]["keras-memel"]
        repository = settings["repository"]
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": long_description(
                (root / "README.md").read_text(encoding="utf-8"), repository
            ),
        }
        metadata["urls"] = {**project_urls(repository), **settings["urls"]}


def project_urls(repository):
    """Return the pages of a repository on GitHub, or none without it."""
    if not repository:
        return {}
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]*\w", repository):
        raise ValueError(
            "pyproject.toml: `repository` in [tool.keras-memel] must be empty "
            "or an address `https://github.com/OWNER/NAME`. "
            f"Received: {repository!r}"
        )
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/main/docs/index.md",
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }


def long_description(readme, repository):
    """Return a readme whose links work outside of its repository.

    Links have the form `[text](target)`, and pictures `![text](target)`. A
    target that ends in a slash is a folder. Code does not change.

    Args:
        readme: The text of README.md.
        repository: `https://github.com/OWNER/NAME`, or an empty string.
    """

    def rewrite(match):
        picture, text, target = match["picture"], match["text"], match["target"]
        if target is None or urlsplit(target).scheme:
            return match[0]
        if not repository:
            return "" if picture else text
        kind = "raw" if picture else "tree" if target.endswith("/") else "blob"
        page = f"{repository}/{kind}/main/README.md"
        return f"{picture}[{text}]({urljoin(page, target)})"

    return _LINK.sub(rewrite, readme)
