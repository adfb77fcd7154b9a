"""Pages as a browser shows them: a folder served on this machine alone, and headless Chromium."""

import contextlib
import functools
import http.server
import re
import shutil
import subprocess
import threading

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALONE = (
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve files; keep the requests that cannot be met instead of printing all."""

    def log_request(self, *_):
        pass

    def log_error(self, *_):
        if self.path != "/favicon.ico":  # the browser's own wish
            self.server.missed.append(self.path)


@contextlib.contextmanager
def served(folder):
    """A server of `folder` while it runs: `address`, and in `missed` the requests for what is not there."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        server.address, server.missed = f"http://127.0.0.1:{server.server_port}", []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def visit(server, page, profile):
    """A page's elements after its scripts have run, as HTML, and the errors on its console. `profile` is a new folder for the browser.

    Other servers don't exist for it: a page that needs one shows what it is without.
    """
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *ALONE, f"--user-data-dir={profile}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=20000", "--dump-dom", f"{server.address}/{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"^.*CONSOLE.*(?:Uncaught|[Ee]rror).*$", done.stderr, re.MULTILINE)
