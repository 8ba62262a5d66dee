"""The page "Extend": its files are saved as they stand, trained, resumed and exported."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extend.md"


def test_page_is_there():
    assert re.findall(r"## The (?:parts|config): `(\w+\.py)`", PAGE.read_text()) == [
        "my_parts.py",
        "my_config.py",
    ]
