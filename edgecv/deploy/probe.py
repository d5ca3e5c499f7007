"""`python -m edgecv.deploy.probe BUNDLE`: whether a bundle answers here, and answers what PyTorch did (exit code 0).

With `--ready [URL [--token FILE]]` in its place: whether a service says that it is ready, at
$EDGECV_READY where no URL is given (an image has it).

Runs on the device, by the release's own environment: the model is loaded as a program would load it, runs its golden
inputs, and what it runs on is said.
"""

from __future__ import annotations

import os
import ssl
import sys
from http.client import HTTPException
from pathlib import Path
from urllib import error, request

import edgecv_runtime as rt
from edgecv_runtime.errors import EdgecvError, Unavailable
from edgecv_runtime.web import read_token

_ASK_S = 5.0


def probe(bundle: str) -> str:
    """Load a bundle with its self-test -> what runs; raises what `load` raises."""
    with rt.load(bundle, self_test=True) as model:
        return f"{model.info.variant} on {model.info.backend}, runs in {model.info.precision}; self-test passed"


def ready(url: str, token: Path | None = None) -> str:
    """What a service says at its address when it is ready; raises Unavailable with its reasons."""
    secret = None if token is None else read_token(token)
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    # it is on this machine: by another name than its certificate's, and behind no proxy
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = request.build_opener(request.ProxyHandler({}), request.HTTPSHandler(context=context))
    try:
        with opener.open(request.Request(url, headers=headers), timeout=_ASK_S) as answer:
            return f"{url} is ready {answer.read().decode(errors='replace')}".strip()
    except error.HTTPError as exc:
        raise Unavailable(f"{url} is not ready ({exc.code}): {exc.read().decode(errors='replace')}") from exc
    except (OSError, HTTPException) as exc:
        raise Unavailable(f"{url} does not answer: {exc}") from exc


def main() -> int:
    """Print one line; the exit code of an error is edgecv's."""
    try:
        print(_asked(sys.argv[1:]))  # noqa: T201
    except EdgecvError as exc:
        print(" ".join(str(exc).split()))  # noqa: T201
        return exc.exit_code
    return 0


def _asked(words: list[str]) -> str:
    if words[0] != "--ready":
        return probe(words[0])
    url = words[1] if len(words) > 1 else os.environ["EDGECV_READY"]
    return ready(url, Path(words[3]) if len(words) > 3 else None)


if __name__ == "__main__":
    sys.exit(main())
