"""The program `svq`: its commands, and what becomes of an error."""

import sys
import warnings
from typing import Annotated

import typer

from svq.cli import data, doctor, evaluate, generator, quickstart, tokenizer
from svq.cli.output import say
from svq.errors import RunStopped, UserError

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
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        code = app(arguments, prog_name="svq", standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except RunStopped as stopped:
        say(str(stopped))
        sys.exit(RunStopped.EXIT_CODE)
    except (UserError, OSError, typer.TyperException) as error:
        # An OSError is a full disk, a missing permission and the like: the user's to mend, too.
        if debug:
            raise
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        say(typer.style("error: ", fg="red", bold=True) + text)
        sys.exit(2)
    except Exception as error:
        if debug or not _out_of_memory(error):
            raise
        say(
            typer.style("error: ", fg="red", bold=True) + f"out of memory: {str(error).partition(chr(10))[0]}; give a "
            "smaller --batch-size, or, to train, --batch-size auto or --set train.recompute=true"
        )
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _out_of_memory(error: Exception) -> bool:
    """Say whether a GPU's or this machine's memory was too small; torch may not even be imported here."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
