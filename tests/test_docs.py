"""Every block of Python in README.md and docs/*.md runs, and prints what the page says it prints.

The blocks of one page run in order in one fresh interpreter, since Keras and JAX are set up once in a process. A word after the language, as in
"```python torch", names a library: such blocks form a run of their own, so that each section of a page can be copied alone.
"""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python *(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNS = [(page, library) for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for library in sorted({block[1] for block in BLOCK.finditer(page.read_text("utf-8"))})]


def run(page, library):
    """Execute the page's blocks for one library; the number of examples that printed something else."""
    text, names, runner = page.read_text("utf-8"), {"__name__": "__main__"}, doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for block in BLOCK.finditer(text):
        if block[1] != library:
            continue
        line = text.count("\n", 0, block.start(2))
        if block[2].startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block[2], names, page.name, str(page), line)
            runner.run(test, clear_globs=False)
            names.update(test.globs)
        else:
            exec(compile("\n" * line + block[2], str(page), "exec"), names)
    return runner.summarize(verbose=False).failed


@pytest.mark.parametrize(("page", "library"), RUNS, ids=[f"{page.stem}-{library or 'all'}" for page, library in RUNS])
def test_page(page, library):
    if library == "cupy" and not pytest.importorskip("cupy").cuda.is_available():
        pytest.skip("CuPy finds no CUDA device")
    done = subprocess.run([sys.executable, __file__, page, library], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
