"""YAML as options need it: no tags that make objects, no aliases that make much of little, no depth without end."""

from __future__ import annotations

import yaml

MAX_LENGTH = 2**20
MAX_DIGITS = 100  # of a whole number: longer ones are no float, and of thousands Python refuses to print


class _Loader(yaml.SafeLoader):
    """Refuses aliases: a few lines of them stand for more values than a memory holds."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*) are not supported: write the value out", mark)
        return super().compose_node(parent, index)

    def construct_whole(self, node):
        if isinstance(node.value, str) and len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def load(text: str):
    """The value of a text: numbers, texts, lists and mappings. Raises yaml.YAMLError for whatever is wrong with it."""
    if len(text) > MAX_LENGTH:
        raise yaml.YAMLError(f"a text of {len(text)} characters; at most {MAX_LENGTH} are read")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("lists or mappings are nested too deeply") from None
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as e:  # of values that are none
        raise yaml.YAMLError(f"a value that cannot be read: {e}") from None
