"""What README.md and docs/ tell a reader to type, to set and to click is there."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from svq.cli.app import app
from svq.cli.options import count
from svq.generator.config import GeneratorSettings
from svq.tokenizer.config import QuantizerConfig, TokenizerSettings
from svq.tokenizer.presets import PRESETS
from svq.training.settings import resolve

ROOT = Path(__file__).parent.parent
CARDS = sorted((ROOT / "tokenizer" / "pretrained").glob("*/card.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", *CARDS]
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


def commands(page: Path) -> list[str]:
    """Commands in blocks of code, continued lines joined, and those between the words that have an option."""
    text = page.read_text()
    blocks = BLOCK.findall(text) + re.findall(r"(?:^ {6,}\S.*\n)+", text, re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    between = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
    return [line for line in lines if line.startswith(("svq ", "make "))] + [
        code for code in between if code.startswith(("svq ", "python -m benchmarks.")) and " --" in code
    ]


ALL = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_the_first_commands_are_the_two_that_a_newcomer_needs() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make quickstart", "make test"]


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_exists(page: str, line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        assert arguments[0] in TARGETS
        return
    if program == "python":
        files = (ROOT / f"{arguments[1].replace('.', '/')}.py", ROOT / "benchmarks" / "trials.py")
        known = "".join(file.read_text() for file in files)
        assert not [word for word in arguments if word.startswith("--") and f'"{word}"' not in known]
        return
    # Options that do not exist are refused before --help is obeyed.
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, f"{page}: {line}\n{result.output}"


def options(line: str) -> dict[str, list[str]]:
    """The options of a command and their values, in order."""
    words, found = shlex.split(line), dict[str, list[str]]()
    for word, value in pairwise(words):
        if word.startswith("--"):
            found.setdefault(word, []).append(value)
    return found


def settings(line: str) -> TokenizerSettings:
    """What a command to train a tokenizer would train."""
    given = options(line)
    named = {"--images": "train.images", "--batch-size": "train.batch_size"}
    numbers = {key: count(given[option][0]) for option, key in named.items() if option in given}
    preset = given.get("--preset", ["nano"])[0]
    return resolve(PRESETS[preset](), assignments=given.get("--set", []), options=numbers)


@pytest.mark.parametrize(
    "line", [line for _, line in ALL if line.startswith("svq tokenizer train") and not re.search(r"=[A-Z]{2,}", line)]
)
def test_settings_of_a_command_fit_together(line: str) -> None:
    settings(line)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_the_command_of_a_card_trains_what_was_trained(card: Path) -> None:
    (line,) = (line for line in commands(card) if line.startswith("svq tokenizer train"))
    found, was = settings(line), json.loads((card.parent / "run.json").read_text())["identity"]
    assert found.model.model_dump(mode="json") == was["model"]
    train = found.train.model_dump(mode="json")
    assert {key: train[key] for key in was["train"]} == was["train"]


def exists(key: str) -> bool:
    """Say whether a configuration of one of the stages has a key."""
    kinds: list[Any] = [TokenizerSettings, GeneratorSettings]
    for part in key.split("."):
        found = [kind.model_fields[part].annotation for kind in kinds if part in kind.model_fields]
        if not found:
            return False
        kinds = list(get_args(get_args(QuantizerConfig)[0])) if part == "quantizer" else found
        kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return True


def test_keys_of_the_configuration_are_right() -> None:
    assert exists("train.optimizer.weight_decay")
    assert exists("model.quantizer.codebook_size")
    assert not exists("train.jiter_share")
    for page in PAGES:
        for key in set(re.findall(r"\b((?:train|model)\.[a-z_]+(?:\.[a-z_]+)?)(?![\w.])", page.read_text())):
            assert key in {"model.safetensors"} or exists(key), f"{page.name}: {key}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pictures_and_links_of_the_pages_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^):]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(there), f"{page.name}: {target}"
