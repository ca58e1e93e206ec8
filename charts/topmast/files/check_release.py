"""What `helm test` runs: asks operator and gateways whether they are ready. Needs Python and nothing else.

Arguments are URLs; tcp://, as Kubernetes' own variables for a Service say, is HTTP, and tls+tcp:// is HTTPS. 200 is
ready, and so is 401 of a public route: it wants a key, which this pod has not. Every address behind a name is asked.
Exit code 0: all are ready; 1: one was not within a minute, and what it said.
"""

import http.client
import ipaddress
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

WAIT_S = 60.0
READY = (200, 401)
SCHEMES = {"tcp": "http", "tls+tcp": "https"}


def wait(url: str, wait_s: float = WAIT_S) -> str:
    """What is wrong after `wait_s` seconds at most; empty when nothing is."""
    end = time.monotonic() + wait_s
    while (wrong := ask(url)) and time.monotonic() < end:
        time.sleep(1)
    return wrong


def ask(url: str) -> str:
    """What is wrong now, in words; empty when nothing is."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return f"the name {host} leads nowhere ({error.strerror})"
    for address in sorted({str(entry[4][0]) for entry in found}):
        try:
            status, text = get(parts.scheme, address, port, parts.path)
        except OSError as error:
            return f"{address} does not answer on port {port}: {error}"
        if status not in READY:
            return f"{address} answers {status}: {text}"
    return ""


def get(scheme: str, address: str, port: int, path: str) -> tuple[int, str]:
    """Status and the first line of an answer. Certificates are not looked at: they name no address."""
    client: http.client.HTTPConnection
    if scheme == "https":
        client = http.client.HTTPSConnection(address, port, timeout=5, context=ssl._create_unverified_context())
    else:
        client = http.client.HTTPConnection(address, port, timeout=5)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read(1000).decode(errors="replace").partition("\n")[0]
    except http.client.HTTPException as error:
        raise ConnectionError(f"not HTTP: {error!r}") from error
    finally:
        client.close()


def has_dns() -> bool:
    """Whether the cluster has names for Services at all. It needs none: operator and gateways then work by address."""
    try:
        return bool(socket.getaddrinfo("kubernetes.default.svc", 443))
    except socket.gaierror:
        return False


def is_address(host: str) -> bool:
    """Whether a host is no name."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def main(urls: list[str]) -> int:
    """Asks all of them and says what came of it."""
    failed = False
    for given in urls:
        scheme, _, rest = given.partition("://")
        url = f"{SCHEMES.get(scheme, scheme)}://{rest}"
        if not is_address(urlsplit(url).hostname or "") and not has_dns():
            print(f"{url}: not asked, for this cluster has no DNS", flush=True)
            continue
        wrong = wait(url)
        print(f"{url}: {wrong or 'ready'}", flush=True)
        failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
