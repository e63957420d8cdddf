"""The commands in README.md and docs/ are commands of svq, with options that it has."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svq.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Lines that begin with svq or make, in blocks of shell code, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith(("svq ", "make "))]


ALL = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_the_first_commands_are_the_two_that_a_newcomer_needs() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make quickstart", "make test"]


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_exists(page: str, line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        assert arguments[0] in TARGETS
        return
    # Options that do not exist are refused before --help is obeyed.
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, f"{page}: {line}\n{result.output}"


def test_pictures_and_links_of_the_pages_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
