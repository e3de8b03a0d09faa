"""Many runs: what to try next, where it runs, and what is left to do when a sweep was cut off."""
