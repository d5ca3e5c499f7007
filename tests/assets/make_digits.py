"""Make digits.edgecv anew: the bundle of the small network that tests/conftest.py trains on scikit-learn's digits.

python tests/assets/make_digits.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import conftest

from edgecv_export.export import export

if __name__ == "__main__":
    digits = conftest.digits.__wrapped__()
    export(
        conftest.network.__wrapped__(digits),
        Path(__file__).with_name("digits.edgecv"),
        name="digits",
        preprocess=conftest.PREPROCESS,
        normalization=conftest.NORMALIZATION,
        labels=conftest.LABELS,
        images=digits[0][:8],
    )
