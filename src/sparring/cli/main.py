"""From the words of a command line to an exit code.

A command is a function of its words in a file of its group beside this one, with its options as a dataclass, which
`flags.read` fills; its docstring is what help says of it. It is added by a line in COMMANDS.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from sparring.cli.audits import audit
from sparring.cli.exploiting import exploit
from sparring.cli.folders import evaluate, report
from sparring.cli.listings import info, list_recipes
from sparring.cli.paper import demo, reproduce
from sparring.cli.training import train
from sparring.errors import (
    Busy,
    CorruptCheckpoint,
    Diverged,
    InputError,
    Interrupted,
    MissingExtra,
    NotFinite,
    nearest,
)
from sparring.process import keep_few_kernels, keep_freed_memory

COMMANDS: dict[str, Callable[[list[str]], int]] = {  # in the order of the usage, which shows each one's docstring
    "demo": demo,
    "reproduce": reproduce,
    "train": train,
    "evaluate": evaluate,
    "exploit": exploit,
    "audit": audit,
    "report": report,
    "recipes": list_recipes,
    "info": info,
}

CODES: tuple[tuple[type[Exception], int], ...] = (  # docs/evaluation.md explains them
    (Diverged, 3),
    (NotFinite, 4),
    (CorruptCheckpoint, 5),
    (Busy, 75),
    (MissingExtra, 2),
    (ValueError, 2),
    (TypeError, 2),
    (OSError, 74),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; see docs/evaluation.md for the codes."""
    words = list(sys.argv[1:] if argv is None else argv)
    keep_freed_memory()
    keep_few_kernels()
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = _explain(Interrupted(2, "stopped; the same command goes on from what is finished"))
    except Exception as error:
        code = _explain(error)
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        import sparring

        print(f"sparring {sparring.__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{nearest(name, COMMANDS)}")
    return COMMANDS[name](rest)


def _explain(error: Exception) -> int:
    """One line for what a user can mend, a traceback for a bug; returns the exit code."""
    if isinstance(error, Interrupted):
        print(f"sparring: {error}", file=sys.stderr)
        return 128 + error.signal_number
    for kind, code in CODES:
        if isinstance(error, kind):
            if os.environ.get("SPARRING_DEBUG"):
                traceback.print_exception(error)
            else:
                print(f"sparring: {' '.join(str(error).split())}", file=sys.stderr)
            return code
    traceback.print_exception(error)
    return 1


def _usage() -> str:
    lines = ["usage: sparring COMMAND [options]      (COMMAND --help tells its options)", ""]
    lines += [f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items()]
    lines += ["", "Exit codes: 0 done, 2 wrong input, 3 diverged, 4 evaluation not credible, 5 checkpoint corrupt,"]
    lines += ["74 input/output, 75 folder in use, 130 interrupted (state saved), 1 a bug in sparring."]
    return "\n".join(lines)
