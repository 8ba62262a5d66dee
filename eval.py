"""Evaluate: `python eval.py --workdir DIR` prints the run's row of Table 1.

Writes `results.json`, `output.csv` and three pictures into the workdir.
"""

import pathlib

from absl import flags

from asc_jax import checkpoints, evaluation, experiment, figures, report
from asc_jax.cli import run
from asc_jax.errors import UserError

flags.DEFINE_string("workdir", None, "The run to evaluate.")
flags.DEFINE_enum(
    "checkpoint", "last", ["last", "best"], "Which one; best was selected on the test list."
)
flags.DEFINE_string("data_dir", None, "Built data set, when it has moved since training.")


def main(argv) -> None:
    if flags.FLAGS.workdir is None or argv[1:]:
        raise UserError("which run? For example: python eval.py --workdir runs/splits/5pct")
    workdir = pathlib.Path(flags.FLAGS.workdir)
    name, config = checkpoints.load_config(workdir)
    parts = experiment.make(config)
    best = flags.FLAGS.checkpoint == "best"
    state, extra, step = evaluation.restore(parts, workdir, name="best" if best else "checkpoints")
    from asc_jax.data import pipeline  # TensorFlow, not before the budget is checked

    clips = pipeline.open_split(flags.FLAGS.data_dir or config.data.dir, config.data.test_split)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    summaries, (filenames, probs) = evaluation.evaluate_precisions(parts, variables, clips)
    results = evaluation.describe(parts, name, extra, step) | summaries
    results["official_lists"] = clips.official
    results["checkpoint"] = flags.FLAGS.checkpoint
    print(report.results_table(results))
    out = workdir / "best_checkpoint" if best else workdir
    out.mkdir(exist_ok=True)
    report.write_results(results, out)
    report.write_output_csv(out / "output.csv", filenames, probs)
    figures.write_figures(results, workdir / "metrics.jsonl", out)
    print(
        f"\nwritten to {out}: results.json output.csv confusion.png learning_curve.png devices.png"
    )


if __name__ == "__main__":
    run(main)
