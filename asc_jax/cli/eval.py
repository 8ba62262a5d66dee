"""Evaluate a trained run on its test split.

usage: asc-jax eval --workdir RUN [options]

Prints accuracy and log loss and writes results.json, output.csv, truth.csv, pictures and
report.html, which has it all, into RUN, or into RUN/best_checkpoint. What each storage dtype costs
stands side by side; int8 is computed in integers, as convert --dtype int8 writes the network. The
page has the most confused clips to listen to; --nosounds leaves them out, where recordings may not
be passed on.

examples:
  asc-jax eval --workdir runs/splits/5pct
  asc-jax eval --workdir runs/splits/5pct --checkpoint best --stored bfloat16

exit status: 0 evaluated, 2 wrong input
"""

import logging
import pathlib

import numpy as np
from absl import flags

from asc_jax import features
from asc_jax.cli import prepare_jax, reject_words, run
from asc_jax.cli.campaign_flags import define_cluster_flag
from asc_jax.cli.config_flag import flat, read_config
from asc_jax.cli.shared_flags import define_replica_flags, define_run_flags, start_replicas
from asc_jax.data import held_out
from asc_jax.data.clips import clips_in_both, official_splits, open_for
from asc_jax.errors import UserError, printable
from asc_jax.evaluation import analysis, evaluate, intervals, result_files, run_card
from asc_jax.evaluation.report import figures, report, sounds
from asc_jax.machine import files

log = logging.getLogger("asc_jax")


def define_flags() -> None:
    define_run_flags()
    flags.DEFINE_string(
        "data_dir", None, "Built data set, if it has moved (default: as in training)"
    )
    define_cluster_flag()
    flags.DEFINE_bool("sounds", True, "Put the most confused clips into report.html, to listen to")
    define_replica_flags()


def main(argv) -> None:
    if flags.FLAGS.workdir is None:
        raise UserError("which run? For example: asc-jax eval --workdir runs/splits/5pct")
    reject_words(argv[1:])
    start_replicas()
    workdir = pathlib.Path(flags.FLAGS.workdir)
    checkpoint = flags.FLAGS.checkpoint
    opened = evaluate.open_run(workdir, checkpoint=checkpoint, stored=flags.FLAGS.stored)
    name, experiment, variables, extra, step, ranges = opened
    config = experiment.config
    data_dir = flags.FLAGS.data_dir or config.data.dir
    try:
        clips = open_for(config, config.data.test_split, data_dir)
    except UserError as error:
        moved = "" if flags.FLAGS.data_dir else ". If it has moved since training, pass --data_dir"
        raise UserError(f"{error}{moved}") from error
    prepare_jax(workdir)
    for_int8 = {"ranges": ranges, "calibration_clips": _training_clips(config, data_dir)}
    try:
        summaries, predictions = evaluate.evaluate_precisions(
            experiment, variables, clips, **for_int8
        )
    except UserError as error:
        raise UserError(f"the network in {workdir}, step {step}: {error}") from error
    validation = _held_out(experiment, variables, data_dir, extra, for_int8)
    results = evaluate.describe(experiment, name, extra, step) | summaries
    splits = {config.data.train_split, config.data.test_split}
    results["official_lists"] = splits <= official_splits(data_dir)
    results["trained_and_tested"] = _in_both(config, data_dir)
    results["checkpoint"] = checkpoint
    results["selection"] = (
        extra["note"] if checkpoint == "best" else "the last epoch: nothing was selected"
    )
    results["validation"] = validation and analysis.describe_held_out(validation)
    results["segments"] = analysis.by_segment(predictions)
    results["calibration"] = analysis.calibrate(predictions, validation)
    results["most_confused"] = analysis.most_confused(predictions)
    results["intervals"] = intervals.of_predictions(predictions, flags.FLAGS.cluster)
    results["by_class_and_value"] = intervals.by_class_and_value(predictions)
    results["run"] = run_card.describe(
        workdir, config, extra, data_dir=data_dir, changed=_changed(config)
    )
    print(report.results_table(results))
    out = evaluate.output_folder(workdir, checkpoint)
    with files.writing_to(out):
        stamp = "teacher" if experiment.is_teacher else "over budget" * results["over_budget"]
        probs = evaluate.softmax(predictions.logits)
        path = out / "output.csv"
        classes = predictions.labels.classes
        result_files.write_output_csv(path, predictions.filenames, probs, classes, stamp=stamp)
        result_files.write_truth_csv(out / "truth.csv", analysis.truth(predictions))
        pictures = figures.write_figures(results, workdir / "metrics.jsonl", out)
        curve = next((path for path in pictures if path.stem == "learning_curve"), None)
        _write_report(results, config, clips, workdir, out, curve)
        result_files.write_results(results, out)  # last: where it is, all the rest is
    names = " ".join(path.name for path in pictures)
    print(f"\nwritten to {out}: results.json output.csv truth.csv {names} report.html")


