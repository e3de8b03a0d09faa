"""Makes trained models smaller and faster: recipes of stages, the compressed checkpoint, and the cost report."""
