"""Many runs in one table: read from the store, grouped over seeds, tested against a baseline, drawn and logged."""
