"""Networks, tasks and data sets of papers: reached from configs by `_target_`; the core works without them."""
