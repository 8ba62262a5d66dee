"""Evaluate: `python eval.py --workdir DIR` prints the run's row of Table 1.

Writes `results.json`, `output.csv` and three pictures into the workdir.
"""

import pathlib

from absl import flags

from asc_jax import checkpoints, evaluation, experiment, figures, precision, report
from asc_jax.cli import keep_compiled, run
from asc_jax.data import pipeline
from asc_jax.errors import UserError

flags.DEFINE_string("workdir", None, "The run to evaluate.")
flags.DEFINE_enum(
    "checkpoint", "last", ["last", "best"], "Which one; best was selected on the test list."
)
flags.DEFINE_enum(
    "stored",
    None,
    precision.STORED_DTYPES,
    "Number format to deploy in; the run's own if not given.",
)
flags.DEFINE_string("data_dir", None, "Built data set, when it has moved since training.")


def main(argv) -> None:
    if flags.FLAGS.workdir is None:
        raise UserError("which run? For example: python eval.py --workdir runs/splits/5pct")
    if argv[1:]:
        raise UserError(f"unexpected words on the command line: {' '.join(argv[1:])}")
    workdir = pathlib.Path(flags.FLAGS.workdir)
    name, config = checkpoints.load_config(workdir)
    if flags.FLAGS.stored is not None:
        config = config.copy_and_resolve_references()
        config.precision.stored = flags.FLAGS.stored
    parts = experiment.make(config)
    best = flags.FLAGS.checkpoint == "best"
    state, extra, step = evaluation.restore(parts, workdir, name="best" if best else "checkpoints")
    data_dir = flags.FLAGS.data_dir or config.data.dir
    try:
        clips = pipeline.open_split(data_dir, config.data.test_split)
    except UserError as error:
        raise UserError(f"{error}. If it has moved since training, pass --data_dir") from error
    keep_compiled(workdir)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    try:
        summaries, (filenames, probs) = evaluation.evaluate_precisions(parts, variables, clips)
    except UserError as error:
        raise UserError(f"the network in {workdir}, step {step}: {error}") from error
    results = evaluation.describe(parts, name, extra, step) | summaries
    splits = {config.data.train_split, config.data.test_split}
    results["official_lists"] = splits <= pipeline.official_splits(data_dir)
    results["checkpoint"] = flags.FLAGS.checkpoint
    print(report.results_table(results))
    out = workdir / "best_checkpoint" if best else workdir
    with checkpoints.writing_to(out):
        report.write_results(results, out)
        over = results["over_budget"]
        report.write_output_csv(out / "output.csv", filenames, probs, over_budget=over)
        pictures = figures.write_figures(results, workdir / "metrics.jsonl", out)
    names = " ".join(path.name for path in pictures)
    print(f"\nwritten to {out}: results.json output.csv {names}")


if __name__ == "__main__":
    run(main)
