"""A visdom server of the run's own: bound to the loopback address, gone when the run is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The run holds the other end of the server's standard input, so the read returns when the run dies, however
# it dies. `os.read`, because a buffered read would hold a lock that the interpreter needs to exit. Without
# torch, which visdom imports where it finds it, the server starts seconds sooner and takes far less memory.
# visdom's page names "../user/style.css", for which tornado from 6.6 on makes no address with a version, and
# refuses the whole page: so addresses are without.
BOOTSTRAP = """
import os, runpy, sys, threading
def end_with_the_run():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=end_with_the_run, daemon=True).start()
sys.modules["torch"] = None
import tornado.web
def static_url(handler, path, *_, **__):
    return handler.settings.get("static_url_prefix", "/static/") + path
tornado.web.RequestHandler.static_url = static_url
runpy.run_module("visdom.server", run_name="__main__", alter_sys=True)
"""


class Server:
    """`python -m visdom.server` as a child process, in a session of its own: Ctrl-C is for the run to handle.

    Its output is appended to `log`. `environments` is the folder that keeps the dashboards; None is visdom's
    own, `~/.visdom`.
    """

    def __init__(self, port: int, *, environments: Path | None, log: Path) -> None:
        command = [sys.executable, "-c", BOOTSTRAP, "-port", str(port), "-bind_local"]
        command += ["-logging_level", "WARNING"]
        if environments is not None:
            command += ["-env_path", str(environments)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """Return how the server ended, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End the server, within a few seconds, and reap it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
