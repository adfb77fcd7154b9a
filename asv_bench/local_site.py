"""Make asv's site whole: put the scripts that its page loads from other servers beside it, and let the page load those.

`asv publish` writes a page that shows nothing where jQuery, Flot or Bootstrap cannot be fetched: without a network, behind a strict proxy.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

# What the page loads -> npm package, version, path in it. Flot and stupidtable are on npm in other builds of the same code.
SOURCES = {
    "jquery-3.3.1.min.js": ("jquery", "3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot", "0.8.3", "jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot", "0.8.3", "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot", "0.8.3", "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot", "0.8.3", "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars", "1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin", "1.1.3", "stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5", "2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap", "3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap", "3.1.1", "dist/css/bootstrap.min.css"),
}
TAG = re.compile(r'<(?:script|link)[^>]*?"(https://[^"]+)"[^>]*>')


def whole(page):
    """The page with every foreign address replaced, and the names of what it now expects in scripts/."""
    names = []

    def local(match):
        name = match[1].rpartition("/")[2]
        if name not in SOURCES:
            raise ValueError(f"the page loads {match[1]}, for which no npm package is named here")
        names.append(name)
        address = f"scripts/{name}"
        return f'<link rel="stylesheet" href="{address}">' if name.endswith(".css") else f'<script src="{address}">'

    return TAG.sub(local, page), names


def main():
    """Change the site in place."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=Path, nargs="?", default=Path(__file__).parent / "html", help="folder that asv publish wrote")
    index = parser.parse_args().site / "index.html"
    page, names = whole(index.read_text("utf-8"))
    if not names:
        return
    scripts = index.parent / "scripts"
    scripts.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        packages = sorted({"{}@{}".format(*SOURCES[name]) for name in names})
        quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(["npm", "install", *quiet, "--prefix", folder, *packages], check=True)
        for name in names:
            package, _, path = SOURCES[name]
            shutil.copy(Path(folder, "node_modules", package, path), scripts / name)
    index.write_text(page, "utf-8")


if __name__ == "__main__":
    main()
