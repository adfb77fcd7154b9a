"""The built documentation as its readers have it: links lead somewhere, pictures are there, nothing comes from other servers, search finds.

Building takes a minute and needs the docs extra; POLYLOSS_SLOW_TESTS=1 does it, and looks at pages in a browser.
"""

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser
import pytest

from polyloss._core.block import LOSSES

ROOT = Path(__file__).resolve().parents[1]
in_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no chromium: apt-get install chromium")

# ------------------------------------------------------------------------------------------------------------------ reading


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that have a name."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.names = set(), set(), {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.names.add(given["id"])
        if tag in ("a", "link") and given.get("href"):
            loaded = tag == "link" and given.get("rel") not in ("next", "prev", "index", "search", "canonical")
            (self.loads if loaded else self.links).add(given["href"])
        if given.get("src"):
            self.loads.add(given["src"])


def problems(site):
    """{page: what is wrong with it}."""
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html") if "_static" not in path.parts}  # the theme's templates
    found = defaultdict(set)
    for path, page in pages.items():
        for address in page.links | page.loads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loads and parts.scheme != "data":
                    found[path.relative_to(site)].add(f"loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found[path.relative_to(site)].add(f"nothing at {address}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names:
                found[path.relative_to(site)].add(f"no such place: {address}")
    return dict(found)


def test_problems_are_found(tmp_path):
    (tmp_path / "right.html").write_text(
        '<h1 id="top">x</h1><a href="wrong.html">y</a><a href="#top">z</a><a href="https://example.org">w</a>'
    )
    wrong = '<a href="right.html#bottom">x</a><a href="left.html">y</a><img src="none.svg"><script src="https://example.org/x.js"></script>'
    (tmp_path / "wrong.html").write_text(wrong)
    ((page, found),) = problems(tmp_path).items()
    assert str(page) == "wrong.html"
    assert found == {
        "no such place: right.html#bottom",
        "nothing at left.html",
        "nothing at none.svg",
        "loads https://example.org/x.js",
    }


# ----------------------------------------------------------------------------------------------------------------- building


def build(docs, site):
    """Run sphinx-build as `make docs` does; the finished process."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", docs, site]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """A copy of the project's pages, where they can be spoilt."""
    root = tmp_path_factory.mktemp("project")
    for page in ROOT.glob("*.md"):
        shutil.copy(page, root)
    (root / "asv_bench").symlink_to(ROOT / "asv_bench")
    return shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("_build", "losses"))


@pytest.fixture(scope="module")
def site(docs):
    """The built pages."""
    done = build(docs, docs / "_build")
    assert done.returncode == 0, done.stderr
    return docs / "_build"


@pytest.mark.slow
def test_links_and_pictures(site):
    assert problems(site) == {}
    for page in (*(f"losses/{name}" for name in LOSSES), "losses/index", "benchmarks", "normalizations"):
        loads = Page((site / f"{page}.html").read_text("utf-8")).loads
        assert any(address.endswith(".svg") for address in loads), f"{page} has no picture"


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("page", ["index.html", "losses/huber.html", "benchmarks.html", "normalizations.html", "reference.html"])
def test_page_in_a_browser(site, page, tmp_path):
    with browser.served(site) as server:
        shown, errors = browser.visit(server, page, tmp_path / "profile")
    assert "<h1" in shown
    assert errors == server.missed == []


WIDER = """<script>window.addEventListener("load", () => {
  const wide = [...document.querySelectorAll(".bd-article pre")].filter((e) => e.scrollWidth > e.clientWidth + 2);
  document.title = "clipped: " + JSON.stringify(wide.map((e) => e.textContent.slice(0, 80)));
})</script></body>"""


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("page", ["index", "losses/binary_crossentropy", "boosting"])
def test_no_code_is_clipped(site, page, tmp_path):
    """Nothing lies beyond the edge of a block of code: a script in a copy of the page asks the browser for their widths."""
    copy = site / f"{page}-measured.html"
    copy.write_text((site / f"{page}.html").read_text("utf-8").replace("</body>", WIDER), "utf-8")
    with browser.served(site) as server:
        shown, _ = browser.visit(server, copy.relative_to(site).as_posix(), tmp_path / "profile")
    copy.unlink()
    assert "<title>clipped: []</title>" in shown, re.findall("<title>.*?</title>", shown)


@pytest.mark.slow
@in_browser
def test_search_finds(site, tmp_path):
    with browser.served(site) as server:
        shown, errors = browser.visit(server, "search.html?q=huber", tmp_path / "profile")
    assert 'href="losses/huber.html' in shown.partition('id="search-results"')[2]
    assert errors == server.missed == []


@pytest.mark.slow
@in_browser
def test_the_browser_tells_what_is_wrong(tmp_path):
    (tmp_path / "broken.html").write_text("<h1>x</h1><script>missing()</script><img src='x.png'>")
    with browser.served(tmp_path) as server:
        _, errors = browser.visit(server, "broken.html", tmp_path / "profile")
    assert any("missing is not defined" in line for line in errors)
    assert server.missed == ["/x.png"]


@pytest.mark.slow
def test_broken_references_fail_the_build(docs, site):
    page = docs / "changelog.md"
    before = page.read_text("utf-8")
    page.write_text(f"{before}\n[a](nowhere.md) [b](design.md#no-such-heading) ![c](none.svg)\n", "utf-8")
    done = build(docs, site)
    page.write_text(before, "utf-8")
    assert done.returncode != 0
    for broken in ("nowhere.md", "no-such-heading", "none.svg"):
        assert broken in done.stderr
