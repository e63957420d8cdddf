"""The program `svq`: its commands, and what becomes of an error."""

import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from svq.cli import data, doctor, evaluate, generator, quickstart, tokenizer
from svq.cli.output import first_process, say
from svq.errors import RunStopped, UserError

NO_MEMORY = ("can't allocate memory", "could not create a primitive")  # as torch, and its oneDNN, say it of a CPU's
OUT_OF_MEMORY = (
    "out of memory; training and generate take a smaller --batch-size, training --batch-size auto, too, and that of a "
    "tokenizer --set train.recompute=true ({})"
)

app = typer.Typer(
    name="svq",
    help="Pictures as 36 discrete tokens, ordered from high-level to low-level attributes.",
    epilog="Begin with: svq quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=quickstart.EXAMPLES)(quickstart.quickstart)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.command(epilog=tokenizer.TOKENIZE_EXAMPLES)(tokenizer.tokenize)
app.command(epilog=tokenizer.PAINT_EXAMPLES)(tokenizer.paint)
app.add_typer(generator.app, name="generator")
app.command(epilog=generator.GENERATE_EXAMPLES)(generator.generate)
app.add_typer(evaluate.app, name="eval")
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        import svq

        typer.echo(f"svq {svq.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere on the line.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line. Bad input ends with one line on stderr and exit code 2."""
    # x-transformers uses torch.jit.script; the user can do nothing about that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    debug = "--debug" in sys.argv
    arguments = [_at_home(a) for a in sys.argv[1:] if a != "--debug"]
    try:
        code = app(arguments, prog_name="svq", standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except RunStopped as stopped:
        say(str(stopped))
        sys.exit(RunStopped.EXIT_CODE)
    except (UserError, typer.TyperException) as error:
        if debug:
            raise
        _fail(error.format_message() if isinstance(error, typer.TyperException) else str(error))
    except Exception as error:
        # A full disk, a missing permission, too little memory: the user's to mend, too.
        if debug or not (isinstance(error, OSError) or _is_out_of_memory(error)):
            raise
        place = f"process {os.environ['RANK']}: " if "RANK" in os.environ else ""
        _fail(place + (OUT_OF_MEMORY.format(error) if _is_out_of_memory(error) else str(error)), everyone=True)
    sys.exit(code if isinstance(code, int) else 0)


def _at_home(argument: str) -> str:
    """Let ~ stand for the home folder behind an equals sign, too, where shells leave it as it is: ``--out=~/runs``."""
    option, equals, value = argument.partition("=")
    return f"{option}={os.path.expanduser(value)}" if equals and option.startswith("--") else argument


def _fail(text: str, everyone: bool = False) -> NoReturn:
    """Say what is wrong and exit with code 2; of several processes the first one does, unless each has its own."""
    if text and (everyone or first_process()):  # without a command there is help, and nothing to add to it
        line = " ".join(part.strip() for part in text.splitlines())
        typer.echo(typer.style("error: ", fg="red", bold=True) + line, err=True)
    sys.exit(2)


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether a GPU's or this machine's memory was too small; torch may not even be imported here."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY))
    )
