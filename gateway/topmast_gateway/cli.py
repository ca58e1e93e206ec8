"""`topmast gateway`: flags in, exit code out. 0 drained, 1 failed while running, 2 cannot start with these flags."""

from __future__ import annotations

import gc
import logging
import sys

from topmast_gateway.flags import parser
from topmast_gateway.observability import logs


def main() -> int:
    """Run the gateway with the command line's flags."""
    flags = parser().parse_args()
    logs.set_up(flags.log_format)

    import uvloop  # imported late, so that --help and a wrong flag answer at once

    from topmast_gateway.access import ConfigError, engine_tokens, read_access
    from topmast_gateway.config import read_config
    from topmast_gateway.http.listener import bind
    from topmast_gateway.identity.shared_token import SharedToken
    from topmast_gateway.kubernetes.client import NoCluster, own_namespace
    from topmast_gateway.observability.access_log import AccessLog
    from topmast_gateway.observability.tracing import NoTracing, Tracing
    from topmast_gateway.server import serve

    if flags.peers and not flags.shared_token_file:
        return _failed("--peers needs --shared-token-file: a gateway gives its usage only to who knows that token")
    try:
        access = read_access(flags)
        tokens = engine_tokens(flags.signing_key)
        tracing = Tracing.of_environment()
    except (ConfigError, NoTracing) as error:
        return _failed(str(error))
    try:
        public = bind(flags.host, flags.port)
        admin = bind(flags.admin_host, flags.admin_port)
    except OSError as error:
        where = f"{flags.host} port {flags.port} and {flags.admin_host} port {flags.admin_port}"
        return _failed(f"cannot listen on {where}: {error.strerror or error}; choose free ports")
    config = read_config(flags, flags.keys_namespace or own_namespace())
    access_log = AccessLog(flags.access_log) if flags.access_log != "off" else None
    gc.freeze()  # what the imports created lives for ever; a full collection over it would stop every stream
    try:
        uvloop.run(
            serve(public, admin, config, access, SharedToken(flags.shared_token_file), tokens, access_log, tracing)
        )
    except NoCluster as error:
        return _failed(str(error))
    except Exception:
        logging.exception("the gateway failed")
        return 1
    return 0


def _failed(message: str) -> int:
    print(f"topmast gateway: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
