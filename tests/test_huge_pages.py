"""A program that asks for huge pages starts again once, as it was called."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, pathlib, sys
from asc_jax.machine import huge_pages
huge_pages.SETTING = pathlib.Path(sys.argv[1])
huge_pages.start_again()
print(os.environ.get("GLIBC_TUNABLES"), *sys.argv[2:], sep="|")
"""


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}),
    reason="the C library is not glibc",
)
@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        ("always [madvise] never", "", "glibc.malloc.hugetlb=1"),
        (
            "always [madvise] never",
            "glibc.malloc.check=0",
            "glibc.malloc.check=0:glibc.malloc.hugetlb=1",
        ),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("[always] madvise never", "", ""),
        (None, "", ""),
    ],
)
def test_program_gets_huge_pages_where_the_system_has_them_on_request(
    tmp_path, setting, before, after
):
    file = tmp_path / "enabled"
    if setting:
        file.write_text(setting)
    command = [sys.executable, "-c", SCRIPT, str(file), "a b", "--c=d"]
    env = os.environ | {"GLIBC_TUNABLES": before}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{after}|a b|--c=d\n"
