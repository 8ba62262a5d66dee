"""Execute every notebook of this folder in a kernel, as a browser does, and keep its results.

    python execute.py OUT_DIR

writes `OUT_DIR/<name>.ipynb`. The first cell that fails ends it with that cell's error and the exit
status 1. A notebook that draws pictures and shows none is an error too.
"""

import os
import sys
from pathlib import Path

import jupytext
import nbclient

HERE = Path(__file__).parent
TIMEOUT_S = 600  # of a cell: it only ends what hangs


def execute(source: Path, out_dir: Path) -> None:
    """Execute a notebook in `out_dir` and write it there.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell has failed.
      RuntimeError: it draws, and has no picture among its results.
    """
    notebook = jupytext.read(source)
    where = {"metadata": {"path": str(out_dir)}}
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=where
    )
    client.execute()
    drawn = "plt.subplots(" in source.read_text("utf-8")
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    if drawn and not any("image/png" in output.get("data", {}) for output in shown):
        raise RuntimeError(f"{source.name} draws pictures, and none is shown")
    jupytext.write(notebook, out_dir / f"{source.stem}.ipynb")


def main() -> None:
    """Execute all, one after the other."""
    out_dir = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    os.environ.pop("MPLBACKEND", None)  # or the kernel does not set its own
    for source in sorted(HERE.glob("*.py")):
        if source.read_text("utf-8").startswith("# ---\n# jupyter:"):
            execute(source, out_dir)
            print(f"{source.name} → {out_dir / source.stem}.ipynb", flush=True)


if __name__ == "__main__":
    main()
