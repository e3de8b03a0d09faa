"""Networks, tasks, data sets, optimizers and strategies of papers and model libraries: reached from configs by `_target_`."""
