"""visdom's own client over a transport that never waits without limit and takes no failure for success."""

from __future__ import annotations

import contextlib
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import visdom

_LARGEST_ANSWER = 1 << 20


class DashboardError(Exception):
    """What kept the dashboard from taking something, in words that follow "the dashboard".

    No `ConnectionError`: visdom's client prints those and goes on.
    """


class DashboardAbsent(DashboardError):
    """Nothing listens at the address."""


class Transport:
    """Posts to one address, without the environment's proxies.

    `post` raises `DashboardError`, within about `timeout` seconds for each of the silences of whatever is at
    the address; `abort` from another thread ends the one under way at once.
    """

    def __init__(self, host: str, port: int | None, *, timeout: float) -> None:
        address = urlsplit(host if "//" in host else f"http://{_bracketed(host)}")
        self.host = address.hostname or "localhost"
        self.port = port or address.port or 8097
        self.url = f"{address.scheme}://{_bracketed(self.host)}:{self.port}"
        self._kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        self._timeout = timeout
        self._connection: HTTPConnection | None = None
        self._aborted = False

    def post(self, path: str, body: str) -> str:
        """Return the answer."""
        if self._aborted:
            raise DashboardError("was given up")
        connection = self._connection = self._kind(self.host, self.port, timeout=self._timeout)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            answer = response.read(_LARGEST_ANSWER)
        except ConnectionRefusedError as error:
            raise DashboardAbsent("is not there: nothing listens at the address") from error
        except TimeoutError as error:
            raise DashboardError(f"did not answer within {self._timeout:g} s") from error
        except (OSError, HTTPException) as error:
            raise DashboardError(f"broke off ({type(error).__name__}: {error})") from error
        finally:
            connection.close()
        if response.status != 200:
            answered = f"answered {response.status} {response.reason} to {path}"
            raise DashboardError(f"{answered}: it is no visdom server, or asks for a login, or has failed")
        return answer.decode(errors="replace")

    def abort(self) -> None:
        """End the request under way, and refuse every later one."""
        self._aborted = True
        under_way = None if self._connection is None else self._connection.sock
        if under_way is not None:
            with contextlib.suppress(OSError):  # it ended by itself meanwhile: that is what was wanted
                under_way.shutdown(socket.SHUT_RDWR)


def visdom_client(transport: Transport, *, environment: str) -> visdom.Visdom:
    """Import visdom, which takes a while, and return its client; no request is made yet."""
    import visdom  # noqa: PLC0415

    class Client(visdom.Visdom):
        def __init__(self) -> None:
            # Without `send`, visdom's constructor neither posts nor warns that no events will come back.
            super().__init__(
                transport.url.rpartition(":")[0],
                port=transport.port,
                env=environment,
                send=False,
                raise_exceptions=True,
                use_incoming_socket=False,
            )
            self.send = True

        def _handle_post(self, url: str, data: str = "{}") -> str:
            return transport.post(urlsplit(url).path, data)

    return Client()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
