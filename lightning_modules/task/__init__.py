"""What is learned and how it is measured: the LightningModules, one per kind of question asked of the data."""
