"""Acoustic scene classification with little data on a small model, in JAX.

The map, from the ground up; a module imports only from floors below its own:

8  train.py, eval.py, `asc_jax.cli`       what a person types
7  `loop`                                 fit: the only training loop
6  `training_run`                         what a run has done and has left, its checkpoints, its log
   `program`                              the compiled steps of runs that are trained at once
5  `evaluation`, `report`, `result_files`, `figures`, `journal`, `budget`, `budget_figure`,
   `exporting`, `export_check`, `torch_runs`
                                          one pass over a split; tables, pictures, logs, exports
   `analysis`, `html_report`, `report_sections`, `report_figures`
                                          segments, calibration, mistakes; the page that shows them
   `prediction`, `prediction_lines`, `prediction_figure`, `prediction_loop`
                                          a recording of any length, second by second
   `submission`, `submission_author`, `submission_runs`, `submission_meta`, `submission_check`,
   `submission_check_meta`
                                          five runs → the challenge's package, checked
   `campaign`, `campaign_runs`, `campaign_progress`, `run_results`
                                          many runs, one after the other; reading them back
   `table1_collect`, `table1_statistics`, `table1_grids`, `table1_notes`, `table1_figures`,
   `table1_html`, `table1_report`
                                          Table 1 from finished runs, in five forms
   `resident`                             training clips that lie on the accelerators
   `best`, `not_finite`                   the best epoch so far; where a run must stop
   `step_batches`, `epoch_sums`, `provenance`
                                          what steps take and add up to; which run saved it
4  `experiment`, `parallel`, `distributed`, `rendezvous`, `hosts`, `checkpoints`, `run_config`,
   `config_checks`, `process_exit`, `interop`
                                          config → parts; replicas; saving; other frameworks
3  `models.blocks`, `models.cp_mobile`, `models.folding`, `steps`, `training_input`
                                          the network; train_step and eval_step
2  `models.ops`, `models.normalisation`, `models.chunks`, `state`, `optim`, `data.pipeline`
1  `features`, `augment`, `losses`, `metrics`, `precision`, `complexity`, `limits`,
   `models.shifts`, `table1`, `statistics`, `calibration`, `segments`, `svg`, `html_page`,
   `data.tau22`, `data.synthetic_scenes` and the rest of `data`
                                          arrays in, arrays out, each readable alone
   `files`, `lock`, `version`             whole files; one process a folder; which code
   `memory`                               what a CPU's programs write to again and again
0  `types`, `taxonomy`, `errors`          names
   `models.compiler`                      what XLA is told beyond the arithmetic
   `per_clip`                             what is done with each clip by itself
   `filters`                              the front end's constant matrices
   `clusters`                             right answers counted by what was recorded together
   `huge_pages`, `machine`, `compiler_memory`
                                          what a program asks of the machine
   `json_object`                          JSON from a file that anything may have happened to
   `jaxpr_walk`, `primitive_costs`, `mac_count`
                                          what a traced program does, and what it costs
"""

__version__ = "0.1.0"
