"""The Visdom server that a run starts: it listens on the loopback address and ends with the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The run holds the other end of standard input, so the read returns when the run ends, even if it is killed.
# `os.read`, because a buffered read would hold a lock that the interpreter needs to exit. Without torch,
# which visdom imports if it can, the server starts seconds sooner in far less memory. From tornado 6.6 on,
# `static_url` refuses "../user/style.css", which visdom's page names, so its addresses carry no version.
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


def start_server(port: int, *, environments: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `python -m visdom.server` on 127.0.0.1, in a session that Ctrl-C does not reach.

    Args:
        port: where it listens.
        environments: folder in which it keeps the dashboards.
        log: file to which its output is appended.
    """
    options = ("-port", str(port), "-bind_local", "-logging_level", "WARNING", "-env_path", str(environments))
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, *options],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
