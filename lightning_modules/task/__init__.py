"""LightningModules (classification, regression) and what they share: training loops, metrics, callbacks."""