def _changed(config) -> dict:
    """Return the values of a config that are not those of `base.py`; names of classes aside."""
    given, defaults = (flat(each.to_dict()) for each in (config, read_config("base.py", [])))
    return {
        name: value
        for name, value in given.items()
        if not name.startswith("config.labels.") and _plain(value) != _plain(defaults.get(name))
    }


def _plain(value):
    return list(value) if isinstance(value, tuple) else value  # as it comes back from a file


def _in_both(config, data_dir) -> dict | None:
    """Return how many test clips are training clips too, and the first; warn of them."""
    data = config.data
    try:
        both = clips_in_both(data_dir, data.train_split, data.test_split)
    except UserError:  # a data set without the training split
        return None
    if not both:
        return None
    log.warning(
        "%d clips of %s, such as %s, are in %s too: the network has been trained on them",
        *(len(both), data.test_split, printable(both[0]), data.train_split),
    )
    return {"n_clips": len(both), "first": both[0]}


def _training_clips(config, data_dir):
    """Return the clips that int8 finds its ranges on; None: the data set has them not."""
    try:
        return open_for(config, config.data.train_split, data_dir)
    except UserError:
        return None


def _held_out(experiment, variables, data_dir, extra, for_int8) -> evaluate.Predictions | None:
    """Predict the training locations that this run held out; None if it trained on all."""
    data = experiment.config.data
    if not data.validation_locations:
        return None
    clips = open_for(experiment.config, data.train_split, data_dir)
    trained, clips = held_out.split(clips, data.validation_locations, experiment.config.seed)
    if len(trained) != extra.get("n_train_clips", len(trained)):
        raise UserError(
            f"the run was trained on {extra['n_train_clips']:,} clips, {data.train_split} in "
            f"{data_dir} now leaves {len(trained):,}: what was held out is not known any more. "
            "Pass the data set of the training with --data_dir"
        )
    return evaluate.evaluate_stored(experiment, variables, clips, **for_int8)


def _write_report(results, config, clips, workdir, out, curve) -> None:
    """Write `report.html`, with the spectrograms and the sounds of the most confused clips."""
    numbers = [clip["number"] for clip in results["most_confused"]]
    log_mels, heard = [], []
    for batch in clips.batches(numbers, max(len(numbers), 1)):
        log_mels = np.asarray(features.log_mel(batch["audio"], **config.features))[..., 0]
        if flags.FLAGS.sounds:
            heard = sounds.embedded(batch["audio"], config.features.sample_rate)
    content = report.as_html(
        results,
        log_mels,
        {
            "duration_s": config.data.clip_s,
            "f_min": config.features.f_min,
            "f_max": config.features.f_max,
        },
        metrics_jsonl_path=workdir / "metrics.jsonl",
        learning_curve=curve,
        sounds=heard,
    )
    files.write_atomically(out / "report.html", content)


if __name__ == "__main__":
    run(main, define_flags)
