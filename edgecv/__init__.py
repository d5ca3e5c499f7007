"""edgecv: from PyTorch to a camera on the edge, with nothing lost on the way.

`edgecv.models`, `edgecv.data` and `edgecv.train` need torch; importing this package does not.
"""

from edgecv_runtime import __version__

__all__ = ["__version__"]
