"""Let the site show `Example:` of a docstring as code; Griffe does so under `Examples:` alone."""

import re

import griffe


class Examples(griffe.Extension):
    """Rename the heading in every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **others) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", value, flags=re.MULTILINE)
