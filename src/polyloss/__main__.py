"""The command line: ``python -m polyloss demo``."""

import argparse
import sys

from polyloss.registry import get


def main(arguments=None):
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m polyloss", description=sys.modules["polyloss"].__doc__.partition("\n")[0])
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


if __name__ == "__main__":
    sys.exit(main())
