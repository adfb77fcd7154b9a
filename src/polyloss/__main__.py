"""The command line: ``python -m polyloss demo``."""

import argparse
import sys


def main(arguments=None):
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m polyloss", description=sys.modules["polyloss"].__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="every loss on real predictions, on every array library at hand, in one table")
    demo.add_argument("losses", nargs="*", metavar="loss", help="names of losses; all by default")
    chosen = parser.parse_args(arguments)

    from polyloss import _demo

    return _demo.main(chosen.losses)


if __name__ == "__main__":
    sys.exit(main())
