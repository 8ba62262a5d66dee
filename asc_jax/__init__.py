"""Acoustic scene classification with little data on a small model, in JAX.

The map, from the ground up; a module imports only from floors below its own:

7  train.py, eval.py, `asc_jax.cli`       what a person types
6  `loop`                                 fit: the only training loop
5  `evaluation`, `report`, `figures`, `journal`, `budget`, `budget_figure`, `exporting`,
   `export_check`, `torch_runs`           one pass over a split; tables, pictures, logs, exports
4  `experiment`, `parallel`, `checkpoints`, `interop`
                                          config → parts; replicas; saving; other frameworks
3  `models.cp_mobile`, `models.folding`, `steps`
                                          the network; train_step and eval_step
2  `models.blocks`, `state`, `optim`, `data.pipeline`
1  `features`, `augment`, `losses`, `metrics`, `precision`, `complexity`, `models.ops`,
   `table1`, `data.tau22`, `data.synthetic_scenes` and the rest of `data`
                                          arrays in, arrays out, each readable alone
0  `types`, `taxonomy`, `errors`          names
   `jaxpr_walk`, `primitive_costs`, `mac_count`
                                          what a traced program does, and what it costs
"""

__version__ = "0.1.0"
