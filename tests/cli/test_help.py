"""Every command explains itself, quickly."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from svq.cli.app import app

COMMANDS = [
    ["quickstart"],
    ["data", "import"],
    ["data", "pack"],
    ["data", "verify"],
    ["data", "info"],
    ["data", "caption"],
    ["data", "fetch"],
    ["tokenizer", "train"],
    ["tokenizer", "export"],
    ["tokenize"],
    ["paint"],
    ["generator", "train"],
    ["generate"],
    ["eval", "fid"],
    ["eval", "recon"],
    ["eval", "order"],
    ["eval", "codebook"],
    ["doctor"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], terminal_width=120)
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"svq {' '.join(command)}" in result.output
    assert "--json" in result.output


def test_the_top_names_all_commands() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    names = {line.strip("│ ").partition(" ")[0] for line in output.splitlines()}
    assert names >= {command[0] for command in COMMANDS}


def test_no_command_is_forgotten_here() -> None:
    found = []
    for name, command in get_command(app).commands.items():
        below = getattr(command, "commands", None)
        found += [[name, inner] for inner in below] if below else [[name]]
    assert sorted(found) == sorted(COMMANDS)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; sys.argv = ['svq', '--help']; from svq.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'pydantic', 'PIL'} & set(sys.modules), 'heavy imports'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
