"""The command line: ``polyloss`` and ``python -m polyloss``. Without the packages of ``polyloss[cli]`` it has the demo alone."""

import argparse
import contextlib
import gc
import sys

FAILED, INTERRUPTED = 1, 130  # exit statuses; a shell's of a program that Ctrl-C ended is 128 + SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    try:
        import click
    except ModuleNotFoundError:
        return _demo_alone(arguments)
    from polyloss._command.app import app
    from polyloss._command.problems import writing

    if sys.stdout is None:  # "polyloss … >&-"
        click.echo("polyloss: cannot write the result: stdout is closed", err=True)
        return FAILED
    try:
        # On Windows click would take names of files for patterns, and options, too.
        return app.main(arguments, prog_name="polyloss", standalone_mode=False, windows_expand_args=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except OSError as error:
        what = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"polyloss: {what}{error.strerror or error}", err=True)
        with contextlib.suppress(click.ClickException), writing():
            sys.stdout.flush()  # of click's own texts, as the help, something may be left
        return FAILED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED


def _demo_alone(arguments: list[str] | None) -> int:
    """The demo, which needs no package."""
    from polyloss.registry import get

    description = "Loss functions for every array library. All other commands need: pip install 'polyloss[cli]'"
    parser = argparse.ArgumentParser(prog="polyloss", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="every loss on real predictions, on every array library at hand, in one table")
    demo.add_argument("losses", nargs="*", metavar="loss", help="names of losses; all by default")
    chosen = parser.parse_args(arguments)
    try:
        losses = [get(name).__name__ for name in chosen.losses]
    except ValueError as error:
        demo.error(str(error))

    from polyloss import _demo

    return _demo.main(losses)


def program() -> None:
    """The process that runs one command, to its end."""
    status = main()
    gc.freeze()  # else all that polars and NumPy hold is looked through once more before the process ends: 0.05 of 0.7 s
    sys.exit(status)


if __name__ == "__main__":
    program()
