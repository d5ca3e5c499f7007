"""For the pages made from docstrings: a line such as "size: (height, width) in pixels" becomes an item of a list."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ITEM = re.compile(r"^(?=[a-z_][\w, ]*: )", re.MULTILINE)


def listed(text: str) -> str:
    """Items of their own for the lines that explain a field or an argument.

    >>> listed("Load it.\\n\\nbackend: a name. threads: many.\\ngoal: or a bound.")
    'Load it.\\n\\n\\n- backend: a name. threads: many.\\n\\n- goal: or a bound.'
    """
    return ITEM.sub("\n- ", text)


class Docstrings(Extension):
    """Rewrites the docstrings of everything that is shown."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
