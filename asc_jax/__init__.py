"""Acoustic scene classification with little data on a small model, in JAX.

The map, from the ground up; a module imports only from floors below its own:

7  train.py, eval.py, `asc_jax.cli`       what a person types
6  `loop`                                 fit: the only training loop
5  `evaluation`, `report`                 one pass over a split; tables and pictures
4  `experiment`, `parallel`, `checkpoints`, `interop`
                                          config → parts; replicas; saving; other frameworks
3  `models.cp_mobile`, `steps`            the network; train_step and eval_step
2  `models.blocks`, `state`, `optim`, `data.pipeline`
1  `features`, `augment`, `losses`, `metrics`, `precision`, `complexity`, `models.ops`,
   `data.tau22`, `data.synthetic_scenes`  arrays in, arrays out, each readable alone
0  `types`, `taxonomy`, `errors`          names
"""

__version__ = "0.1.0"
