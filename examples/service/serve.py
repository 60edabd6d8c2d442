"""Serve a gated model: python examples/service/serve.py gated.onnx [--host 127.0.0.1] [--port 8000]."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import uvicorn
from app import create_app
from app import log as service_log

from kdguard.export.errors import UserError

MOST_CONNECTIONS = 64
"""More are answered with 503; each may send a body as large as the service takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    try:
        app = create_app(given.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    logging.basicConfig(format="%(levelname)s:     %(name)s: %(message)s")
    service_log.setLevel(logging.INFO)  # which holder got hints
    # The access log of uvicorn names addresses and paths; headers, and with them keys, are in no log.
    uvicorn.run(app, host=given.host, port=given.port, limit_concurrency=MOST_CONNECTIONS)


if __name__ == "__main__":
    main()
