"""Serving bundles over HTTP and gRPC by the Open Inference Protocol v2, which KServe, Triton and others speak, too."""

from __future__ import annotations

from edgecv_runtime.serve.body import Limits
from edgecv_runtime.serve.line import Always
from edgecv_runtime.serve.server import Offer, Server
from edgecv_runtime.serve.tls import Tls

__all__ = ["Always", "Limits", "Offer", "Server", "Tls"]
