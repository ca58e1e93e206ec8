"""`topmast gateway`: flags in, exit code out. 0 drained, 1 failed while running, 2 cannot start as told."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path

from topmast_gateway import access_flags, flag_types, logs, sharing


def main() -> int:
    """Run the gateway with the command line's flags."""
    flags = _parser().parse_args()
    logs.set_up(flags.log_format)

    import uvloop  # imported late, so that --help and a wrong flag answer at once

    from topmast_gateway import access, kube
    from topmast_gateway.access_log import AccessLog
    from topmast_gateway.listener import bind
    from topmast_gateway.patience import Patience
    from topmast_gateway.serve import Leave, Scope, Wake, serve
    from topmast_gateway.shared_token import SharedToken
    from topmast_gateway.tracing import NoTracing, Tracing

    keys_namespace = flags.keys_namespace or kube.own_namespace()
    scope = Scope(tuple(dict.fromkeys(flags.namespace)), keys_namespace, flags.keys_secret)
    if flags.peers and not flags.shared_token_file:
        return _failed("--peers needs --shared-token-file: a gateway tells its usage only to who knows that token")
    try:
        allowed = access.read_flags(flags)
        engine_tokens = access.engine_tokens(flags.signing_key)
        tracing = Tracing.of_environment()
    except (access.CannotStart, NoTracing) as error:
        return _failed(str(error))
    try:
        public = bind(flags.host, flags.port)
        admin = bind(flags.admin_host, flags.admin_port)
    except OSError as error:
        where = f"{flags.host} port {flags.port} and {flags.admin_host} port {flags.admin_port}"
        return _failed(f"cannot listen on {where}: {error.strerror or error}; choose free ports")
    patience = Patience(
        flags.hold_s, flags.hold_begun_s, flags.silence_s, flags.progress_timeout_s, flags.answer_timeout_s
    )
    leave = Leave(flags.drain_notice_s, flags.drain_timeout_s)
    wake = Wake(flags.operator_url, flags.max_held_per_model)
    gc.freeze()  # what the imports made lives for ever; a full collection over it would stop every stream
    try:
        uvloop.run(
            serve(
                public,
                admin,
                scope,
                allowed,
                patience=patience,
                max_streams=flags.max_streams,
                sharing=sharing.Sharing.of(flags),
                leave=leave,
                wake=wake,
                token=SharedToken(flags.shared_token_file),
                engine_tokens=engine_tokens,
                access_log=AccessLog(flags.access_log) if flags.access_log != "off" else None,
                tracing=tracing,
            )
        )
    except kube.NoCluster as error:
        return _failed(str(error))
    except Exception:
        logging.exception("the gateway failed")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="topmast gateway", description="The data path in front of all engine pods.", allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--namespace",
        action="append",
        default=[],
        type=flag_types.name,
        metavar="NS",
        help="serve this one; repeatable; default: all",
    )
    add("--keys-secret", required=True, type=flag_types.name, metavar="NAME", help="the Secret of API keys")
    add("--keys-namespace", type=flag_types.name, metavar="NS", help="where it is; default: the pod's own")
    access_flags.add_flags(parser)
    add("--host", default="::", help="default :: is every address, of IPv4 and IPv6")
    add("--port", default=8080, type=flag_types.port)
    add("--admin-host", default="::")
    add("--admin-port", default=8081, type=flag_types.port)
    add(
        "--hold-s",
        default=60.0,
        type=flag_types.seconds,
        help="wait for a pod when none is ready (default %(default)s)",
    )
    add(
        "--hold-begun-s",
        default=300.0,
        type=flag_types.seconds,
        help="the same for an answer that was begun (%(default)s)",
    )
    add(
        "--max-held-per-model",
        default=200,
        type=flag_types.count,
        help="requests that may wait for it (default %(default)s)",
    )
    add(
        "--operator-url",
        default="",
        type=flag_types.url,
        metavar="URL",
        help="who wakes models that sleep; default: nobody",
    )
    add("--shared-token-file", type=Path, metavar="PATH", help="the token by which operator and gateways know us")
    add("--signing-key", type=Path, metavar="PATH", help="PEM of the Ed25519 key by which engines know this gateway")
    add(
        "--silence-s",
        default=5.0,
        type=flag_types.positive,
        help="longest silence of an engine of ours (default %(default)s)",
    )
    add(
        "--progress-timeout-s",
        default=120.0,
        type=flag_types.positive,
        help="longest silence of a stream (default %(default)s)",
    )
    add(
        "--answer-timeout-s",
        default=1200.0,
        type=flag_types.positive,
        help="longest wait for an answer that is not streamed (default %(default)s)",
    )
    add("--log-format", choices=logs.FORMATS, default="text", help="of all but the access log (default %(default)s)")
    add("--access-log", default="-", metavar="WHERE", help="a file, - for standard output (default), or off")
    add("--max-streams", default=2000, type=flag_types.count, help="requests at once (default %(default)s)")
    add(
        "--drain-notice-s",
        default=3.0,
        type=flag_types.seconds,
        help="keep taking requests after SIGTERM (default %(default)s)",
    )
    add(
        "--drain-timeout-s",
        default=600.0,
        type=flag_types.positive,
        help="then let open streams finish (default %(default)s)",
    )
    sharing.add_flags(parser)
    return parser


def _failed(message: str) -> int:
    print(f"topmast gateway: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
