"""Every reader by name, with its share of the inputs: the quicker it is, the more it gets."""

import importlib
import pathlib
from typing import NamedTuple

from .judge import Reader


class Entry(NamedTuple):
    """module: that makes it, imported when needed, by the function of the reader's name."""

    module: str
    weight: float


READERS = {
    "table": Entry("readers_data", 250),
    "tau_folder": Entry("readers_data", 20),
    "wav": Entry("readers_data", 20),
    "recording": Entry("readers_data", 20),
    "stream": Entry("readers_data", 380),
    "archive": Entry("readers_data", 25),
    "data_set": Entry("readers_data", 25),
    "teacher_logits": Entry("readers_data", 15),
    "config": Entry("readers_runs", 15),
    "metrics": Entry("readers_runs", 25),
    "results": Entry("readers_runs", 10),
    "output": Entry("readers_runs", 20),
    "checkpoint": Entry("readers_runs", 0.3),
    "torch_file": Entry("readers_interop", 15),
    "torch_names": Entry("readers_interop", 3),
    "c_header": Entry("readers_interop", 150),
    "arrays": Entry("readers_interop", 15),
    "options": Entry("readers_options", 4),
    "author": Entry("readers_options", 3),
    "package": Entry("readers_options", 6),
    "package_zip": Entry("readers_options", 6),
    "meta": Entry("readers_options", 0.5),
}


def open_reader(name: str, scratch: pathlib.Path) -> Reader:
    """A reader that writes its inputs into a folder of its own."""
    folder = scratch / name
    folder.mkdir()
    module = importlib.import_module(f".{READERS[name].module}", __package__)
    return getattr(module, name)(folder)
