"""The command line: parses, calls, prints. No logic, and nothing heavy imported before a command needs it."""

from __future__ import annotations

import atexit
import gc
import io
import signal
import sys
import warnings
from functools import partial
from types import FrameType
from typing import Annotated, NoReturn

import typer

from udq._version import __version__
from udq.cli import printing
from udq.cli.datasets import app as datasets_app
from udq.cli.evaluate import demo, evaluate
from udq.cli.index import index, info, retrain, train_rpn
from udq.cli.options import Command
from udq.cli.progress_bar import interrupts
from udq.cli.reproduce import reproduce
from udq.cli.search import search
from udq.cli.serve import serve
from udq.cli.update import add, compact, relocate, remove, verify
from udq.common import threads
from udq.common.text import one_line
from udq.errors import INTERRUPTED, UdqError

app = typer.Typer(
    name="udq",
    help="Object instance search: draw a box round an object, get every photo that shows that very object.",
    epilog="Begin with: udq demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
command = partial(app.command, cls=Command)
command(epilog="Example: udq index photos/ -o photos.udq")(index)
command(epilog="Example: udq search photos.udq query.jpg --box 120,80,340,300 --rerank alpha-qe,diffusion")(search)
command(epilog="Example: udq serve photos.udq --open")(serve)
command(epilog="Example: udq info photos.udq --picture training.png")(info)
command(epilog="Example: udq add photos.udq more/")(add)
command(epilog="Example: udq remove photos.udq 'old/*'")(remove)
command(epilog="Example: udq relocate photos.udq /media/old/photos /media/new/photos")(relocate)
command(epilog="Example: udq compact photos.udq")(compact)
command(epilog="Example: udq verify photos.udq --repair")(verify)
command(epilog="Example: udq retrain photos.udq --iterations 2")(retrain)
command(epilog="Example: udq evaluate photos.udq --ground-truth truth.csv --report errors.html")(evaluate)
app.add_typer(datasets_app, name="datasets")
command(epilog="Example: udq reproduce table2 --data photos/ --limit 2")(reproduce)
command("train-rpn", epilog="Example: udq train-rpn VOCdevkit/VOC2007 -o rpn.npz")(train_rpn)
command(epilog="Example: udq demo -o udq-demo")(demo)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"udq {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def run() -> None:
    """Run the command line; errors become one line on stderr and an exit code (0 done, 1 failed, 2 usage)."""
    threads.wait_passively()
    signal.signal(signal.SIGINT, _interrupt)
    # Pillow warns of photos above 89 megapixels; ours have a limit of their own (``config.ImageConfig``).
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    # Otherwise Python collects garbage once more at exit, which takes half a second after importing torch.
    atexit.register(gc.freeze)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # characters that the terminal's encoding lacks
    try:
        with threads.one_core_each():  # libraries that are loaded already: NumPy, and in tests all of them
            code = app(prog_name="udq", standalone_mode=False)
        if code == INTERRUPTED:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
    except typer.TyperException as error:
        _fail(_usage(error), 2)
    except UdqError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; nothing is half-written", INTERRUPTED)
    except BrokenPipeError:
        # The reader closed the pipe (| head). Without stdout, Python's last flush stays quiet.
        sys.stdout = None  # type: ignore[assignment]
        code = 0
    except MemoryError:
        _fail("out of memory; use --preset fast, or smaller photos", 1)
    except OSError as error:
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}", 1)
    sys.exit(code or 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, and record it: code called from C may swallow it (see ``progress_bar``)."""
    interrupts.append(number)
    signal.default_int_handler(number, frame)


def _fail(message: str, code: int) -> NoReturn:
    printing.say(f"udq: {message}", to=sys.stderr)
    sys.exit(code)


def _usage(error: typer.TyperException) -> str:
    """Return what is wrong with the command line, in one line."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context else ""
    return one_line(message).rstrip(".") + hint
