"""YAML in which a key stands once: the later of two would win, and the first be lost without a word."""

from __future__ import annotations

from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key which is there already."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML, after a look at the keys; raises ConstructorError, a YAMLError with the place."""
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str | bytes) -> Any:
    """Read YAML; raises yaml.YAMLError."""
    return yaml.load(text, Loader)
