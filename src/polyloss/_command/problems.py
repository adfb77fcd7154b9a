"""What goes wrong in a run of the command, and the exit status of each."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import click

from polyloss._core.arguments import alike

SCORED, BAD_FILE, BAD_USAGE, ABOVE = 0, 1, 2, 3
UNWRITTEN = 1


class BadFile(click.ClickException):
    """A file's contents are wrong: one line on stderr, exit status 1."""

    exit_code = BAD_FILE

    def show(self, file: object = None) -> None:
        """Print the line."""
        click.echo(f"polyloss score: {self.message}", err=True)


class Unwritten(click.ClickException):
    """stdout takes no more: one line on stderr, exit status 1."""

    exit_code = UNWRITTEN

    def show(self, file: object = None) -> None:
        """Print the line."""
        click.echo(f"polyloss: cannot write the result: {self.message}", err=True)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """What goes wrong in this block, which writes to stdout, is Unwritten. A pipe that nobody reads any more is click's to end."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        with contextlib.suppress(AttributeError, OSError):  # a stdout in memory has no descriptor
            descriptor = sys.stdout.fileno()
            with open(os.devnull, "wb") as nothing:  # for what is left in the buffer: Python would fail once more at its end
                os.dup2(nothing.fileno(), descriptor)
        raise Unwritten(error.strerror or str(error)) from None


def put(text: str) -> None:
    """Print a part of the result."""
    with writing():
        click.echo(text)


def usage(message: str) -> click.UsageError:
    """The command line is wrong: exit status 2."""
    return click.UsageError(message)


def unlike(name: str, names: list[str]) -> str:
    """What is said behind a name that is not among these: what may be meant, or all of them."""
    near = alike(name, names)
    return f"; did you mean {' or '.join(map(quoted, near))}?" if near else f"; it has {listed(names)}"


def counted(n: int, word: str) -> str:
    """A number and its noun."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


LONG = 100  # characters of a file, most of which nobody would read in an error


def short(text: str) -> str:
    """A text; if it is long, its beginning and its length."""
    return text if len(text) <= 3 * LONG else f"{text[:LONG]}… ({len(text)} characters)"


def quoted(text: str) -> str:
    """A name or a cell in quotes; if it is long, its beginning and its length."""
    return repr(text) if len(text) <= LONG else f"{text[:LONG]!r}… ({len(text)} characters)"


def listed(names: list[str], most: int = 8) -> str:
    """Names in quotes, the first few of them."""
    shown = ", ".join(map(quoted, names[:most]))
    return shown if len(names) <= most else f"{shown}, … ({len(names)} columns)"
